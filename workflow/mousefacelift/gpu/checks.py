"""Whether this machine can draw on its GPU: what is there, what is missing, and how to get it."""

import subprocess
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from mousefacelift.base.errors import UserError
from mousefacelift.gpu import driver
from mousefacelift.gpu.extension import (
    available_gb,
    built,
    code_archs,
    compilers,
    compiling_environment,
    device_archs,
    format_arch,
    has_code,
    shipped,
)
from mousefacelift.gpu.toolchain import (
    INSTALL,
    Tool,
    Torch,
    compiler,
    fitting,
    installed_gsplat,
    installed_torch,
    tools,
)

NO_GPU = "to compile for another machine, install torch from PyPI: pip uninstall torch, then pip install torch"

# What torch's headers and gsplat's sources include, compiled and linked as they are.
TRIAL = """
#include <cublas_v2.h>
#include <cub/cub.cuh>
#include <cuda_runtime.h>
#include <cusolverDn.h>
#include <cusparse.h>
__global__ void twice(float *x) { x[threadIdx.x] *= 2; }
extern "C" int run(float *x) { twice<<<1, 32>>>(x); return cudaGetLastError(); }
"""


def rapid() -> list[Tool]:
    """What can be said in a fraction of a second, without importing torch: before the first job of a workflow.

    A compiled extension of any compute capability passes, as torch alone knows the GPUs.
    """
    torch = installed_torch()
    if torch is None or torch.cuda is None:
        return [Tool("torch", "", f"torch {torch.version if torch else 'is missing or'} is no CUDA build")]
    if installed_gsplat() is None:
        return [Tool("gsplat", "", f"not installed, and drawing on the GPU needs gsplat: {INSTALL}")]
    if shipped() or built([]):
        return []
    return [tool for tool in tools(torch) if not tool.found]


def thorough(threads: int) -> list[Tool]:
    """Everything that drawing on a GPU needs; compilers only if gsplat's extension is not compiled yet.

    Args:
        threads: compilers that may run at once.
    """
    import torch

    found = Torch(torch.__version__, torch.version.cuda)
    if found.cuda is None:
        seen = driver.why_unseen(driver.look(), found.version, None)
        return [
            Tool(
                "torch", "", seen or f"torch {found.version} is a CPU build, and there is no NVIDIA GPU here: {NO_GPU}"
            )
        ]
    rows = [Tool("torch", f"{found.version}, CUDA {found.cuda}"), _gpu()]
    gsplat = installed_gsplat()
    rows.append(Tool("gsplat", gsplat[0] if gsplat else "", f"not installed: {INSTALL}"))
    if gsplat is None:
        return rows
    ready = shipped() or built(device_archs())
    if ready:
        return [*rows, Tool("extension", str(ready))]
    rows.append(Tool("extension", "not compiled yet: mousefacelift gpu build, or the first job that draws"))
    rows += tools(found)
    if all(row.found for row in rows):
        rows.append(_trial(found))
    jobs, room = compilers(threads), available_gb()
    return [*rows, Tool("compilers", f"{jobs} at a time ({threads} threads, {room:.1f} GiB of memory free)")]


def unsupported(count: int = 1) -> list[Tool]:
    """The first GPUs, if torch has no machine code for them: they are too old, or too new.

    Args:
        count: of the GPUs that are used. Others may be of any kind.
    """
    import torch

    codes = code_archs(torch.cuda.get_arch_list(), "sm_")
    rows = []
    for place in range(min(count, torch.cuda.device_count())):
        arch = torch.cuda.get_device_capability(place)
        if not has_code(arch):
            older = f"; its {driver.OLDER_BUILD} build has code for GPUs from 5.0 on" if arch < min(codes) else ""
            text = (
                f"{torch.cuda.get_device_name(place)} has compute capability {format_arch(arch)}, and torch "
                f"{torch.__version__} has code for {', '.join(map(format_arch, codes))} alone{older}. If there is another "
                "GPU, name it in CUDA_VISIBLE_DEVICES"
            )
            rows.append(Tool("GPU", "", text))
    return rows


def missing(rows: list[Tool]) -> str:
    """What is missing and how to get it, as one sentence; "" if nothing is."""
    wrong = "; ".join(f"{row.name}: {row.remedy}" for row in rows if not row.found)
    return f"Gaussians cannot be drawn on the GPU here: {wrong}" if wrong else ""


def report(rows: list[Tool]) -> None:
    """Print the rows. Raises UserError if something is missing."""
    table = Table("", "", "", title="drawing on the GPU", title_justify="left")
    for row in rows:
        table.add_row(row.name, "[green]ok" if row.found else "[bold red]missing", row.found or row.remedy)
    console = Console()
    console.width = max(console.width, 150)  # in a log file a table must not be cut
    console.print(table)
    if wrong := missing(rows):
        raise UserError(wrong)


def _gpu() -> Tool:
    """The GPUs; a machine without one may still compile for others."""
    import torch

    if torch.cuda.is_available():
        if foreign := unsupported():
            return foreign[0]
        names = [torch.cuda.get_device_name(place) for place in range(torch.cuda.device_count())]
        archs = ", ".join(map(format_arch, device_archs()))
        return Tool(
            "GPU", f"{', '.join(names)} (compute capability {archs}, driver {driver.look().driver or 'unknown'})"
        )
    why = driver.unseen()
    return Tool("GPU", "" if why else "none on this machine; for others: mousefacelift gpu build --arch", why or "")


def _trial(torch: Torch) -> Tool:
    """Compile and link a few lines, which finds what looking at files does not: compilers that do not fit together."""
    assert torch.cuda is not None
    toolkit = fitting(torch.cuda)
    assert toolkit is not None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "trial.cu").write_text(TRIAL, encoding="utf-8")
        environment = compiling_environment(folder, torch)
        host = ["-ccbin", environment["CC"]] if environment.get("CC") else []  # as torch calls it
        commands = [
            [str(toolkit.nvcc), "-c", "trial.cu", "-o", "trial.o", "-Xcompiler", "-fPIC", *host],
            [compiler(), "trial.o", "-shared", "-o", "trial.so", f"-L{toolkit.home}/lib64", "-lcudart"],
        ]
        for command in commands:
            try:
                done = subprocess.run(
                    command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600, check=False
                )
            except (OSError, subprocess.TimeoutExpired) as error:
                return Tool("trial", "", f"{' '.join(command)}: {error}")
            if done.returncode:
                said = (done.stderr + done.stdout).strip().splitlines() or [f"exit status {done.returncode}"]
                telling = next((line for line in said if "error" in line.lower() or "cannot find" in line), said[0])
                return Tool("trial", "", f"a few lines of CUDA do not compile: {Path(command[0]).name}: {telling}")
    return Tool("trial", "a few lines of CUDA compile and link")
