"""Names and other texts of a weight file as messages show them."""

from collections.abc import Iterable

LISTED = 8  # names of a kind in one message


def listed(names: Iterable[str]) -> str:
    """The first names, each cut to a readable length, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(short(name) for name in names[:LISTED]) + more


def short(text: str) -> str:
    """A file's text as it may be printed: without control characters, which a terminal obeys, and at most a line long."""
    text = text if text.isprintable() else ascii(text)[1:-1]
    return text if len(text) <= 160 else f"{text[:157]}..."


def counted(things: list[str], noun: str) -> str:
    """How many things there are: "1 tensor", "2 tensors"."""
    return f"{len(things)} {noun}{'s' * (len(things) != 1)}"
