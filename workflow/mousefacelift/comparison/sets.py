"""The cameras of any data set: a calibrated rig, shards, FaceLift's folders, FaceLift's own training views.

N samples of V views (a rig is one sample) in a Z-up world. Of some samples the images are read, for the subject's size.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import natural_key, open_h5
from mousefacelift.comparison.silhouettes import Look, in_folder, in_h5, in_tar, unknown
from mousefacelift.geometry.camera import Array, Rig
from mousefacelift.geometry.selection import evenly_spaced
from mousefacelift.geometry.subject_size import FACELIFT_SHARE
from mousefacelift.geometry.up import axis_vector
from mousefacelift.geometry.views import (
    FACELIFT_ELEVATION,
    FACELIFT_FOCAL,
    FACELIFT_IMAGE_SIZE,
    MEAN_CAMERA_DISTANCE,
    inverse_rigid,
    orbit,
    rigid,
    rotation_between,
)
from mousefacelift.rigs.checks import ROTATION_TOLERANCE, axes_meeting_point
from mousefacelift.rigs.containers.documents import Document, open_document
from mousefacelift.rigs.containers.hdf5 import HDF5_SIGNATURE
from mousefacelift.rigs.formats import facelift
from mousefacelift.rigs.formats.facelift import FACELIFT_FILE
from mousefacelift.rigs.registry import read_rig
from mousefacelift.shards.manifest import read_manifest

FACELIFT = "facelift"
FACELIFT_VIEWS = 32
LOOKED = 16  # samples whose images are read, evenly spread


@dataclass(frozen=True)
class CameraSet:
    """The cameras of N samples with V views each.

    source: what was asked for. kind: what it turned out to be. frame: origin, up axis and scale of its world, in words.
    names: of the V views. c2w: [N, V, 4, 4] in a Z-up world. fxfycxcy: [N, V, 4] px. size: [N, V, 2] width and height in
    px, 0 where unknown. silhouettes: [N, V, 2] the subject's share of the image's area, and its width over the image's; NaN
    where unknown, and of samples whose images were not read: at most LOOKED are.
    """

    source: str
    kind: str
    frame: str
    names: tuple[str, ...]
    c2w: Array
    fxfycxcy: Array
    size: Array
    silhouettes: Array


def facelift_reference() -> CameraSet:
    """FaceLift's training cameras: 32 level views at elevation 20.0, 512 px, focal length 256 / tan(25 degrees) px.

    They look at the origin of a Z-up world from a distance of 2.7. Their azimuths are assumed to be even, from 0 on: then
    their angles about the Y axis, asin(y / r), span the -70 to 70 degrees that were measured on FaceLift's data.
    Their subjects' mean share of the image is known, their width is not. (At inference FaceLift draws six views itself, at elevation 0 and azimuths 45 and 90 degrees apart.)
    """
    side, middle = FACELIFT_IMAGE_SIZE, FACELIFT_IMAGE_SIZE / 2
    return CameraSet(
        FACELIFT, "FaceLift's training views, built in", "origin: the subject; up: +z; camera distance 2.7",
        tuple(f"view {i}" for i in range(FACELIFT_VIEWS)),
        orbit(np.arange(FACELIFT_VIEWS) * 360 / FACELIFT_VIEWS, FACELIFT_ELEVATION)[None],
        np.tile([FACELIFT_FOCAL, FACELIFT_FOCAL, middle, middle], (1, FACELIFT_VIEWS, 1)),
        np.full((1, FACELIFT_VIEWS, 2), float(side)),
        np.tile([FACELIFT_SHARE, np.nan], (1, FACELIFT_VIEWS, 1)),
    )  # fmt: skip


def read_cameras(source: str, origin: str = "world", up_axis: str = "+z", unit: str = "mm") -> CameraSet:
    """The cameras of a data set of any kind.

    source: `facelift`, the built-in reference; a manifest.json of shards, one .h5 or .tar, or a folder of them; FaceLift's
    opencv_cameras.json or a folder of samples with one each; or a calibration that `read_rig` knows. The other arguments
    concern calibrations only. unit: of their lengths. up_axis: "+x" ... "-z", the axis of their world that is turned to
    +Z. origin: the point about which they are scaled to a mean camera distance of 2.7, "world" for their own or "target"
    for the point where the optical axes meet.

    Raises UserError naming the path for whatever is missing, damaged, empty, a single camera, or a camera at the origin.
    """
    if not source.strip():
        raise UserError(
            f"the name of a data set is empty: name a file or folder, or {FACELIFT!r}, the built-in reference"
        )
    path = Path(source)
    if source == FACELIFT:
        return facelift_reference()
    if not path.exists():
        raise UserError(f"{source}: no such file or folder; {FACELIFT!r} is the built-in reference")
    found = _folder(path) if path.is_dir() else _file(path)
    if found is None:
        return _checked(_placed(source, _calibration(path, unit), origin, up_axis))
    kind, blocks = found
    return _checked(_joined(source, kind, blocks))


def _calibration(path: Path, unit: str) -> Rig:
    try:
        return read_rig(path, unit=unit)
    except UserError as error:
        if not path.is_dir():
            raise
        raise UserError(
            f"{error}. Nor are there shards (manifest.json, .h5, .tar) or FaceLift samples (*/{FACELIFT_FILE})"
        ) from None


# The cameras of one file's samples: names [V], c2w [N, V, 4, 4], fxfycxcy [N, V, 4], size [N, V, 2], and their silhouettes.
Block = tuple[tuple[str, ...], Array, Array, Array, Look]
KindAndBlocks = tuple[str, Iterator[Block]]


def _file(path: Path) -> KindAndBlocks | None:
    """What a file's content is; None for what may be a calibration."""
    if not path.is_file():  # a pipe would wait for a writer
        return None
    try:
        with path.open("rb") as file:
            head = file.read(4096)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    if head.startswith(HDF5_SIGNATURE):
        return ("shards", iter([_h5_block(path)])) if _is_shard(path) else None
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        document = open_document(path, str(path))
        if "shards" in document.content:
            return "shards", _manifest_blocks(path)
        if facelift.recognises(document):
            return "FaceLift cameras", iter([_folder_block(path, document)])
        return None
    return ("shards", _tar_blocks(path)) if path.suffix == ".tar" or tarfile.is_tarfile(path) else None


def _folder(path: Path) -> KindAndBlocks | None:
    manifest, samples = path / "manifest.json", [path / FACELIFT_FILE, *path.glob(f"*/{FACELIFT_FILE}")]
    if manifest.is_file():
        return "shards", _manifest_blocks(manifest)
    samples = sorted((file for file in samples if file.is_file()), key=lambda file: natural_key(str(file)))
    if samples:
        return "FaceLift cameras", (_folder_block(f, open_document(f, str(f), {"JSON"})) for f in samples)
    # A tar and an HDF5 file of one name hold the same samples; the HDF5 file is read faster.
    tars = {file.with_suffix(""): file for file in path.rglob("*.tar")}
    h5s = {file.with_suffix(""): file for file in path.rglob("*.h5") if _is_shard(file)}
    shards = sorted((tars | h5s).values(), key=lambda file: natural_key(str(file)))
    if not shards:
        return None
    return "shards", (b for f in shards for b in ([_h5_block(f)] if f.suffix == ".h5" else _tar_blocks(f)))


def _is_shard(path: Path) -> bool:
    with open_h5(path, "mousefacelift shard") as file:
        return "c2w" in file and "fxfycxcy" in file


def _manifest_blocks(path: Path) -> Iterator[Block]:
    for shard in read_manifest(path).shards:
        if shard.samples:
            yield _h5_block(path.parent / shard.h5)


def _h5_block(path: Path) -> Block:
    with open_h5(path, "mousefacelift shard") as file:
        c2w, fxfycxcy, image = file["c2w"][()], file["fxfycxcy"][()], file["image"].shape
        views = tuple(str(name) for name in file.attrs.get("views", ()))
    if len(image) != 5 or c2w.shape != (*image[:2], 4, 4) or fxfycxcy.shape != (*image[:2], 4):
        raise UserError(
            f"{path}: image, c2w and fxfycxcy have shapes {image}, {c2w.shape}, {fxfycxcy.shape}, which do not belong "
            "together; run `mousefacelift shard` again"
        )
    size = np.broadcast_to(np.array([image[3], image[2]], np.float64), (*image[:2], 2))
    return views, c2w.astype(np.float64), fxfycxcy.astype(np.float64), size, in_h5(path, image[1])


def _tar_blocks(path: Path) -> Iterator[Block]:
    """The JSON members of a tar; the pictures between them are skipped over."""
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                data = tar.extractfile(member) if member.name.endswith(".json") else None
                if data is not None:
                    content = json.loads(data.read())
                    document = Document(path, "JSON", content)
                    yield *_frames_block(document, f"{path}, {member.name}"), in_tar(path, _images(document))
    except (tarfile.TarError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: not a readable tar ({error}); run `mousefacelift shard` again") from None


def _folder_block(path: Path, document: Document) -> Block:
    return *_frames_block(document, str(path)), in_folder(path.parent, _images(document))


def _images(document: Document) -> list[str]:
    """The images' names; empty where the JSON lists none."""
    return [str(frame.get("file_path", "")) for frame in document.content["frames"]]


def _frames_block(document: Document, where: str) -> tuple[tuple[str, ...], Array, Array, Array]:
    """One sample's cameras from FaceLift's `frames`."""
    cameras = facelift.read(document, "", where)
    views = document.content.get("views")  # the shards' own: their images are named after samples
    named = isinstance(views, list) and len(views) == len(cameras)
    names = tuple(str(view) for view in views) if named else tuple(camera.name for camera in cameras)
    return names, *_arrays(tuple(cameras))


def _arrays(rig: Rig) -> tuple[Array, Array, Array]:
    K = np.array([c.K for c in rig]).reshape(-1, 3, 3)
    w2c = rigid(np.array([c.R for c in rig]).reshape(-1, 3, 3), np.array([c.t for c in rig]).reshape(-1, 3))
    fxfycxcy = np.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], axis=-1)
    size = np.array([[c.width, c.height] for c in rig], np.float64).reshape(-1, 2)
    return inverse_rigid(w2c)[None], fxfycxcy[None], size[None]


def _joined(source: str, kind: str, blocks: Iterator[Block]) -> CameraSet:
    found = [block for block in blocks if len(block[1])]
    if not found:
        raise UserError(f"{source}: no samples in it")
    counts = sorted({block[1].shape[1] for block in found})
    if len(counts) > 1:
        raise UserError(
            f"{source}: samples of {' and '.join(map(str, counts))} views cannot be compared as one data set"
        )
    # Captures that name their cameras differently have only the views' places in common.
    names = {block[0] for block in found}
    views = names.pop() if len(names) == 1 else ()
    c2w, fxfycxcy, size = (np.concatenate([block[k] for block in found]) for k in (1, 2, 3))
    return CameraSet(
        source, kind, "origin and scale: as stored; up: +z", views or tuple(f"view {i}" for i in range(counts[0])), c2w, fxfycxcy,
        size, _silhouettes(found, counts[0]),
    )  # fmt: skip


def _silhouettes(blocks: list[Block], views: int) -> Array:
    """[N, V, 2], of LOOKED samples at most."""
    places = [(block[4], row) for block in blocks for row in range(len(block[1]))]
    silhouettes = np.full((len(places), views, 2), np.nan)
    for place in evenly_spaced(len(places), LOOKED):
        look, row = places[place]
        silhouettes[place] = look(row)
    return silhouettes


def _placed(source: str, rig: Rig, origin: str, up_axis: str) -> CameraSet:
    """A calibrated rig in a Z-up world, scaled about the origin to a mean camera distance of 2.7."""
    target, point = axes_meeting_point(rig), np.zeros(3)
    if origin == "target":
        if len(rig) > 1 and not np.isfinite(target).all():
            raise UserError(f"{source}: the optical axes are parallel and meet nowhere; use --origin world")
        point = target
    turn = rotation_between(axis_vector(up_axis), [0, 0, 1])
    c2w, fxfycxcy, size = _arrays(rig)
    offsets = (c2w[..., :3, 3] - point) @ turn.T
    distance = np.linalg.norm(offsets, axis=-1).mean()
    scale = MEAN_CAMERA_DISTANCE / distance if distance > 0 else 1.0
    if origin == "target":
        about = f"where the optical axes meet, ({', '.join(f'{value:.1f}' for value in target)}) mm"
    elif np.isfinite(target).all():
        about = f"the calibration's, {np.linalg.norm(target) * scale:.3f} from where the optical axes meet"
    else:
        about = "the calibration's; the optical axes are parallel"
    frame = (
        f"origin: {about}; up: {up_axis} of the calibration's world; scaled by {scale:.6f} per mm to a mean camera distance "
        f"of {MEAN_CAMERA_DISTANCE}"
    )
    if any(camera.fisheye or camera.dist.any() for camera in rig):
        frame += "; lenses are compared without their distortion"
    placed = rigid(turn @ c2w[..., :3, :3], offsets * scale)
    names = tuple(c.name for c in rig)
    return CameraSet(source, "calibration", frame, names, placed, fxfycxcy, size, unknown(len(rig))(0)[None])


def _checked(cameras: CameraSet) -> CameraSet:
    """The same cameras. Raises UserError, naming the first sample and view, for what cannot be measured."""
    if len(cameras.names) < 2:
        raise UserError(f"{cameras.source}: a single camera has no orbit to compare; give two or more")
    R, distance = cameras.c2w[..., :3, :3], np.linalg.norm(cameras.c2w[..., :3, 3], axis=-1)
    with np.errstate(all="ignore"):
        skewed = np.abs(np.swapaxes(R, -1, -2) @ R - np.eye(3)).max((-1, -2)) > ROTATION_TOLERANCE
        problems = {
            "is not finite": ~(np.isfinite(cameras.c2w).all((-1, -2)) & np.isfinite(cameras.fxfycxcy).all(-1)),
            "is not a rigid pose (rotation without mirroring or scale)": skewed | (np.linalg.det(R) < 0),
            "has a focal length that is not positive": (cameras.fxfycxcy[..., :2] <= 0).any(-1),
            "stands at the origin, where it has no direction (for a calibration, try --origin target)": (
                distance <= 1e-6 * max(1.0, float(np.nanmax(distance)))
            ),
        }
    for problem, wrong in problems.items():
        if wrong.any():
            sample, view = np.argwhere(wrong)[0]
            place = f", sample {sample}" if len(cameras.c2w) > 1 else ""
            raise UserError(f"{cameras.source}{place}: camera {cameras.names[view]!r} {problem}")
    return cameras
