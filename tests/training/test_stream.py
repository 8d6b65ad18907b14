"""Tars as an endless stream of samples: each once per epoch, whoever reads them and wherever a run continues."""

import shutil
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mousefacelift.base.errors import UserError
from mousefacelift.base.remote import open_binary
from mousefacelift.config.shard import Shard
from mousefacelift.config.train import Train
from mousefacelift.shards.containers import ShardWriter, encode_view
from mousefacelift.shards.manifest import read_manifest, write_manifest
from mousefacelift.shards.sample import SampleMeta, opencv_cameras
from mousefacelift.training.data import Samples
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.stream import TarVisits, drawn
from mousefacelift.training.visits import Recipe
from support.balls import AZIMUTHS, ELEVATIONS, VIEWS, look_at_origin

SIZE = 32
COUNTS = (7, 1, 12, 5, 3, 9)  # samples in each training shard: 37 in all
RECIPE = Recipe(num_inputs=5, seed=3)


@pytest.fixture(scope="session")
def tars(tmp_path_factory) -> Path:
    """The manifest of six training shards of different lengths; a sample's pixels tell its place in the split."""
    folder = tmp_path_factory.mktemp("tars")
    c2w = np.array([look_at_origin(a, e, 2.7) for a, e in zip(AZIMUTHS, ELEVATIONS, strict=True)])
    fxfycxcy = np.tile([50.0, 50, SIZE / 2, SIZE / 2], (VIEWS, 1))
    index = 0
    for number, count in enumerate((*COUNTS, 2)):
        split = "train" if number < len(COUNTS) else "val"
        stem = folder / split / f"m-{number:04d}"
        views = [f"cam{v}" for v in range(VIEWS)]
        with ShardWriter(stem.with_suffix(".tar"), stem.with_suffix(".h5"), count, views, SIZE, Shard()) as writer:
            for _ in range(count):
                key = f"m-{index:06d}"
                frames = opencv_cameras(np.linalg.inv(c2w), fxfycxcy, SIZE, [f"{key}.cam{v}.png" for v in range(VIEWS)])
                images = np.full((VIEWS, SIZE, SIZE, 4), (255, 255, 255, 0), np.uint8)
                images[:, 8:24, 8:24] = (index, 100, 200, 255)
                images[:, 8, 8:24, 3] = 128
                meta = {"id": key, "frame": index, "split": split, "views": views, "frames": frames}
                writer.add(SampleMeta(**meta), list(images), [encode_view(image, Shard()) for image in images])
                index += 1
    write_manifest(sorted(folder.glob("*/*.h5")), folder / "manifest.json")
    return folder / "manifest.json"


def batches(manifest, first, last, rank=0, world=1, workers=0, batch_size=2, buffer=4):
    """The indices of one rank's batches, as its loader gives them."""
    dataset = TarVisits(read_manifest(manifest), RECIPE, SIZE, buffer, batch_size, first, last, rank, world)
    return [batch["index"].tolist() for batch in DataLoader(dataset, batch_size, num_workers=workers)]


def test_a_streamed_sample_is_the_stored_one(tars):
    samples = Samples(read_manifest(tars), "train", SIZE, cache_gb=0)
    dataset = TarVisits(read_manifest(tars), RECIPE, SIZE, 4, 1, 0, 37)
    for visit in dataset:
        stored = samples.stored(visit["index"])
        assert stored["rgba"][0, 12, 12].tolist() == [visit["index"], 100, 200, 255]
        for name in ("rgba", "c2w", "w2c", "fxfycxcy"):
            assert torch.equal(visit[name], stored[name])


def test_a_streamed_visit_is_moved_and_shuffled_as_the_settings_say(synthetic_shards):
    manifest = read_manifest(synthetic_shards)
    samples = Samples(manifest, "train", SIZE, 0, "canonical")
    shuffling = Recipe(num_inputs=5, seed=3, shuffle_views=True)
    plain, shuffled = (
        list(TarVisits(manifest, r, SIZE, 4, 1, 0, 15, cameras="canonical")) for r in (RECIPE, shuffling)
    )
    for one, other in zip(plain, shuffled, strict=True):
        stored = samples.stored(one["index"])
        assert all(torch.equal(one[name], stored[name]) for name in ("rgba", "c2w", "w2c", "fxfycxcy"))
        assert torch.equal(other["inputs"].sort().values, one["inputs"])
    assert sum(not torch.equal(a["inputs"], b["inputs"]) for a, b in zip(plain, shuffled, strict=True)) > 10


@pytest.mark.parametrize("container", ["h5", "tar"])
@pytest.mark.parametrize("workers", [0, 2])
def test_two_nodes_with_two_loaders_visit_every_sample_once_per_epoch(tars, container, workers):
    """Simulated ranks: 76 batches of 1 sample for each, three epochs of 37 and a bit; each loader goes round by itself."""
    settings = Train(
        image_size=SIZE, container=container, workers=workers, cache_gb=0, steps=76, val_every=76, shuffle_buffer=4,
        batch_size=2, brightness=0, contrast=0,
    )  # fmt: skip
    seen = []
    for rank in range(2):
        data = ShardData(read_manifest(tars), settings, rank, world=2)
        seen.append([batch["index"].item() for batch in data.train_dataloader()])
    if container == "h5":  # both ranks go through one order, in turn
        loaders, lengths = [[index for pair in zip(*seen, strict=True) for index in pair]], [37]
    else:  # every loader goes through its share of the epoch
        count = max(workers, 1)
        loaders = [indices[w::count] for indices in seen for w in range(count)]
        lengths = [37 * (c + 1) // len(loaders) - 37 * c // len(loaders) for c in range(len(loaders))]
    for epoch in range(3):
        parts = [v[epoch * n : (epoch + 1) * n] for v, n in zip(loaders, lengths, strict=True)]
        assert sorted(index for part in parts for index in part) == list(range(37)), f"epoch {epoch}"


@pytest.mark.parametrize(("world", "parts"), [(1, 2), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_a_step_has_the_same_samples_on_any_number_of_gpus_and_in_any_number_of_parts(tars, world, parts):
    """And the same views are held out, dropped and toned."""
    settings = Train(
        image_size=SIZE, cache_gb=0, steps=12, val_every=12, batch_size=4, view_dropout=0.5, i_know=True, num_input_views=4,
    )  # fmt: skip
    data = read_manifest(tars)

    def steps(settings, world):
        loaders = [iter(ShardData(data, settings, rank, world).train_dataloader()) for rank in range(world)]
        for _ in range(settings.steps):
            batches = [next(loader) for _ in range(settings.accumulate) for loader in loaders]
            yield {name: torch.cat([batch[name] for batch in batches]) for name in ("index", "inputs", "tone", "rgba")}
        assert all(next(loader, None) is None for loader in loaders)

    divided = steps(settings.model_copy(update={"accumulate": parts}), world)
    for one, other in zip(steps(settings, 1), divided, strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
@pytest.mark.parametrize("container", ["h5", "tar"])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_run_that_continues_in_the_middle_of_an_epoch_sees_the_rest_and_nothing_twice(tars, container, workers):
    settings = Train(
        image_size=SIZE, container=container, workers=workers, cache_gb=0, steps=30, val_every=30, shuffle_buffer=4,
        batch_size=3, brightness=0.1, view_dropout=0.5,
    )  # fmt: skip

    def run(first):
        data = ShardData(read_manifest(tars), settings)
        data.step = first
        return list(data.train_dataloader())

    whole = run(0)
    assert len(whole) == 30
    for first in (1, 6, 7, 29):
        rest = run(first)
        assert len(rest) == 30 - first
        for a, b in zip(whole[first:], rest, strict=True):
            assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_order_is_another_in_every_epoch_and_for_every_seed(tars):
    one, two = (islice(batches(tars, 0, 74, batch_size=1), start, start + 37) for start in (0, 37))
    one, two = list(one), list(two)
    assert sorted(one) == sorted(two) and one != two
    other = TarVisits(read_manifest(tars), Recipe(5, seed=4), SIZE, 4, 1, 0, 37)
    assert [[visit["index"]] for visit in other] != one


def test_a_buffer_delivers_everything_once_and_nothing_long_before_its_turn():
    order = drawn(range(100, 400), 16, np.random.default_rng(0))
    assert sorted(order) == list(range(100, 400))
    places = np.empty(300, int)
    places[np.array(order) - 100] = np.arange(300)
    assert (np.arange(300) - places <= 15).all(), "what has not been read cannot leave the buffer"
    assert drawn(range(5), 1, np.random.default_rng(0)) == [0, 1, 2, 3, 4]


def test_what_was_visited_before_is_skipped_without_opening_its_shards(tars, monkeypatch):
    opened = []
    monkeypatch.setattr(
        "mousefacelift.shards.manifest.open_binary", lambda where: opened.append(where) or open_binary(where)
    )
    batches(tars, 0, 37, batch_size=1, buffer=1)
    assert len(opened) == len(COUNTS)
    opened.clear()
    batches(tars, 30, 37, batch_size=1, buffer=1)
    assert 1 <= len(opened) < len(COUNTS)


def test_more_loaders_than_samples_is_an_error(tars):
    with pytest.raises(UserError, match="too few for 50 loaders"):
        batches(tars, 0, 1, rank=0, world=50)


def damaged(manifest, folder, change):
    copy = shutil.copytree(manifest.parent, folder / "tars")
    path = copy / "train" / "m-0002.tar"
    path.write_bytes(change(path.read_bytes()))
    return copy / "manifest.json"


@pytest.mark.parametrize("change", [lambda data: data[: len(data) // 2], lambda data: b""], ids=["truncated", "empty"])
def test_a_tar_that_loses_samples_after_the_training_began_stops_the_stream_and_is_named(tars, tmp_path, change):
    manifest = damaged(tars, tmp_path, change)
    for workers in (0, 1):
        with pytest.raises(UserError, match=r"m-0002\.tar"):
            batches(manifest, 0, 37, batch_size=1, workers=workers)


def test_a_missing_tar_is_named(tars, tmp_path):
    copy = shutil.copytree(tars.parent, tmp_path / "tars")
    (copy / "train" / "m-0001.tar").unlink()
    with pytest.raises(UserError, match=r"m-0001\.tar: No such file"):
        batches(copy / "manifest.json", 0, 37)
