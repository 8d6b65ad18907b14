"""One shard: its tar and its HDF5 file, read side by side, one sample in memory at a time."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from mousefacelift.shards.manifest import KINDS, Kind, ShardEntry
from mousefacelift.shards.verify.agreement import check_agreement
from mousefacelift.shards.verify.files import check_file, check_keys, explain_checksums, is_foreign
from mousefacelift.shards.verify.h5 import Rows, examine_row, open_rows
from mousefacelift.shards.verify.problems import Examination, Problem
from mousefacelift.shards.verify.tar import TarReader, examine_sample, examine_unknown


def check_shard(
    folder: Path, entry: ShardEntry, image_size: int, views: int, others: Sequence[ShardEntry] = ()
) -> list[Problem]:
    """Re-read a tar and its HDF5 file completely; what is wrong with them.

    entry: the shard's in the manifest; others: the manifest's entries, to recognise a file that belongs to another of
    them. Checked: existence, sizes and checksums; the tar's structure from its first byte to its last; that every image is
    RGBA of image_size px, white where alpha is 0; that the JSON is complete and the cameras are sane; keys, their order
    and number; names, shapes, types and checksums in the HDF5 file; that both hold the same images, cameras, frames and
    keys. A damaged sample does not hide the damage of another, except in a tar after the place where its structure is
    lost.
    """
    problems, _ = examine(folder, entry, image_size, views, others)
    return problems


def examine(
    folder: Path, entry: ShardEntry, image_size: int, views: int, others: Sequence[ShardEntry]
) -> tuple[list[Problem], list[str]]:
    """As `check_shard`: what is wrong with a shard, and the keys that it holds."""
    shard = Examination(folder, entry, image_size, views, others)
    own = [kind for kind in KINDS if check_file(shard, kind)]
    with ExitStack() as stack:
        rows = open_rows(shard, stack) if "h5" in own else None
        keys, complete = _examine_tar(shard, rows) if "tar" in own else ([], False)
        if rows is not None:
            for row in rows.unread:
                examine_row(shard, rows, row, rows.name(row))
            keys = [key for key in rows.keys if key is not None]
    read: dict[Kind, bool] = {"tar": complete, "h5": rows is not None}
    explain_checksums(shard, own, read)
    return shard.problems, keys


def _examine_tar(shard: Examination, rows: Rows | None) -> tuple[list[str], bool]:
    """Read the tar, and of the HDF5 file what belongs to its samples; its keys, and whether it was read to its end."""
    keys: list[str] = []
    unmatched: list[int] = []
    tar = TarReader(shard.path("tar"), shard.views)
    for sample in tar:
        if not keys and is_foreign(shard, "tar", sample.key):
            return [], False
        row = rows.take(sample.key, len(keys)) if rows else None
        keys.append(sample.key)
        meta, images = examine_sample(shard, sample)
        unknown = examine_unknown(shard, sample)
        if rows and row is None:
            unmatched.append(len(keys) - 1)
        elif rows and row is not None:
            values = examine_row(shard, rows, row, sample.key)
            check_agreement(shard, sample.key, meta, images, unknown, values, "world_from_mm" in rows.file)
    check_keys(shard, "tar", keys, to_the_end=not tar.lost)
    if rows:
        for place in unmatched:
            _name_differs(shard, rows, place, keys[place])
    if tar.lost:
        expected = rows.name(len(keys)) if rows and len(keys) < len(rows.keys) else None
        after = f"after sample {keys[-1]}" if keys else "at its beginning"
        shard.say("tar", tar.lost_in or expected, f"{tar.lost} ({after}); what follows cannot be read")
        return keys, False
    if len(keys) != shard.entry.samples:
        shard.say("tar", None, f"has {len(keys)} samples, the manifest says {shard.entry.samples}")
    for name in map(rows.name, rows.unread) if rows else ():
        shard.say("tar", name, f"is missing, but {shard.entry.h5} has it")
    return keys, True


def _name_differs(shard: Examination, rows: Rows, place: int, key: str) -> None:
    """Says of a sample of the tar, whose key the HDF5 file lacks, that it has another one there, or is missing."""
    if place in rows.unread:
        del rows.unread[place]
        shard.say("h5", key, f"is called {rows.keys[place]!r} here")
        examine_row(shard, rows, place, key)
    else:
        shard.say("h5", key, f"is missing, but {shard.entry.tar} has it")
