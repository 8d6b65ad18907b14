"""manifest.json: the shards with their samples and checksums, and the code and settings that they come from."""

import atexit
import hashlib
import json
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import urlsplit

from mousefacelift import STAGE_VERSIONS, __version__
from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, natural_key, open_h5, read_json, write_json
from mousefacelift.base.progress import track
from mousefacelift.base.remote import is_url, open_binary
from mousefacelift.config.sample import SPLITS

STAGES = ("center", "cameras", "normalize", "sample", "shard")  # of which each has a part in every shard
KINDS = ("tar", "h5")


@dataclass(frozen=True)
class Manifest:
    """What `shard` wrote: `image_size` px, `views` per sample, the shards, and the hash that stands for all of it.

    shards: as in the file; each has split, capture, chunk, samples, first and last (keys, None without samples), and for
    tar and h5 the path from `folder`, or from `url` where that is given, bytes and sha256. The manifest lists every
    shard's checksum, so that its own bytes identify the data.
    """

    folder: Path
    image_size: int
    views: int
    shards: list[dict[str, Any]]
    sha256: str
    url: str | None = None

    def split(self, name: str) -> list[dict[str, Any]]:
        """The shards of a split that hold samples."""
        return [shard for shard in self.shards if shard["split"] == name and shard["samples"]]

    def location(self, shard: dict[str, Any], kind: str) -> str:
        """Where a shard's tar or h5 is to be read: a path or a URL."""
        return f"{self.url}/{shard[kind]}" if self.url else str(self.folder / shard[kind])

    def local(self, shard: dict[str, Any], kind: str) -> Path:
        """A shard's tar or h5 as a file here; from a web server it is fetched, once, and checked."""
        path = self.folder / shard[kind]
        if self.url and not path.exists():
            with self.open(shard, kind) as source, atomic(path) as temporary, temporary.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        return path

    @contextmanager
    def open(self, shard: dict[str, Any], kind: str) -> Iterator[IO[bytes]]:
        """A shard's tar or h5 for reading. From a web server it is fetched as a whole and checked before.

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
                if hashlib.file_digest(copy, "sha256").hexdigest() != shard["sha256"][kind]:
                    raise UserError(f"{where}: not the file that the manifest lists (another sha256)")
                copy.seek(0)
                yield copy


def read_manifest(location: Path | str) -> Manifest:
    """Read manifest.json, a path or a URL. Raises UserError if it is missing, damaged, lacks a key or names a file
    outside its folder.
    """
    if is_url(location):
        return _download(str(location))
    return _manifest(read_json(Path(location), "shard"), Path(location), Path(location).read_bytes())


def _download(location: str) -> Manifest:
    """The manifest at a URL. What is fetched from there lies in a temporary folder until the process ends."""
    parts = urlsplit(location)
    if parts.query or parts.fragment or not parts.path.endswith(".json"):
        raise UserError(
            f"{location}: not the address of a manifest.json; shards are looked for beside it, by their names"
        )
    with open_binary(location, patient=False) as stream:
        content = stream.read()
    try:
        values = json.loads(content)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{location}: not a shard manifest ({error})") from None
    folder = tempfile.TemporaryDirectory(prefix="mousefacelift-")
    atexit.register(folder.cleanup)
    return replace(_manifest(values, location, content), folder=Path(folder.name), url=location.rpartition("/")[0])


def _manifest(values: Any, location: Path | str, content: bytes) -> Manifest:
    try:
        size, views = (_count(values[name], name, 1) for name in ("image_size", "views"))
        shards = [_shard(shard) for shard in values["shards"]]
        files = [shard[kind] for shard in shards for kind in KINDS]
        if twice := [file for file, times in Counter(files).items() if times > 1]:
            raise ValueError(f"{twice[0]} is listed twice")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{location}: not a shard manifest ({error!r}); delete it and rerun the workflow") from None
    return Manifest(Path(location).parent, size, views, shards, hashlib.sha256(content).hexdigest())


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
    go together, or one of the `needed` splits has no sample: known now, not after training.
    """
    entries, images, names = [], set(), dict[str, list[str] | None]()
    for path in h5_files:
        entry, shape, views = _entry(path, output.parent)
        entries.append(entry)
        if not entry["samples"]:
            continue
        images.add(shape)
        if names.setdefault(entry["capture"], views) != views:
            names[entry["capture"]] = None
    if len(images) > 1:
        sizes, views_of = ({shape[i] for shape in images} for i in (1, 0))
        raise UserError(
            f"{output.parent}: shards of different image sizes ({sorted(sizes)}) or view counts ({sorted(views_of)}) cannot be mixed"
        )
    totals = {split: sum(e["samples"] for e in entries if e["split"] == split) for split in SPLITS}
    empty = [split for split in needed if not totals[split]]
    if empty or not images:
        raise UserError(
            f"{output.parent}: no sample is for {' and '.join(empty or SPLITS)} ({totals}): look at the captures' rejected.tsv, "
            "shorten sample.gap_s, or change sample.fractions (0 for a split that is not wanted)"
        )
    entries.sort(key=lambda e: (SPLITS.index(e["split"]), natural_key(e["capture"]), e["chunk"]))
    paths = [output.parent / entry[kind] for entry in entries for kind in KINDS]
    sums = iter(checksums(paths, threads, "manifest"))
    for entry in entries:
        entry["sha256"] = {kind: next(sums) for kind in KINDS}
    captures = sorted({entry["capture"] for entry in entries}, key=natural_key)
    ((views_count, size),) = images
    write_json(
        output,
        {
            "stage": "shard",
            "version": STAGE_VERSIONS["shard"],
            "code": {"mousefacelift": __version__, "stages": {stage: STAGE_VERSIONS[stage] for stage in STAGES}},
            "config": settings,
            "config_sha256": settings_sha256(settings),
            "captures": [
                {
                    "name": name,
                    "samples": sum(entry["samples"] for entry in entries if entry["capture"] == name),
                    "view_names": names.get(name),  # None without samples, or if they are not the same everywhere
                }
                for name in captures
            ],
            "image_size": size,
            "views": views_count,
            "samples": totals,
            "bytes": {kind: sum(entry["bytes"][kind] for entry in entries) for kind in KINDS},
            "shards": entries,
        },
    )


def settings_sha256(settings: dict[str, Any] | None) -> str | None:
    """The hash of the settings' canonical JSON; None without settings."""
    if settings is None:
        return None
    return hashlib.sha256(json.dumps(settings, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def checksum(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def checksums(paths: list[Path], threads: int, what: str) -> list[str]:
    """The checksums of files, in their order, with progress reported as `what`. Hashing lets other threads run."""
    if not paths:
        return []
    advance = track(len(paths), what)

    def one(path: Path) -> str:
        digest = checksum(path)
        advance()
        return digest

    with ThreadPoolExecutor(max_workers=threads) as pool:
        return list(pool.map(one, paths))


def _entry(path: Path, folder: Path) -> tuple[dict[str, Any], tuple[int, int], list[str]]:
    """A shard's entry, yet without checksums, its views' number and size in px, and their names."""
    tar = path.with_suffix(".tar")
    capture, _, chunk = path.stem.rpartition("-")
    if (
        path.parent.parent.resolve() != folder.resolve()
        or path.parent.name not in SPLITS
        or not capture
        or not chunk.isdecimal()
    ):
        raise UserError(f"{path}: not a shard's name; expected {folder}/{{{','.join(SPLITS)}}}/CAPTURE-CHUNK.h5")
    if not tar.exists():
        raise UserError(f"{tar}: no such file; it is written by `mousefacelift shard`")
    with open_h5(path, "mousefacelift shard") as file:
        count, views, size = file["image"].shape[:3]
        keys = [key.decode() for key in file["key"][()]]
        names = [str(name) for name in file.attrs.get("views", ())]
    files = dict(zip(KINDS, (tar, path), strict=True))
    entry = {
        "split": path.parent.name, "capture": capture, "chunk": int(chunk), "samples": count,
        **{kind: f"{path.parent.name}/{file.name}" for kind, file in files.items()},
        "bytes": {kind: file.stat().st_size for kind, file in files.items()},
        "sha256": {},
        "first": keys[0] if keys else None, "last": keys[-1] if keys else None,
    }  # fmt: skip
    return entry, (views, size), names


def _shard(shard: dict[str, Any]) -> dict[str, Any]:
    """A shard's entry, checked. Raises KeyError, TypeError or ValueError."""
    for kind in KINDS:
        path = PurePosixPath(shard[kind])
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"{shard[kind]!r} is not a path below the manifest")
        _count(shard["bytes"][kind], "bytes", 0)
        if not isinstance(shard["sha256"][kind], str):
            raise TypeError("sha256 is not a text")
    samples = _count(shard["samples"], "samples", 0)
    _count(shard["chunk"], "chunk", 0)
    if shard["split"] not in SPLITS:
        raise ValueError(f"split {shard['split']!r}")
    texts = [shard["capture"], *([shard["first"], shard["last"]] if samples else [])]
    if not all(isinstance(text, str) for text in texts):
        raise TypeError("capture, first or last is not a text")
    return dict(shard) | {"first": shard["first"], "last": shard["last"]}


def _count(value: Any, name: str, least: int) -> int:
    if type(value) is not int or value < least:
        raise ValueError(f"{name} is {value!r}, not a number from {least} on")
    return value
