"""Shards in, samples out: pixels and intrinsics agree at every size, order is reproducible, damage is named."""

import json
import pickle
import shutil
from collections import Counter

import h5py
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from mousefacelift.data import HeldOut, Samples, Visits, check_cameras, over_white, read_manifest, split_views, turned
from mousefacelift.errors import UserError


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
    averaged = over_white(rgba, 1)[:, 0, 0]
    assert averaged.tolist() == [255, 191, 191, 64]
    half = np.full((1, 1, 4), 128, np.uint8)  # nothing to average
    assert over_white(half, 1)[:, 0, 0].tolist() == [191, 191, 191, 128]


def test_averaging_is_the_mean_of_composited_pixels():
    """Against the plain formula on a blob with random colours and alphas, off the grid of the averaged pixels."""
    random = np.random.default_rng(0)
    rgba = np.full((48, 48, 4), [255, 255, 255, 0], np.uint8)
    rgba[5:22, 11:39] = random.integers(0, 256, (17, 28, 4))
    alpha = rgba[..., 3:] / 255
    plain = np.concatenate([rgba[..., :3] * alpha + 255 * (1 - alpha), rgba[..., 3:]], -1)
    plain = plain.reshape(12, 4, 12, 4, 4).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(over_white(rgba, 12) - plain).max() <= 0.501
    assert (over_white(rgba * [1, 1, 1, 0], 12) == [[[255]], [[255]], [[255]], [[0]]]).all()


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


def test_visits_are_a_function_of_seed_and_step(synthetic_shards):
    samples = load(synthetic_shards)

    def trace(seed, start):
        visits = Visits(samples, 5, seed)
        return [(v["index"], *v["held_out"].tolist()) for v in (visits[i] for i in range(start, 60))]

    assert trace(0, 0)[37:] == trace(0, 37)
    assert trace(0, 0) != trace(1, 0)
    assert sorted(index for index, _ in trace(3, 0)[10:15]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_inputs", [5, 4, 3, 1])
def test_every_view_of_every_sample_is_held_out_equally_often(synthetic_shards, num_inputs):
    visits = Visits(load(synthetic_shards), num_inputs, seed=7)
    held = Counter()
    for i in range(5 * 6):
        visit = visits[i]
        assert sorted(visit["inputs"].tolist() + visit["held_out"].tolist()) == list(range(6))
        assert visit["inputs"].tolist() == sorted(visit["inputs"].tolist())
        held.update((visit["index"], view) for view in visit["held_out"].tolist())
    assert set(held.values()) == {6 - num_inputs} and len(held) == 30


@pytest.mark.parametrize("mirror", [False, True])
def test_turned_and_mirrored_samples_are_views_of_the_turned_and_mirrored_world(synthetic_shards, mirror):
    """A world point moves with the world; each camera still sees it at the same, or the mirrored, pixel."""
    sample, angle = load(synthetic_shards)[1], 0.7
    sample["fxfycxcy"][:, 2] += 3  # a principal point off the centre must be mirrored too
    moved = turned(sample, angle, mirror)
    point = torch.tensor([0.2, -0.3, 0.1, 1])
    world = point * torch.tensor([-1.0 if mirror else 1.0, 1, 1, 1])
    cos, sin = np.cos(angle), np.sin(angle)
    world = torch.tensor([cos * world[0] - sin * world[1], sin * world[0] + cos * world[1], world[2], 1])

    def pixel(views, point):
        x = views["w2c"] @ point
        fx, fy, cx, cy = views["fxfycxcy"].T
        return torch.stack([fx * x[:, 0] / x[:, 2] + cx, fy * x[:, 1] / x[:, 2] + cy], -1)

    before, after = pixel(sample, point), pixel(moved, world)
    if mirror:
        before = torch.stack([32 - before[:, 0], before[:, 1]], -1)
    torch.testing.assert_close(after, before, rtol=0, atol=1e-3)
    torch.testing.assert_close(moved["c2w"] @ moved["w2c"], torch.eye(4).expand(6, 4, 4), rtol=0, atol=1e-5)
    check_cameras(moved["c2w"].numpy()[None], moved["fxfycxcy"].numpy()[None], ["moved"])
    assert torch.equal(moved["image"], sample["image"].flip(-1) if mirror else sample["image"])
    assert torch.equal(moved["alpha"], sample["alpha"].flip(-1) if mirror else sample["alpha"])


def test_augmented_visits_are_a_function_of_seed_and_step(synthetic_shards):
    samples = load(synthetic_shards)
    first, again, plain = Visits(samples, 5, 0, True), Visits(samples, 5, 0, True), Visits(samples, 5, 0)
    poses = [first[i]["c2w"] for i in range(20)]
    assert all(torch.equal(again[i]["c2w"], poses[i]) for i in (13, 2))
    assert not torch.equal(poses[3], plain[3]["c2w"])
    assert {torch.equal(first[i]["image"], plain[i]["image"]) for i in range(20)} == {True, False}
    assert torch.equal(first[3]["held_out"], plain[3]["held_out"])


def test_validation_holds_out_a_different_view_in_neighbouring_samples(synthetic_shards):
    held_out = HeldOut(load(synthetic_shards, "val"), 5)
    assert [held_out[i]["held_out"].tolist() for i in range(len(held_out))] == [[0], [1]]
    assert split_views(6, 4, 5)["held_out"].tolist() == [0, 5]


def test_an_empty_split_is_empty(tmp_path, synthetic_shards):
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps({"image_size": 64, "views": 6, "shards": []}))
    assert len(load(manifest)) == 0


@pytest.mark.parametrize("text", ["{", "[]", '{"image_size": 64}', '{"image_size": 64, "views": 6, "shards": [{}]}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(UserError, match=r"manifest\.json"):
        read_manifest(tmp_path / "manifest.json")


def test_a_missing_manifest_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_manifest(tmp_path / "manifest.json")


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


def test_a_view_from_straight_above_is_level_whatever_its_heading():
    c2w = np.array([[[[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]]], float)
    check_cameras(c2w, np.ones((1, 1, 4)), ["above"])


def test_a_focal_length_of_zero_is_refused():
    c2w = np.array([[[[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]]], float)
    with pytest.raises(UserError, match="focal length"):
        check_cameras(c2w, np.array([[[0.0, 1, 1, 1]]]), ["flat"])
