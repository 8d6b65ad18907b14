"""COLMAP models: a folder with cameras and images, both .txt or both .bin (colmap.github.io/format.html).

Quaternions are w x y z, world to camera; the first pixel's centre is (0.5, 0.5). Lengths are whatever the model was
scaled to. One image is one camera; images that share camera and pose, the frames of a fixed camera, are one together.
"""

import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.spatial.transform import Rotation

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic
from mousefacelift.geometry.camera import Array, Camera, Rig
from mousefacelift.rigs.checks import checked_camera, image_size
from mousefacelift.rigs.containers.documents import Document, read_bytes, read_text
from mousefacelift.rigs.formats.facelift import check_writable
from mousefacelift.rigs.names import names_from_files

KINDS = ("folder",)
LOOKS_FOR = "folder with cameras.txt and images.txt, or cameras.bin and images.bin"
FILES = tuple(f"{what}.{extension}" for what in ("cameras", "images") for extension in ("txt", "bin"))
# Every image lists its keypoints, which are skipped: a few thousand images fit.
MAX_BYTES = 64 << 20
# Number in the binary form, name, parameters (COLMAP, src/colmap/sensor/models.h).
MODELS = {
    0: ("SIMPLE_PINHOLE", "f cx cy"),
    1: ("PINHOLE", "fx fy cx cy"),
    2: ("SIMPLE_RADIAL", "f cx cy k1"),
    3: ("RADIAL", "f cx cy k1 k2"),
    4: ("OPENCV", "fx fy cx cy k1 k2 p1 p2"),
    5: ("OPENCV_FISHEYE", "fx fy cx cy k1 k2 k3 k4"),
    6: ("FULL_OPENCV", "fx fy cx cy k1 k2 p1 p2 k3 k4 k5 k6"),
}
PARAMETERS = {name: parameters.split() for name, parameters in MODELS.values()}


class _Lens(NamedTuple):
    model: str
    width: int
    height: int
    parameters: list[float]


class _Image(NamedTuple):
    name: str
    quaternion: list[float]
    t: list[float]
    lens: int


def recognises(document: Document) -> bool:
    """Whether a folder has the two files of a model."""
    return bool(_extension(document))


def read(document: Document, name: str, where: str) -> list[Camera]:
    """The model's cameras in the order of its images."""
    extension = _extension(document)
    if not extension:
        raise UserError(f"{where}: not a COLMAP model: no cameras.txt with images.txt, nor cameras.bin with images.bin")
    lens_file, image_file = (f"{what}.{extension}" for what in ("cameras", "images"))
    lens_where, image_where = f"{where}/{lens_file}", f"{where}/{image_file}"
    read_lenses, read_images = (_lenses_txt, _images_txt) if extension == "txt" else (_lenses_bin, _images_bin)
    lenses = read_lenses(document.content[lens_file], lens_where)
    images = read_images(document.content[image_file], image_where)
    groups: dict[tuple[int, bytes], list[_Image]] = {}
    for image in images:
        if image.lens not in lenses:
            raise UserError(f"{image_where}, image {image.name!r}: camera {image.lens} is not in {lens_file}")
        pose = np.round([*image.quaternion, *image.t], 9).tobytes()
        groups.setdefault((image.lens, pose), []).append(image)
    names = _names(list(groups.values()))
    return [
        _camera(lenses[lens], group[0], each, image_where, lens_where)
        for each, ((lens, _), group) in zip(names, groups.items(), strict=True)
    ]


def _extension(document: Document) -> str:
    return next((e for e in ("bin", "txt") if all(f"{w}.{e}" in document.content for w in ("cameras", "images"))), "")


def _names(groups: list[list[_Image]]) -> list[str]:
    """A single image names its camera; of several frames it is their folder, or else the number of the lens."""
    if all(len(group) == 1 for group in groups):
        return names_from_files([group[0].name for group in groups])
    folders = [{Path(image.name).parent.name for image in group} for group in groups]
    own = [folder.pop() if len(folder) == 1 else "" for folder in folders]
    return own if all(own) and len(set(own)) == len(own) else [str(group[0].lens) for group in groups]


def _camera(lens: _Lens, image: _Image, name: str, where: str, lens_where: str) -> Camera:
    where = f"{where}, image {image.name!r}"
    values = dict(zip(PARAMETERS[lens.model], lens.parameters, strict=True))
    fx, fy = (values.get("f", values.get(key, 0.0)) for key in ("fx", "fy"))
    quaternion = np.array(image.quaternion)
    norm = np.linalg.norm(quaternion)
    if not abs(norm - 1) < 1e-3:
        raise UserError(f"{where}: quaternion of length {norm:.4g}, not 1: R is not a rotation matrix")
    # scipy's quaternions end in w.
    R = Rotation.from_quat(quaternion[[1, 2, 3, 0]]).as_matrix()
    order = (
        ("k1", "k2", "k3", "k4") if lens.model == "OPENCV_FISHEYE" else ("k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")
    )
    return checked_camera(
        f"{where} ({lens_where}, camera {image.lens})",
        name,
        K=np.array([[fx, 0, values["cx"]], [0, fy, values["cy"]], [0, 0, 1]]),
        R=R,
        t=np.array(image.t),
        dist=[values.get(key, 0.0) for key in order],
        size=image_size([lens.width, lens.height], "width, height", f"{lens_where}, camera {image.lens}"),
        first_pixel=0.5,
        fisheye=lens.model == "OPENCV_FISHEYE",
        fields=(f"{lens.model} parameters", "quaternion", f"{lens.model} parameters"),
    )


def _lines(path: Path, where: str) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(read_text(path, where, MAX_BYTES).splitlines(), 1):
        if not line.startswith("#"):
            yield number, line.strip()


def _lenses_txt(path: Path, file: str) -> dict[int, _Lens]:
    lenses = {}
    for number, line in _lines(path, file):
        if line:
            where = f"{file}, line {number}"
            fields = line.split()
            if len(fields) < 4 or fields[1] not in PARAMETERS:
                raise UserError(
                    f"{where}: expected CAMERA_ID, MODEL ({', '.join(PARAMETERS)}), WIDTH, HEIGHT, PARAMS[]"
                )
            lens, width, height = _integers([fields[0], *fields[2:4]], where)
            if lens in lenses:
                raise UserError(f"{where}: camera {lens} is listed twice")
            lenses[lens] = _checked_lens(_Lens(fields[1], width, height, _floats(fields[4:], where)), where)
    return lenses


def _images_txt(path: Path, file: str) -> list[_Image]:
    images = []
    lines = _lines(path, file)
    for number, line in lines:
        if not line:
            continue
        where = f"{file}, line {number}"
        fields = line.split(maxsplit=9)
        if len(fields) != 10:
            raise UserError(f"{where}: expected IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME")
        values = _floats(fields[1:8], where)
        images.append(_Image(fields[9], values[:4], values[4:], _integers(fields[8:9], where)[0]))
        # Two lines per image. Were the second one, POINTS2D[] as x y id, left out, every other image would be lost.
        number, points = next(lines, (number, ""))
        if len(points.split()) % 3 or not re.fullmatch(r"[-+.\d\seEnaif]*", points):
            raise UserError(
                f"{file}, line {number}: expected the image's POINTS2D[] as X, Y, POINT3D_ID (or an empty line)"
            )
    return images


def _integers(texts: list[str], where: str) -> list[int]:
    if not all(re.fullmatch(r"\d{1,18}", text) for text in texts):
        raise UserError(f"{where}: expected whole numbers, found {', '.join(text[:30] for text in texts)}")
    return [int(text) for text in texts]


def _floats(texts: list[str], where: str) -> list[float]:
    try:
        values = [float(text) for text in texts]
    except ValueError as error:
        raise UserError(f"{where}: {str(error)[:100]}") from None
    if not np.isfinite(values).all() or np.abs(values).max(initial=0) > 1e12:
        raise UserError(f"{where}: NaN, infinity or an absurd number")
    return values


def _checked_lens(lens: _Lens, where: str) -> _Lens:
    wanted = PARAMETERS[lens.model]
    if len(lens.parameters) != len(wanted):
        raise UserError(
            f"{where}: {lens.model} has {len(wanted)} parameters ({', '.join(wanted)}), found {len(lens.parameters)}"
        )
    return lens


class _Bytes:
    """A binary file, read piece by piece."""

    def __init__(self, path: Path, where: str) -> None:
        self.where, self.position = where, 0
        self.data = read_bytes(path, self.where, MAX_BYTES)

    def take(self, form: str) -> tuple:
        size = struct.calcsize("<" + form)
        if self.position + size > len(self.data):
            raise UserError(f"{self.where}: damaged COLMAP model: it ends too early, at byte {len(self.data)}")
        self.position += size
        return struct.unpack_from("<" + form, self.data, self.position - size)

    def text(self) -> str:
        end = self.data.find(b"\0", self.position, self.position + 4096)
        if end < 0:
            raise UserError(f"{self.where}: damaged COLMAP model: a name without end at byte {self.position}")
        text, self.position = self.data[self.position : end].decode("utf-8", "replace"), end + 1
        return text

    def finish(self) -> None:
        if self.position != len(self.data):
            raise UserError(f"{self.where}: damaged COLMAP model: {len(self.data) - self.position} bytes after its end")


def _lenses_bin(path: Path, file: str) -> dict[int, _Lens]:
    content = _Bytes(path, file)
    lenses = {}
    for _ in range(content.take("Q")[0]):
        lens, model, width, height = content.take("IiQQ")
        where = f"{file}, camera {lens}"
        if model not in MODELS:
            raise UserError(f"{where}: camera model {model} is not one of {', '.join(PARAMETERS)}")
        if lens in lenses:
            raise UserError(f"{where}: listed twice")
        name = MODELS[model][0]
        values = [repr(value) for value in content.take(f"{len(PARAMETERS[name])}d")]
        lenses[lens] = _Lens(name, width, height, _floats(values, where))
    content.finish()
    return lenses


def _images_bin(path: Path, file: str) -> list[_Image]:
    content = _Bytes(path, file)
    images = []
    for _ in range(content.take("Q")[0]):
        number, *pose, lens = content.take("I7dI")
        pose = _floats([repr(value) for value in pose], f"{file}, image {number}")
        images.append(_Image(content.text(), pose[:4], pose[4:], lens))
        points = content.take("Q")[0]
        if points > len(content.data) // 24:
            raise UserError(
                f"{file}, image {number}: damaged COLMAP model: {points} points in {len(content.data)} bytes"
            )
        content.position += 24 * points
    content.finish()
    return images


def write(rig: Rig, path: Path) -> None:
    """Write a rig in millimetres as a text model, into the folder `path`; points3D.txt is empty.

    Raises UserError for skew, for coefficients after k6, and for cameras of unknown size.
    """
    lenses, images = [], []
    for i, camera in enumerate(rig, 1):
        check_writable(camera, path)
        if camera.K[0, 1] != 0:
            raise UserError(f"{path}: camera {camera.name!r} has skew, which COLMAP cannot hold")
        if camera.dist[8:].any():
            raise UserError(
                f"{path}: camera {camera.name!r} has thin-prism or tilt coefficients, which COLMAP cannot hold"
            )
        model, count = ("OPENCV_FISHEYE", 4) if camera.fisheye else _model(camera.dist)
        parameters = [camera.K[0, 0], camera.K[1, 1], camera.K[0, 2], camera.K[1, 2], *camera.dist[:count]]
        x, y, z, w = Rotation.from_matrix(camera.R).as_quat()
        lenses.append(f"{i} {model} {camera.width} {camera.height} {_text(parameters)}")
        images += [f"{i} {_text([w, x, y, z, *camera.t])} {i} {camera.name}.png", ""]
    contents = {
        "cameras.txt": ["# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]", *lenses],
        "images.txt": [
            "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME",
            "# POINTS2D[] as (X, Y, POINT3D_ID)",
            *images,
        ],
        "points3D.txt": ["# POINT3D_ID, X, Y, Z, R, G, B, ERROR, TRACK[] as (IMAGE_ID, POINT2D_IDX)"],
    }
    for name, lines in contents.items():
        with atomic(path / name) as temporary:
            temporary.write_text("\n".join([*lines, ""]), encoding="utf-8")


def _model(dist: Array) -> tuple[str, int]:
    if dist[4:].any():
        return "FULL_OPENCV", 8
    return ("OPENCV", 4) if dist.any() else ("PINHOLE", 0)


def _text(values: list[float]) -> str:
    return " ".join(repr(float(value)) for value in values)
