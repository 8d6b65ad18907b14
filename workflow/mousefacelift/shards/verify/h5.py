"""The HDF5 file of a shard, read row by row."""

from contextlib import ExitStack
from typing import Any

import h5py
import numpy as np

from mousefacelift.shards.containers import FIELDS, UNKNOWN
from mousefacelift.shards.verify.files import check_keys, is_foreign
from mousefacelift.shards.verify.problems import H5_ERRORS, Examination, reason
from mousefacelift.shards.verify.samples import check_sample_cameras, check_white


class Rows:
    """An open HDF5 file of a shard: datasets to be read row by row, keys, and the rows that were not asked for yet.

    keys: None for one that cannot be read.
    """

    def __init__(self, file: h5py.File, names: list[str]) -> None:
        self.file, self.names = file, names
        self.keys = [self._key(row) for row in range(len(file["key"]))]
        self.unread = dict.fromkeys(range(len(self.keys)))
        self._row_of = {key: row for row, key in reversed(list(enumerate(self.keys)))}

    def _key(self, row: int) -> str | None:
        try:
            return str(self.file["key"].asstr()[row])
        except H5_ERRORS:
            return None

    def name(self, row: int) -> str:
        """What to call a row in messages."""
        key = self.keys[row]
        return f"of row {row}" if key is None else key

    def take(self, key: str, place: int) -> int | None:
        """The row of a sample, the one at `place` if that may be it; None if there is none, or it was taken before."""
        row = place if place < len(self.keys) and self.keys[place] in (key, None) else self._row_of.get(key)
        if row is None or row not in self.unread:
            return None
        del self.unread[row]
        return row


def open_rows(shard: Examination, stack: ExitStack) -> Rows | None:
    """The HDF5 file with those of its datasets whose shape and type are right; says which are not, and checks the keys.

    None if there is nothing to be read, or the samples cannot be told apart.
    """
    try:
        file = stack.enter_context(h5py.File(shard.path("h5"), "r"))
        names = [*FIELDS, "image", "frame", *(name for name in ("world_from_mm", UNKNOWN) if name in file)]
        rows = Rows(file, names)
    except (*H5_ERRORS, AttributeError) as error:
        shard.say("h5", None, f"not a readable HDF5 file ({reason(error)})")
        return None
    if rows.keys and is_foreign(shard, "h5", rows.keys[0]):
        return None
    right = {name for name in (*names, "key") if _is_right(shard, file, name)}
    rows.names = [name for name in names if name in right]
    if "key" not in right and not any(rows.keys):
        return None
    check_keys(shard, "h5", rows.keys)
    return rows


def _is_right(shard: Examination, file: h5py.File, name: str) -> bool:
    """Whether a dataset has the shape and type that it must have; says if not."""
    count = shard.entry.samples
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        "image": ((shard.views, shard.size, shard.size, 4), np.uint8),
        **{field: ((shard.views, *shape), np.float64) for field, shape in FIELDS.items()},
        "world_from_mm": ((4, 4), np.float64),
        UNKNOWN: ((shard.views, shard.size, shard.size), np.uint8),
        "frame": ((), np.int64),
        "key": ((), None),
    }
    shape, dtype = shapes[name]
    try:
        found, stored = file[name].shape, file[name].dtype
        text = h5py.check_string_dtype(stored) is not None
    except (*H5_ERRORS, AttributeError) as error:
        shard.say("h5", None, f"{name} cannot be read ({reason(error)})")
        return False
    # A shard without samples knows of no views.
    shape_is_right = found == (count, *shape) or (not count and found[:1] == (0,))
    if not shape_is_right:
        shard.say("h5", None, f"{name} has shape {found}, the manifest says {(count, *shape)}")
    type_is_right = text if dtype is None else stored == dtype
    if not type_is_right:
        shard.say("h5", None, f"{name} is of type {stored}, expected {np.dtype(dtype) if dtype else 'text'}")
    return shape_is_right and bool(type_is_right)


def examine_row(shard: Examination, rows: Rows, row: int, key: str) -> dict[str, Any]:
    """A sample's arrays by name, without what cannot be read; says what is wrong with them."""
    values = {}
    if rows.keys[row] is None:
        shard.say("h5", key, "the key cannot be read")
    for name in rows.names:
        try:
            values[name] = rows.file[name][row]
        except H5_ERRORS as error:
            shard.say("h5", key, f"{name} cannot be read ({reason(error)})")
    for view, image in enumerate(values.get("image", ())):
        check_white(shard, "h5", key, view, image)
    if not np.isin(values.get(UNKNOWN, 0), (0, 255)).all():
        shard.say("h5", key, f"{UNKNOWN} has values other than 0 and 255")
    if "c2w" in values and "fxfycxcy" in values:
        check_sample_cameras(shard, "h5", key, values["c2w"], values["fxfycxcy"])
    if not np.isfinite(values.get("world_from_mm", 0)).all():
        shard.say("h5", key, "world_from_mm is not finite")
    return values
