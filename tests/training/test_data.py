"""Shards in, samples out: pixels and intrinsics agree at every size, order is reproducible, damage is named."""

import itertools
import json
import pickle
import shutil
import subprocess
import sys

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.data import Samples, collated, floating, over_white, toned
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.visits import (
    Recipe,
    Visits,
)
from support.small import unknown_corner, write_small


@pytest.fixture
def shards(synthetic_shards, tmp_path):
    """A private copy to damage."""
    return shutil.copytree(synthetic_shards.parent, tmp_path / "shards") / "manifest.json"


def load(manifest, split="train", size=32, cache_gb=1.0):
    return Samples(read_manifest(manifest), split, size, cache_gb)


def edit(manifest, **changes):
    """Apply changes to the arrays of the training shard."""
    with h5py.File(manifest.parent / "train" / "ball-0000.h5", "r+") as file:
        for name, change in changes.items():
            values = change(file[name][()])
            del file[name]
            file[name] = values


def test_samples_have_the_promised_shapes(synthetic_shards):
    samples = load(synthetic_shards)
    assert len(samples) == 5 and samples.keys[4] == "ball-train-000004" and samples.frames[4] == 4
    sample = samples[4]
    shapes = {name: tuple(value.shape) for name, value in sample.items() if name != "index"}
    assert shapes == {
        "image": (6, 3, 32, 32), "alpha": (6, 32, 32), "c2w": (6, 4, 4), "w2c": (6, 4, 4), "fxfycxcy": (6, 4),
    }  # fmt: skip
    assert sample["index"] == 4
    assert all(value.dtype == torch.float32 for name, value in sample.items() if name != "index")
    torch.testing.assert_close(sample["w2c"] @ sample["c2w"], torch.eye(4).expand(6, 4, 4))


def test_intrinsics_follow_the_image_size(synthetic_shards):
    """The ball's outline lands where the cameras say, at full and at half size."""
    for size in (64, 32, 16):
        sample = load(synthetic_shards, size=size)[0]
        col = torch.arange(size) + 0.5
        centers = []
        for v in range(6):
            weight = sample["alpha"][v]
            u, w = (weight * col).sum() / weight.sum(), (weight.T * col).sum() / weight.sum()
            fx, fy, cx, cy = sample["fxfycxcy"][v]
            centers.append(((u - cx) / fx, (w - cy) / fy))
        if size == 64:
            expected = torch.tensor(centers)
        torch.testing.assert_close(torch.tensor(centers), expected, rtol=0, atol=5e-4)  # 0.05 px


def test_averaging_composites_first():
    """A half-transparent edge is half its colour and half white; what hides under alpha 0 never shows."""
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0] = [255, 0, 0, 255]
    rgba[0, 1] = [0, 0, 255, 0]
    rgba[1, :] = [255, 255, 255, 0]
    averaged = over_white(rgba[None], 1)[0, 0, 0]
    assert averaged.tolist() == [255, 191, 191, 64]
    half = np.full((1, 1, 4), 128, np.uint8)  # nothing to average
    assert over_white(half[None], 1)[0, 0, 0].tolist() == [191, 191, 191, 128]


def test_averaging_is_the_mean_of_composited_pixels():
    """Against the plain formula on a blob with random colours and alphas, off the grid of the averaged pixels."""
    random = np.random.default_rng(0)
    rgba = np.full((48, 48, 4), [255, 255, 255, 0], np.uint8)
    rgba[5:22, 11:39] = random.integers(0, 256, (17, 28, 4))
    alpha = rgba[..., 3:] / 255
    plain = np.concatenate([rgba[..., :3] * alpha + 255 * (1 - alpha), rgba[..., 3:]], -1)
    small = plain.reshape(12, 4, 12, 4, 4).mean((1, 3))
    assert np.abs(over_white(rgba[None], 12)[0].numpy() - small).max() <= 0.501
    empty = rgba * np.uint8([1, 1, 1, 0])
    assert (over_white(empty[None], 12).numpy() == [255, 255, 255, 0]).all()
    assert np.abs(over_white(rgba[None], 48)[0].numpy() - plain)[rgba[..., 3] > 0].max() <= 0.501


def test_cache_and_files_give_the_same_samples(synthetic_shards):
    cached, direct = load(synthetic_shards), load(synthetic_shards, cache_gb=0)
    assert cached.cached and not direct.cached
    for i in range(len(cached)):
        assert torch.equal(cached[i]["image"], direct[i]["image"]) and torch.equal(
            cached[i]["alpha"], direct[i]["alpha"]
        )
    assert torch.equal(pickle.loads(pickle.dumps(direct))[1]["image"], cached[1]["image"])


def test_loader_processes_open_their_own_files(synthetic_shards):
    samples = load(synthetic_shards, cache_gb=0)
    samples[0]
    batches = list(DataLoader(samples, batch_size=5, num_workers=1))
    assert torch.equal(batches[0]["image"][3], samples[3]["image"])


@pytest.mark.parametrize("container", ["h5", "tar"])
def test_canonical_cameras_stand_at_2_7_and_see_the_origin_where_it_was(synthetic_shards, container):
    """In training and validation, from both containers, at an image size that is not the shards'."""

    def batches(cameras):
        settings = Train(image_size=32, steps=5, val_every=5, batch_size=1, container=container, cameras=cameras)
        data = ShardData(read_manifest(synthetic_shards), settings)
        return [*data.train_dataloader(), *itertools.chain(*data.val_dataloader())]

    for exact, moved in zip(batches("exact"), batches("canonical"), strict=True):
        distance = exact["c2w"][..., :3, 3].norm(dim=-1)
        assert (distance - 2.7).abs().max() > 0.05, "of the shards as they are"
        torch.testing.assert_close(moved["c2w"][..., :3, 3].norm(dim=-1), torch.full((1, 6), 2.7))
        torch.testing.assert_close(moved["w2c"] @ moved["c2w"], torch.eye(4).expand(1, 6, 4, 4), atol=1e-6, rtol=0)
        assert torch.equal(moved["c2w"][..., :3, :3], exact["c2w"][..., :3, :3])
        wanted = exact["fxfycxcy"] * torch.stack([2.7 / distance] * 2 + [torch.ones_like(distance)] * 2, -1)
        torch.testing.assert_close(moved["fxfycxcy"], wanted)
        assert torch.equal(moved["rgba"], exact["rgba"]) and torch.equal(moved["held_out"], exact["held_out"])


def test_brightness_and_contrast_change_the_mouse_in_all_views_alike_and_never_the_white(synthetic_shards):
    samples = load(synthetic_shards, size=64)
    visits = Visits(samples, Recipe(5, brightness=0.1, contrast=0.1))
    factors = []
    for i in range(40):
        visit = visits[i]
        plain, toned = samples[visit["index"]], floating(visit)
        assert torch.equal(toned["alpha"], plain["alpha"])
        outside, inside = plain["alpha"] == 0, plain["alpha"] == 1
        assert (toned["image"].movedim(1, -1)[outside] == 1).all()
        assert toned["image"].min() >= 0 and toned["image"].max() <= 1
        before, after = (s["image"].movedim(1, -1)[inside].reshape(-1) for s in (plain, toned))
        free = (after > 0.001) & (after < 0.999)
        # One straight line for all views and channels: after = contrast * brightness * before + what keeps the mean.
        slope, offset = np.polyfit(before[free].numpy(), after[free].numpy(), 1)
        assert (slope * before[free] + offset - after[free]).abs().max() < 1e-3
        factors.append(slope)
    assert 0.8 < min(factors) < 0.95 and 1.05 < max(factors) < 1.22


def test_brightness_and_contrast_are_those_of_the_plain_formula():
    image = torch.rand(1, 1, 3, 4, 4)
    alpha = torch.ones(1, 1, 4, 4)
    brighter = toned(image, alpha, torch.tensor([[1.07, 1.0]]))
    torch.testing.assert_close(brighter, (image * 1.07).clamp(0, 1))
    grey = (image * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(2).mean()
    torch.testing.assert_close(toned(image, alpha, torch.tensor([[1.0, 0.9]])), (image - grey) * 0.9 + grey)


def test_a_process_that_reads_shards_alone_knows_their_codec(synthetic_shards):
    code = (
        "import sys; from pathlib import Path; from mousefacelift.training.data import Samples; from mousefacelift.shards.manifest import "
        "read_manifest; Samples(read_manifest(Path(sys.argv[1])), 'train', 64, 1)"
    )
    subprocess.run([sys.executable, "-c", code, str(synthetic_shards)], check=True)


def test_loader_processes_work_after_their_parent_has_decoded_images(synthetic_shards):
    """OpenCV's own threads would not have survived the fork: this test would not end."""
    manifest = read_manifest(synthetic_shards)
    settings = Train(image_size=64, container="tar", steps=20, val_every=20, batch_size=1)
    assert len(list(ShardData(manifest, settings).train_dataloader())) == 20
    assert len(list(ShardData(manifest, settings.model_copy(update={"workers": 2})).train_dataloader())) == 20


def test_an_empty_split_is_empty(tmp_path, synthetic_shards):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"image_size": 64, "views": 6, "shards": []}))
    assert len(load(manifest)) == 0


def test_sizes_that_do_not_divide_are_refused(synthetic_shards):
    with pytest.raises(UserError, match="48 does not divide the shards' 64"):
        load(synthetic_shards, size=48)


def test_a_missing_shard_is_named(shards):
    (shards.parent / "train" / "ball-0000.h5").unlink()
    with pytest.raises(UserError, match=r"ball-0000\.h5: no such shard"):
        load(shards)


def test_a_truncated_shard_is_named(shards):
    path = shards.parent / "train" / "ball-0000.h5"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match=r"ball-0000\.h5: damaged shard"):
        load(shards)


def test_damaged_pixels_are_named_with_their_sample(shards):
    path = shards.parent / "train" / "ball-0000.h5"
    with h5py.File(path) as file:
        chunk = file["image"].id.get_chunk_info(2)
    content = bytearray(path.read_bytes())
    content[chunk.byte_offset : chunk.byte_offset + chunk.size] = bytes(chunk.size)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"ball-0000\.h5: damaged shard, sample ball-train-000002"):
        load(shards)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c2w": lambda x: x[:4]}, r"c2w has shape \(4, 6, 4, 4\)"),
        ({"image": lambda x: x[..., :3]}, "image has shape"),
        ({"image": lambda x: x.astype(np.float32)}, "image is float32"),
        ({"frame": lambda x: x[:1]}, "frame has shape"),
        ({"key": lambda x: np.arange(5)}, "damaged shard"),
    ],
)
def test_a_shard_that_differs_from_the_manifest_is_refused(shards, changes, message):
    edit(shards, **changes)
    with pytest.raises(UserError, match=message):
        load(shards)


def rotated(axis, degrees):
    """Rotate the whole world: cameras keep seeing the same pixels, but another axis is up."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    turn = np.eye(4)
    i, j = {"x": (1, 2), "y": (0, 2), "z": (0, 1)}[axis]
    turn[[i, i, j, j], [i, j, i, j]] = c, -s, s, c
    return lambda c2w: turn @ c2w


def rolled(degrees):
    """Roll every camera about its own axis."""
    c, s = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    return lambda c2w: c2w @ np.array([[c, -s, 0, 0], [s, c, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])


def shifted(c2w):
    c2w[..., :3, 3] += [0, 0, 1]
    return c2w


def with_nan(c2w):
    c2w[3, 2, 0, 0] = np.nan
    return c2w


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (with_nan, r"sample ball-train-000003: the camera of view 2 is not finite \(1 of 30"),
        (lambda c2w: c2w * [[[1.1], [1], [1], [1]]], "not a rigid pose"),
        (lambda c2w: c2w * [1, -1, 1, 1], "not a rigid pose"),
        (shifted, "does not look at the world's origin"),
        (rotated("x", 90), r"\+Z up"),
        (rotated("x", -90), r"\+Z up"),
        (rotated("y", 180), r"\+Z up"),
        (rolled(10), r"\+Z up"),
        (rolled(180), r"\+Z up"),
    ],
)
def test_cameras_that_are_not_level_z_up_are_refused(shards, change, message):
    edit(shards, c2w=change)
    with pytest.raises(UserError, match=message):
        load(shards)


def test_rotating_the_world_about_its_up_axis_is_fine(shards):
    edit(shards, c2w=rotated("z", 33))
    assert len(load(shards)) == 5


@pytest.fixture(scope="module")
def half_known(tmp_path_factory):
    """Every second sample has unknown pixels; 3 views of 32 px."""
    samples = {"a": {"train": 4, "val": 1, "test": 0}}
    return write_small(tmp_path_factory.mktemp("unknown"), samples, unknown=unknown_corner)


@pytest.mark.parametrize("cache_gb", [0.0, 1.0])
@pytest.mark.parametrize("size", [32, 16])
def test_a_pixel_any_part_of_which_is_unknown_is_unknown(half_known, cache_gb, size):
    samples = load(half_known, size=size, cache_gb=cache_gb)
    for n in range(4):
        expected, k = unknown_corner(n), 32 // size
        assert ("unknown" in samples[n]) == (expected is not None)
        if expected is not None:
            for v, row, col in np.ndindex(3, size, size):
                block = expected[v, k * row : k * row + k, k * col : k * col + k]
                assert samples[n]["unknown"][v, row, col] == block.any()


@pytest.mark.parametrize("container", ["h5", "tar"])
def test_batches_from_both_containers_say_what_is_unknown_of_every_sample(half_known, container):
    settings = Train(
        image_size=32,
        steps=4,
        val_every=4,
        batch_size=2,
        num_input_views=2,
        container=container,
        augment=False,
        i_know=True,
    )
    seen = 0
    for batch in ShardData(read_manifest(half_known), settings).train_dataloader():
        for row, index in enumerate(batch["index"].tolist()):
            expected = unknown_corner(index)
            found = batch["unknown"][row] if "unknown" in batch else torch.zeros(3, 32, 32, dtype=torch.bool)
            assert found.numpy().any() == (expected is not None)
            if expected is not None:
                np.testing.assert_array_equal(found, expected)
                seen += 1
    assert seen


def test_a_batch_whose_pixels_are_all_known_has_no_masks(synthetic_shards):
    samples = load(synthetic_shards)
    assert "unknown" not in collated([samples.stored(0), samples.stored(1)])
