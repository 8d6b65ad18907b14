"""Shards of several captures in a moment: balls, 3 views of 32 px."""

import numpy as np

from mousefacelift.config.shard import Shard
from mousefacelift.geometry.views import inverse_rigid
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.manifest import write_manifest
from mousefacelift.shards.sample import SampleMeta, opencv_cameras
from support.balls import AZIMUTHS, ELEVATIONS, ball, look_at_origin

SIZE, VIEWS = 32, 3


def unknown_corner(n):
    """Unknown pixels of every second sample, another region in each view."""
    masks = np.zeros((VIEWS, SIZE, SIZE), bool)
    for v in range(VIEWS):
        masks[v, 3 : 12 + v, 5 + n : 11] = True
    return masks if n % 2 else None


def write_small(folder, samples, settings=None, unknown=None):
    """Shards of balls, 3 views of 32 px.

    samples: capture -> split -> number. unknown: number of a sample -> its unknown pixels [3, 32, 32], or None. Returns the
    manifest's path.
    """
    settings, h5s, seed = settings or Shard(), [], np.random.default_rng(0)
    for capture, splits in samples.items():
        views = [f"{capture}-{v}" for v in range(VIEWS)]
        for split, count in splits.items():
            h5s.append(folder / split / f"{capture}-0000.h5")
            with ShardWriter(h5s[-1].with_suffix(".tar"), h5s[-1], count, views, SIZE, settings) as writer:
                for n in range(count):
                    c2w = np.array([look_at_origin(AZIMUTHS[v], ELEVATIONS[v], 2.7 + 0.01 * n) for v in range(VIEWS)])
                    k = np.tile([51.2, 51.3, 16.1, 15.9], (VIEWS, 1))
                    images = [ball(c2w[v], k[v], SIZE, seed.uniform(-0.1, 0.1, 3), 0.4) for v in range(VIEWS)]
                    key = f"{capture}-{split}-{n:06d}"
                    meta = {
                        "id": key, "capture": capture, "frame": 7 * n, "time_s": 0.14 * n, "split": split, "views": views,
                        "world_from_mm": np.diag([0.01, 0.01, 0.01, 1]).tolist(),
                        "frames": opencv_cameras(
                            inverse_rigid(c2w), k, SIZE, [f"{key}.cam{v}.{settings.tar_codec}" for v in range(VIEWS)]
                        ),
                    }  # fmt: skip
                    files = [encode_view(image, settings) for image in images]
                    writer.add(SampleMeta(**meta), images, files, unknown(n) if unknown else None)
    write_manifest(h5s, folder / "manifest.json", needed=())
    return folder / "manifest.json"
