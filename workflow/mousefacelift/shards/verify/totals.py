"""What concerns all shards of a manifest: keys that are there twice, its totals, and files that it does not list."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mousefacelift.base.files import read_json
from mousefacelift.config.sample import SPLITS
from mousefacelift.shards.manifest import KINDS, Manifest, ShardEntry, settings_sha256
from mousefacelift.shards.verify.problems import Problem


def samples_per_split(shards: Iterable[ShardEntry]) -> dict[str, int]:
    """The shards' number of samples for each split."""
    counts = Counter[str]()
    for entry in shards:
        counts[entry.split] += entry.samples
    return {split: counts[split] for split in SPLITS}


def bytes_per_kind(shards: Sequence[ShardEntry]) -> dict[str, int]:
    """The bytes of the shards' tars and of their HDF5 files."""
    return {kind: sum(entry.bytes[kind] for entry in shards) for kind in KINDS}


def check_repeated(shards: Sequence[ShardEntry], keys: Sequence[Sequence[str]]) -> list[Problem]:
    """Keys that two shards hold. keys: each shard's."""
    problems, first = [], dict[str, ShardEntry]()
    for entry, mine in zip(shards, keys, strict=True):
        for key in dict.fromkeys(mine):
            other = first.setdefault(key, entry)
            if other is not entry:
                split = "" if other.split == entry.split else f", of split {other.split}"
                problems.append(Problem(entry.h5, key, f"is also in {other.h5}{split}"))
    return problems


def check_totals(manifest: Path, shards: Sequence[ShardEntry]) -> list[Problem]:
    """The manifest's totals that are not the sums of its shards."""
    values = read_json(manifest, "shard")
    totals = {"samples": samples_per_split(shards), "bytes": bytes_per_kind(shards)}
    problems = [
        f"{name} is {values.get(name)}, the shards' sum is {total}"
        for name, total in totals.items()
        if values.get(name) != total
    ]
    captures, listed = _captures(shards), _listed_captures(values)
    if listed != captures:
        problems.append(f"captures are {listed}, the shards have {captures}")
    if values.get("config_sha256") != settings_sha256(values.get("config")):
        problems.append("config_sha256 is not the hash of config")
    return [Problem(manifest.name, None, f"{text}; delete it and rerun the workflow") for text in problems]


def _captures(shards: Iterable[ShardEntry]) -> dict[str, int]:
    captures: dict[str, int] = {}
    for entry in shards:
        captures[entry.capture] = captures.get(entry.capture, 0) + entry.samples
    return captures


def _listed_captures(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return {capture["name"]: capture["samples"] for capture in values["captures"]}
    except (KeyError, TypeError) as error:
        return {repr(error): -1}


def check_leftovers(data: Manifest) -> list[Problem]:
    """Files in the shards' folders, and shards anywhere below the manifest, that it does not list."""
    listed = {entry.path(kind) for entry in data.shards for kind in KINDS}
    folders = {str(Path(path).parent) for path in listed}
    found = sorted(path.relative_to(data.folder) for path in data.folder.rglob("*") if path.is_file())
    return [
        Problem(path.as_posix(), None, "the manifest does not list this file, which another run left behind; delete it")
        for path in found
        if path.as_posix() not in listed
        and (path.suffix in (".tar", ".h5") or (str(path.parent) in folders and not path.name.startswith(".")))
    ]
