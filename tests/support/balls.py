"""A small capture with a known truth: a coloured ball, seen by six cameras, written as shards."""

from collections import Counter

import numpy as np

from mousefacelift.config.shard import Shard
from mousefacelift.geometry.views import look_at, rigid
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.shards.sample import SampleMeta, opencv_cameras


def train_words(manifest, settings, folder):
    """`mousefacelift train` with settings as JSON, writing below a folder, in words."""
    words = ["train", "--manifest", manifest, "--settings", settings]
    words += ["--output", folder / "out", "--checkpoints", folder / "checkpoints"]
    return [str(word) for word in words]


VIEWS = 6
# Of the lab: turned about an axis that is none of the world's, 310 mm to the unit, the mouse far from the origin.
TURN = np.array([[2.0, -1, 2], [2, 2, -1], [-1, 2, 2]]) / 3
UNITS_PER_MM = 1 / 310
AZIMUTHS = np.deg2rad(np.arange(VIEWS) * 60.0 + 15)
ELEVATIONS = np.deg2rad([15.0, 20.0, 11.0, 30.0, 26.0, 20.0])


def look_at_origin(azimuth, elevation, distance):
    """c2w of a level OpenCV camera that looks at the origin of a Z-up world."""
    center = distance * np.array(
        [np.cos(elevation) * np.cos(azimuth), np.cos(elevation) * np.sin(azimuth), np.sin(elevation)]
    )
    axis = -center / distance
    right = np.cross(axis, [0, 0, 1])
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3] = np.column_stack([right, np.cross(axis, right), axis, center])
    return c2w


def level_cameras(frames, azimuths, jitter=0.0, seed=0):
    """w2c [N, V, 4, 4] of level cameras around the origin, whose directions vary a little from frame to frame."""
    random = np.random.default_rng(seed)
    angle = np.deg2rad(np.array(azimuths) + random.uniform(-jitter, jitter, (frames, len(azimuths))))
    centers = 2.7 * np.stack([np.cos(angle), np.sin(angle), 0.3 + 0 * angle], axis=-1)
    R = look_at(centers, np.zeros(3))
    return rigid(R, -(R @ centers[..., None])[..., 0])


def ball(c2w, fxfycxcy, size, center, radius):
    """RGBA of a ball whose colour is the direction from its centre; alpha from 4 x 4 rays per pixel."""
    ticks = (np.arange(4 * size) + 0.5) / 4
    fx, fy, cx, cy = fxfycxcy
    col, row = np.meshgrid(ticks, ticks)
    rays = np.stack([(col - cx) / fx, (row - cy) / fy, np.ones_like(col)], -1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True) @ c2w[:3, :3].T
    origin = c2w[:3, 3] - center
    b = rays @ origin
    under_root = b**2 - (origin @ origin - radius**2)
    hit = under_root > 0
    normal = (origin + rays * (-b - np.sqrt(np.maximum(under_root, 0)))[..., None]) / radius
    rgb = np.where(hit[..., None], 0.5 + 0.35 * normal, 0).reshape(size, 4, size, 4, 3).sum((1, 3))
    hits = hit.reshape(size, 4, size, 4).sum((1, 3))[..., None]
    rgb = np.where(hits > 0, rgb / np.maximum(hits, 1), 1)
    return np.rint(255 * np.concatenate([rgb, hits / 16], -1)).astype(np.uint8)


def write_shards(folder, samples=None, size=64, seed=0, settings=None):
    """Write a shard, tar and HDF5, for each split, an empty one, and their manifest; returns the manifest's path.

    samples: how many by split; as pairs where a split shall have several shards.
    """
    samples = samples or {"train": 5, "val": 2, "test": 2}
    pairs = samples.items() if isinstance(samples, dict) else samples
    before = Counter()
    random = np.random.default_rng(seed)
    settings = settings or Shard()
    c2w = np.array([look_at_origin(a, e, 2.7 + 0.1 * np.sin(3 * a)) for a, e in zip(AZIMUTHS, ELEVATIONS, strict=True)])
    fxfycxcy = np.tile([1.6 * size, 1.6 * size, size / 2, size / 2], (VIEWS, 1))
    views = [f"{v + 1}" for v in range(VIEWS)]
    for n, (split, count) in enumerate((*pairs, ("train", 0))):
        path = folder / split / f"ball-{n:04d}.h5"
        with ShardWriter(path.with_suffix(".tar"), path, count, views if count else [], size, settings) as writer:
            for i in range(before[split], before[split] + count):
                key = f"ball-{split}-{i:06d}"
                center, radius = random.uniform(-0.15, 0.15, 3), random.uniform(0.3, 0.45)
                images = [ball(c2w[v], fxfycxcy[v], size, center, radius) for v in range(VIEWS)]
                world_from_mm = np.eye(4)
                world_from_mm[:3, :3] = UNITS_PER_MM * TURN
                world_from_mm[:3, 3] = np.array([0.4, -0.3, 0.2]) + 0.1 * i
                files = [f"{key}.cam{v}.{settings.tar_codec}" for v in range(VIEWS)]
                meta = {
                    "id": key, "capture": "ball", "frame": i, "time_s": i / 20, "split": split, "views": views,
                    "distance_policy": "exact", "world_units_per_mm": UNITS_PER_MM, "qc": {"fill": {"1": 0.625}},
                    "world_from_mm": world_from_mm.tolist(),
                    "frames": opencv_cameras(np.linalg.inv(c2w), fxfycxcy, size, files),
                }  # fmt: skip
                writer.add(SampleMeta(**meta), images, [encode_view(image, settings) for image in images])
        before[split] += count
    return list_shards(folder / "manifest.json")


def list_shards(manifest):
    """Write the manifest of what is there; returns its path."""
    write_manifest(list(manifest.parent.glob("*/*.h5")), manifest, needed=())
    return manifest
