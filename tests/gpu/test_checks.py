"""What `mousefacelift gpu check` says, and what is looked at before the first job."""

import types
from pathlib import Path

import pytest
from typer.testing import CliRunner

from mousefacelift.base.errors import UserError
from mousefacelift.cli import app
from mousefacelift.gpu import checks, driver
from mousefacelift.gpu.driver import System
from mousefacelift.gpu.toolchain import Tool, Torch

GPU = System(given=1, refused=0, on_bus=1, driver="550.54.14", hidden=False)
NONE = System(given=0, refused=0, on_bus=0, driver=None, hidden=False)


@pytest.fixture
def cuda_torch(monkeypatch):
    """A CUDA build of torch and gsplat, nothing compiled, no tool missing, no GPU."""
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr(checks, "installed_torch", lambda: Torch("2.13.0+cu130", "13.0"))
    monkeypatch.setattr(checks, "installed_gsplat", lambda: ("1.5.3", Path("/nowhere")))
    monkeypatch.setattr(checks, "shipped", lambda: None)
    monkeypatch.setattr(checks, "built", lambda archs: None)
    monkeypatch.setattr(checks, "tools", lambda torch: [Tool("nvcc", "/cuda/bin/nvcc")])
    monkeypatch.setattr(checks, "_trial", lambda torch: Tool("trial", "compiles"))
    monkeypatch.setattr(driver, "look", lambda: NONE)
    return monkeypatch


def names(rows):
    return {row.name: row.found for row in rows}


def test_without_a_gpu_everything_else_is_checked(cuda_torch):
    found = names(checks.thorough(4))
    assert all(found.values())
    assert found["GPU"].startswith("none on this machine")
    assert set(found) == {"torch", "GPU", "gsplat", "extension", "nvcc", "trial", "compilers"}


def test_an_old_driver_is_what_is_missing(cuda_torch):
    cuda_torch.setattr(driver, "look", lambda: GPU)
    cuda_torch.setattr(
        driver, "torch_error", lambda: "The NVIDIA driver on your system is too old (found version 12040)."
    )
    (gpu,) = [row for row in checks.thorough(4) if row.name == "GPU"]
    assert not gpu.found and "550.54.14" in gpu.remedy and "cu126" in gpu.remedy


def test_compilers_are_not_needed_once_it_is_compiled(cuda_torch):
    cuda_torch.setattr(checks, "built", lambda archs: Path("/cache/gsplat_cuda.so"))
    cuda_torch.setattr(checks, "tools", lambda torch: [Tool("nvcc", "", "install it")])
    assert "nvcc" not in names(checks.thorough(4)) and checks.rapid() == []


def test_a_cpu_build_of_torch_is_named(monkeypatch):
    monkeypatch.setattr("torch.version.cuda", None)
    monkeypatch.setattr(driver, "look", lambda: GPU)
    result = CliRunner().invoke(app, ["gpu", "check"])
    assert isinstance(result.exception, UserError) and "is a CPU build" in str(result.exception)


@pytest.mark.parametrize("lacking", ["gsplat", "nvcc", "nothing"])
def test_the_rapid_check_names_what_is_missing(cuda_torch, lacking):
    if lacking == "gsplat":
        cuda_torch.setattr(checks, "installed_gsplat", lambda: None)
    if lacking == "nvcc":
        cuda_torch.setattr(checks, "tools", lambda torch: [Tool("nvcc", "", "install it"), Tool("ninja", "/ninja")])
    assert [row.name for row in checks.rapid()] == ([] if lacking == "nothing" else [lacking])


def test_the_report_lists_all_rows_and_fails_for_one_that_is_missing(capsys):
    checks.report([Tool("nvcc", "/cuda/bin/nvcc")])
    with pytest.raises(UserError, match="cannot be drawn on the GPU here: ninja: pip install ninja"):
        checks.report([Tool("nvcc", "/cuda/bin/nvcc"), Tool("ninja", "", "pip install ninja")])
    printed = capsys.readouterr().out
    assert printed.count("/cuda/bin/nvcc") == 2 and "missing" in printed


def trial(monkeypatch, tmp_path, nvcc="exit 0", cxx="exit 0"):
    for name, text in (("nvcc", nvcc), ("cxx", cxx)):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    toolkit = types.SimpleNamespace(home=tmp_path, nvcc=tmp_path / "bin/nvcc")
    monkeypatch.setattr(checks, "fitting", lambda cuda: toolkit)
    monkeypatch.setattr(checks, "compiler", lambda: str(tmp_path / "bin/cxx"))
    monkeypatch.setattr(checks, "compiling_environment", lambda folder, torch: {})
    return checks._trial(Torch("2.13.0+cu130", "13.0"))


@pytest.mark.parametrize(
    ("programs", "said"),
    [
        ({}, ""),
        (
            {"nvcc": "echo 'crt/host_config.h: error: unsupported GNU version!' >&2; exit 1"},
            "nvcc: .*unsupported GNU version",
        ),
        ({"cxx": "echo '/usr/bin/ld: cannot find -lcudart' >&2; exit 1"}, "cxx: .*cannot find -lcudart"),
        ({"nvcc": "exit 3"}, "exit status 3"),
    ],
)
def test_the_trial_finds_compilers_that_do_not_fit_together(monkeypatch, tmp_path, programs, said):
    import re

    found = trial(monkeypatch, tmp_path, **programs)
    assert bool(found.found) is (not said)
    assert re.search(said, found.remedy)


def test_building_without_a_gpu_needs_to_know_for_which(cuda_torch):
    cuda_torch.setattr("mousefacelift.gpu.extension.shipped", lambda: None)
    cuda_torch.setattr("torch.cuda.device_count", lambda: 0)
    result = CliRunner().invoke(app, ["gpu", "build"])
    assert isinstance(result.exception, UserError) and "--arch 8.6,9.0" in str(result.exception)
    result = CliRunner().invoke(app, ["gpu", "build", "--arch", "hopper"])
    assert isinstance(result.exception, UserError) and "compute capability" in str(result.exception)


@pytest.mark.parametrize(
    ("capability", "codes", "said"),
    [
        ((6, 1), ["sm_75", "sm_90"], r"GTX has compute capability 6\.1.*7\.5, 9\.0 alone; its cu126 build"),
        ((8, 9), ["sm_75", "sm_86"], ""),
        ((12, 1), ["sm_75", "sm_120"], ""),
        ((13, 0), ["sm_75", "sm_120"], r"13\.0.*7\.5, 12\.0 alone\. If there is another"),
        ((13, 0), ["sm_75", "sm_120", "compute_120"], ""),
    ],
)
def test_a_gpu_that_torch_has_no_code_for_is_named(monkeypatch, capability, codes, said):
    import re

    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda place: capability)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: "GTX")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: codes)
    found = checks.unsupported()
    assert len(found) == bool(said)
    assert len(checks.unsupported(count=2)) == bool(said), "there is one"
    assert not said or re.search(said, found[0].remedy)


def test_a_gpu_that_the_driver_cannot_serve_is_no_traceback(monkeypatch):
    """With an old driver the system counts the GPU all the same, and asking torch about it raises."""

    def old(*_):
        raise RuntimeError("The NVIDIA driver on your system is too old (found version 12040).")

    for name in ("init", "_lazy_init", "get_device_capability"):
        monkeypatch.setattr(f"torch.cuda.{name}", old)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.version.cuda", "13.0")
    monkeypatch.setattr(driver, "look", lambda: GPU)
    monkeypatch.setattr(checks, "rapid", lambda: [])
    monkeypatch.setattr("mousefacelift.gpu.extension.shipped", lambda: None)
    for command in ("check", "build"):
        result = CliRunner().invoke(app, ["gpu", command])
        assert isinstance(result.exception, UserError), command
        assert "driver here is 550.54.14" in str(result.exception), command


def test_a_second_card_of_any_kind_is_in_nobodys_way(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda place: ((8, 6), (6, 1))[place])
    monkeypatch.setattr("torch.cuda.get_device_name", lambda place: "card")
    monkeypatch.setattr("torch.cuda.get_arch_list", lambda: ["sm_75", "sm_86"])
    assert checks.unsupported() == []
    assert len(checks.unsupported(count=2)) == 1
    assert checks.device_archs() == [(8, 6)], "what nvcc can compile for"
