"""The demo capture as ground truth, whole or as short lossless recordings with known points drawn into them."""

from dataclasses import dataclass, replace
from pathlib import Path

import av
import cv2
import h5py
import numpy as np

from mousefacelift.config.config import Config
from mousefacelift.config.sample import SPLITS
from mousefacelift.recordings.captures import Capture, captures_table, read_captures
from mousefacelift.recordings.recording import capture_frames, chunk_ranges, read_capture_rig
from mousefacelift.recordings.video import read_frames
from mousefacelift.rigs.registry import write_rig
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.stages.cameras import cameras
from mousefacelift.stages.center import center
from mousefacelift.stages.normalize import normalize
from mousefacelift.stages.sample import sample
from mousefacelift.stages.shard import shard
from support.paths import DEMO


def ground_truth():
    with np.load(DEMO / "ground_truth.npz") as file:
        return {name: file[name] for name in file.files}


def demo_capture() -> Capture:
    return read_captures(captures_table(None))["rodent-a"]


@dataclass(frozen=True)
class Run:
    """What stages 1 to 5 wrote for one capture, and what a test needs to read it."""

    folder: Path
    capture: Capture
    config: Config

    @property
    def shards(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("shard/*/*.h5") if self.samples_in(path))

    @staticmethod
    def samples_in(path: Path) -> int:
        with h5py.File(path) as file:
            return len(file["frame"])


def run_stages(capture: Capture, folder: Path, config: Config, threads: int = 2) -> Run:
    """Stages 1 to 5, as the rules call them."""
    chunks = []
    for k in range(len(chunk_ranges(capture_frames(capture, config.center), config.center))):
        chunks.append(folder / "center" / capture.name / f"{k:04d}.h5")
        center(capture, k, chunks[-1], config.center, threads)
    cameras(capture, chunks, folder, config.cameras, threads)
    return run_from_normalize(Run(folder, capture, config), folder, config, threads)


def run_from_normalize(before: Run, folder: Path, config: Config, threads: int = 2) -> Run:
    """Stages 3 to 5 with other settings, from what stages 1 and 2 of a run wrote."""
    capture, poses = before.capture, folder / "cameras.h5"
    rig, subject = before.folder / "rig.json", before.folder / "subject.h5"
    normalize(rig, subject, poses, folder / "world.json", config.normalize)
    sample(poses, subject, folder, config.sample)
    for k, chunk in enumerate(sorted((before.folder / "center" / capture.name).glob("*.h5"))):
        stem = f"{capture.name}-{chunk.stem}"
        outputs = {s: (folder / f"shard/{s}/{stem}.tar", folder / f"shard/{s}/{stem}.h5") for s in SPLITS}
        shard(folder / "samples.tsv", chunk, poses, rig, k, outputs, config.shard, threads)
    write_manifest(sorted(folder.glob("shard/*/*.h5")), folder / "shard/manifest.json")
    return Run(folder, capture, config)


def record(folder: Path, frames: range, draw=None, views=range(6), name="short") -> Capture:
    """A lossless recording of some frames of the demo capture. draw(image, frame, view) may paint into an image."""
    demo = demo_capture()
    videos, masks = [], []
    for v in views:
        where = f"camera {v}"
        images = [frame.rgb() for _, frame in read_frames(demo.videos[v], frames, where)]
        if draw:
            images = [draw(image, frame, v) for image, frame in zip(images, frames, strict=True)]
        videos.append(write_video(folder / f"video{v + 1}.mkv", images, "bgr0"))
        silhouettes = [frame.gray() for _, frame in read_frames(demo.masks[v], frames, where)]
        masks.append(write_video(folder / f"mask{v + 1}.mkv", silhouettes, "gray"))
    return replace(
        demo, name=name, videos=tuple(videos), masks=tuple(masks), fps=None,
        cameras=tuple(demo.cameras[v] for v in views), calibration=tuple(demo.calibration[v] for v in views), sync=(0,) * len(views),
    )  # fmt: skip


def turned_capture(folder: Path, turn) -> Capture:
    """The demo capture with a calibration whose world is turned: x_new = turn @ x."""
    rig = tuple(camera.moved(turn) for camera in read_capture_rig(demo_capture()))
    folder.mkdir(parents=True, exist_ok=True)
    write_rig(rig, folder / "calibration.json", "opencv-json")
    return replace(demo_capture(), calibration=folder / "calibration.json", format="auto", calibration_names={})


def write_table(capture: Capture, path: Path) -> Path:
    """A captures table for a recording made by `record`."""
    folder = capture.videos[0].parent
    calibration = DEMO / "calibration" / "hires_cam{camera}_params.mat"
    row = (capture.name, "a", f"{folder}/video{{camera}}.mkv", f"{folder}/mask{{camera}}.mkv", str(calibration))
    path.write_text("capture\tanimal\tvideos\tmasks\tcalibration\n" + "\t".join(row) + "\n")
    return path


def write_video(path: Path, images, pixel_format: str, rate: int = 20, codec: str = "ffv1") -> Path:
    """Encode images [H, W] or [H, W, 3] RGB; the default codec is lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixel_format
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "gray" if image.ndim == 2 else "rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def project_raw(points, view: int):
    """Ground truth, by OpenCV, independent of the package: millimetres [N, 3] to raw pixels [N, 2], first centre 0, 0."""
    truth = ground_truth()
    rvec = cv2.Rodrigues(truth["R"][view])[0]
    pixels, _ = cv2.projectPoints(
        np.asarray(points, np.float64), rvec, truth["t"][view], truth["K"][view], truth["dist"][view]
    )
    return pixels[:, 0]


def project_view(points_mm, world_from_mm, c2w, fxfycxcy):
    """The shard's own contract, written out: millimetres [N, 3] to pixels [N, 2] of one view, first centre 0.5, 0.5."""
    world = points_mm @ world_from_mm[:3, :3].T + world_from_mm[:3, 3]
    cam = (world - c2w[:3, 3]) @ c2w[:3, :3]
    return cam[:, :2] / cam[:, 2:] * fxfycxcy[:2] + fxfycxcy[2:]
