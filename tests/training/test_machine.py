"""The machine of a training run: threads, device, and what is missing on it."""

import os

import pytest
import torch

from mousefacelift.base.errors import UserError
from mousefacelift.config.train import Train
from mousefacelift.training.machine import choose_accelerator, rank, set_threads, without_auto


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
    found = without_auto(settings, "cpu")
    assert found == settings.model_copy(update={"precision": "32-true", "recompute": recompute})
    assert without_auto(found, "cpu") == found


def test_more_gpus_than_there_are_are_refused(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("mousefacelift.training.machine.importlib.util.find_spec", lambda name: True)
    assert choose_accelerator(Train()) == "cuda"
    with pytest.raises(UserError, match=r"train\.gpus is 2, but torch sees 1"):
        choose_accelerator(Train(gpus=2, batch_size=2))


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
