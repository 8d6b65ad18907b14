"""gsplat's extension compiled for real: needs a CUDA build of torch and CUDA's compiler, and takes 20 minutes on 2 cores."""

import os
import subprocess
import sys

import pytest

from mousefacelift.gpu.checks import thorough
from mousefacelift.gpu.extension import cache_root

pytestmark = pytest.mark.gpu_build


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A cache with the extension for one compute capability, compiled by two processes that start together."""
    if missing := [row for row in thorough(1) if not row.found]:
        pytest.skip("; ".join(f"{row.name}: {row.remedy}" for row in missing))
    folder = tmp_path_factory.mktemp("cache")
    environment = os.environ | {"TORCH_EXTENSIONS_DIR": str(folder)}
    start = "from mousefacelift.cli import main; main()"
    command = [sys.executable, "-c", start, "gpu", "build", "--arch", "9.0"]
    processes = [
        subprocess.Popen(command, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(2)
    ]
    found = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], found
    assert found[0][0] == found[1][0], "both print the library's path"
    assert sum("compiling gsplat's" in err for _, err in found) == 1, "one compiles"
    return environment


@pytest.mark.timeout(7200)
def test_two_processes_compile_it_once_and_both_load_it(cache):
    assert list(cache_root(cache).glob("*_sm90/gsplat_cuda.so"))


@pytest.mark.timeout(600)
def test_gsplat_uses_it_and_wants_nothing_but_a_driver(cache):
    code = """
import torch
from mousefacelift.gpu.extension import built, load
load(built([(9, 0)]))
from gsplat.cuda._backend import _C
print(_C.CameraModelType.PINHOLE)
try:
    torch.ones(1, device="cuda")
except RuntimeError as error:
    print(error)
"""
    environment = cache | {"PATH": "/nowhere"}  # no compiler is looked for
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert "PINHOLE" in done.stdout
    if not __import__("torch").cuda.is_available():
        assert "NVIDIA driver" in done.stdout
