"""Which views of a sample are input and which held out, and how samples are changed: a function of seed and step alone."""

from collections import Counter

import numpy as np
import pytest
import torch

from mousefacelift.config.train import Train
from mousefacelift.shards.cameras import check_cameras
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.training.data import Samples
from mousefacelift.training.loaders import ShardData
from mousefacelift.training.visits import (
    HeldOut,
    Recipe,
    Visits,
    input_order,
    recipe,
    shuffle_seed,
    split_views,
    turned,
)


def load(manifest, split="train", size=32, cache_gb=1.0):
    return Samples(read_manifest(manifest), split, size, cache_gb)


def test_visits_are_a_function_of_seed_and_step(synthetic_shards):
    samples = load(synthetic_shards)

    def trace(seed, start):
        visits = Visits(samples, Recipe(5, seed))
        return [(v["index"], *v["held_out"].tolist()) for v in (visits[i] for i in range(start, 60))]

    assert trace(0, 0)[37:] == trace(0, 37)
    assert trace(0, 0) != trace(1, 0)
    assert sorted(index for index, _ in trace(3, 0)[10:15]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_inputs", [5, 4, 3, 1])
def test_every_view_of_every_sample_is_held_out_equally_often(synthetic_shards, num_inputs):
    visits = Visits(load(synthetic_shards), Recipe(num_inputs, seed=7))
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
    sample, angle = load(synthetic_shards).stored(1), 0.7
    sample["fxfycxcy"] = sample["fxfycxcy"] + torch.tensor(
        [0, 0, 3, 0]
    )  # a principal point off the centre must be mirrored too
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
    assert torch.equal(moved["rgba"], sample["rgba"].flip(-2) if mirror else sample["rgba"])


def test_augmented_visits_are_a_function_of_seed_and_step(synthetic_shards):
    samples = load(synthetic_shards)
    first, again, plain = (Visits(samples, Recipe(5, augment=augment)) for augment in (True, True, False))
    poses = [first[i]["c2w"] for i in range(20)]
    assert all(torch.equal(again[i]["c2w"], poses[i]) for i in (13, 2))
    assert not torch.equal(poses[3], plain[3]["c2w"])
    assert {torch.equal(first[i]["rgba"], plain[i]["rgba"]) for i in range(20)} == {True, False}
    assert torch.equal(first[3]["held_out"], plain[3]["held_out"])


def test_a_dropped_view_is_an_input_less_for_the_whole_batch_and_held_out_instead(synthetic_shards):
    samples = load(synthetic_shards)
    visits = Visits(samples, Recipe(5, view_dropout=0.4), batch_size=2)
    counts = []
    for batch in range(100):
        pair = [visits[2 * batch], visits[2 * batch + 1]]
        (inputs,) = {len(visit["inputs"]) for visit in pair}
        counts.append(inputs)
        for visit in pair:
            assert sorted(visit["inputs"].tolist() + visit["held_out"].tolist()) == list(range(6))
    assert set(counts) == {4, 5} and 25 <= counts.count(4) <= 55
    dropped = [view for i in range(100) for view in visits[2 * i]["held_out"].tolist() if counts[i] == 4]
    assert set(dropped) == set(range(6))


def test_in_random_order_every_visit_gives_the_same_views_in_another_order_and_nothing_else_changes(synthetic_shards):
    samples = load(synthetic_shards)
    options = {"augment": True, "brightness": 0.1, "contrast": 0.1, "view_dropout": 0.3}
    fixed, shuffled = (Visits(samples, Recipe(5, seed=2, shuffle_views=s, **options)) for s in (False, True))
    again = Visits(samples, Recipe(5, seed=2, shuffle_views=True, **options))
    orders = set()
    for i in (*range(59, -1, -1),):
        one, other = fixed[i], shuffled[i]
        inputs = other.pop("inputs")
        assert torch.equal(inputs, again[i]["inputs"])
        assert torch.equal(inputs.sort().values, one.pop("inputs"))
        assert one.keys() == other.keys()
        assert all(torch.equal(torch.as_tensor(one[name]), torch.as_tensor(other[name])) for name in one)
        orders.add(tuple(inputs.tolist()))
    assert len(orders) > 50
    assert any(
        Visits(samples, Recipe(5, seed=3, shuffle_views=True))[i]["inputs"].tolist()
        != Visits(samples, Recipe(5, seed=2, shuffle_views=True))[i]["inputs"].tolist()
        for i in range(5)
    )


def test_the_order_of_inputs_in_validation_is_of_the_seed_and_the_sample(synthetic_shards):
    samples = load(synthetic_shards)
    fixed, shuffled, again, other = (HeldOut(samples, 5, seed) for seed in (None, 0, 0, 1))
    given = [shuffled[i]["inputs"].tolist() for i in range(5)]
    assert given == [again[i]["inputs"].tolist() for i in (0, 1, 2, 3, 4)]
    assert given != [other[i]["inputs"].tolist() for i in range(5)]
    assert [sorted(order) for order in given] == [fixed[i]["inputs"].tolist() for i in range(5)]
    assert sum(order != sorted(order) for order in given) >= 4
    assert all(torch.equal(fixed[i]["held_out"], shuffled[i]["held_out"]) for i in range(5))
    assert len({tuple(input_order(5, 0, 3, view)) for view in range(6)}) > 3, (
        "each held-out view has an order of its own"
    )


@pytest.mark.parametrize("order", ["fixed", "random"])
def test_the_view_order_of_the_settings_is_that_of_training_and_validation(synthetic_shards, order):
    settings = Train(image_size=32, steps=20, val_every=20, batch_size=1, view_order=order)
    data = ShardData(read_manifest(synthetic_shards), settings)
    assert recipe(settings).shuffle_views == (order == "random")
    assert shuffle_seed(settings) == (0 if order == "random" else None)
    for batches in (data.train_dataloader(), *data.val_dataloader()):
        in_order = [batch["inputs"][0].tolist() == sorted(batch["inputs"][0].tolist()) for batch in batches]
        assert all(in_order) == (order == "fixed")


def test_validation_holds_out_a_different_view_in_neighbouring_samples(synthetic_shards):
    held_out = HeldOut(load(synthetic_shards, "val"), 5)
    assert [held_out[i]["held_out"].tolist() for i in range(len(held_out))] == [[0], [1]]
    assert split_views(6, 4, 5)["held_out"].tolist() == [0, 5]


def test_what_is_unknown_is_mirrored_with_the_images(synthetic_shards):
    sample = load(synthetic_shards).stored(0)
    sample["unknown"] = sample["rgba"][..., 3] > 100
    for mirror in (False, True):
        moved = turned(sample, 0.3, mirror)
        assert torch.equal(moved["unknown"], moved["rgba"][..., 3] > 100)
        assert torch.equal(moved["unknown"], sample["unknown"]) != mirror
