"""The captures table: which videos, silhouettes and calibration belong to which capture, matched by camera name."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key
from mousefacelift.rigs.checks import MM_PER_UNIT
from mousefacelift.rigs.registry import FORMATS

COLUMNS = (
    "capture", "animal", "videos", "masks", "calibration", "format", "fps", "unit", "sync", "calibration_names",
    "label",
)  # fmt: skip
REQUIRED = ("capture", "videos", "calibration")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")  # of a capture: part of files' names
MAX_LABEL = 65534  # of an animal in masks: an image of labels has 16 bits, and the largest value has another meaning


@dataclass(frozen=True)
class Capture:
    """One session. Paths per camera, in the natural order of the cameras' names; fps None: the videos' own rate.

    masks: empty without silhouette files. calibration: one file per camera, or one file or folder of the whole rig.
    sync: frames by which each camera's video is late: frame k of the capture is frame k + sync of the video.
    calibration_names: the names of cameras in the calibration where they are not those of the videos.
    label: of the animal in masks that hold several; None: as center.animal says. Captures with the same videos and masks and
        other labels are the animals of one recording.
    """

    name: str
    animal: str
    cameras: tuple[str, ...]
    videos: tuple[Path, ...]
    masks: tuple[Path, ...]
    calibration: Path | tuple[Path, ...]
    format: str
    fps: float | None
    unit: str
    sync: tuple[int, ...]
    calibration_names: dict[str, str]
    label: int | None = None


def demo_table() -> Path:
    """The embedded demo capture's table, relative to the working directory where it lies below it."""
    path = Path(__file__).resolve().parents[2] / "demo" / "captures.tsv"
    here = Path.cwd().resolve()
    return path.relative_to(here) if path.is_relative_to(here) else path


def captures_table(configured: str | None) -> Path:
    """The table to use: the configured one, or the demo's if none is configured or it has no rows."""
    if configured is None:
        return demo_table()
    path = Path(configured)
    return path if _rows(path) else demo_table()


def read_captures(path: Path) -> dict[str, Capture]:
    """Read and check a captures table; file patterns are relative to the table's folder.

    Raises UserError naming table, row and column for anything wrong: unknown columns, bad names, patterns that match
    nothing, cameras present in one column and not in another.
    """
    captures: dict[str, Capture] = {}
    for number, row in _rows(path):
        capture = _read_row(path.parent, row, f"{path}, line {number}")
        if capture.name in captures:
            raise UserError(f"{path}, line {number}: capture {capture.name!r} is listed twice")
        captures[capture.name] = capture
    if not captures:
        raise UserError(f"{path}: no captures in the table")
    return captures


def _read_row(folder: Path, row: dict[str, str], where: str) -> Capture:
    """The capture that one row describes; where: table and line, for errors."""
    for column in REQUIRED:
        if not row.get(column):
            raise UserError(f"{where}: column {column!r} is empty")
    name = row["capture"]
    if not NAME.fullmatch(name):
        raise UserError(
            f"{where}: capture {name!r}: use at most 64 letters, digits, '_' and '-' (it becomes part of file names)"
        )
    where = f"{where}: capture {name!r}"
    files = {
        column: _match(folder, row[column], f"{where}, column {column!r}")
        for column in ("videos", "masks", "calibration")
        if row.get(column) and (column != "calibration" or "{" in row[column])
    }
    cameras = sorted(files["videos"], key=natural_key)
    for column, found in files.items():
        _check_cameras(cameras, found, f"column {column!r}", row[column], where)
    calibration = folder / row["calibration"]
    if "calibration" not in files and not _exists(calibration):
        raise UserError(f"{where}, column 'calibration': no such file or folder: {calibration}")
    sync = _pairs(row.get("sync", ""), cameras, f"{where}, column 'sync'")
    return Capture(
        name=name,
        animal=row.get("animal") or name,
        cameras=tuple(cameras),
        videos=tuple(files["videos"][c] for c in cameras),
        masks=tuple(files["masks"][c] for c in cameras) if "masks" in files else (),
        calibration=tuple(files["calibration"][c] for c in cameras) if "calibration" in files else calibration,
        format=_one_of(row.get("format") or "auto", ("auto", *FORMATS), f"{where}, column 'format'"),
        fps=_positive(row["fps"], f"{where}, column 'fps'") if row.get("fps") else None,
        unit=_one_of(row.get("unit") or "mm", tuple(MM_PER_UNIT), f"{where}, column 'unit'"),
        sync=tuple(_frames(sync.get(c, "0"), f"{where}, column 'sync', camera {c}") for c in cameras),
        calibration_names=_pairs(row.get("calibration_names", ""), cameras, f"{where}, column 'calibration_names'"),
        label=_label(row["label"], f"{where}, column 'label'") if row.get("label") else None,
    )


def uncalibrated(videos: str, masks: str, fps: float | None, name: str = "import") -> Capture:
    """A capture without a calibration, by its patterns from the working directory: with {camera} in both, or one camera's files.

    Raises UserError if a pattern matches nothing, or they name other cameras.
    """
    patterns = {"--videos": videos, "SOURCE": masks}
    if any("{camera}" in pattern for pattern in patterns.values()):
        found = {where: _match(Path(), pattern, where) for where, pattern in patterns.items()}
    else:
        found = {where: {Path(videos).stem: Path(pattern)} for where, pattern in patterns.items()}
        for where, files in found.items():
            for path in files.values():
                if not _exists(path):
                    raise UserError(f"{where}: no such file or folder: {path}")
    cameras = sorted(found["--videos"], key=natural_key)
    _check_cameras(cameras, found["SOURCE"], "SOURCE", masks, "import", "--videos")
    return Capture(
        name=name,
        animal=name,
        cameras=tuple(cameras),
        videos=tuple(found["--videos"][camera] for camera in cameras),
        masks=tuple(found["SOURCE"][camera] for camera in cameras),
        calibration=Path(),
        format="auto",
        fps=fps,
        unit="mm",
        sync=(0,) * len(cameras),
        calibration_names={},
    )


def _check_cameras(
    cameras: list[str], found: dict[str, Path], column: str, pattern: str, where: str, videos: str = "column 'videos'"
) -> None:
    """Raise UserError unless a column's files are those of the videos' cameras."""
    differences = [
        f"{verb} {', '.join(sorted(names, key=natural_key))}"
        for verb, names in (("lacks", set(cameras) - set(found)), ("also has", set(found) - set(cameras)))
        if names
    ]
    if differences:
        raise UserError(
            f"{where}: {videos} names cameras {', '.join(cameras)}; {column} ({pattern}) " + "; ".join(differences)
        )


def _rows(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Non-empty rows, by column name, with their line numbers; lines that start with # are comments."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        raise UserError(f"{path}: no such captures table (configuration key 'captures')") from None
    except (UnicodeDecodeError, OSError) as error:
        raise UserError(f"{path}: not a readable text file ({error})") from None
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip() and not line.lstrip().startswith("#")]
    if not numbered:
        return []
    # Line by line: an unpaired quotation mark must not swallow the rows that follow.
    try:
        header, *body = (next(csv.reader([line], delimiter="\t")) for _, line in numbered)
    except csv.Error as error:
        raise UserError(f"{path}: not a table of cells separated by tabs ({error})") from None
    header = [name.strip() for name in header]
    _check_header(header, f"{path}, line {numbered[0][0]}")
    rows = []
    for (number, _), cells in zip(numbered[1:], body, strict=True):
        if len(cells) > len(header):
            raise UserError(f"{path}, line {number}: {len(cells)} cells for {len(header)} columns")
        rows.append((number, dict(zip(header, (cell.strip() for cell in cells), strict=False))))
    return rows


def _check_header(header: list[str], where: str) -> None:
    for name in header:
        if name not in COLUMNS:
            raise UserError(f"{where}: unknown column {name!r}; valid, separated by tabs: {', '.join(COLUMNS)}")
    if len(set(header)) < len(header):
        raise UserError(f"{where}: a column is listed twice ({', '.join(header)})")


def _match(folder: Path, pattern: str, where: str) -> dict[str, Path]:
    """Files that fit a pattern with one {camera} in its file name or folders, by camera name.

    Names hold no commas or tabs, which separate names in samples.tsv.
    """
    if pattern.count("{camera}") != 1:
        raise UserError(f"{where}: {pattern!r} must hold {{camera}} once, in place of the camera's name")
    before, after = pattern.split("{camera}")
    parent, slash, stem = before.rpartition("/")
    base = folder / (parent + slash)
    first, below, rest = after.partition("/")
    found: dict[str, Path] = {}
    for entry in _entries(base, where):
        matched = re.fullmatch(re.escape(stem) + r"(?P<camera>[^,\t\r\n]+)" + re.escape(first), entry.name)
        target = entry / rest if below else entry
        if matched and _exists(target):
            found[matched["camera"]] = target
    if not found:
        raise UserError(f"{where}: no file matches {folder / pattern}")
    return found


def _entries(folder: Path, where: str) -> list[Path]:
    try:
        return sorted(folder.iterdir()) if folder.is_dir() else []
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        raise UserError(f"{where}: {folder} cannot be listed ({error})") from None


def _exists(path: Path) -> bool:
    """Path.exists that is also false for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def _pairs(text: str, cameras: list[str], where: str) -> dict[str, str]:
    """`camera=value, camera=value` as a dictionary."""
    pairs: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        camera, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or not value:
            raise UserError(f"{where}: {part!r} is not camera=value")
        if camera not in cameras:
            raise UserError(f"{where}: no camera {camera!r}; the videos name {', '.join(cameras)}")
        if camera in pairs:
            raise UserError(f"{where}: camera {camera!r} is named twice")
        pairs[camera] = value
    return pairs


def _frames(text: str, where: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,9}", text):
        raise UserError(f"{where}: {text!r} is not a number of frames")
    return int(text)


def _label(text: str, where: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > MAX_LABEL:
        raise UserError(f"{where}: {text!r} is not an animal's number in the masks, 0 to {MAX_LABEL}")
    return int(text)


def _one_of(value: str, valid: tuple[str, ...], where: str) -> str:
    if value not in valid:
        raise UserError(f"{where}: {value!r} is not one of {', '.join(valid)}")
    return value


def _positive(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise UserError(f"{where}: {text!r} is not a positive number")
    return value
