"""Samples per second of the loaders at 6 x 512 px RGBA, beside a folder of PNG files read the straightforward way.

    pytest benchmarks/test_loaders_benchmark.py -s

All read the same samples of the demo, batches of one, in one run, in turn. The PNG folder is what most people write first:
Pillow, NumPy, torch, float32. Ours arrive as bytes, which the trainer turns into floats on its device; "float32" adds
that step on this machine's CPU, in the main process.
"""

import subprocess
import sys
import time
from statistics import median

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from mousefacelift.config.config import Config
from mousefacelift.config.train import Train
from mousefacelift.shards.containers import tar_samples
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.data import floating
from mousefacelift.training.loaders import ShardData
from support.rodent import demo_capture, run_stages

SAMPLES, WARM_UP, ROUNDS = 120, 8, 3


class PNGFolder(Dataset):
    """A folder per sample with cam_000.png to cam_005.png."""

    def __init__(self, folder, count):
        self.folders, self.count = sorted(folder.iterdir()), count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        folder = self.folders[index % len(self.folders)]
        views = [np.array(Image.open(path)) / 255.0 for path in sorted(folder.iterdir())]
        return torch.from_numpy(np.stack(views)).float().permute(0, 3, 1, 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """The manifest of every 4th frame of the demo, and the same training samples as PNG files."""
    folder = tmp_path_factory.mktemp("demo")
    config = Config.model_validate({"center": {"stride": 4}, "normalize": {"zoom": "fit"}, "sample": {"gap_s": 0}})
    run = run_stages(demo_capture(), folder, config)
    manifest = read_manifest(run.folder / "shard" / "manifest.json")
    for shard in manifest.split("train"):
        path = manifest.folder / shard.tar
        with path.open("rb") as stream:
            for sample in tar_samples(stream, str(path), manifest.views):
                (folder / "png" / sample.key).mkdir(parents=True)
                for v, image in enumerate(sample.images("")):
                    Image.fromarray(image).save(folder / "png" / sample.key / f"cam_{v:03d}.png")
    return manifest, folder / "png"


def loader(kind, data, workers):
    manifest, png = data
    steps = SAMPLES + WARM_UP
    if kind == "png":
        return DataLoader(PNGFolder(png, steps), 1, num_workers=workers)
    settings = Train(
        container=kind, workers=workers, steps=steps, val_every=steps, cache_gb=0, brightness=0, contrast=0
    )
    return ShardData(manifest, settings).train_dataloader()


def samples_per_second(kind, data, workers, convert):
    """Once it runs."""
    batches = iter(loader(kind, data, workers))
    for _ in range(WARM_UP):
        next(batches)
    begin = time.perf_counter()
    count = 0
    for batch in batches:
        count += 1
        if convert and kind != "png":
            floating(batch)
    assert count == SAMPLES
    return SAMPLES / (time.perf_counter() - begin)


@pytest.mark.parametrize("workers", [0, 2])
def test_hdf5_is_five_and_tar_three_times_as_fast_as_a_folder_of_png_files(data, workers):
    torch.set_num_threads(1)
    cases = [("png", True), ("h5", False), ("tar", False), ("h5", True), ("tar", True)]
    rates = {case: [] for case in cases}
    for _ in range(ROUNDS):
        for case in cases:
            rates[case].append(samples_per_second(case[0], data, workers, case[1]))
    print(f"\n{workers} workers")
    ratio = {}
    for case in cases:
        ratio[case] = median(r / p for r, p in zip(rates[case], rates["png", True], strict=True))
        print(
            f"  {case[0]:4} {'float32' if case[1] else 'uint8':8} {median(rates[case]):6.1f} samples/s, "
            f"{ratio[case]:5.1f} x PNG folder"
        )
    assert ratio["h5", False] >= 5
    assert ratio["tar", False] >= 3


MEASURE = """
import sys, psutil
from mousefacelift.config.train import Train
from mousefacelift.training.loaders import ShardData
from mousefacelift.shards.manifest import read_manifest
settings = Train(container=sys.argv[2], workers=2, steps=60, val_every=60, cache_gb=0)
used = [0, 0]
for batch in ShardData(read_manifest(sys.argv[1]), settings).train_dataloader():
    found = [process.memory_full_info() for process in psutil.Process().children()]
    used = [max(used[0], *(f.rss for f in found)), max(used[1], *(f.uss for f in found))]
print(*used)
"""


@pytest.mark.parametrize("container", ["h5", "tar"])
def test_a_loader_process_takes_less_than_500_mb(data, container):
    """All that is mapped into it, and what is its own: a forked process shares the libraries with its parent."""
    command = [sys.executable, "-c", MEASURE, str(data[0].folder / "manifest.json"), container]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    mapped, own = (int(value) / 1e6 for value in output.split())
    print(f"\n{container}: {mapped:.0f} MB per loader process, {own:.0f} MB of them its own")
    assert mapped < 500
