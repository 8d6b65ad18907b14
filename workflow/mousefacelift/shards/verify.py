"""Whether shards are what their manifest says: every byte is read again, and damage is named with its sample."""

import json
import re
import zlib
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from numpy.typing import NDArray

from mousefacelift import STAGE_VERSIONS
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key, read_json, write_json
from mousefacelift.base.progress import track
from mousefacelift.config.sample import SPLITS
from mousefacelift.shards.containers import FIELDS, TarSample, meta_cameras, tar_samples
from mousefacelift.shards.images import SIGNATURES, Image, decode_image
from mousefacelift.shards.manifest import KINDS, Manifest, checksum, read_manifest, settings_sha256

MAX_TILT = np.sin(np.deg2rad(5))  # of a view's horizontal against the world's
MAX_OFF_AXIS = np.cos(np.deg2rad(5))  # between the optical axis and the direction to the origin
SAME = 1e-9  # cameras are the same up to here
# And up to here in a file whose bytes are wrong: what is left is how another machine rounds an inverted pose.
EXACT = 1e-14
BLOCK, RECORD = 512, 10240  # bytes, of a tar
MAX_LINES = 5  # of problems, in the message that refuses a shard
# What a sample's JSON holds, and each of its `frames`; world_from_mm is there where it is known.
META = ("id", "capture", "frame", "split", "views", "frames")
MEASURED = ("time_s", "distance_policy", "world_units_per_mm", "qc")  # all of them, or none of what was imported
FRAME = ("w", "h", "fx", "fy", "cx", "cy", "w2c", "file_path")
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


def verify(manifest: Path, threads: int) -> list[Problem]:
    """Re-read all shards of a manifest completely, several at a time, and its folder; what is wrong, in its order.

    Beyond what `check_shard` says of every shard: a key that is there twice, in one split or in two, totals that are not
    the sums of the shards', and files beside the shards that the manifest does not list. Raises UserError for a manifest
    that cannot be read.
    """
    data = read_manifest(manifest)
    advance = track(max(len(data.shards), 1), "verify")

    def one(entry: dict[str, Any]) -> "_Examination":
        found = _Examination(data.folder, entry, data.image_size, data.views, data.shards)
        advance()
        return found

    with ThreadPoolExecutor(max_workers=threads) as pool:
        examined = list(pool.map(one, data.shards))
    problems = [problem for each in examined for problem in each.problems]
    return problems + _repeated(examined) + _totals(manifest, data.shards) + _leftovers(data)


def check_shard(
    folder: Path, entry: dict[str, Any], image_size: int, views: int, others: Sequence[dict[str, Any]] = ()
) -> list[Problem]:
    """Re-read a tar and its HDF5 file completely, one sample in memory at a time; what is wrong with them.

    entry: the shard's in the manifest; others: the manifest's entries, to recognise a file that belongs to another of
    them. Checked: existence, sizes and checksums; the tar's structure from its first byte to its last; that every image is
    RGBA of image_size px, white where alpha is 0; that the JSON is complete and the cameras are sane; keys, their order
    and number; names, shapes, types and checksums in the HDF5 file; that both hold the same images, cameras, frames and
    keys. A damaged sample does not hide the damage of another, except in a tar after the place where its structure is
    lost.
    """
    return _Examination(folder, entry, image_size, views, others).problems


def refuse_damaged(manifest: Manifest, kind: Literal["tar", "h5"], splits: Collection[str], threads: int) -> None:
    """Raise UserError, with `check_shard`'s words, unless the files to be read are byte for byte what the manifest says.

    Only sizes and checksums of the splits' shards with samples are compared, some files at a time; the first that differs
    is then read sample by sample, to say what is wrong with it.
    """
    if manifest.url:
        return  # such files are checked as they arrive
    entries = [entry for split in splits for entry in manifest.split(split)]
    advance = track(max(len(entries), 1), "checking the shards' checksums")

    def whole(entry: dict[str, Any]) -> bool:
        path = manifest.folder / entry[kind]
        try:
            return path.stat().st_size == entry["bytes"][kind] and checksum(path) == entry["sha256"][kind]
        except OSError:
            return False
        finally:
            advance()

    with ThreadPoolExecutor(max_workers=threads) as pool:
        futures = [pool.submit(whole, entry) for entry in entries]
        for entry, future in zip(entries, futures, strict=True):
            if not future.result():
                pool.shutdown(wait=False, cancel_futures=True)
                raise UserError(_refusal(manifest, entry, kind))


def _refusal(manifest: Manifest, entry: dict[str, Any], kind: str) -> str:
    problems = check_shard(manifest.folder, entry, manifest.image_size, manifest.views, manifest.shards)
    lines = [str(problem) for problem in problems if problem.shard == entry[kind]]
    more = [f"and {len(lines) - MAX_LINES} more"] if len(lines) > MAX_LINES else []
    return "\n".join(
        [
            f"{manifest.folder / entry[kind]}: not what {manifest.folder / 'manifest.json'} says:",
            *lines[:MAX_LINES],
            *more,
            "delete the file and rerun the workflow, which makes it again; `mousefacelift verify` checks all of them",
        ]
    )


def write_receipt(manifest: Path, output: Path | None) -> str:
    """Write, if asked to, which manifest was verified and what it holds; the same in words. No times are written."""
    data = read_manifest(manifest)
    samples = {split: sum(e["samples"] for e in data.shards if e["split"] == split) for split in SPLITS}
    size = {kind: sum(e["bytes"][kind] for e in data.shards) for kind in KINDS}
    if output is not None:
        receipt = {"stage": "verify", "version": STAGE_VERSIONS["verify"], "manifest_sha256": data.sha256}
        write_json(output, receipt | {"shards": len(data.shards), "samples": samples, "bytes": size})
    return f"{len(data.shards)} shards, {sum(samples.values())} samples, {sum(size.values())} bytes"


class _Examination:
    """One shard, read again from beginning to end: its `problems`, and the `keys` that it holds."""

    def __init__(
        self, folder: Path, entry: dict[str, Any], size: int, views: int, others: Sequence[dict[str, Any]]
    ) -> None:
        self.folder, self.entry, self.size, self.views, self.others = folder, entry, size, views, others
        self.problems: list[Problem] = []
        self.keys: list[str] = []
        self._whole = dict.fromkeys(KINDS, False)
        own = [kind for kind in KINDS if self._is_own(kind)]
        with ExitStack() as stack:
            rows = self._open_rows(stack) if "h5" in own else None
            read = {"tar": "tar" in own and self._examine(rows), "h5": rows is not None}
            if rows is not None:
                for row in rows.unread:
                    self._examine_row(rows, row, rows.name(row))
        self._explain(own, read)

    def _say(self, kind: str, sample: str | None, text: str) -> None:
        self.problems.append(Problem(self.entry[kind], sample, text))

    def _is_own(self, kind: str) -> bool:
        """Whether there is a file to be examined; says if there is none, or another shard's."""
        path = self.folder / self.entry[kind]
        try:
            size, digest = path.stat().st_size, checksum(path)
        except FileNotFoundError:
            self._say(kind, None, "no such file, but the manifest lists it")
            return False
        except OSError as error:
            self._say(kind, None, f"cannot be read ({error})")
            return False
        self._whole[kind] = (size, digest) == (self.entry["bytes"][kind], self.entry["sha256"][kind])
        if self._whole[kind]:
            return True
        for other in self._not_this():
            if other["sha256"][kind] == digest:
                self._say(kind, other["first"], f"the file is {other[kind]}, whose first sample this is")
                return False
        if size != self.entry["bytes"][kind]:
            self._say(kind, None, f"has {size} bytes, the manifest says {self.entry['bytes'][kind]}")
        return True

    def _not_this(self) -> Iterator[dict[str, Any]]:
        return (other for other in self.others if other["tar"] != self.entry["tar"])

    def _is_foreign(self, kind: str, first: str | None) -> bool:
        """Says if a file begins with the first sample of another shard."""
        for other in self._not_this():
            if first is not None and first != self.entry["first"] and first == other["first"]:
                self._say(kind, first, f"the file holds the samples of {other[kind]}, whose first sample this is")
                return True
        return False

    def _open_rows(self, stack: ExitStack) -> "_Rows | None":
        """The HDF5 file and those of its datasets whose shape and type are right; says which are not, and of the keys.

        None if there is nothing to be read, or the samples cannot be told apart.
        """
        count, wrong = self.entry["samples"], set()
        try:
            file = stack.enter_context(h5py.File(self.folder / self.entry["h5"], "r"))
            names = [*FIELDS, "image", "frame", *({"world_from_mm"} & set(file))]
            rows = _Rows(file, names)
        except (*H5_ERRORS, AttributeError) as error:
            self._say("h5", None, f"not a readable HDF5 file ({_reason(error)})")
            return None
        shapes: dict[str, tuple[tuple[int, ...], Any]] = {
            "image": ((self.views, self.size, self.size, 4), np.uint8),
            **{name: ((self.views, *shape), np.float64) for name, shape in FIELDS.items()},
            "world_from_mm": ((4, 4), np.float64),
            "frame": ((), np.int64),
            "key": ((), None),
        }
        if rows.keys and self._is_foreign("h5", rows.keys[0]):
            return None
        for name in (*names, "key"):
            shape, dtype = shapes[name]
            try:
                found, stored = file[name].shape, file[name].dtype
                text = h5py.check_string_dtype(stored) is not None
            except (*H5_ERRORS, AttributeError) as error:
                self._say("h5", None, f"{name} cannot be read ({_reason(error)})")
                wrong.add(name)
                continue
            # Without a sample, a shard knows of no views.
            if found != (count, *shape) and (count or found[:1] != (0,)):
                self._say("h5", None, f"{name} has shape {found}, the manifest says {(count, *shape)}")
                wrong.add(name)
            if not (text if dtype is None else stored == dtype):
                self._say("h5", None, f"{name} is of type {stored}, expected {np.dtype(dtype) if dtype else 'text'}")
                wrong.add(name)
        rows.names = [name for name in names if name not in wrong]
        if "key" in wrong and not any(rows.keys):
            return None
        self._check_keys("h5", rows.keys)
        self.keys = [key for key in rows.keys if key is not None]
        return rows

    def _check_keys(self, kind: str, keys: Sequence[str | None], to_the_end: bool = True) -> None:
        """Says which keys are not in order, and which ends are not the manifest's. None: could not be read."""
        for before, key in pairwise(key for key in keys if key is not None):
            if natural_key(before) >= natural_key(key):
                self._say(kind, key, f"is there {'twice' if key == before else f'after {before}, out of order'}")
        ends = {"first": 0, "last": -1} if to_the_end else {"first": 0}
        for name, place in ends.items():
            end = keys[place] if keys else None
            if end is not None and end != self.entry[name]:
                self._say(kind, end, f"is the {name} sample, the manifest says {self.entry[name]}")

    def _examine(self, rows: "_Rows | None") -> bool:
        """Read the tar, and of the HDF5 file what belongs to its samples; whether the tar could be read to its end."""
        keys: list[str] = []
        end, unmatched, foreign = 0, [], False
        tar = _Tar(self.folder / self.entry["tar"], self.views)
        for sample in tar:
            if not keys and self._is_foreign("tar", sample.key):
                foreign = True
                break
            row = rows.take(sample.key, len(keys)) if rows else None
            keys.append(sample.key)
            meta, images = self._examine_sample(sample)
            if rows and row is None:
                unmatched.append(len(keys) - 1)
            elif rows and row is not None:
                values = self._examine_row(rows, row, sample.key)
                self._compare(sample.key, meta, images, values, "world_from_mm" in rows.file)
            end += sum(BLOCK - (-len(content) // BLOCK) * BLOCK for content in (sample.json, *sample.files))
        if foreign:
            return False
        lost = tar.lost or _tail(tar.path, end)
        self._check_keys("tar", keys, to_the_end=not lost)
        if rows:
            for n in unmatched:
                self._name_differs(rows, n, keys[n])
        else:
            self.keys = keys
        if lost:
            expected = rows.name(len(keys)) if rows and len(keys) < len(rows.keys) else None
            place = f"after sample {keys[-1]}" if keys else "at its beginning"
            self._say("tar", tar.lost_in or expected, f"{lost} ({place}); what follows there cannot be read")
            return False
        if len(keys) != self.entry["samples"]:
            self._say("tar", None, f"has {len(keys)} samples, the manifest says {self.entry['samples']}")
        for name in map(rows.name, rows.unread) if rows else ():
            self._say("tar", name, f"is not there, but in {self.entry['h5']}")
        return True

    def _name_differs(self, rows: "_Rows", place: int, key: str) -> None:
        """Of a sample of the tar whose key the HDF5 file lacks: there it has another one, or is missing."""
        if place in rows.unread:
            del rows.unread[place]
            self._say("h5", key, f"is called {rows.keys[place]!r} there")
            self._examine_row(rows, place, key)
        else:
            self._say("h5", key, f"is not there, but in {self.entry['tar']}")

    def _examine_sample(self, sample: TarSample) -> tuple[dict[str, Any] | None, list[Image | None]]:
        """A sample of the tar: its JSON and its images, None for what cannot be read; says what is wrong with them."""
        meta = None
        try:
            meta = sample.meta("")
        except UserError as error:
            self._say("tar", sample.key, str(error).removeprefix(f", sample {sample.key}: "))
        if meta is not None:
            for text in self._meta_problems(sample.key, meta):
                self._say("tar", sample.key, text)
            self._check_cameras("tar", sample.key, *meta_cameras(meta))
            # A flipped digit leaves a number; it is seldom the shortest way to write that number.
            if not self._whole["tar"] and json.dumps(meta, separators=(",", ":")).encode() != sample.json:
                self._say("tar", sample.key, "damaged JSON (not as `shard` writes it)")
        images: list[Image | None] = []
        for i, file in enumerate(sample.files):
            image = None
            if file.startswith(SIGNATURES["png"]) and not _png_is_whole(file):
                self._say("tar", sample.key, f"cam{i}: damaged PNG (a checksum in it differs)")
            else:
                try:
                    image = decode_image(file, f"cam{i}")
                except UserError as error:
                    self._say("tar", sample.key, str(error))
            if image is not None and image.shape != (self.size, self.size, 4):
                size = f"{image.shape[1]}x{image.shape[0]}"
                self._say("tar", sample.key, f"cam{i}: has {size} px, the manifest says {self.size}x{self.size}")
                image = None
            if image is not None:
                self._check_white("tar", sample.key, i, image)
            images.append(image)
        return meta, images

    def _meta_problems(self, key: str, meta: dict[str, Any]) -> Iterator[str]:
        expected_names = META + (MEASURED if any(name in meta for name in MEASURED) else ())
        if missing := [name for name in expected_names if name not in meta]:
            yield f"JSON lacks {', '.join(missing)}"
        expected = {"id": key, "split": self.entry["split"]}
        for name, value in expected.items():
            if meta.get(name, value) != value:
                yield f"JSON says {name} {meta[name]!r}, expected {value!r}"
        if not _is_count(meta.get("frame", 0)):
            yield f"JSON says frame {meta['frame']!r}, expected a number"
        if "world_from_mm" in meta and not _is_matrix(meta["world_from_mm"]):
            yield "JSON: world_from_mm is not 4 x 4 finite numbers"
        for i, frame in enumerate(meta["frames"]):
            if missing := [name for name in FRAME if name not in frame]:
                yield f"JSON lacks {', '.join(missing)} of view {i}"
            elif (frame["w"], frame["h"]) != (self.size, self.size):
                yield f"JSON says {frame['w']}x{frame['h']} px of view {i}, the manifest says {self.size}x{self.size}"
            elif not str(frame["file_path"]).startswith(f"{key}.cam{i}."):
                yield f"JSON says file_path {frame['file_path']!r} of view {i}, expected {key}.cam{i}.…"

    def _examine_row(self, rows: "_Rows", row: int, key: str) -> dict[str, Any]:
        """A sample of the HDF5 file, without what cannot be read; says what is wrong with it."""
        values = {}
        if rows.keys[row] is None:
            self._say("h5", key, "the key cannot be read")
        for name in rows.names:
            try:
                values[name] = rows.file[name][row]
            except H5_ERRORS as error:
                self._say("h5", key, f"{name} cannot be read ({_reason(error)})")
        for i, image in enumerate(values.get("image", ())):
            self._check_white("h5", key, i, image)
        if "c2w" in values and "fxfycxcy" in values:
            self._check_cameras("h5", key, values["c2w"], values["fxfycxcy"])
        if not np.isfinite(values.get("world_from_mm", 0)).all():
            self._say("h5", key, "world_from_mm is not finite")
        return values

    def _check_white(self, kind: str, key: str, view: int, image: Image) -> None:
        pixels = np.ascontiguousarray(image).view("<u4")  # alpha is the highest byte
        wrong = (pixels < 1 << 24) & (pixels != (1 << 24) - 1)
        if wrong.any():
            self._say(kind, key, f"cam{view}: {wrong.sum()} of {wrong.size} pixels are not white although alpha is 0")

    def _check_cameras(self, kind: str, key: str, c2w: NDArray[Any], fxfycxcy: NDArray[Any]) -> None:
        try:
            check_cameras(c2w[None], fxfycxcy[None], [""])
        except UserError as error:
            self._say(kind, key, str(error).removeprefix(": "))

    def _compare(
        self, key: str, meta: dict[str, Any] | None, images: list[Image | None], row: dict[str, Any], has_world: bool
    ) -> None:
        """Says in what a sample of the tar and its row of the HDF5 file differ."""
        texts = []
        for i, image in enumerate(images):
            if image is not None and "image" in row and not np.array_equal(image, row["image"][i]):
                differs = (image != row["image"][i]).any(-1)
                y, x = np.argwhere(differs)[0]
                texts.append(
                    f"cam{i}: {differs.sum()} of {differs.size} pixels are not those of {{}}, the first at x {x}, y {y}"
                )
        if meta is not None:
            known = dict(zip(("c2w", "fxfycxcy"), meta_cameras(meta), strict=True)) | {
                name: np.asarray(meta[name])
                for name, is_right in (("frame", _is_count), ("world_from_mm", _is_matrix))
                if is_right(meta.get(name))
            }
            tolerance = SAME if all(self._whole.values()) else EXACT
            for name, value in known.items():
                with np.errstate(all="ignore"):
                    if name in row and not np.abs(row[name] - value).max() <= tolerance:
                        texts.append(f"{name} is not that of {{}}")
            if ("world_from_mm" in meta) != has_world:
                texts.append("world_from_mm is in one of this file and {} alone")
        # The file whose checksum is right is right.
        for kind in [kind for kind in KINDS if not self._whole[kind]] or ["tar"]:
            for text in texts:
                self._say(kind, key, text.format(self.entry["h5" if kind == "tar" else "tar"]))

    def _explain(self, own: list[str], read: dict[str, bool]) -> None:
        """Says of a file whose checksum is wrong, although nothing in it was found to be, what that means."""
        for kind, other in zip(KINDS, reversed(KINDS), strict=True):
            if kind in own and not self._whole[kind] and all(p.shard != self.entry[kind] for p in self.problems):
                meaning = (
                    "but no sample shows it: the difference lies outside of images and cameras (padding, index, a number "
                    f"of a JSON that is nowhere else) or is below {EXACT}"
                    if read[other]
                    else f"and without {self.entry[other]} to compare with, what differs cannot be told"
                )
                self._say(kind, None, f"the checksum is not the manifest's, {meaning}; the file must be replaced")


class _Rows:
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


class _Tar:
    """The samples of a tar. Afterwards `lost` says why it could not be read further, and `lost_in` in which sample."""

    def __init__(self, path: Path, views: int) -> None:
        self.path, self.views = path, views
        self.lost: str | None = None
        self.lost_in: str | None = None

    def __iter__(self) -> Iterator[TarSample]:
        try:
            with self.path.open("rb") as stream:
                yield from tar_samples(stream, "", self.views)
        except UserError as error:
            parts = re.fullmatch(r", (?:sample (.+?)|after sample .+?|at its beginning): (.*)", str(error), re.DOTALL)
            self.lost_in, self.lost = parts.groups() if parts else (None, str(error))
        except (OSError, ValueError, OverflowError) as error:  # of a header that no checksum tells to be damaged
            self.lost = f"damaged tar ({error})"


def _tail(path: Path, end: int) -> str | None:
    """What is wrong with a tar after its last sample, which must be zeros alone; None if nothing."""
    with path.open("rb") as handle:
        handle.seek(end)
        if any(handle.read(BLOCK)):
            return "damaged tar (the next header cannot be read)"
        while rest := handle.read(1 << 20):
            if any(rest):
                return "damaged tar (something follows its end)"
        size = handle.tell()
    return None if size >= end + 2 * BLOCK and size % RECORD == 0 else "damaged tar (its end is cut off)"


def _png_is_whole(file: bytes) -> bool:
    """Whether the checksums of all chunks of a PNG are right and nothing follows the last. OpenCV forgives some."""
    place, kind = 8, b""
    if file[:place] != b"\x89PNG\r\n\x1a\n":
        return False
    while place < len(file) and kind != b"IEND":
        length = int.from_bytes(file[place : place + 4])
        kind, content = file[place + 4 : place + 8], file[place + 4 : place + 8 + length]
        place += 12 + length
        if zlib.crc32(content) != int.from_bytes(file[place - 4 : place]):
            return False
    return kind == b"IEND" and place == len(file)


def _reason(error: Exception) -> str:
    return str(error.args[0] if error.args else error)  # a KeyError would put its message in quotes


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def _is_matrix(value: Any) -> bool:
    try:
        matrix = np.array(value, np.float64)
    except (ValueError, TypeError, OverflowError):
        return False
    return matrix.shape == (4, 4) and bool(np.isfinite(matrix).all())


def _repeated(examined: list[_Examination]) -> list[Problem]:
    """Keys that two shards hold."""
    problems, first = [], dict[str, dict[str, Any]]()
    for each in examined:
        for key in dict.fromkeys(each.keys):
            other = first.setdefault(key, each.entry)
            if other is not each.entry:
                split = "" if other["split"] == each.entry["split"] else f", of split {other['split']}"
                problems.append(Problem(each.entry["h5"], key, f"is in {other['h5']} too{split}"))
    return problems


def _totals(manifest: Path, shards: list[dict[str, Any]]) -> list[Problem]:
    """What the manifest says of all shards and is not so."""
    values = read_json(manifest, "shard")
    captures: dict[str, int] = {}
    for entry in shards:
        captures[entry["capture"]] = captures.get(entry["capture"], 0) + entry["samples"]
    totals = {
        "samples": {split: sum(e["samples"] for e in shards if e["split"] == split) for split in SPLITS},
        "bytes": {kind: sum(e["bytes"][kind] for e in shards) for kind in KINDS},
    }
    problems = [
        f"{name} is {values.get(name)}, the shards' sum is {total}"
        for name, total in totals.items()
        if values.get(name) != total
    ]
    try:
        found = {capture["name"]: capture["samples"] for capture in values["captures"]}
    except (KeyError, TypeError) as error:
        found = {repr(error): -1}
    if found != captures:
        problems.append(f"captures are {found}, the shards have {captures}")
    if values.get("config_sha256") != settings_sha256(values.get("config")):
        problems.append("config_sha256 is not the hash of config")
    return [Problem(manifest.name, None, f"{text}; delete it and rerun the workflow") for text in problems]


def _leftovers(data: Manifest) -> list[Problem]:
    """Files in the shards' folders, and shards anywhere below the manifest, that it does not list."""
    listed = {entry[kind] for entry in data.shards for kind in KINDS}
    folders = {str(Path(path).parent) for path in listed}
    found = sorted(path.relative_to(data.folder) for path in data.folder.rglob("*") if path.is_file())
    return [
        Problem(path.as_posix(), None, "the manifest does not list this file, left by another run; delete it")
        for path in found
        if path.as_posix() not in listed
        and (path.suffix in (".tar", ".h5") or (str(path.parent) in folders and not path.name.startswith(".")))
    ]


def check_cameras(c2w: NDArray[Any], fxfycxcy: NDArray[Any], names: list[str]) -> None:
    """Raise UserError, naming the first sample and view, unless all cameras are what GS-LRM was trained on.

    c2w [N, V, 4, 4], fxfycxcy [N, V, 4]; finite, rigid, positive focal lengths; the view looks at the world's origin,
    level, with +Z up in the image. A world with another up axis is refused, not guessed: weights are Z-up.
    """
    R, center = c2w[..., :3, :3], c2w[..., :3, 3]
    right, down, axis = R[..., 0], R[..., 1], R[..., 2]
    with np.errstate(all="ignore"):
        toward = -center / np.linalg.norm(center, axis=-1, keepdims=True)
        finite = np.isfinite(c2w).all((-1, -2)) & np.isfinite(fxfycxcy).all(-1)
        orthonormal = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max((-1, -2)) < 1e-4
        problems = {
            "is not finite": ~finite,
            "is not a rigid pose (rotation without mirroring or scale, last row 0 0 0 1)": ~(
                orthonormal & (np.linalg.det(R) > 0) & (np.abs(c2w[..., 3, :] - [0, 0, 0, 1]).max(-1) < 1e-6)
            ),
            "has a focal length that is not positive": ~(fxfycxcy[..., :2] > 0).all(-1),
            "does not look at the world's origin, where the mouse should be": ~((axis * toward).sum(-1) > MAX_OFF_AXIS),
            "is not level with +Z up: rotate the world to Z-up and level the views (`normalize` does both)": ~(
                (np.abs(right[..., 2]) < MAX_TILT) & (down[..., 2] < 1e-6)
            ),
        }
    for problem, wrong in problems.items():
        if wrong.any():
            sample, view = np.argwhere(wrong)[0]
            raise UserError(
                f"{names[sample]}: the camera of view {view} {problem} ({wrong.sum()} of {wrong.size} views)"
            )
