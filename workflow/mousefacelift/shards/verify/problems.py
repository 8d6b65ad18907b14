"""What is found wrong, and the shard that it is found in."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mousefacelift.shards.manifest import KINDS, Kind, ShardEntry

SAME = 1e-9  # cameras are the same up to here
# And up to here in a file whose bytes are wrong: what is left is how another machine rounds an inverted pose.
EXACT = 1e-14
H5_ERRORS = (OSError, RuntimeError, LookupError, ValueError, TypeError)  # of h5py, for a damaged file


@dataclass(frozen=True)
class Problem:
    """What is wrong with a file of a shard, named from the manifest's folder: with one sample, or (None) with the file."""

    shard: str
    sample: str | None
    text: str

    def __str__(self) -> str:
        return (
            f"{self.shard}: {self.text}" if self.sample is None else f"{self.shard}, sample {self.sample}: {self.text}"
        )


@dataclass(frozen=True)
class Examination:
    """One shard while it is read: what the manifest says of it, and what is found.

    folder: the manifest's. size: of the images in px; views: per sample. others: all of the manifest's entries, to
    recognise a file that belongs to another one. whole: the files whose checksum is the manifest's. problems: in the order
    in which they are found.
    """

    folder: Path
    entry: ShardEntry
    size: int
    views: int
    others: Sequence[ShardEntry]
    whole: dict[Kind, bool] = field(default_factory=lambda: dict.fromkeys(KINDS, False))
    problems: list[Problem] = field(default_factory=list)

    def path(self, kind: Kind) -> Path:
        """Where one of the shard's files lies."""
        return self.folder / self.entry.path(kind)

    def say(self, kind: Kind, sample: str | None, text: str) -> None:
        """Note a problem with one of the shard's files."""
        self.problems.append(Problem(self.entry.path(kind), sample, text))

    def other_entries(self) -> Iterator[ShardEntry]:
        """The manifest's other shards."""
        return (other for other in self.others if other.tar != self.entry.tar)


def reason(error: Exception) -> str:
    """An exception's message; a KeyError would put it in quotes."""
    return str(error.args[0] if error.args else error)
