"""The forecast of a run's memory: as torch's allocator measures it, and what is chosen and advised by it."""

import itertools

import pytest
import torch

from mousefacelift.config.presets import PRESETS, Preset
from mousefacelift.config.train import Loss
from mousefacelift.models.adapt import build_optimizer
from mousefacelift.models.gaussians import Gaussians, render
from mousefacelift.models.gslrm import GSLRM, GSLRMConfig
from mousefacelift.models.rasterize.api import _gsplat
from mousefacelift.models.residual import MOST_FOREGROUND
from mousefacelift.training import memory
from mousefacelift.training.losses import image_loss
from mousefacelift.training.memory import CONTEXT, GIB, fitting_recompute, forecast, reliefs
from support import gsplat_memory
from support.allocator import VIEWS, forecast_of_torch, measured, peak_of, settings_of, stored_batch
from support.budget import some

TOLERANCE = 0.1  # of what a step needs beside parameters and states; of the whole it is far less
RECOMPUTE, PRECISION = ("none", "selective", "all"), ("32-true", "bf16-mixed")


@pytest.fixture
def model_of(monkeypatch):
    """Puts a model in the place of preset base; its Gaussians are a pixel wide, which the CPU draws in a moment."""

    def put(width, layers):
        model = {"width": width, "layers": layers, "scale_bias": -4.5}
        monkeypatch.setitem(PRESETS, "base", Preset("gslrm", model, memory_mb=0))

    return put


def compare(settings):
    found, expected = measured(settings), forecast_of_torch(settings)
    whole, step = found.states + found.peak, expected - found.states
    print(f"measured {whole / 1e6:.1f} MB, forecast {expected / 1e6:.1f}: {expected / whole - 1:+.1%}; "
          f"the step alone {found.peak / 1e6:.1f}, {step / 1e6:.1f}: {step / found.peak - 1:+.1%}")  # fmt: skip
    assert step == pytest.approx(found.peak, rel=TOLERANCE)


@pytest.mark.parametrize(("recompute", "precision"), some(list(itertools.product(RECOMPUTE, PRECISION)), 4))
def test_the_forecast_is_what_the_allocator_is_asked_for(model_of, recompute, precision):
    model_of(512, layers=2)
    compare(settings_of(image_size=128, recompute=recompute, precision=precision))


CHANGES = {
    "low-rank updates": {"adapt": "lora"},
    "heads": {"adapt": "heads"},
    "last layer": {"adapt": "last_n", "last_n": 1},
    "two samples": {"batch_size": 2},
    "all terms": {"loss": {"masked_l2": 0.1, "background": 0.1, "alpha": 1}},
    "no tone": {"brightness": 0, "contrast": 0},
}


@pytest.mark.parametrize("changes", some(list(CHANGES.values()), 3), ids=some(list(CHANGES), 3))
@pytest.mark.parametrize("precision", PRECISION)
def test_the_forecast_follows_the_settings(model_of, changes, precision):
    model_of(256, layers=3)
    compare(settings_of(image_size=96, recompute="all", precision=precision, **changes))


SMALL_AND_BASE = [(512, 12, 128), (1024, 2, 256)]  # width, layers, image size


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "layers", "size", "recompute", "precision"),
    some([(*sizes, *how) for sizes in SMALL_AND_BASE for how in itertools.product(RECOMPUTE, PRECISION)]),
)
def test_small_and_base_need_what_was_forecast(model_of, width, layers, size, recompute, precision):
    """`base` has a few of its 24 layers: the forecast is linear in them (the next test), and the memory here is shared."""
    model_of(width, layers)
    compare(settings_of(image_size=size, recompute=recompute, precision=precision))


@pytest.mark.parametrize("precision", PRECISION)
def test_a_model_that_changes_the_hull_needs_what_was_forecast_for_a_large_mouse(monkeypatch, precision):
    """Its perceptrons work on the foreground alone, and the forecast takes a fixed share of the pixels for that."""
    model = {"width": 512, "layers": 2, "scale_bias": -4.5}
    monkeypatch.setitem(PRESETS, "small", Preset("gslrm", model, memory_mb=0, residual=True))
    settings = settings_of(preset="small", image_size=128, precision=precision)
    assert settings.guide == "hull"
    found, expected = measured(settings, MOST_FOREGROUND), forecast_of_torch(settings)
    print(f"step: measured {found.peak / 1e6:.1f} MB, forecast {(expected - found.states) / 1e6:.1f}")
    assert expected - found.states == pytest.approx(found.peak, rel=TOLERANCE)


def test_every_layer_adds_as_much(model_of):
    needed = []
    for layers in (2, 3, 4):
        model_of(512, layers)
        needed.append(forecast_of_torch(settings_of(image_size=128)))
    assert needed[2] - needed[1] == needed[1] - needed[0] > 0


def test_the_kept_of_ssim_is_what_autograd_keeps():
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    size, loss = 64, Loss(l2=0, masked_l2=0, ssim=1)
    rgb = torch.rand(1, VIEWS, size, size, 3, requires_grad=True).movedim(-1, 2)
    target = torch.rand(1, VIEWS, size, size, 4)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        image_loss(rgb, target[..., 3], target[..., :3].movedim(-1, 2), target[..., 3], loss)
    # The error is kept if a squared term is trained on.
    expected = memory.image_terms(loss, VIEWS, size).kept
    assert sum(kept.values()) == pytest.approx(expected, rel=TOLERANCE)


def test_states_in_8_bits_take_a_quarter_of_the_memory_and_their_scales():
    pytest.importorskip("bitsandbytes")
    settings = settings_of(preset="tiny", optimizer="adamw8bit", image_size=64)
    model = GSLRM(GSLRMConfig(width=128, head_width=32, layers=2))
    optimizer = build_optimizer(model, settings)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    states = [value for state in optimizer.state.values() for name, value in state.items() if "qmap" not in name and torch.is_tensor(value)]  # fmt: skip
    found = sum(tensor.numel() * tensor.element_size() for tensor in states)
    expected = memory._fixed(model, settings, 0)["optimiser"]
    assert found == pytest.approx(expected, rel=TOLERANCE)


@pytest.fixture
def gsplat_without_gpu(monkeypatch):
    """Draws by gsplat's Python, on the CPU, with kernels that only take memory."""
    wrapper = pytest.importorskip("gsplat.cuda._wrapper")

    def draw(width, height, background, w2c, fxfycxcy, *scene):
        return _gsplat(scene, w2c, fxfycxcy, width, height, background)

    monkeypatch.setattr(wrapper, "_make_lazy_cuda_func", gsplat_memory.kernels)
    monkeypatch.setattr(wrapper, "_make_lazy_cuda_obj", lambda name: None)
    monkeypatch.setattr("mousefacelift.models.rasterize.api.CpuRasterizer.apply", draw)
    monkeypatch.setattr(memory, "tiles", lambda *_: gsplat_memory.PAIRS)


@pytest.mark.parametrize("rerender", [False, True])
def test_drawing_by_gsplat_allocates_what_was_forecast(gsplat_without_gpu, rerender):
    size, samples = 64, 1
    settings = settings_of(image_size=size, rerender=rerender)
    with torch.device("meta"):
        net = GSLRM(GSLRMConfig(layers=1)).footprint(samples, 5, size, False, "none")
    batch = stored_batch(settings)
    raw = [torch.randn(samples, net.gaussians, *shape) for shape in ((3,), (1, 3), (3,), (4,), (1,))]
    gaussians = Gaussians(*(tensor.requires_grad_() for tensor in raw))
    drawn = []
    forward = peak_of(lambda: drawn.extend(render(gaussians, batch["w2c"], batch["fxfycxcy"], size, size, rerender)))
    expected = memory.draw(net, settings, samples, VIEWS)
    assert forward == pytest.approx(expected.kept + expected.forward, rel=TOLERANCE)
    backward = peak_of(lambda: torch.autograd.backward(drawn, [torch.ones_like(tensor) for tensor in drawn]))
    assert backward == pytest.approx(expected.backward, rel=TOLERANCE)


def test_the_forecast_draws_no_random_number():
    memory._skeleton.cache_clear()
    before = torch.get_rng_state()
    forecast(settings_of(adapt="lora"), VIEWS)
    assert torch.equal(before, torch.get_rng_state())


def test_drawing_one_view_at_a_time_needs_a_share_of_it():
    whole, single = (forecast(settings_of(rerender=rerender, init="x.pt"), VIEWS) for rerender in (False, True))
    moment = "backward, drawing"
    assert single.moments[moment]["drawing"] < 0.5 * whole.moments[moment]["drawing"]


def test_wide_gaussians_touch_many_tiles():
    new, trained = (forecast(settings_of(init=init), VIEWS).moments["forward, drawing"] for init in (None, "x.pt"))
    assert new["drawing"] > 5 * trained["drawing"]


def test_a_share_of_the_model_needs_a_share_of_the_memory():
    alone, divided, copied = (
        forecast(settings_of(batch_size=4, **changes), VIEWS).moments["optimiser"]
        for changes in ({"accumulate": 4}, {"gpus": 4, "strategy": "fsdp"}, {"gpus": 4})
    )
    assert divided["optimiser"] == alone["optimiser"] // 4 and divided["parameters"] < 0.5 * alone["parameters"]
    assert copied == alone


def test_gradients_are_there_in_the_forward_pass_only_where_they_are_summed():
    one, summed, ddp = (
        forecast(settings_of(batch_size=2, **changes), VIEWS).moments["forward, layers"].get("gradients", 0)
        for changes in ({}, {"accumulate": 2}, {"gpus": 2})
    )
    assert one == 0 and summed == ddp > GIB


@pytest.mark.parametrize("preset", ["small", "base"])
def test_auto_recomputes_no_more_than_the_memory_asks_for(preset):
    settings = settings_of(preset=preset, init="x.pt", precision="bf16-mixed")
    needed = {
        choice: forecast(settings.model_copy(update={"recompute": choice}), VIEWS).bytes - CONTEXT
        for choice in RECOMPUTE
    }
    assert needed["none"] > needed["selective"] > needed["all"]
    assert fitting_recompute(settings, VIEWS, int(needed["none"] / 0.89)) == "none"
    assert fitting_recompute(settings, VIEWS, int(needed["none"] / 0.91)) == "selective"
    assert fitting_recompute(settings, VIEWS, int(needed["selective"] / 0.91)) == "all"
    assert fitting_recompute(settings, VIEWS, 0) == "all"


def test_auto_of_tiny_recomputes_nothing():
    assert fitting_recompute(settings_of(preset="tiny", image_size=128), VIEWS, 0) == "none"


def test_what_is_advised_saves_what_it_says_and_stops_when_it_is_enough():
    settings = settings_of(precision="bf16-mixed", init="x.pt", batch_size=2)
    changes, needed = reliefs(settings, VIEWS, 12 * GIB)
    changed = settings.model_copy(update={change.name: value_of(change) for change in changes})
    assert forecast(changed, VIEWS).bytes == needed <= 12 * GIB
    assert forecast(settings, VIEWS).bytes - sum(change.saved for change in changes) == needed
    assert changes[0].name == "recompute"
    assert reliefs(settings, VIEWS, 100 * GIB)[0] == []
    names = [change.name for change in reliefs(settings, VIEWS, 0)[0]]
    assert len(names) == len(set(names)) and names[0] == "recompute"


def value_of(change):
    return {"true": True}.get(change.value, int(change.value) if change.value.isdigit() else change.value)
