"""A table of a shard's samples, and a contact sheet of some of them."""

import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import open_h5
from mousefacelift.base.sheets import GAP, SheetRow, write_sheet
from mousefacelift.config.sample import SPLITS
from mousefacelift.geometry.camera import Array
from mousefacelift.geometry.selection import thinned
from mousefacelift.geometry.views import azimuth_elevation
from mousefacelift.shards.containers import UNKNOWN, TarSample, tar_samples
from mousefacelift.shards.images import Image
from mousefacelift.shards.manifest import KINDS, Manifest, ShardEntry, read_manifest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

TABLE_ROWS = 24
RED = (255, 0, 0)
SHEET_WIDTH, LARGEST_TILE = 1600, 240  # px
# By their numbers in HDF5's registry of filters; 3 is the checksum.
H5_CODECS = {1: "gzip", 32000: "lzf", 32001: "blosc", 32004: "lz4", 32015: "zstd"}
COLUMNS = ("frame", "time s", "split", "distance", "elevation", "focal px", "mouse fills", "kB")
CAPTION = (
    "distance: mean of the views' cameras from the origin, world units; elevation: lowest to highest view, degrees; mouse fills: "
    "part of the image, mean of the views; kB: of the views, encoded"
)


@dataclass(frozen=True)
class Contents:
    """What a shard holds: how many samples, its views by name, images of `size` px and their codec."""

    path: Path
    samples: int
    views: tuple[str, ...]
    size: int
    codec: str


@dataclass(frozen=True)
class Shown:
    """One sample; frame, time in s and split are None where the shard does not hold them.

    c2w: [V, 4, 4]; fxfycxcy: [V, 4]; size: bytes of its encoded views; images: V of [S, S, 4] RGBA. unknown: [V, S, S] pixels
    of which nothing is known, or None.
    """

    key: str
    frame: int | None
    time_s: float | None
    split: str | None
    c2w: Array
    fxfycxcy: Array
    size: int
    images: Sequence[Image]
    unknown: NDArray[np.bool_] | None


def show(shard: Path, sheet: Path, limit: int) -> None:
    """Print what a shard holds, a row per sample, and draw `limit` samples, evenly spread, as a contact sheet (PNG).

    shard: a .tar or .h5, or a manifest.json; a manifest gives a row per shard and a sheet of all of them. Without samples
    there is no sheet. Raises UserError, naming the shard and, if possible, the sample, for what is missing, truncated or
    damaged.
    """
    from rich.console import Console

    # Wide enough for every number: a table must not be cut in a file or a narrow terminal. Names are not markup.
    console = Console(width=max(Console().width, 110), markup=False, emoji=False, highlight=False)
    views, rows = (
        _show_manifest(shard, limit, console) if shard.suffix == ".json" else _show_shard(shard, limit, console)
    )
    if not rows:
        console.print("no samples, no contact sheet")
        return
    write_sheet(sheet, rows, [view if view.startswith("view") else f"view {view}" for view in views])
    console.print(f"contact sheet: {sheet}", soft_wrap=True)


# What is drawn: names of the views, and a row per sample.
Drawn = tuple[tuple[str, ...], list[SheetRow]]


def _show_shard(path: Path, limit: int, console: "Console") -> Drawn:
    contents = read_contents(path)
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    if not contents.samples:
        console.print(f"{path}: 0 samples, {size}", soft_wrap=True)
        return (), []
    console.print(
        f"{path}: {_count(contents.samples, 'sample')} of {_count(len(contents.views), 'view')}, "
        f"{contents.size}x{contents.size} px, {contents.codec}, {size}",
        soft_wrap=True,
    )
    listed, drawn = (thinned(np.arange(contents.samples), count).tolist() for count in (TABLE_ROWS, limit))
    table, rows = _table(("sample", *COLUMNS), CAPTION), []
    for place, sample in zip(sorted({*listed, *drawn}), read_shown(contents, {*listed, *drawn}), strict=True):
        if place == 0:
            azimuth, _ = azimuth_elevation(sample.c2w[:, :3, 3])
            views = ", ".join(f"{name} at {a:.0f}°" for name, a in zip(contents.views, azimuth, strict=True))
            console.print(f"views, by azimuth in the first sample: {views}", soft_wrap=True)
        if place in listed:
            table.add_row(*_cells(sample))
        if place in drawn:
            rows.append(_row(sample))
    console.print(table)
    _say_left_out(contents.samples - len(listed), "samples", console)
    return contents.views, rows


def _show_manifest(path: Path, limit: int, console: "Console") -> Drawn:
    data = read_manifest(path)
    console.print(f"{path}: {_count(data.views, 'view')}, {data.image_size}x{data.image_size} px", soft_wrap=True)
    table = _table(("split", "shard", "samples", "tar MB", "HDF5 MB"))
    listed = [data.shards[k] for k in thinned(np.arange(len(data.shards)), TABLE_ROWS)]
    for entry in listed:
        name = str(Path(entry.h5).with_suffix(""))
        table.add_row(entry.split, name, str(entry.samples), *_sizes(data, [entry]))
    table.add_section()
    for split in SPLITS:
        mine = [entry for entry in data.shards if entry.split == split]
        samples = sum(entry.samples for entry in mine)
        table.add_row(split, _count(len(mine), "shard"), str(samples), *_sizes(data, mine))
    console.print(table)
    _say_left_out(len(data.shards) - len(listed), "shards", console)
    return _drawn_from_all(data, path, limit)


def _sizes(data: Manifest, entries: Sequence[ShardEntry]) -> list[str]:
    """The megabytes of the entries' tars, and of their HDF5 files."""
    return [_megabytes([data.folder / entry.path(kind) for entry in entries]) for kind in KINDS]


def _drawn_from_all(data: Manifest, path: Path, limit: int) -> Drawn:
    """`limit` samples, evenly spread over all shards."""
    every = [(entry, place) for entry in data.shards for place in range(entry.samples)]
    drawn = [every[k] for k in thinned(np.arange(len(every)), limit)]
    places: dict[str, set[int]] = {}
    for entry, place in drawn:
        places.setdefault(entry.h5, set()).add(place)
    names, rows = set(), []
    for entry in data.shards:
        if entry.h5 not in places:
            continue
        contents = read_contents(data.folder / entry.h5)
        if (contents.samples, len(contents.views)) != (entry.samples, data.views):
            raise UserError(
                f"{contents.path}: {contents.samples} samples of {_count(len(contents.views), 'view')}, but {path} says "
                f"{entry.samples} of {data.views}; run the workflow again"
            )
        names.add(contents.views)
        rows += [_row(sample) for sample in read_shown(contents, places[entry.h5])]
    # Captures that name their cameras differently have only the views' places in common.
    return names.pop() if len(names) == 1 else _numbered(data.views), rows


def read_contents(path: Path) -> Contents:
    """What the headers of a .tar or .h5 shard tell of it. Raises UserError naming it if it is missing, foreign or damaged."""
    if path.suffix == ".h5":
        return _h5_contents(path)
    if path.suffix == ".tar":
        return _tar_contents(path)
    raise UserError(f"{path}: not the name of a shard: name a .tar, a .h5 or a manifest.json")


def read_shown(contents: Contents, places: set[int]) -> Iterator[Shown]:
    """The samples at some places of a shard, in order. Raises UserError naming shard and sample for damaged ones."""
    return _h5_samples(contents, places) if contents.path.suffix == ".h5" else _tar_samples(contents, places)


def _h5_contents(path: Path) -> Contents:
    with open_h5(path, "mousefacelift shard") as file:
        image, shapes = file["image"], {name: file[name].shape for name in ("c2w", "fxfycxcy", "frame", "key")}
        n, v = image.shape[:2] if image.ndim == 5 else (-1, -1)
        expected = {"c2w": (n, v, 4, 4), "fxfycxcy": (n, v, 4), "frame": (n,), "key": (n,)}
        if shapes != expected or image.shape[2:] != (image.shape[2], image.shape[2], 4) or image.dtype != np.uint8:
            raise UserError(
                f"{path}: image {image.shape} and {shapes} are not a shard's; run `mousefacelift shard` again"
            )
        filters = image.id.get_create_plist()
        numbers = [filters.get_filter(k)[0] for k in range(filters.get_nfilters())]
        codecs = [H5_CODECS.get(number, f"filter {number}") for number in numbers if number > 3 or number == 1]
        names = tuple(str(name) for name in file.attrs.get("views", ()))
        codec = f"HDF5 {' and '.join(codecs) or 'uncompressed'}"
        return Contents(path, n, names if len(names) == v else _numbered(v), image.shape[2], codec)


def _h5_samples(contents: Contents, places: set[int]) -> Iterator[Shown]:
    path, split = contents.path, contents.path.parent.name
    with open_h5(path, "mousefacelift shard") as file:
        for place in sorted(places):
            try:
                yield Shown(
                    file["key"].asstr()[place], int(file["frame"][place]), None, split if split in SPLITS else None,
                    file["c2w"][place], file["fxfycxcy"][place], _stored_bytes(file["image"], place), file["image"][place],
                    file[UNKNOWN][place] > 0 if UNKNOWN in file else None,
                )  # fmt: skip
            except (OSError, RuntimeError, ValueError) as error:
                raise UserError(
                    f"{path}, sample {place} of {contents.samples}: damaged ({error}); delete it and run `mousefacelift shard` again"
                ) from None


def _stored_bytes(image: Any, place: int) -> int:
    if image.chunks is None:
        return int(np.prod(image.shape[1:]))
    return int(image.id.get_chunk_info_by_coord((place, 0, 0, 0, 0)).size)


def _tar_contents(path: Path) -> Contents:
    members: list[tuple[str, str, str]] = []  # name, key of the sample, and kind
    try:
        with tarfile.open(path, "r:") as tar:
            for info in tar:
                key, _, kind = info.name.partition(".")
                members.append((info.name, key, kind))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; it is written by `mousefacelift shard`") from None
    except (tarfile.TarError, OSError, EOFError) as error:
        after = f" after {members[-1][0]}" if members else ""
        raise UserError(
            f"{path}: not a readable tar{after} ({error}); delete it and run `mousefacelift shard` again"
        ) from None
    if not members:
        return Contents(path, 0, (), 0, "tar")
    kinds = [kind for _, key, kind in members if key == members[0][1] and kind.startswith("cam")]
    if not kinds:
        raise UserError(f"{path}: its first member, {members[0][0]!r}, is no view of a sample (`key.cam0.png`)")
    with path.open("rb") as stream:
        sample = next(tar_samples(stream, str(path), len(kinds)))
    views = tuple(sample.meta(str(path)).views or ())
    return Contents(
        path, sum(kind == "json" for _, _, kind in members), views if len(views) == len(kinds) else _numbered(len(kinds)),
        len(sample.images(str(path))[0]), f"tar of {kinds[0].partition('.')[2]}",
    )  # fmt: skip


def _tar_samples(contents: Contents, places: set[int]) -> Iterator[Shown]:
    where = str(contents.path)
    for place, sample in enumerate(_tar_stream(contents.path, len(contents.views))):
        if place in places:
            meta = sample.meta(where)
            time_s = meta.time_s if isinstance(meta.time_s, float) else None
            size = sum(map(len, sample.files))
            views = sample.images(where), sample.unknown_pixels(where)
            yield Shown(sample.key, meta.frame, time_s, meta.split, *meta.cameras(), size, *views)


def _tar_stream(path: Path, views: int) -> Iterator[TarSample]:
    with path.open("rb") as stream:
        yield from tar_samples(stream, str(path), views)


def _numbered(views: int) -> tuple[str, ...]:
    return tuple(f"view {i}" for i in range(views))


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _megabytes(paths: list[Path]) -> str:
    missing = [path.name for path in paths if not path.is_file()]
    return f"{', '.join(missing)} missing" if missing else f"{sum(path.stat().st_size for path in paths) / 1e6:.1f}"


def _say_left_out(number: int, what: str, console: "Console") -> None:
    if number:
        console.print(f"{number} more {what} are not listed; the rows are evenly spread over all")


def _table(columns: Sequence[str], caption: str | None = None) -> "Table":
    from rich.table import Table

    table = Table(caption=caption, caption_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if column in {"sample", "split", "shard"} else "right", no_wrap=True)
    return table


def _cells(sample: Shown) -> list[str]:
    """COLUMNS of a sample, after its key."""
    centers = sample.c2w[:, :3, 3]
    _, elevation = azimuth_elevation(centers)
    focal = sample.fxfycxcy[:, 0]
    low, high = f"{focal.min():.1f}", f"{focal.max():.1f}"
    fill = np.mean([image[..., 3].mean() for image in sample.images]) / 255
    return [
        sample.key, "" if sample.frame is None else str(sample.frame), "" if sample.time_s is None else f"{sample.time_s:.2f}",
        sample.split or "", f"{np.linalg.norm(centers, axis=-1).mean():.3f}", f"{elevation.min():.1f}° to {elevation.max():.1f}°",
        low if low == high else f"{low} to {high}", f"{100 * fill:.1f} %", f"{sample.size / 1e3:.0f}",
    ]  # fmt: skip


def _row(sample: Shown) -> SheetRow:
    """A row of the contact sheet: key, frame and time, and the views over white, as large as the sheet has room for.

    Unknown pixels are red.
    """
    label = [sample.key]
    label += [f"frame {sample.frame}"] if sample.frame is not None else []
    label += [f"{sample.time_s:.2f} s"] if sample.time_s is not None else []
    unknown = [None] * len(sample.images) if sample.unknown is None else sample.unknown
    side = tile_side(len(sample.images))
    return SheetRow(
        "   ".join(label), [_tile(image, mask, side) for image, mask in zip(sample.images, unknown, strict=True)]
    )


def tile_side(views: int) -> int:
    """Width and height of a view on the contact sheet, px."""
    return max(1, min(LARGEST_TILE, (SHEET_WIDTH - GAP) // views - GAP))


def _tile(rgba: Image, unknown: NDArray[np.bool_] | None, side: int) -> Image:
    alpha = rgba[..., 3:].astype(np.float32) / 255
    over_white = rgba[..., :3] * alpha + 255 * (1 - alpha)
    if unknown is not None:
        over_white[unknown] = 0.4 * over_white[unknown] + 0.6 * np.array(RED)
    method = cv2.INTER_AREA if side < len(rgba) else cv2.INTER_NEAREST
    return np.rint(cv2.resize(over_white, (side, side), interpolation=method)).astype(np.uint8)
