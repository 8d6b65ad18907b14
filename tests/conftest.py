"""What all tests share: one number of threads, one budget of examples, the command line, and runs that are made once."""

import os
import sys
from pathlib import Path

import h5py
import pytest
from filelock import FileLock
from hypothesis import settings

from support.balls import write_shards
from support.budget import EXAMPLES

# One thread per test process: the models are so small that starting threads costs more than they save.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples on every run and machine, however slow.
settings.register_profile("mousefacelift", deadline=None, derandomize=True, max_examples=EXAMPLES, print_blob=False)
settings.load_profile("mousefacelift")

# The files that take longest, longest first: two processes that take file by file end at about the same time.
LONGEST = (
    "test_workflow.py",
    "test_finetuning.py",
    "test_up.py",
    "test_cameras.py",
    "test_silhouettes.py",
    "test_train.py",
    "test_memory.py",
)


def pytest_collection_modifyitems(config, items):
    """Order the files of tests; within a file the order stays. What takes too long for every run must be asked for."""
    if "gpu_build" not in config.getoption("markexpr"):
        skip = pytest.mark.skip(reason="compiles for 20 minutes: pytest -n 0 -m gpu_build")
        for item in items:
            if "gpu_build" in item.keywords:
                item.add_marker(skip)
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


@pytest.fixture(scope="session", autouse=True)
def one_number_of_threads():
    """The command line sets its process's threads, which numba cannot change once it has started them: here all tests share one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mousefacelift.cli.options._set_thread_counts", lambda threads: None)
        yield


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs the command line in this process; gives exit status, stdout and stderr."""
    from mousefacelift.cli import main

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mousefacelift", *map(str, words)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


@pytest.fixture(scope="session")
def synthetic_shards(tmp_path_factory) -> Path:
    """The manifest of 5 training, 2 validation and 2 test samples of 6 views, 64 px. Read only: shared by all tests."""
    return write_shards(tmp_path_factory.mktemp("shards"))


@pytest.fixture(scope="session")
def world_from_mm(synthetic_shards):
    """The similarity of the second test sample of the synthetic shards, [4, 4]."""
    with h5py.File(next(synthetic_shards.parent.glob("test/*.h5"))) as file:
        return file["world_from_mm"][1]


@pytest.fixture(scope="session")
def trained(synthetic_shards, tmp_path_factory) -> Path:
    """The folder of a very small model after two steps on the synthetic shards, at 32 px. Read only."""
    from mousefacelift.config.presets import PRESETS
    from mousefacelift.config.train import Train
    from mousefacelift.models.gslrm import GSLRMConfig
    from mousefacelift.stages.train import train
    from support.presets import preset_of

    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PRESETS, "tiny", preset_of(GSLRMConfig(width=32, head_width=16, layers=1, scale_bias=-3.0)))
        settings = Train(preset="tiny", image_size=32, steps=2, warmup_steps=0, accelerator="cpu")
        train(synthetic_shards, folder / "train", folder / "checkpoints", settings, threads=1)
    return folder / "train"


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory, worker_id):
    """Stages 1 to 5 on every 8th frame of the demo capture, in two chunks, as rodent.Run. One for all processes."""
    from mousefacelift.config.config import Config
    from support.rodent import Run, demo_capture, run_stages

    config = Config.model_validate(
        {"center": {"stride": 8, "chunk_frames": 100}, "normalize": {"zoom": "fit"}, "sample": {"gap_s": 0.4}}
    )
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "demo"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            run_stages(demo_capture(), folder.with_name("unfinished"), config)
            folder.with_name("unfinished").rename(folder)
    return Run(folder, demo_capture(), config)
