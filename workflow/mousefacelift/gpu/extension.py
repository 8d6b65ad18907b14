"""gsplat's CUDA extension: compiled once per machine or container, under a lock, and loaded from then on.

gsplat compiles it when it is first used, in every process at once: processes that start together delete each other's
objects. Here one process compiles it, by gsplat's own code, into a folder named by everything that decides whether it
fits; then each process gives it to gsplat as the compiled module that gsplat looks for first (`gsplat.csrc`).
"""

import contextlib
import functools
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from mousefacelift.base.errors import TerminatedError, UserError
from mousefacelift.base.files import locked
from mousefacelift.gpu.toolchain import (
    INSTALL,
    Torch,
    fitting,
    installed_gsplat,
    installed_torch,
    scripts_first,
    tools,
)

NAME = "gsplat_cuda"  # of the module, in gsplat's code
COMPILER_GB = 2.2  # memory that one compiler takes at most, measured with nvcc 13.0
Arch = tuple[int, int]  # compute capability: (9, 0)
BUILD = "import gsplat.cuda._backend as backend; assert backend._C is not None, 'gsplat found no CUDA toolkit'"


def cache_root(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of compiled extensions: torch's variable TORCH_EXTENSIONS_DIR, or the user's cache."""
    if chosen := environment.get("TORCH_EXTENSIONS_DIR"):
        return Path(chosen).expanduser() / "mousefacelift"
    return Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mousefacelift/gsplat"


def shipped() -> Path | None:
    """The compiled module inside gsplat's own folder, which some wheels of gsplat have."""
    found = installed_gsplat()
    return next(iter(sorted(found[1].glob("csrc*.so"))), None) if found else None


def built(archs: list[Arch]) -> Path | None:
    """The extension in the cache that runs on GPUs of these compute capabilities.

    Args:
        archs: of the GPUs; empty: any extension for this torch and gsplat will do.
    """
    for folder in sorted(cache_root().glob(f"{_prefix()}_sm*")):
        library = folder / f"{NAME}.so"
        try:
            record = json.loads((folder / "build.json").read_text(encoding="utf-8"))
            compiled = [parse_arch(text) for text in record["archs"]]
        except (OSError, ValueError, KeyError, TypeError, UserError):
            continue  # not ours, or half deleted
        if library.exists() and all(any(runs_on(code, arch) for code in compiled) for arch in archs):
            return library
    return None


def build(archs: list[Arch], threads: int) -> Path:
    """Compile the extension, unless another process has done it: then wait for that one.

    Args:
        archs: compute capabilities to compile for.
        threads: compilers that run at once at most; memory may allow fewer.

    Returns:
        The extension's file.

    Raises:
        UserError: something that compiling needs is missing, or it failed.
    """
    root, folder = cache_root(), cache_root() / f"{_prefix()}_{_suffix(archs)}"
    try:
        root.mkdir(parents=True, exist_ok=True)
        (root / f"{folder.name}.lock").touch()
    except OSError as error:
        raise UserError(
            f"{root}: gsplat's extension cannot be kept there ({error.strerror}); set TORCH_EXTENSIONS_DIR to a folder that "
            "can be written"
        ) from None
    with locked(root / f"{folder.name}.lock", "another process compiles gsplat"):
        if (found := built(archs)) is not None:
            return found
        torch = _compilable()
        for leftover in root.glob(f"{folder.name}.building-*"):  # of a process that was killed: we hold its lock
            shutil.rmtree(leftover, ignore_errors=True)
        temporary = Path(tempfile.mkdtemp(prefix=f"{folder.name}.building-", dir=root))
        try:
            seconds = _compile(temporary, torch, archs, threads)
            done = temporary / "done"
            done.mkdir()
            (temporary / NAME / f"{NAME}.so").rename(done / f"{NAME}.so")
            record = {"archs": [format_arch(arch) for arch in archs], "seconds": round(seconds)}
            (done / "build.json").write_text(json.dumps(record), encoding="utf-8")
            shutil.rmtree(folder, ignore_errors=True)  # one without its library
            done.rename(folder)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return folder / f"{NAME}.so"


def load(library: Path) -> ModuleType:
    """Give a compiled extension to gsplat, as its module `csrc`.

    Raises:
        UserError: the file cannot be loaded.
    """
    import gsplat
    import torch  # noqa: F401  # its libraries must be in the process before the extension's

    if "gsplat.csrc" in sys.modules:
        return sys.modules["gsplat.csrc"]
    spec = importlib.util.spec_from_file_location(NAME, library)
    assert spec is not None and spec.loader is not None
    try:
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    except ImportError as error:
        raise UserError(
            f"{library}: gsplat's extension cannot be loaded ({error}). Delete {library.parent} and compile it again: "
            "mousefacelift gpu build"
        ) from None
    sys.modules["gsplat.csrc"] = gsplat.csrc = module
    return module


@functools.cache  # drawing asks every time
def ready(threads: int) -> None:
    """Have gsplat draw: load its extension, compiled now if it was not.

    Args:
        threads: compilers that may run at once.

    Raises:
        UserError: gsplat is not installed, or its extension cannot be compiled or loaded.
    """
    if installed_gsplat() is None:
        raise UserError(f"drawing Gaussians on the GPU needs gsplat, which is not installed: {INSTALL}")
    if shipped() is None:
        archs = device_archs()
        load(built(archs) or build(archs, threads))


def device_archs() -> list[Arch]:
    """The compute capabilities of the GPUs that torch can use, each once."""
    import torch

    # Counting asks the system, which counts GPUs that torch cannot use.
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    archs = {torch.cuda.get_device_capability(place) for place in range(count)}
    return sorted(arch for arch in archs if has_code(arch))


def has_code(arch: Arch) -> bool:
    """Whether torch has machine code for a GPU of this compute capability, or code that the driver compiles for it."""
    import torch

    listed = torch.cuda.get_arch_list()
    return any(runs_on(code, arch) for code in code_archs(listed, "sm_")) or any(
        code <= arch for code in code_archs(listed, "compute_")
    )


def code_archs(listed: list[str], kind: str) -> list[Arch]:
    """The compute capabilities in torch's list, of machine code ("sm_") or of what the driver compiles ("compute_")."""
    return [(int(code[:-1]), int(code[-1])) for each in listed if re.fullmatch(r"\d+", code := each.removeprefix(kind))]


def parse_arch(text: str) -> Arch:
    """The compute capability that a text like "9.0" names. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d{1,2})\.(\d)", text.strip())
    if not found:
        raise UserError(
            f"{text!r} is no compute capability: write it as 8.6 (see `nvidia-smi --query-gpu=compute_cap`)"
        )
    return int(found[1]), int(found[2])


def format_arch(arch: Arch) -> str:
    """A compute capability as text."""
    return f"{arch[0]}.{arch[1]}"


def compilers(threads: int) -> int:
    """How many compilers may run at once: one per thread, as long as each has its memory."""
    return max(1, min(threads, int(available_gb() / COMPILER_GB)))


def available_gb(root: Path = Path("/")) -> float:
    """Memory that this process may still take, in GiB: of the machine, and of its control group.

    A cluster limits a job by a control group, which the machine's own numbers do not show.

    Args:
        root: of the file system; another one in tests.
    """
    lines = (root / "proc/meminfo").read_text().splitlines()
    rooms = [next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))]
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            number, controllers, path = line.split(":", 2)
            if number == "0":  # version 2
                rooms += _rooms(root / "sys/fs/cgroup", path, "memory.max", "memory.current")
            elif "memory" in controllers.split(","):
                rooms += _rooms(root / "sys/fs/cgroup/memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes")
    return min(rooms) / 2**30


def _rooms(mount: Path, group: str, limit: str, usage: str) -> Iterator[int]:
    """What is left of the limits of a control group and of all those it lies in; in a container only the mount is there."""
    folder = mount / group.lstrip("/")
    for each in [folder, *folder.parents]:
        with contextlib.suppress(OSError, ValueError):  # "max": no limit
            # Files read before count as used, and are dropped when memory is needed.
            cached = re.search(r"^(?:total_)?inactive_file (\d+)$", (each / "memory.stat").read_text(), re.MULTILINE)
            yield int((each / limit).read_text()) - int((each / usage).read_text()) + (int(cached[1]) if cached else 0)
        if each == mount:
            return


def compiling_environment(folder: Path, torch: Torch) -> dict[str, str]:
    """The variables with which CUDA code is compiled and linked.

    Args:
        folder: for a link that the linker needs; exists.
        torch: a CUDA build, of which `tools` misses nothing.
    """
    assert torch.cuda is not None
    toolkit = fitting(torch.cuda)
    assert toolkit is not None
    cudart = toolkit.cudart()
    assert cudart is not None
    # The linker looks for libcudart.so, and pip's package has libcudart.so.13 alone.
    links = folder / "lib"
    links.mkdir()
    (links / "libcudart.so").symlink_to(cudart)
    environment = dict(os.environ) | {
        "CUDA_HOME": str(toolkit.home),
        "LIBRARY_PATH": os.pathsep.join(filter(None, [str(links), os.environ.get("LIBRARY_PATH")])),
        "PATH": scripts_first(dict(os.environ)),
    }
    environment.pop("CUDA_PATH", None)
    return environment


def _compilable() -> Torch:
    """The torch to compile for. Raises UserError that names everything that is missing."""
    torch = installed_torch()
    if torch is None or torch.cuda is None:
        raise UserError("gsplat's CUDA extension is for a CUDA build of torch, and there is none here")
    if missing := [f"{tool.name}: {tool.remedy}" for tool in tools(torch) if not tool.found]:
        raise UserError(f"gsplat's CUDA extension cannot be compiled here: {'; '.join(missing)}")
    return torch


def _compile(folder: Path, torch: Torch, archs: list[Arch], threads: int) -> float:
    """Run gsplat's own build in a process of its own; return its seconds. Raises UserError if it fails."""
    environment = compiling_environment(folder, torch) | {
        "MAX_JOBS": str(compilers(threads)),
        "TORCH_CUDA_ARCH_LIST": ";".join(map(format_arch, archs)),
        "TORCH_EXTENSIONS_DIR": str(folder),
        "VERBOSE": "1",  # gsplat's: ninja prints its progress
        "PYTHONUNBUFFERED": "1",
    }
    # Other values would make a library that this one is not expected to be: unoptimised, for debugging.
    for name in ("FAST_COMPILE", "NO_FAST_MATH", "USE_PRECOMPILED_HEADERS"):
        environment.pop(name, None)
    log, begin = folder / "build.log", time.monotonic()
    print(
        f"compiling gsplat's CUDA extension for compute capability {', '.join(map(format_arch, archs))}, once: some 20 "
        f"minutes of CPU time, with {environment['MAX_JOBS']} compiler(s) at a time",
        file=sys.stderr,
        flush=True,
    )
    command = [sys.executable, "-c", BUILD]
    # A session of its own: all compilers end with it, also when a SIGTERM ends this process.
    before = signal.signal(signal.SIGTERM, _ended) if threading.current_thread() is threading.main_thread() else None
    process = subprocess.Popen(
        command, env=environment, cwd=folder, text=True, errors="replace", start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        with log.open("w", encoding="utf-8") as file:
            for line in process.stdout or ():
                file.write(line)
                _show_progress(line, begin)
        status = process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    if status or not (folder / NAME / f"{NAME}.so").exists():
        raise _failure(log, status)
    return time.monotonic() - begin


def _ended(signum: int, *_: Any) -> None:
    raise TerminatedError(
        "ended while gsplat was compiled; that begins anew next time: mousefacelift gpu build", signum
    )


def _show_progress(line: str, begin: float) -> None:
    """A line for each file that ninja has compiled."""
    if found := re.match(r"\[(\d+)/(\d+)\]", line):
        text = f"compiling gsplat: {found[1]}/{found[2]} ({time.monotonic() - begin:.0f} s)"
        end = "\r" if sys.stderr.isatty() and found[1] != found[2] else "\n"
        print(text, end=end, file=sys.stderr, flush=True)


def _failure(log: Path, status: int) -> UserError:
    """The error of a build that failed; its log stays."""
    kept = log.parents[1] / "build-failed.log"
    shutil.copyfile(log, kept)
    lines = [line.strip() for line in log.read_text(encoding="utf-8").splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"(?i)\b(fatal|error|cannot find|killed)\b", line)]
    killed = any("Killed" in line or "signal 9" in line or "out of memory" in line.lower() for line in lines)
    what = (
        f"a compiler was killed, probably for want of memory: each takes up to {COMPILER_GB:g} GB; give the job more, or "
        "run mousefacelift gpu build --threads 1"
        if killed
        else (telling or lines or [f"exit status {status}"])[0][:400]
    )
    return UserError(f"gsplat's CUDA extension could not be compiled: {what}. All of its output is in {kept}")


def _prefix() -> str:
    """What an extension must fit, but for the GPU: versions of gsplat, torch with its CUDA, and Python."""
    torch, gsplat = installed_torch(), installed_gsplat()
    cuda = f"cu{torch.cuda}" if torch and torch.cuda else "cpu"
    release = torch.version if torch else "none"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    return f"gsplat-{gsplat[0] if gsplat else 'none'}_torch-{release}_{cuda}_{python}"


def _suffix(archs: list[Arch]) -> str:
    return "-".join(f"sm{major}{minor}" for major, minor in archs)


def runs_on(code: Arch, arch: Arch) -> bool:
    """Whether machine code for one compute capability runs on a GPU of another: same major version, not a newer minor."""
    return code[0] == arch[0] and code[1] <= arch[1]


def describe(library: Path) -> dict[str, Any]:
    """What was recorded with an extension: the compute capabilities, and the seconds it took."""
    found: dict[str, Any] = json.loads((library.parent / "build.json").read_text(encoding="utf-8"))
    return found
