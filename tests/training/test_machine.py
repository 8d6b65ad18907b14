"""The machine of a training run: threads, device, and what is missing on it."""

import os

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.gpu.driver import System
from mousefacelift.gpu.toolchain import Tool
from mousefacelift.models.attention import AttentionChoice
from mousefacelift.models.registry import build_model
from mousefacelift.training.machine import choose_accelerator, prepare_gpu, rank, set_threads, without_auto


def test_threads_are_capped_at_the_cpus_of_the_job():
    before = torch.get_num_threads()
    try:
        set_threads(10_000)
        assert torch.get_num_threads() <= len(os.sched_getaffinity(0))
        set_threads(1)
        assert torch.get_num_threads() == 1
    finally:
        set_threads(before)


@pytest.mark.parametrize(("preset", "recompute"), [("tiny", "none"), ("base", "selective")])
def test_auto_is_resolved_and_nothing_else_changes(preset, recompute):
    settings = Train(preset=preset)
    found = without_auto(settings, "cpu", 6)
    assert found == settings.model_copy(update={"precision": "32-true", "recompute": recompute})
    assert without_auto(found, "cpu", 6) == found


@pytest.fixture
def gpu(monkeypatch):
    """A machine whose one GPU torch sees, with all that drawing needs."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("mousefacelift.training.machine.rapid", lambda: [])
    monkeypatch.setattr("mousefacelift.training.machine.unsupported", lambda gpus: [])
    return monkeypatch


@pytest.fixture
def unseen(monkeypatch):
    """A machine with a GPU whose driver is too old for torch."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    system = System(given=1, refused=0, on_bus=1, driver="550.54.14", hidden=False)
    monkeypatch.setattr("mousefacelift.gpu.driver.look", lambda: system)
    monkeypatch.setattr("mousefacelift.gpu.driver.torch_error", lambda: "the driver is too old")
    return monkeypatch


def test_more_gpus_than_there_are_are_refused(gpu):
    assert choose_accelerator(Train()) == "cuda"
    with pytest.raises(UserError, match=r"train\.gpus is 2, but torch sees 1"):
        choose_accelerator(Train(gpus=2, batch_size=2))


def test_the_cpu_is_never_taken_in_silence(unseen, capsys):
    for settings in (Train(preset="base"), Train(preset="small"), Train(preset="tiny", accelerator="cuda")):
        with pytest.raises(UserError, match=r"driver here is 550\.54\.14.*580\.65.*cu126"):
            choose_accelerator(settings)
    with pytest.raises(UserError, match=r"set train\.accelerator: cpu$"):
        choose_accelerator(Train(preset="base"))
    assert choose_accelerator(Train(preset="base", accelerator="cpu")) == "cpu"
    assert not capsys.readouterr().err
    # tiny is made for a CPU: the demo trains everywhere, and says why it does not use the GPU.
    assert choose_accelerator(Train(preset="tiny")) == "cpu"
    assert "using the CPU, although there is a GPU: the NVIDIA driver here is 550.54.14" in capsys.readouterr().err


def test_a_job_that_asks_for_no_gpu_is_not_asked_about_one(unseen, capsys):
    assert choose_accelerator(Train(preset="base", gpus=0)) == "cpu"
    assert not capsys.readouterr().err


def test_without_a_gpu_there_is_nothing_to_say(monkeypatch, capsys):
    none = System(given=0, refused=0, on_bus=0, driver=None, hidden=False)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("mousefacelift.gpu.driver.look", lambda: none)
    assert choose_accelerator(Train()) == "cpu"
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="torch sees no CUDA GPU, and the system shows none"):
        choose_accelerator(Train(accelerator="cuda"))


@pytest.mark.parametrize("accelerator", ["auto", "cuda"])
def test_a_gpu_that_cannot_draw_stops_what_needs_it(gpu, capsys, accelerator):
    gpu.setattr("mousefacelift.training.machine.rapid", lambda: [Tool("ninja", "", "pip install ninja")])
    with pytest.raises(UserError, match="cannot be drawn on the GPU here: ninja: pip install ninja"):
        choose_accelerator(Train(preset="base", accelerator=accelerator))
    if accelerator == "auto":
        assert choose_accelerator(Train(preset="tiny")) == "cpu"
        assert "pip install ninja" in capsys.readouterr().err


@pytest.mark.parametrize(("gib", "recompute"), [(139, "none"), (24, "selective"), (6, "all")])
def test_recompute_auto_is_what_the_gpus_free_memory_allows(monkeypatch, gib, recompute):
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda emulated: True)
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (gib * 2**30, 140 * 2**30))
    found = without_auto(Train(preset="base"), "cuda", 6)
    assert (found.precision, found.recompute) == ("bf16-mixed", recompute)
    assert without_auto(Train(preset="tiny"), "cuda", 6).recompute == "none"
    assert without_auto(Train(preset="base", recompute="selective"), "cuda", 6).recompute == "selective"


def test_a_gpu_is_made_ready_in_this_order(monkeypatch):
    done = []
    monkeypatch.setattr("mousefacelift.training.machine.ready", lambda threads: done.append(("gsplat", threads)))
    monkeypatch.setattr("mousefacelift.training.machine.set_cuda_precision", lambda name: done.append(name))
    monkeypatch.setattr(
        "mousefacelift.training.machine.choose_attention",
        lambda *given: done.append(given[1:]) or AttentionChoice(("cudnn",)),
    )
    monkeypatch.setattr("torch.cuda.empty_cache", lambda: done.append("freed"))
    monkeypatch.setattr("torch.cuda.current_device", lambda: 1)
    settings = Train(preset="tiny", precision="bf16-mixed", image_size=128, attention="flash")
    assert prepare_gpu(settings, build_model("tiny"), 3, 8).order == ("cudnn",)
    tokens = 2 + 5 * 32**2
    assert done == [("gsplat", 8), "bf16-mixed", (3, tokens, torch.bfloat16, torch.device("cuda", 1), "flash"), "freed"]


def test_the_rank_under_srun_is_slurms(monkeypatch):
    settings = Train(nodes=2, batch_size=2)
    assert rank(Train()) == 0
    monkeypatch.setenv("SLURM_NTASKS", "2")
    monkeypatch.setenv("SLURM_NTASKS_PER_NODE", "1")
    monkeypatch.setenv("SLURM_PROCID", "1")
    assert rank(settings) == 1
    monkeypatch.setenv("SLURM_NTASKS", "4")
    with pytest.raises(UserError, match=r"start 2 tasks with srun.*found 4"):
        rank(settings)
