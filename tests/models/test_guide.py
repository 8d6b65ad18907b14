"""What the visual hull of the input views decides of a network's Gaussians: nothing, their place, or where they start."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.gaussians import SH_C0, render
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig, Inward
from mousefacelift.models.hull.api import intervals
from mousefacelift.models.hull.guides import MARGIN
from mousefacelift.models.hull.surface import hull_gaussians
from mousefacelift.models.rays import pixel_rays
from mousefacelift.models.registry import build_model, preset_config
from mousefacelift.models.weights.files import load_weights, save_weights
from mousefacelift.models.weights.fitting import check_weights
from mousefacelift.shards.manifest import read_manifest
from mousefacelift.stages.train import train
from mousefacelift.training.data import Samples
from mousefacelift.training.finetuning import reconstruct
from mousefacelift.training.runs import identity, run_record
from support.presets import preset_of

MICRO = GSLRMConfig(width=32, head_width=16, layers=2)
CLAMPED, HULL = replace(MICRO, guide="clamp"), replace(MICRO, guide="hull")
RESIDUAL = replace(HULL, residual=True, skip_blank=True)
SIZE = 64


@pytest.fixture(scope="module")
def batch(synthetic_shards):
    """Two training samples as a batch; view 5 is held out."""
    samples = Samples(read_manifest(synthetic_shards), "train", SIZE, 1)
    stacked = {
        name: torch.stack([samples[i][name] for i in (0, 1)]) for name in ("image", "alpha", "c2w", "w2c", "fxfycxcy")
    }
    return stacked | {"inputs": torch.arange(5).expand(2, -1), "held_out": torch.tensor([[5], [5]])}


@pytest.fixture
def given(batch):
    """The model's arguments."""
    return [batch[name][:, :5] for name in ("image", "c2w", "fxfycxcy", "alpha")]


def model(config, seed=0):
    torch.manual_seed(seed)
    return GSLRM(config).eval()


def trained(config, seed=1):
    """A model whose raw outputs are far from where training starts."""
    made = model(config, seed)
    with torch.no_grad():
        for parameter in made.pixel_gaussian_decoder.parameters():
            parameter.normal_(std=0.3)
    return made


@torch.no_grad()
def test_an_untrained_residual_network_draws_what_the_visual_hull_does(batch, given):
    gaussians = model(RESIDUAL)(*given)
    drawn = render(gaussians, batch["w2c"], batch["fxfycxcy"], SIZE, SIZE)
    for sample in range(2):
        image, c2w, fxfycxcy, alpha = (tensor[sample] for tensor in given)
        hull = hull_gaussians(image, alpha, c2w, batch["w2c"][sample, :5], fxfycxcy)
        expected = render(hull, batch["w2c"][None, sample], batch["fxfycxcy"][None, sample], SIZE, SIZE)
        for one, other in zip(drawn, expected, strict=True):
            # An alpha that is rounded across 1/255 is drawn or not.
            assert (one[sample] - other[0]).abs().max() < 1.5 / 255
            assert (one[sample] - other[0]).abs().mean() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("config", [CLAMPED, HULL, RESIDUAL], ids=["clamp", "hull", "residual"])
def test_no_gaussian_lies_outside_the_hull_and_none_is_of_the_background(batch, given, config):
    _, c2w, fxfycxcy, alpha = given
    config = replace(config, skip_blank=False)  # then a pixel's Gaussian is known by its place
    gaussians = trained(config)(*given)
    opacity = gaussians.opacity[..., 0].sigmoid()
    assert (opacity[:, : config.free_gaussians] < 1e-6).all(), "free ones could be anywhere"
    front, back, valid = intervals(alpha, c2w, batch["w2c"][:, :5], fxfycxcy)
    inside = patched(valid & (alpha > 0.5))
    assert ((opacity[:, config.free_gaussians :] > 1e-6) == inside).all()
    origins, directions = pixel_rays(c2w, fxfycxcy, SIZE, SIZE)
    nearest = origins - (origins * directions).sum(-1, keepdim=True) * directions
    offset = gaussians.xyz[:, config.free_gaussians :] - patched(nearest)
    depth = (offset * patched(directions)).sum(-1)
    assert (offset - depth[..., None] * patched(directions)).abs().max() < 1e-5, "on the pixel's ray"
    slack = MARGIN + 1e-5
    assert (depth >= patched(front) - slack)[inside].all() and (depth <= patched(back) + slack)[inside].all()


def patched(values):
    """[B, V, S, S, ...] -> [B, P, ...] in the order of the Gaussians."""
    shape = values.shape
    cut = values.view(*shape[:2], SIZE // 8, 8, SIZE // 8, 8, *shape[4:]).transpose(3, 4)
    return cut.reshape(shape[0], -1, *shape[4:])


@torch.no_grad()
@pytest.mark.parametrize("config", [CLAMPED, HULL, RESIDUAL], ids=["clamp", "hull", "residual"])
def test_held_out_views_are_not_looked_at(batch, config):
    made = trained(config)
    before = reconstruct(made, batch)
    other = {name: batch[name].clone() for name in ("image", "alpha", "c2w", "fxfycxcy")}
    other["alpha"][:, 5], other["image"][:, 5] = 1 - other["alpha"][:, 5], 0.5
    other["fxfycxcy"][:, 5] *= 1.5
    after = reconstruct(made, batch | other)
    for name in ("xyz", "features", "scaling", "rotation", "opacity"):
        assert torch.equal(getattr(before, name), getattr(after, name)), name
    other["alpha"][:, 4] = 0
    assert not torch.equal(before.xyz, reconstruct(made, batch | other).xyz), "inputs are"


@torch.no_grad()
def test_with_other_weights_hull_starts_as_clamp_and_clamp_moves_what_lies_outside_alone(given, tmp_path):
    free = trained(MICRO)
    save_weights(free, tmp_path / "free.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", preset_of(MICRO))
        none, clamp, hull = (
            load_weights(tmp_path / "free.safetensors", "tiny", each)(*given) for each in ("none", "clamp", "hull")
        )
    assert torch.equal(none.xyz, free(*given).xyz), "without a guide nothing changes"
    for name in ("xyz", "features", "scaling", "rotation", "opacity"):
        assert torch.allclose(getattr(clamp, name), getattr(hull, name), atol=1e-5), name
    seen = clamp.opacity[..., 0] > -50
    assert torch.equal(clamp.features, none.features) and torch.equal(clamp.opacity[seen], none.opacity[seen])
    moved = (clamp.xyz != none.xyz).any(-1)
    assert moved.any() and not moved[:, : MICRO.free_gaussians].any()


def test_the_tensors_without_a_guide_are_facelifts():
    with torch.device("meta"):
        names = {guide: set(build_model("base", guide).state_dict()) for guide in ("none", "clamp", "hull")}
    assert names["none"] == names["clamp"]
    assert names["hull"] - names["none"] == {"guide_embedder.weight"}


@pytest.mark.parametrize(("preset", "residual"), [("tiny", True), ("small", True), ("base", False)])
def test_networks_with_released_weights_keep_what_their_outputs_mean(preset, residual):
    assert preset_config(preset, "hull").residual is residual
    assert not preset_config(preset, "clamp").residual
    assert preset_config(preset).guide == Train(preset=preset).guide == ("hull" if residual else "none")
    kept = Train(preset=preset, guide="none").model_dump(mode="json")
    assert Train(**kept).guide == preset_config(preset, kept["guide"]).guide == "none", "null alone is the preset's own"
    assert PRESETS[preset].guidable == hasattr(preset_config(preset), "guide")


def test_gradients_of_the_residual_head_are_finite_differences():
    made = GSLRM(RESIDUAL).double()
    generator = torch.Generator().manual_seed(0)
    free, pixels = (torch.randn(1, n, 14, generator=generator).double().requires_grad_() for n in (2, 6))
    known = torch.rand(1, 6, 15, generator=generator).double()
    known[..., 6:8] = torch.tensor([-0.1, 0.25])
    known[..., 8:9], known[..., 9:10] = 1, 0.07

    def head(free, pixels):
        found = made._gaussians(free, pixels, known, None)
        return found.xyz, found.features, found.scaling, found.rotation, found.opacity[:, 2:]

    assert torch.autograd.gradcheck(head, (free, pixels))


def test_what_was_clamped_is_pulled_inside_and_never_pushed_out():
    x = torch.tensor([-1.0, -1, 0.5, 0.5, 3, 3], requires_grad=True)
    low, high = torch.zeros(6), torch.ones(6)
    clamped = Inward.apply(x, low, high)
    assert torch.equal(clamped.detach(), x.detach().clamp(0, 1))
    clamped.backward(torch.tensor([1.0, -1, 1, -1, 1, -1]))
    # A step goes against the gradient: below, only a negative one leads inside.
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_a_model_says_its_guide_in_its_file(tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", replace(preset_of(MICRO), residual=True))
    save_weights(model(preset_config("tiny", "hull")), tmp_path / "hull.safetensors")
    assert load_weights(tmp_path / "hull.safetensors").config == preset_config("tiny", "hull")
    check_weights(tmp_path / "hull.safetensors", "tiny", "hull")
    for guide in ("none", "clamp"):
        with pytest.raises(UserError, match=r"for guide hull: set train\.guide: hull to use it"):
            check_weights(tmp_path / "hull.safetensors", "tiny", guide)
    # Raw outputs that are places cannot be read as changes of the hull's Gaussians.
    save_weights(model(MICRO), tmp_path / "none.safetensors")
    with pytest.raises(UserError, match=r"for guide none: set train\.guide: none to use it"):
        check_weights(tmp_path / "none.safetensors", "tiny")


def test_an_unknown_guide_is_refused():
    with pytest.raises(UserError, match="'fog': valid are none, clamp, hull"):
        GSLRMConfig(guide="fog")
    with pytest.raises(UserError, match="residual model needs guide hull"):
        GSLRMConfig(residual=True)


SETTINGS = Train(
    preset="tiny", image_size=64, steps=6, batch_size=2, learning_rate=1e-3, warmup_steps=2, accelerator="cpu",
    checkpoint_every=3, val_every=3, log_every=1, guide="hull",
)  # fmt: skip


def test_guided_training_learns_continues_and_has_an_identity_of_its_own(synthetic_shards, tmp_path, monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", replace(preset_of(replace(MICRO, skip_blank=True)), residual=True))
    train(synthetic_shards, tmp_path / "whole", tmp_path / "a", SETTINGS, 1)
    train(
        synthetic_shards, tmp_path / "half", tmp_path / "b", SETTINGS.model_copy(update={"val_every": 3, "steps": 6}), 1
    )
    whole, half = (load_weights(tmp_path / name / "model.safetensors") for name in ("whole", "half"))
    assert whole.config.guide == "hull" and whole.config.residual
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), half.parameters(), strict=True))
    assert (
        whole.pixel_gaussian_decoder.mlp[-1].weight.abs().max() > 0
        and whole.guide_embedder.linear.weight.isfinite().all()
    )
    data = read_manifest(synthetic_shards)
    found = {
        identity(run_record(data, SETTINGS.model_copy(update={"guide": guide}))) for guide in ("none", "clamp", "hull")
    }
    assert len(found) == 3


def test_colours_at_the_edge_are_the_mouses_own():
    from mousefacelift.models.hull.splats import colours

    own, alpha = np.array([0.2, 0.3, 0.4]), np.array([[1.0, 0.6]])
    image = torch.tensor(own[:, None, None] * alpha + 1 - alpha)[None, None]
    found = colours(image, torch.tensor(alpha)[None, None]) * SH_C0 + 0.5
    assert torch.allclose(found[0, 0, 0], torch.tensor(own).expand(2, 3), atol=1e-6)
