"""Two mice in one arena: two stretches of the demo capture pasted together, with label masks, occlusions and their truth."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from mousefacelift.recordings.captures import Capture
from mousefacelift.recordings.recording import read_capture_rig
from mousefacelift.recordings.video import read_frames
from support.paths import DEMO
from support.rodent import demo_capture, ground_truth, write_video

LABELS = (1, 2)


@dataclass(frozen=True)
class TwoMice:
    """What was made, and what is true of it.

    captures: of mouse1 and mouse2, rows with the same videos and masks.
    center_mm: [2, N, 3] of each mouse.
    covered: [2, N, V] how many pixels of a mouse the other one covers.
    """

    captures: tuple[Capture, Capture]
    center_mm: np.ndarray
    covered: np.ndarray


def two_mice(folder: Path, begins=(15, 165), frames=20) -> TwoMice:
    """Paste the mouse of the frames from begins[1] on into those from begins[0] on.

    Where the mice overlap in a picture, the nearer one covers the other, by the distance of its centre from the camera.
    """
    demo, truth = demo_capture(), ground_truth()
    centers = np.stack([truth["center"][begin : begin + frames] for begin in begins]).astype(float)
    covered = np.zeros((2, frames, len(demo.cameras)), int)
    videos, masks = [], []
    for v, camera in enumerate(read_capture_rig(demo)):
        shown = [_stretch(demo, v, range(begin, begin + frames)) for begin in begins]
        images, ids = [], []
        for n, ((first, mouse1), (second, mouse2)) in enumerate(zip(*shown, strict=True)):
            nearer = np.linalg.norm(centers[:, n] - camera.center, axis=-1).argmin()
            both = mouse1 & mouse2
            covered[1 - nearer, n, v] = both.sum()
            paste = mouse2 & ~both if nearer == 0 else mouse2
            images.append(np.where(paste[..., None], second, first))
            label = np.where(paste, LABELS[1], np.where(mouse1, LABELS[0], 0)).astype(np.uint8)
            ids.append(label)
        videos.append(write_video(folder / f"video{v + 1}.mkv", images, "bgr0"))
        masks.append(write_video(folder / f"mask{v + 1}.mkv", ids, "gray"))
    both_mice = replace(demo, videos=tuple(videos), masks=tuple(masks), fps=None)
    captures = tuple(replace(both_mice, name=f"mouse{label}", animal=f"mouse{label}", label=label) for label in LABELS)
    return TwoMice((captures[0], captures[1]), centers, covered)


def _stretch(demo: Capture, view: int, frames: range) -> list[tuple[np.ndarray, np.ndarray]]:
    """Pictures [H, W, 3] and where the mouse is [H, W] bool."""
    pictures, silhouettes = (
        [frame for _, frame in read_frames(files[view], frames, "demo")] for files in (demo.videos, demo.masks)
    )
    return [(picture.rgb(), mask.gray() > 127) for picture, mask in zip(pictures, silhouettes, strict=True)]


def write_two_rows(mice: TwoMice, path: Path, more: dict[str, str]) -> Path:
    """A captures table with a row for each mouse, and one with the cells `more`, by column."""
    folder = mice.captures[0].videos[0].parent
    files = {
        "videos": f"{folder}/video{{camera}}.mkv",
        "masks": f"{folder}/mask{{camera}}.mkv",
        "calibration": str(DEMO / "calibration" / "hires_cam{camera}_params.mat"),
    }
    rows = [files | {"capture": c.name, "animal": c.animal, "label": str(c.label)} for c in mice.captures]
    columns = ("capture", "animal", *files, "label")
    lines = [columns, *([row.get(column, "") for column in columns] for row in (*rows, more))]
    path.write_text("\n".join("\t".join(line) for line in lines) + "\n")
    return path
