"""gsplat's CUDA extension: compiled once however many processes ask, found again, and loaded.

The compiler is a stub: what gsplat's own code does with a real one is tried by the tests marked gpu_build.
"""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import textwrap
import time
from pathlib import Path

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.gpu import extension
from mousefacelift.gpu.extension import available_gb, build, built, cache_root, compilers, load, parse_arch
from mousefacelift.gpu.toolchain import Torch

SOURCE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "gsplat_cuda", 0, -1, 0};
PyMODINIT_FUNC PyInit_gsplat_cuda(void) { return PyModule_Create(&module); }
"""
# Says what ninja says, takes its time, and leaves a library where gsplat does.
STUB = """
import os, pathlib, shutil, sys, time
folder = pathlib.Path(os.environ["TORCH_EXTENSIONS_DIR"]) / "gsplat_cuda"
with open(os.environ["STUB_CALLS"], "a") as calls:
    print(os.environ["TORCH_CUDA_ARCH_LIST"], os.environ["MAX_JOBS"], file=calls)
pathlib.Path(os.environ["STUB_CALLS"] + ".pid").write_text(str(os.getpid()))
folder.mkdir()
for part in (1, 2, 3):
    print(f"[{part}/3] nvcc -c part{part}.cu", flush=True)
    time.sleep(float(os.environ.get("STUB_SECONDS", "0")))
if os.environ.get("STUB_FAILS"):
    print(os.environ["STUB_FAILS"]); sys.exit(1)
shutil.copy(os.environ["STUB_LIBRARY"], folder / "gsplat_cuda.so")
"""


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """A module that does nothing, compiled for real."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "stub.c").write_text(SOURCE)
    command = ["cc", "-shared", "-fPIC", f"-I{sysconfig.get_path('include')}", "stub.c", "-o", "stub.so"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no C compiler here: {done.stderr}")
    return folder / "stub.so"


@pytest.fixture
def stub(tmp_path, monkeypatch, library):
    """gsplat and its compilers as stubs. Returns the file with a line per build."""
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("STUB_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("STUB_LIBRARY", str(library))
    pretend(monkeypatch)
    (tmp_path / "calls").touch()
    return tmp_path / "calls"


def pretend(monkeypatch):
    """Stand-ins for the installed packages and the toolkit."""
    monkeypatch.setattr(extension, "installed_torch", lambda: Torch("2.13.0+cu130", "13.0"))
    monkeypatch.setattr(extension, "installed_gsplat", lambda: ("1.5.3", Path("/nowhere/gsplat")))
    monkeypatch.setattr(extension, "tools", lambda torch: [])
    monkeypatch.setattr(extension, "compiling_environment", lambda folder, torch: dict(os.environ))
    monkeypatch.setattr(extension, "BUILD", STUB)


def test_it_is_compiled_once_and_found_again(stub, capsys):
    first = build([(8, 6), (9, 0)], 1)
    assert first.parent.name == "gsplat-1.5.3_torch-2.13.0+cu130_cu13.0_py311_sm86-sm90".replace(
        "py311", f"py{sys.version_info.major}{sys.version_info.minor}"
    )
    assert build([(9, 0)], 1) == first  # one that covers it
    assert stub.read_text() == "8.6;9.0 1\n"
    assert "compiling gsplat: 3/3" in capsys.readouterr().err
    assert json.loads((first.parent / "build.json").read_text())["archs"] == ["8.6", "9.0"]
    assert sorted(path.name for path in cache_root().iterdir()) == sorted(
        [first.parent.name, f"{first.parent.name}.lock", f"{first.parent.name.rpartition('_')[0]}_sm90.lock"]
    )


@pytest.mark.parametrize(
    ("compiled", "gpus", "fits"),
    [
        ([(8, 6)], [(8, 6)], True),
        ([(8, 0)], [(8, 6)], True),  # machine code runs on a newer minor version
        ([(8, 6)], [(8, 0)], False),
        ([(8, 6)], [(9, 0)], False),
        ([(9, 0)], [(9, 0), (8, 6)], False),
        ([(9, 0)], [], True),
    ],
)
def test_an_extension_is_used_where_its_code_runs(stub, compiled, gpus, fits):
    build(compiled, 1)
    assert (built(gpus) is not None) is fits


@pytest.mark.parametrize("change", ["torch", "gsplat"])
def test_another_torch_or_gsplat_has_another_extension(stub, monkeypatch, change):
    build([(9, 0)], 1)
    if change == "torch":
        monkeypatch.setattr(extension, "installed_torch", lambda: Torch("2.13.0+cu126", "12.6"))
    else:
        monkeypatch.setattr(extension, "installed_gsplat", lambda: ("1.6.0", Path("/nowhere/gsplat")))
    assert built([(9, 0)]) is None


def test_what_is_damaged_is_compiled_again(stub):
    first = build([(9, 0)], 1)
    first.unlink()
    assert built([(9, 0)]) is None
    assert build([(9, 0)], 1).exists()
    (first.parent / "build.json").write_text("{")
    assert built([(9, 0)]) is None
    assert build([(9, 0)], 1).exists()
    assert len(stub.read_text().splitlines()) == 3


PROCESS = """
import sys
import pytest
sys.path.insert(0, {tests!r})
import importlib.util
spec = importlib.util.spec_from_file_location("stubs", {file!r})
stubs = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stubs)
stubs.pretend(pytest.MonkeyPatch())
import types
sys.modules["gsplat"] = types.ModuleType("gsplat")
from mousefacelift.gpu import extension
module = extension.load(extension.build([(9, 0)], 1))
assert sys.modules["gsplat"].csrc is module is sys.modules["gsplat.csrc"]
print("loaded")
"""


def start(seconds: float) -> subprocess.Popen:
    code = textwrap.dedent(PROCESS).format(tests=str(Path(__file__).parents[1]), file=__file__)
    return subprocess.Popen(
        [sys.executable, "-c", code], env=os.environ | {"STUB_SECONDS": str(seconds)}, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_of_processes_that_start_together_one_compiles_and_all_load(stub):
    found = [process.communicate(timeout=120) for process in [start(0.7) for _ in range(3)]]
    assert [out for out, _ in found] == ["loaded\n"] * 3, found
    assert len(stub.read_text().splitlines()) == 1
    assert sum("waiting: another process compiles gsplat" in err for _, err in found) >= 1


def test_a_build_that_was_killed_is_in_nobodys_way(stub):
    process = start(30)
    deadline = time.monotonic() + 60
    while not stub.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert built([(9, 0)]) is None
    assert build([(9, 0)], 1).exists()
    assert not list(cache_root().glob("*building*"))


def test_a_build_that_is_told_to_end_takes_its_compilers_along(stub):
    process = start(30)
    deadline = time.monotonic() + 60
    running = stub.with_name("calls.pid")
    while not (running.exists() and running.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode != 0
    with pytest.raises(ProcessLookupError):
        os.kill(int(running.read_text()), 0)
    assert not list(cache_root().glob("*building*"))


def test_a_cache_that_cannot_be_written_is_named(stub, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCH_EXTENSIONS_DIR", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot be kept there.*TORCH_EXTENSIONS_DIR"):
        build([(9, 0)], 1)


@pytest.mark.parametrize(
    ("output", "said"),
    [
        ("x.cu(1): fatal error: cusparse.h: No such file or directory", "cusparse.h: No such file"),
        ("g++: fatal error: Killed signal terminated program cc1plus", "want of memory.*--threads 1"),
        ("/usr/bin/ld: cannot find -lcudart", "cannot find -lcudart"),
    ],
)
def test_a_build_that_fails_says_why_and_leaves_its_log(stub, monkeypatch, output, said):
    monkeypatch.setenv("STUB_FAILS", output)
    with pytest.raises(UserError, match="could not be compiled") as caught:
        build([(9, 0)], 1)
    assert re.search(said, str(caught.value))
    log = Path(re.search(r"in (\S+)$", str(caught.value))[1])
    assert output in log.read_text() and "[2/3]" in log.read_text()
    assert built([(9, 0)]) is None and not list(cache_root().glob("*building*"))


def test_a_library_that_cannot_be_loaded_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat", __import__("types").ModuleType("gsplat"))
    monkeypatch.delitem(sys.modules, "gsplat.csrc", raising=False)
    (tmp_path / "gsplat_cuda.so").write_bytes(b"no library")
    with pytest.raises(UserError, match=r"gsplat_cuda\.so.*cannot be loaded.*mousefacelift gpu build"):
        load(tmp_path / "gsplat_cuda.so")
    assert "gsplat.csrc" not in sys.modules


@pytest.mark.parametrize("text", ["9", "90", "sm_90", "9.0a", ""])
def test_a_wrong_compute_capability_is_refused(text):
    with pytest.raises(UserError, match="compute capability"):
        parse_arch(text)


def test_compilers_are_no_more_than_memory_allows(tmp_path, monkeypatch):
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text(f"MemTotal: 1 kB\nMemAvailable: {20 * 2**20} kB\n")
    assert available_gb(tmp_path) == 20
    # A job's group lies in the cluster's.
    (tmp_path / "proc/self/cgroup").write_text("0::/slurm/job_1/task\n")
    for group, limit in (("slurm/job_1/task", "max"), ("slurm/job_1", str(6 * 2**30)), ("slurm", str(100 * 2**30))):
        folder = tmp_path / "sys/fs/cgroup" / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.max").write_text(limit)
        (folder / "memory.current").write_text(str(3 * 2**30))
        (folder / "memory.stat").write_text(f"anon {2**30}\nactive_file 7\ninactive_file {2 * 2**30}\n")
    assert available_gb(tmp_path) == 5
    # In a container the path is the host's, and only the mount's own files are there.
    (tmp_path / "proc/self/cgroup").write_text("0::/../../host\n11:cpu,memory:/docker/abc\n")
    folder = tmp_path / "sys/fs/cgroup/memory"
    folder.mkdir(parents=True)
    (folder / "memory.limit_in_bytes").write_text(str(4 * 2**30))
    (folder / "memory.usage_in_bytes").write_text(str(2**30))
    (folder / "memory.stat").write_text("cache 0\n")
    assert available_gb(tmp_path) == 3
    monkeypatch.setattr(extension, "available_gb", lambda: 5.0)
    assert [compilers(threads) for threads in (1, 2, 8)] == [1, 2, 2]
    monkeypatch.setattr(extension, "available_gb", lambda: 0.5)
    assert compilers(8) == 1
