"""Masks of a small scene with two animals, written in the forms that labs have them in, without the package's readers."""

import json
from pathlib import Path

import cv2
import h5py
import numpy as np

from mousefacelift.recordings.captures import Capture
from support.rodent import write_video

H, W, FRAMES = 48, 64, range(5)


def blob(k=0):
    """The first animal [H, W] bool in frame k, with no symmetry."""
    mask = np.zeros((H, W), bool)
    mask[10 : 26 + k, 20:40] = True
    mask[12:16, 40 : 44 + k] = True
    return mask


def other(k=0):
    """The second one, which comes in frame 1."""
    mask = np.zeros((H, W), bool)
    if k:
        mask[32:46, 44 + k : 60] = True
    return mask


def numbers(k):
    """Both animals by their numbers, 1 and 2."""
    return blob(k) + 2 * other(k).astype(np.uint8)


def stack(make=blob):
    """All frames [N, H, W]."""
    return np.stack([make(k) for k in FRAMES])


def capture_of(folder: Path, masks: Path, size=(W, H), **more) -> Capture:
    """A capture of one camera with grey pictures and these masks."""
    pictures = [np.full(size[::-1], 90 + k, np.uint8) for k in FRAMES]
    video = write_video(folder / "video.mkv", pictures, "gray")
    return Capture("m", "a", ("1",), (video,), (masks,), folder, "auto", None, "mm", (0,), {}, **more)


def image_folder(folder: Path, make, name="{:05d}.png", frames=FRAMES) -> Path:
    """A folder of images. make(k) -> array as OpenCV writes it, or an image of Pillow's."""
    folder.mkdir(parents=True)
    for k in frames:
        image = make(k)
        if isinstance(image, np.ndarray):
            assert cv2.imwrite(str(folder / name.format(k)), image)
        else:
            image.save(folder / name.format(k))
    return folder


def npy(path: Path, values) -> Path:
    np.save(path, values)
    return path


def npz(path: Path, compressed=True, **arrays) -> Path:
    (np.savez_compressed if compressed else np.savez)(path, **arrays)
    return path


def hdf5(path: Path, **datasets) -> Path:
    with h5py.File(path, "w") as file:
        for name, values in datasets.items():
            file.create_dataset(name, data=values, compression="gzip", chunks=True)
    return path


def write_json(path: Path, value) -> Path:
    path.write_text(json.dumps(value))
    return path


def rle(mask):
    """COCO's run lengths as numbers: of 0 and 1 in turn, down the columns."""
    runs, value, length = [], False, 0
    for pixel in mask.T.ravel():
        if pixel != value:
            runs.append(length)
            value, length = pixel, 0
        length += 1
    return {"size": list(mask.shape), "counts": [*runs, length]}


def compressed(code):
    """The same as text, after the description in cocoapi's maskApi.c."""
    text, runs = "", code["counts"]
    for k, run in enumerate(runs):
        x = run - runs[k - 2] if k > 2 else run
        more = True
        while more:
            piece, x = x & 31, x >> 5
            more = x != -1 if piece & 16 else x != 0
            text += chr((piece | 32 if more else piece) + 48)
    return {"size": code["size"], "counts": text}


def coco(path: Path, shape=rle, name="img_{:04d}.png", **more) -> Path:
    """COCO's format with both animals as tracks. shape(mask) -> segmentation."""
    images = [{"id": 10 + k, "width": W, "height": H, "file_name": name.format(k)} for k in FRAMES]
    annotations = [
        {"image_id": 10 + k, "category_id": 1, "track_id": track, "segmentation": shape(make(k)), **more}
        for k in FRAMES
        for track, make in ((1, blob), (2, other))
        if make(k).any()
    ]
    return write_json(path, {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "mouse"}]})


def sam2(path: Path, shape=rle, ids=(1, 2)) -> Path:
    """What a script around SAM 2 writes: frame -> object -> mask."""
    return write_json(
        path, {str(k): {str(i): shape(make(k)) for i, make in zip(ids, (blob, other), strict=False)} for k in FRAMES}
    )
