"""manifest.json: the shards with their samples and checksums, and the code and settings that made them."""

import atexit
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, Generic, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, ValidationError, field_validator, model_validator

from mousefacelift import STAGE_VERSIONS, __version__
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, natural_key, open_h5, read_json, write_json
from mousefacelift.base.remote import is_url, open_binary
from mousefacelift.config.sample import SPLITS
from mousefacelift.shards.checksums import checksums
from mousefacelift.shards.strict import Count, Strict, first_problem

Kind = Literal["tar", "h5"]
KINDS: tuple[Kind, ...] = ("tar", "h5")
STAGES = ("center", "cameras", "normalize", "sample", "shard")  # whose settings and code the shards depend on
T = TypeVar("T")


def _path_below(path: str) -> str:
    parts = path.split("/")  # a PurePosixPath would take longer than all other checks
    if path.startswith("/") or ".." in parts or not set(parts) - {"", "."}:
        raise ValueError("not a path below the manifest")
    return path


def _split(name: str) -> str:
    if name not in SPLITS:
        raise ValueError(f"not one of {', '.join(SPLITS)}")
    return name


PathBelow = Annotated[str, AfterValidator(_path_below)]


class PerKind(Strict, Generic[T]):
    """Something of a shard's tar and of its HDF5 file."""

    tar: T
    h5: T

    def __getitem__(self, kind: Kind) -> T:
        return self.tar if kind == "tar" else self.h5


class ShardEntry(Strict):
    """A shard as the manifest lists it: its split, and of both files the path from the manifest's folder.

    first and last: keys, None without samples.
    """

    split: Annotated[str, AfterValidator(_split)]
    capture: str
    chunk: Count
    samples: Count
    tar: PathBelow
    h5: PathBelow
    bytes: PerKind[Count]
    sha256: PerKind[str]
    first: str | None
    last: str | None

    @model_validator(mode="after")
    def _names_its_ends(self) -> "ShardEntry":
        if self.samples and (self.first is None or self.last is None):
            raise ValueError("has samples, but first or last is not named")
        return self

    def path(self, kind: Kind) -> str:
        """The path of one of its files, from the manifest's folder."""
        return self.tar if kind == "tar" else self.h5


class Manifest(Strict):
    """What `shard` wrote: `image_size` px, `views` per sample, the shards, and the hash that stands for all of it.

    shards: their files lie below `folder`, or below `url` where that is given. sha256: of the manifest itself; as it
    lists every shard's checksum, this identifies the data.
    """

    folder: Path
    image_size: Annotated[int, Field(ge=1)]
    views: Annotated[int, Field(ge=1)]
    shards: list[ShardEntry]
    sha256: str
    url: str | None = None

    @field_validator("shards")
    @classmethod
    def _lists_each_file_once(cls, shards: list[ShardEntry]) -> list[ShardEntry]:
        files = Counter(path for shard in shards for path in (shard.tar, shard.h5))
        if twice := [path for path, times in files.items() if times > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
        return shards

    def split(self, name: str) -> list[ShardEntry]:
        """The shards of a split that hold samples."""
        return [shard for shard in self.shards if shard.split == name and shard.samples]

    def samples(self, split: str) -> int:
        """How many samples a split has."""
        return sum(shard.samples for shard in self.split(split))

    def location(self, shard: ShardEntry, kind: Kind) -> str:
        """Where a shard's tar or h5 is to be read: a path or a URL."""
        return f"{self.url}/{shard.path(kind)}" if self.url else str(self.folder / shard.path(kind))

    def local(self, shard: ShardEntry, kind: Kind) -> Path:
        """A shard's tar or h5 as a file here; from a web server it is fetched once, and checked."""
        path = self.folder / shard.path(kind)
        if self.url and not path.exists():
            with self.open(shard, kind) as source, atomic(path) as temporary, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        return path

    @contextmanager
    def open(self, shard: ShardEntry, kind: Kind) -> Iterator[IO[bytes]]:
        """A shard's tar or h5 for reading. From a web server it is first fetched as a whole and checked.

        Raises UserError for a file that is missing, and for one from the web that is not what the manifest lists.
        """
        where = self.location(shard, kind)
        with open_binary(where) as source:
            if not self.url:
                yield source
                return
            with tempfile.TemporaryFile(prefix="mousefacelift-") as copy:
                shutil.copyfileobj(source, copy, 1 << 20)
                copy.seek(0)
                if hashlib.file_digest(copy, "sha256").hexdigest() != shard.sha256[kind]:
                    raise UserError(f"{where}: not the file that the manifest lists (another sha256)")
                copy.seek(0)
                yield copy


def read_manifest(location: Path | str) -> Manifest:
    """Read manifest.json, a path or a URL.

    Raises UserError if it is missing, damaged, lacks a key or names a file outside its folder.
    """
    if is_url(location):
        return _download(str(location))
    path = Path(location)
    return _checked(read_json(path, "shard"), path, path.read_bytes(), path.parent)


def _download(location: str) -> Manifest:
    """The manifest at a URL. What is fetched from there lies in a temporary folder until the process ends."""
    parts = urlsplit(location)
    if parts.query or parts.fragment or not parts.path.endswith(".json"):
        raise UserError(
            f"{location}: not the address of a manifest.json; the shards must lie beside it, under the names it gives"
        )
    with open_binary(location, patient=False) as stream:
        content = stream.read()
    try:
        values = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{location}: not a shard manifest ({error})") from None
    folder = tempfile.TemporaryDirectory(prefix="mousefacelift-")
    atexit.register(folder.cleanup)
    return _checked(values, location, content, Path(folder.name), location.rpartition("/")[0])


def _checked(values: Any, location: Path | str, content: bytes, folder: Path, url: str | None = None) -> Manifest:
    read = {"folder": folder, "sha256": hashlib.sha256(content).hexdigest(), "url": url}
    try:
        return Manifest.model_validate(values | read if isinstance(values, dict) else values)
    except ValidationError as error:
        problem = first_problem(error)
        raise UserError(f"{location}: not a shard manifest ({problem}); delete it and rerun the workflow") from None


def write_manifest(
    h5_files: list[Path],
    output: Path,
    needed: tuple[str, ...] = ("train",),
    settings: dict[str, Any] | None = None,
    threads: int = 1,
) -> None:
    """Write `shard/manifest.json`: every shard with its samples and checksums, totals, and what all of it was made by.

    h5_files: `{split}/{capture}-{chunk}.h5` beside their tars, below the manifest's folder. settings: the sections of the
    configuration that the shards depend on (STAGES), recorded as given. The same shards and settings give the same bytes,
    in whatever order the files are named. Raises UserError if a shard is unreadable, a tar is missing, the shards do not
    go together, or one of the `needed` splits has no sample: this is better known now than after the training run.
    """
    folder = output.parent
    found = [_read_shard(path, folder) for path in h5_files]
    views, size = _common_shape(found, folder)
    totals = {split: sum(each.samples for each in found if each.split == split) for split in SPLITS}
    empty = [split for split in needed if not totals[split]]
    if empty or not views:
        raise UserError(
            f"{folder}: no sample is for {' and '.join(empty or SPLITS)} ({totals}): look at the captures' rejected.tsv, "
            "shorten sample.gap_s, or change sample.fractions (0 for a split that is not wanted)"
        )
    found.sort(key=lambda each: (SPLITS.index(each.split), natural_key(each.capture), each.chunk))
    sums = checksums([path for each in found for path in (each.tar, each.h5)], threads, "manifest")
    entries = [each.entry(*pair) for each, pair in zip(found, zip(sums[::2], sums[1::2], strict=True), strict=True)]
    write_json(
        output,
        {
            "stage": "shard",
            "version": STAGE_VERSIONS["shard"],
            "code": {"mousefacelift": __version__, "stages": {stage: STAGE_VERSIONS[stage] for stage in STAGES}},
            "config": settings,
            "config_sha256": settings_sha256(settings),
            "captures": _captures(found),
            "image_size": size,
            "views": views,
            "samples": totals,
            "bytes": {kind: sum(entry.bytes[kind] for entry in entries) for kind in KINDS},
            "shards": [entry.model_dump() for entry in entries],
        },
    )


def settings_sha256(settings: dict[str, Any] | None) -> str | None:
    """The hash of the settings' canonical JSON; None without settings."""
    if settings is None:
        return None
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@dataclass(frozen=True)
class _StoredShard:
    """A shard as its HDF5 file tells it. shape: number of views, and the size of their images in px."""

    tar: Path
    h5: Path
    split: str
    capture: str
    chunk: int
    keys: list[str]
    samples: int
    shape: tuple[int, int]
    views: list[str]

    def entry(self, tar_sha256: str, h5_sha256: str) -> ShardEntry:
        """The shard's entry in the manifest."""
        return ShardEntry(
            split=self.split, capture=self.capture, chunk=self.chunk, samples=self.samples,
            tar=f"{self.split}/{self.tar.name}", h5=f"{self.split}/{self.h5.name}",
            bytes=PerKind[int](tar=self.tar.stat().st_size, h5=self.h5.stat().st_size),
            sha256=PerKind[str](tar=tar_sha256, h5=h5_sha256),
            first=self.keys[0] if self.keys else None, last=self.keys[-1] if self.keys else None,
        )  # fmt: skip


def _read_shard(h5: Path, folder: Path) -> _StoredShard:
    tar, split = h5.with_suffix(".tar"), h5.parent.name
    capture, _, chunk = h5.stem.rpartition("-")
    if h5.parent.parent.resolve() != folder.resolve() or split not in SPLITS or not capture or not chunk.isdecimal():
        raise UserError(f"{h5}: not a shard's name; expected {folder}/{{{','.join(SPLITS)}}}/CAPTURE-CHUNK.h5")
    if not tar.exists():
        raise UserError(f"{tar}: no such file; it is written by `mousefacelift shard`")
    with open_h5(h5, "mousefacelift shard") as file:
        count, views, size = (int(n) for n in file["image"].shape[:3])
        keys = [key.decode() for key in file["key"][()]]
        names = [str(name) for name in file.attrs.get("views", ())]
    if len(keys) != count:
        raise UserError(f"{h5}: {len(keys)} keys for {count} samples; delete it and run `mousefacelift shard` again")
    return _StoredShard(tar, h5, split, capture, int(chunk), keys, count, (views, size), names)


def _common_shape(found: list[_StoredShard], folder: Path) -> tuple[int, int]:
    """The shape of all shards with samples; zeros if there are none. Raises UserError if they differ."""
    shapes = {each.shape for each in found if each.samples}
    if len(shapes) > 1:
        views, sizes = (sorted({shape[i] for shape in shapes}) for i in (0, 1))
        raise UserError(f"{folder}: shards of different image sizes ({sizes}) or view counts ({views}) cannot be mixed")
    return shapes.pop() if shapes else (0, 0)


def _captures(found: list[_StoredShard]) -> list[dict[str, Any]]:
    """Each capture's samples, and its view names: None without samples, or if they are not the same in all shards."""
    captures = []
    for name in sorted({each.capture for each in found}, key=natural_key):
        mine = [each for each in found if each.capture == name]
        views = {tuple(each.views) for each in mine if each.samples}
        names = list(views.pop()) if len(views) == 1 else None
        captures.append({"name": name, "samples": sum(each.samples for each in mine), "view_names": names})
    return captures
