"""The compilers: found where pip, conda or the system put them, and named when they are missing."""

import stat
import subprocess
import sysconfig
from pathlib import Path

import pytest

from mousefacelift.gpu import toolchain
from mousefacelift.gpu.toolchain import Torch, fitting, installed_torch, nvcc_release, toolkits, tools

CUDA13 = Torch("2.13.0+cu130", "13.0")


def program(path: Path, text: str = "exit 0") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


def toolkit(
    home: Path, release: str = "13.0", headers=(*toolchain.HEADERS, "cccl/cub/cub.cuh"), library="lib/libcudart.so.13"
):
    """A made-up CUDA toolkit."""
    program(home / "bin/nvcc", f"echo 'Cuda compilation tools, release {release}, V{release}.88'")
    for name in headers:
        (home / "include" / name).parent.mkdir(parents=True, exist_ok=True)
        (home / "include" / name).touch()
    if library:
        (home / library).parent.mkdir(parents=True, exist_ok=True)
        (home / library).touch()
    return home


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine with a C++ compiler and ninja alone: bare(without=...) leaves one out."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX", "CC", "NVCC_CCBIN"):
        monkeypatch.delenv(name, raising=False)
    programs = tmp_path / "programs"
    for name in ("c++", "g++", "ninja"):
        program(programs / name)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin-that-is-not-there")
    monkeypatch.setattr(toolchain, "SYSTEM", tmp_path / "system")
    monkeypatch.setattr(toolchain, "pip_folders", lambda: [tmp_path / "pip"])
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path / name))
    (tmp_path / "include").mkdir()
    (tmp_path / "include/Python.h").touch()
    return tmp_path


def missing(torch=CUDA13):
    return {tool.name: tool.remedy for tool in tools(torch) if not tool.found}


def test_pips_toolkit_is_found_by_itself(bare):
    toolkit(bare / "pip/cu13")
    assert not missing()
    assert fitting("13.0").home == bare / "pip/cu13"
    assert fitting("13.0").cudart().name == "libcudart.so.13"


def test_the_systems_toolkit_is_used_where_it_fits(bare):
    toolkit(bare / "pip/cu13")
    toolkit(bare / "system", library="lib64/libcudart.so")
    assert fitting("13.0").home == bare / "system"
    toolkit(bare / "system", release="12.4")
    assert fitting("13.0").home == bare / "pip/cu13"
    toolkit(bare / "system", release="13.2")  # the very version comes first
    assert fitting("13.0").home == bare / "pip/cu13"


def test_an_incomplete_toolkit_of_the_system_gives_way_to_pips(bare):
    toolkit(bare / "pip/cu13")
    toolkit(bare / "system", headers=("cuda_runtime.h",), library="lib64/libcudart.so")
    assert fitting("13.0").home == bare / "pip/cu13"
    (bare / "pip/cu13/include/cusparse.h").unlink()  # the one that lacks least is the one to mend
    assert fitting("13.0").home == bare / "pip/cu13"


def test_cuda_home_and_nvcc_on_path_are_looked_at_first(bare, monkeypatch):
    for place in ("pip/cu13", "system", "mine", "other"):
        toolkit(bare / place)
    monkeypatch.setenv("CUDA_HOME", str(bare / "mine"))
    monkeypatch.setenv("PATH", f"{bare / 'other/bin'}:{bare / 'programs'}")
    assert [found.home.name for found in toolkits()] == ["mine", "other", "system", "cu13"]
    toolkit(bare / "mine", release="13.1")
    assert fitting("13.0").home == bare / "mine", "CUDA_HOME is a choice"
    toolkit(bare / "mine", release="12.8")
    assert fitting("13.0").home == bare / "other"


@pytest.mark.parametrize(
    ("without", "name", "said"),
    [
        (
            "pip/cu13/bin/nvcc",
            "nvcc",
            r"torch is built for CUDA 13.0: pip install .*'\.\[gpu\]' brings it, or install CUDA 13\.0 and set CUDA_HOME",
        ),
        ("pip/cu13/include/cusparse.h", "CUDA headers", "cu13 lacks cusparse.h: pip install"),
        ("pip/cu13/include/cccl/cub/cub.cuh", "CUDA headers", "lacks cub/cub.cuh"),
        ("pip/cu13/lib/libcudart.so.13", "libcudart", "cu13 lacks libcudart.so: pip install"),
        ("programs/c++", "C++ compiler", r"no c\+\+: apt-get install g\+\+, or conda install"),
        ("programs/g++", "C++ compiler", r"no g\+\+: apt-get install"),
        ("programs/ninja", "ninja", "pip install ninja"),
        ("include/Python.h", "Python headers", r"apt-get install python3\.\d+-dev"),
    ],
)
def test_what_is_missing_is_named(bare, without, name, said):
    import re

    toolkit(bare / "pip/cu13")
    (bare / without).unlink()
    found = missing()
    assert list(found) == [name]
    assert re.search(said, found[name])


def test_a_toolkit_of_another_version_is_named_and_not_used(bare):
    toolkit(bare / "pip/cu13")
    found = missing(Torch("2.13.0+cu126", "12.6"))
    assert "CUDA 12.6, and" in found["nvcc"] and "cu13 is CUDA 13.0" in found["nvcc"]
    assert "pip install" not in found["nvcc"]  # pip has no compiler of CUDA 12


def test_a_compiler_that_does_not_run_is_none(bare):
    program(bare / "broken/bin/nvcc", "exit 127")
    assert nvcc_release(bare / "broken/bin/nvcc") is None
    (bare / "broken/bin/nvcc").write_bytes(b"\x7fELF broken")
    assert nvcc_release(bare / "broken/bin/nvcc") is None


def test_ninja_is_found_in_an_environment_that_was_not_activated(bare):
    toolkit(bare / "pip/cu13")
    (bare / "programs/ninja").unlink()
    program(bare / "scripts/ninja")
    assert not missing()


def test_torch_is_described_as_it_describes_itself():
    import torch

    assert installed_torch() == Torch(torch.__version__, torch.version.cuda)


def test_that_torch_is_described_without_being_imported():
    code = "import sys; from mousefacelift.gpu import checks; checks.rapid(); assert 'torch' not in sys.modules"
    subprocess.run([__import__("sys").executable, "-c", code], check=True)
