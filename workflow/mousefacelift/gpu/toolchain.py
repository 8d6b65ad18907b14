"""The compilers that gsplat's extension needs: found where pip, conda or the system put them, without importing torch."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

# What torch's headers and gsplat's sources include. pip's packages hold them all: torch brings the libraries' headers.
HEADERS = ("cuda_runtime.h", "cublas_v2.h", "cusolverDn.h", "cusparse.h")
CUB = ("cub/cub.cuh", "cccl/cub/cub.cuh")  # of CUDA 12, of CUDA 13
NAMED = ("CUDA_HOME", "CUDA_PATH")
SYSTEM = Path("/usr/local/cuda")
INSTALL = "pip install -c envs/constraints.txt -e '.[gpu]'"


@dataclass(frozen=True)
class Torch:
    """The installed torch. version: its own. cuda: "13.0", None for a CPU build."""

    version: str
    cuda: str | None


@dataclass(frozen=True)
class Toolkit:
    """A CUDA toolkit. home: its folder. version: of nvcc, (13, 0). source: how it was found, for people."""

    home: Path
    version: tuple[int, int]
    source: str

    @property
    def nvcc(self) -> Path:
        """The compiler."""
        return self.home / "bin/nvcc"

    @property
    def include(self) -> Path:
        """The folder of headers."""
        return self.home / "include"

    def missing_headers(self) -> list[str]:
        """The headers that are not there."""
        folders = [self.include, self.home / "targets/x86_64-linux/include", self.home / "targets/sbsa-linux/include"]
        missing = [name for name in HEADERS if not any((folder / name).exists() for folder in folders)]
        return missing + ["cub/cub.cuh"] * (not any((folder / name).exists() for folder in folders for name in CUB))

    def cudart(self) -> Path | None:
        """The CUDA runtime's library, by whatever name it is there: pip's has no plain libcudart.so."""
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            for name in ("libcudart.so", f"libcudart.so.{self.version[0]}"):
                if (self.home / folder / name).exists():
                    return self.home / folder / name
        return None


def installed_torch() -> Torch | None:
    """The torch of this environment, from its files: importing it takes seconds. None if there is none."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return None
    text = (Path(spec.submodule_search_locations[0]) / "version.py").read_text(encoding="utf-8")
    found = dict(re.findall(r"^(__version__|cuda)\b[^=]*= *'([^']+)'", text, re.MULTILINE))
    return Torch(found["__version__"], found.get("cuda"))


def installed_gsplat() -> tuple[str, Path] | None:
    """The version and folder of gsplat, which is not imported; None if it is not installed."""
    spec = importlib.util.find_spec("gsplat")
    if spec is None or not spec.submodule_search_locations:
        return None
    return importlib.metadata.version("gsplat"), Path(spec.submodule_search_locations[0])


def toolkits() -> Iterator[Toolkit]:
    """All CUDA toolkits that can be found, the system's before pip's."""
    places = [(os.environ[name], name) for name in NAMED if os.environ.get(name)]
    if nvcc := shutil.which("nvcc"):
        places += [(str(Path(nvcc).resolve().parents[1]), "nvcc on PATH")]
    places += [(str(SYSTEM), "the system's")]
    places += [(str(path), "pip's") for folder in pip_folders() for path in sorted(folder.glob("cu[0-9]*"))]
    seen = set()
    for place, source in places:
        home = Path(place)
        if home.resolve() not in seen and (release := nvcc_release(home / "bin/nvcc")):
            seen.add(home.resolve())
            yield Toolkit(home, release, source)


def pip_folders() -> list[Path]:
    """Where pip put NVIDIA's packages."""
    spec = importlib.util.find_spec("nvidia")
    return [Path(folder) for folder in (spec.submodule_search_locations or [])] if spec else []


def nvcc_release(nvcc: Path) -> tuple[int, int] | None:
    """The version of a compiler; None if it is not there or does not run."""
    try:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"release (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def fitting(cuda: str) -> Toolkit | None:
    """The toolkit to use with a torch of this CUDA version.

    The most complete one comes first; then one that CUDA_HOME names; then the very version before another one of the same
    major version, which torch accepts too. Between equals the system's is taken before pip's.
    """
    wanted = tuple(int(number) for number in cuda.split(".")[:2])
    found = [toolkit for toolkit in toolkits() if toolkit.version[0] == wanted[0]]
    # Stable: the order of `toolkits` decides between equals.
    found.sort(
        key=lambda each: (
            len(each.missing_headers()) + (each.cudart() is None), each.source not in NAMED, each.version != wanted
        )
    )  # fmt: skip
    return found[0] if found else None


def scripts_first(environment: dict[str, str]) -> str:
    """PATH with this environment's own programs first: ninja is one, also where the environment was not activated."""
    scripts = sysconfig.get_path("scripts")
    return os.pathsep.join([scripts, *(environment.get("PATH") or os.defpath).split(os.pathsep)])


def compiler() -> str:
    """The C++ compiler that torch calls."""
    return os.environ.get("CXX") or "c++"


@dataclass(frozen=True)
class Tool:
    """Something that compiling needs. found: what is there, "" if nothing. remedy: how to get it if it is missing."""

    name: str
    found: str
    remedy: str = ""


def tools(torch: Torch) -> list[Tool]:
    """What compiling for this torch needs, and where each thing was found.

    Args:
        torch: a CUDA build.
    """
    assert torch.cuda is not None
    toolkit = fitting(torch.cuda)
    major = torch.cuda.partition(".")[0]
    by_pip = [f"{INSTALL} brings it"] if int(major) >= 13 else []  # before CUDA 13 pip has no nvcc
    remedy = ", or ".join([*by_pip, f"install CUDA {torch.cuda} and set CUDA_HOME"])
    if toolkit is None:
        others = ", ".join(f"{each.home} is CUDA {_dotted(each.version)}" for each in toolkits())
        rows = [
            Tool("nvcc", "", f"torch is built for CUDA {torch.cuda}{f', and {others}' if others else ''}: {remedy}")
        ]
    else:
        home, missing = toolkit.home, toolkit.missing_headers()
        cudart = toolkit.cudart()
        rows = [
            Tool("nvcc", f"{toolkit.nvcc} ({_dotted(toolkit.version)}, {toolkit.source})"),
            Tool(
                "CUDA headers", "" if missing else str(toolkit.include), f"{home} lacks {', '.join(missing)}: {remedy}"
            ),
            Tool("libcudart", str(cudart) if cudart else "", f"{home} lacks libcudart.so: {remedy}"),
        ]
    path = scripts_first(dict(os.environ))
    # nvcc calls g++ by its name, torch calls CXX or c++.
    for name in dict.fromkeys([compiler(), os.environ.get("NVCC_CCBIN") or os.environ.get("CC") or "g++"]):
        where = shutil.which(name, path=path) or ""
        rows.append(Tool("C++ compiler", where, f"no {name}: apt-get install g++, or conda install -c conda-forge gxx"))
    header = Path(sysconfig.get_path("include")) / "Python.h"
    python = f"python{sys.version_info.major}.{sys.version_info.minor}-dev"
    rows.append(
        Tool("Python headers", str(header) if header.exists() else "", f"no {header}: apt-get install {python}")
    )
    rows.append(Tool("ninja", shutil.which("ninja", path=path) or "", "no ninja: pip install ninja"))
    return rows


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
