"""Memory that runs out: one sentence that says where, who holds it, and what helps."""

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.presets import PRESETS
from mousefacelift.config.train import Train
from mousefacelift.models.gslrm import GSLRM, Block, GSLRMConfig
from mousefacelift.stages.train import train
from mousefacelift.training import finetuning
from mousefacelift.training.exhausted import evaluation_memory, training_memory
from mousefacelift.training.memory import GIB
from support.presets import preset_of

SETTINGS = Train(
    preset="tiny", guide="none", image_size=32, steps=2, batch_size=2, warmup_steps=0, accelerator="cpu",
    val_every=1, log_every=1,
)  # fmt: skip
CUDA_TEXT = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 11.99 GiB"
ERRORS = {
    "torch": torch.OutOfMemoryError(CUDA_TEXT),
    "gsplat": RuntimeError(f"{CUDA_TEXT}\nException raised from malloc"),
    "cuBLAS": RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
}


class Failing(torch.autograd.Function):
    """Passes values on, and runs out of memory in the backward pass."""

    error: BaseException

    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        raise again(Failing.error)


def again(error):
    """The same error without the traceback of where it was raised before."""
    return type(error)(*error.args)


def raising(error):
    def run(*_, **__):
        raise again(error)

    return run


def in_forward(patch, error):
    patch.setattr(Block, "forward", raising(error))


def in_drawing(patch, error):
    patch.setattr("mousefacelift.models.rasterize.api.CpuRasterizer.apply", raising(error))


def in_drawing_back(patch, error):
    patch.setattr("mousefacelift.models.rasterize.cpu.backward", raising(error))


def in_loss(patch, error):
    patch.setattr("mousefacelift.training.losses.mean_over", raising(error))


def in_backward(patch, error):
    patch.setattr(Failing, "error", error, raising=False)
    forward = GSLRM.forward

    def wrapped(self, *inputs):
        found = forward(self, *inputs)
        return type(found)(**(vars(found) | {"xyz": Failing.apply(found.xyz)}))

    patch.setattr(GSLRM, "forward", wrapped)


def in_recomputing(patch, error):
    forward = Block.forward

    def once(self, *inputs):
        if torch._C._current_graph_task_id() != -1:  # within a backward pass
            raise again(error)
        return forward(self, *inputs)

    patch.setattr(Block, "forward", once)


def in_optimizer(patch, error):
    patch.setattr("torch.optim.AdamW._init_group", raising(error))


def in_clipping(patch, error):
    patch.setattr("torch.nn.utils.clip_grad_norm_", raising(error))


def in_validation(patch, error):
    predict = finetuning.predict

    def fail(*inputs):
        if not torch.is_grad_enabled():
            raise again(error)
        return predict(*inputs)

    patch.setattr(finetuning, "predict", fail)


PLACES = {
    "the forward pass": in_forward,
    "drawing": in_drawing,
    "the loss": in_loss,
    "the backward pass": in_backward,
    "the backward pass of drawing": in_drawing_back,
    "the optimiser's step": in_optimizer,
}


@pytest.fixture(autouse=True)
def micro_model(monkeypatch):
    monkeypatch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(width=32, head_width=16, layers=1, scale_bias=-3.0)))


def message(manifest, folder, **changes):
    with pytest.raises(UserError) as found:
        train(manifest, folder / "out", folder / "checkpoints", SETTINGS.model_copy(update=changes), threads=1)
    return str(found.value)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("error", [ERRORS["torch"], ERRORS["cuBLAS"]], ids=["torch", "cuBLAS"])
def test_the_part_of_the_step_is_named(synthetic_shards, tmp_path, monkeypatch, place, error):
    PLACES[place](monkeypatch, error)
    text = message(synthetic_shards, tmp_path)
    assert text.startswith(f"the GPU's memory ran out in {place} (") and "By the forecast" in text
    assert str(error)[:15] in text and "\n" not in text


@pytest.mark.parametrize(
    ("fail", "place", "changes"),
    [
        (in_recomputing, "the backward pass", {"recompute": "all"}),
        (in_clipping, "the optimiser's step", {}),
        (in_validation, "loading the model or a batch of a validation", {}),
    ],
)
def test_so_are_recomputing_clipping_and_validating(synthetic_shards, tmp_path, monkeypatch, fail, place, changes):
    fail(monkeypatch, ERRORS["gsplat"])
    assert message(synthetic_shards, tmp_path, **changes).startswith(f"the GPU's memory ran out in {place} (")


def advice(settings):
    with pytest.raises(UserError) as found, training_memory(settings, 6):
        raise ERRORS["torch"]
    return str(found.value)


def test_what_helps_is_named_by_how_much_and_whether_the_run_continues():
    settings = Train(preset="base", precision="bf16-mixed", recompute="selective", batch_size=2, init="x.pt")
    kept, new = advice(settings).split("the same command then continues from the last checkpoint")
    for name in ("recompute: all saves ", "rerender: true saves ", "accumulate: 2 saves "):
        assert f"train.{name}" in kept
    assert "train.optimizer: adamw8bit saves" in new and "starts another run" in new
    assert "train.recompute" not in new
    # From tars, the parts of a batch decide which process reads what.
    kept, new = advice(settings.model_copy(update={"container": "tar"})).split("the same command then continues")
    assert "accumulate" not in kept and "accumulate" in new


def test_the_holders_of_the_gpus_memory_are_named(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (int(0.2 * GIB), 12 * GIB))
    monkeypatch.setattr("torch.cuda.memory_reserved", lambda: 8 * GIB)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "Some Card")
    text = "Some Card has 12.0 GiB: this process holds 8.6 GiB, other programs 3.2 GiB"
    assert text in advice(Train(preset="base", precision="bf16-mixed", recompute="all"))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes")])  # fmt: skip
def test_the_computers_own_memory_ends_in_one_sentence(synthetic_shards, tmp_path, monkeypatch, error):
    in_forward(monkeypatch, error)
    text = message(synthetic_shards, tmp_path)
    assert text.startswith("the computer's memory ran out in the forward pass (") and "train.cache_gb" in text


def test_evaluation_has_its_own_advice():
    with pytest.raises(UserError, match=r"^the GPU's memory ran out.*CUDA_VISIBLE_DEVICES"), evaluation_memory():
        raise ERRORS["gsplat"]
    with pytest.raises(UserError, match=r"^the computer's memory ran out.*more memory"), evaluation_memory():
        raise MemoryError


@pytest.mark.parametrize("guard", [evaluation_memory, lambda: training_memory(SETTINGS, 6)])
def test_other_errors_pass(guard):
    with pytest.raises(RuntimeError, match="device-side assert"), guard():
        raise RuntimeError("CUDA error: device-side assert triggered")
    with pytest.raises(KeyError), guard():
        raise KeyError("out of memory")


def test_a_run_that_ran_out_continues_with_the_advice(synthetic_shards, tmp_path, monkeypatch):
    longer = {"steps": 4, "checkpoint_every": 1, "val_every": 2}
    with monkeypatch.context() as patch:
        in_validation(patch, ERRORS["torch"])
        message(synthetic_shards, tmp_path, **longer)
    assert list((tmp_path / "checkpoints").glob("*/last.ckpt"))
    train(
        synthetic_shards, tmp_path / "out", tmp_path / "checkpoints",
        SETTINGS.model_copy(update=longer | {"recompute": "all", "rerender": True, "accumulate": 2}), threads=1,
    )  # fmt: skip
    assert len(list((tmp_path / "checkpoints").iterdir())) == 1
