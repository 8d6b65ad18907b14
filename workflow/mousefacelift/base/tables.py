"""Tables of text: tab-separated files, and Markdown."""

import csv
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic

_BAR = re.compile(r"(?<!\\)\|")  # one that no backslash escapes


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]], delimiter: str = "\t") -> None:
    """Write a header and rows, complete or not at all. delimiter: a tab for .tsv, a comma for .csv."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_rows(path: Path, made_by: str, delimiter: str = "\t") -> list[list[str]]:
    """Read the cells of every line of a table, its header among them.

    Raises UserError naming the file and the command that makes it, if the file is missing or not text.
    """
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            return list(csv.reader(handle, delimiter=delimiter))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is written by `{made_by}`") from None
    except (UnicodeDecodeError, OSError, csv.Error) as error:
        raise UserError(f"{path}: damaged ({error}); delete it and run `{made_by}` again") from None


def read_table(path: Path, made_by: str, delimiter: str = "\t") -> list[dict[str, str]]:
    """Read a table with a header as one dictionary per row, which lacks the cells that the row lacks.

    Raises UserError as `read_rows` does.
    """
    header, *rows = read_rows(path, made_by, delimiter) or [[]]
    return [dict(zip(header, cells, strict=False)) for cells in rows if cells]


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table without a trailing newline. Cells are text; a vertical bar that is not escaped yet is."""
    lines = [list(columns), ["---"] * len(columns), *map(list, rows)]
    return "\n".join("| " + " | ".join(_BAR.sub(r"\|", cell) for cell in cells) + " |" for cells in lines)
