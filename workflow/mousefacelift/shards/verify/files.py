"""A shard's files as a whole: whether they are there, are this shard's, and hold its samples in order."""

from collections.abc import Sequence
from itertools import pairwise

from mousefacelift.base.files import natural_key
from mousefacelift.shards.checksums import checksum
from mousefacelift.shards.manifest import KINDS, Kind
from mousefacelift.shards.verify.problems import EXACT, Examination


def check_file(shard: Examination, kind: Kind) -> bool:
    """Whether there is a file to be read; says if there is none, if it is another shard's, or if its size is wrong."""
    entry = shard.entry
    try:
        size, digest = shard.path(kind).stat().st_size, checksum(shard.path(kind))
    except FileNotFoundError:
        shard.say(kind, None, "no such file, but the manifest lists it")
        return False
    except OSError as error:
        shard.say(kind, None, f"cannot be read ({error})")
        return False
    shard.whole[kind] = (size, digest) == (entry.bytes[kind], entry.sha256[kind])
    if shard.whole[kind]:
        return True
    for other in shard.other_entries():
        if other.sha256[kind] == digest:
            shard.say(kind, other.first, f"the file is {other.path(kind)}, whose first sample this is")
            return False
    if size != entry.bytes[kind]:
        shard.say(kind, None, f"has {size} bytes, the manifest says {entry.bytes[kind]}")
    return True


def is_foreign(shard: Examination, kind: Kind, first: str | None) -> bool:
    """Whether a file begins with the first sample of another shard; says so."""
    for other in shard.other_entries():
        if first is not None and first != shard.entry.first and first == other.first:
            shard.say(kind, first, f"the file holds the samples of {other.path(kind)}, whose first sample this is")
            return True
    return False


def check_keys(shard: Examination, kind: Kind, keys: Sequence[str | None], to_the_end: bool = True) -> None:
    """Says which keys are not in order, and which ends are not the manifest's. None: could not be read."""
    for before, key in pairwise(key for key in keys if key is not None):
        if natural_key(before) >= natural_key(key):
            shard.say(kind, key, f"{'appears twice' if key == before else f'comes after {before}, out of order'}")
    ends = {"first": (0, shard.entry.first)} | ({"last": (-1, shard.entry.last)} if to_the_end else {})
    for name, (place, expected) in ends.items():
        end = keys[place] if keys else None
        if end is not None and end != expected:
            shard.say(kind, end, f"is the {name} sample, the manifest says {expected}")


def explain_checksums(shard: Examination, own: Sequence[Kind], read: dict[Kind, bool]) -> None:
    """Says what a wrong checksum means of a file in which nothing wrong was found.

    own: the files that are there and are this shard's. read: whether each was read to its end.
    """
    for kind, other in zip(KINDS, reversed(KINDS), strict=True):
        path = shard.entry.path(kind)
        if kind in own and not shard.whole[kind] and all(problem.shard != path for problem in shard.problems):
            meaning = (
                "but no sample shows it: the difference lies outside images and cameras (padding, index, a JSON "
                f"number that is stored nowhere else) or is below {EXACT}"
                if read[other]
                else f"and without {shard.entry.path(other)} there is nothing to compare it with"
            )
            shard.say(kind, None, f"the checksum is not the manifest's, {meaning}; the file must be replaced")
