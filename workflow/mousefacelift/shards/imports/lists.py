"""Which split each of FaceLift's samples is for: as its list files say, or without them in blocks."""

import re
from pathlib import Path

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.config.sample import SPLITS, SplitFractions
from mousefacelift.geometry.selection import allocate
from mousefacelift.rigs.formats.facelift import FACELIFT_FILE

LIST_WORDS = {"train": {"train", "training"}, "val": {"val", "valid", "validation"}, "test": {"test", "testing"}}


def samples_by_split(folder: Path, fractions: SplitFractions | None) -> dict[str, list[Path]]:
    """The opencv_cameras.json of each split's samples; splits without samples are left out."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    lists = _lists(folder)
    if lists and fractions:
        raise UserError(
            f"{folder}: {', '.join(path.name for path in lists.values())} say which split a sample is of: leave out "
            "--fractions, or move the lists away"
        )
    if lists:
        samples = {split: _listed(path) for split, path in lists.items()}
    else:
        below = (path.relative_to(folder) for path in folder.rglob(FACELIFT_FILE))
        # A hidden folder may be one that another program is still writing.
        visible = (path for path in below if not any(part.startswith(".") for part in path.parts))
        paths = [folder / path for path in sorted(visible, key=lambda path: (natural_key(str(path)), path))]
        counts = allocate(len(paths), fractions or SplitFractions()) if paths else {}
        ends = np.cumsum(list(counts.values())).tolist()
        samples = {split: paths[end - count : end] for (split, count), end in zip(counts.items(), ends, strict=True)}
    samples = {split: paths for split, paths in samples.items() if paths}
    if not samples:
        raise UserError(f"{folder}: no samples: neither a list names one, nor is there an {FACELIFT_FILE} below it")
    return samples


def _lists(folder: Path) -> dict[str, Path]:
    """The list file of each split, by the words in its name."""
    lists: dict[str, Path] = {}
    for path in sorted(folder.glob("*.txt")):
        words = set(re.findall("[a-z]+", path.stem.lower()))
        named = [split for split in SPLITS if words & LIST_WORDS[split]]
        if len(named) > 1:
            raise UserError(f"{path}: is this the list of {' or of '.join(named)}? Rename it")
        if named and named[0] in lists:
            raise UserError(f"{path}: {lists[named[0]].name} is already the list of {named[0]}: move one of them away")
        lists |= dict.fromkeys(named, path)
    return {split: lists[split] for split in SPLITS if split in lists}


def _listed(path: Path) -> list[Path]:
    """The opencv_cameras.json that a list names. Raises UserError, naming list and line, for what is missing or listed twice."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a list of samples ({error})") from None
    rows = [(n, Path(line.strip())) for n, line in enumerate(lines, 1) if line.strip()]
    places = [(n, row if row.name == FACELIFT_FILE else row / FACELIFT_FILE) for n, row in rows]
    found = {n: path.parent / place for n, place in places}
    if not any(map(is_file, found.values())):
        found = {n: _moved(path.parent, place) for n, place in places}
    seen: dict[Path, int] = {}
    for n, place in found.items():
        if not is_file(place):
            raise UserError(f"{path}, line {n}: {place}: no such file")
        if place in seen:
            raise UserError(f"{path}, line {n}: {place} is already in line {seen[place]}")
        seen[place] = n
    return list(seen)


def _moved(folder: Path, place: Path) -> Path:
    """The longest end of a path that exists in the folder; else the path as it is."""
    parts = [part for part in place.parts if part not in (place.anchor, "..")]
    ends = (folder.joinpath(*parts[k:]) for k in range(len(parts) - 1))
    return next((end for end in ends if is_file(end)), folder / place)


def is_file(path: Path) -> bool:
    """Whether a path is a file; False also for a path that no file system accepts."""
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name too long, or with a null character
        return False
