"""The GPUs and the driver that the system shows, found without torch: why torch may see none of them."""

import contextlib
import ctypes
import os
import re
from dataclasses import dataclass
from pathlib import Path

# The oldest driver of each CUDA major version (CUDA release notes, "minor version compatibility").
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
OLDER_BUILD = "cu126"  # of torch, for a driver that is too old for PyPI's
NVIDIA = "0x10de"  # PCI vendor
DISPLAY = "0x03"  # PCI class


@dataclass(frozen=True)
class System:
    """What the system shows of NVIDIA GPUs.

    given: GPUs that this process may open. refused: GPUs that it may not, as in a job that asked for none. on_bus: cards
    on the PCI bus, which a container shows too. driver: its version, None if none is loaded. cuda: the CUDA major version
    that the driver's library supports, 0 if that cannot be told; a compatibility package raises it above the driver's own.
    hidden: whether CUDA_VISIBLE_DEVICES hides all GPUs on purpose.
    """

    given: int
    refused: int
    on_bus: int
    driver: str | None
    hidden: bool
    cuda: int = 0

    @property
    def has_gpu(self) -> bool:
        """Whether there is a GPU that a person would expect to be used."""
        return not self.hidden and (self.given > 0 or self.refused > 0 or self.on_bus > 0)


def look(root: Path = Path("/")) -> System:
    """Look at device files, the PCI bus and the driver.

    Args:
        root: of the file system; another one in tests.
    """
    given = refused = 0
    for device in sorted((root / "dev").glob("nvidia[0-9]*")):
        try:
            os.close(os.open(device, os.O_RDWR))
            given += 1
        except OSError:
            refused += 1
    # Windows' subsystem for Linux shows its GPUs, of any vendor, as one device.
    given += (root / "dev/dxg").exists() and (root / "usr/lib/wsl/lib/libcuda.so.1").exists()
    bus = [_text(device / "vendor") for device in _display_devices(root)]
    return System(given, refused, bus.count(NVIDIA), _driver(root), _hidden(), supported_cuda() if given else 0)


def supported_cuda() -> int:
    """The CUDA major version that the driver's library supports; 0 if there is no library."""
    found = ctypes.c_int(0)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(found))
    return found.value // 1000


def why_unseen(system: System, torch_version: str, cuda: str | None, torch_says: str = "") -> str | None:
    """Why torch sees no GPU although the system has one, and what to do; None if there is none to see.

    Args:
        system: what `look` found.
        torch_version: torch.__version__.
        cuda: torch.version.cuda, None for a CPU build.
        torch_says: the error of torch's own attempt, if there was one.
    """
    if not system.has_gpu:
        return None
    if unusable := why_unusable(system, torch_version, cuda):
        return unusable
    if cuda and "driver on your system is too old" in torch_says:  # where the system does not tell the driver's version
        return _too_old(system, torch_version, cuda)
    if system.given == 0 and system.refused:
        return (
            f"this machine has {system.refused} NVIDIA GPU(s), but this process may not open them: ask the cluster for one "
            "(gpu=1 in the rule, --gres=gpu:1 by hand), or your administrator for access to /dev/nvidia*"
        )
    if system.given == 0 and system.driver is None:
        return (
            "an NVIDIA card is on the PCI bus, but its driver is not loaded: install the driver (R580 or newer), and in a "
            "container start it with the GPUs (docker run --gpus all)"
        )
    if system.given == 0:
        return (
            f"driver {system.driver} is loaded, but there is no /dev/nvidia0: start the container with the GPUs (docker run "
            "--gpus all), or run nvidia-smi once as root"
        )
    said = f" torch says: {torch_says.strip().splitlines()[0]}." if torch_says.strip() else ""
    return (
        f"there is an NVIDIA GPU here (driver {system.driver or 'unknown'}), but torch {torch_version} (CUDA {cuda}) cannot "
        f"use it.{said} See whether nvidia-smi works; after an update of the driver, restart the machine"
    )


def unseen() -> str | None:
    """`why_unseen` of this machine and its torch, which is imported."""
    import torch

    return why_unseen(look(), torch.__version__, torch.version.cuda, torch_error())


def why_unusable(system: System, torch_version: str, cuda: str | None) -> str | None:
    """Why this torch cannot use this driver, and what to do; None if it can. Arguments as of `why_unseen`."""
    release = torch_version.partition("+")[0]
    if cuda is None:
        return (
            f"there is an NVIDIA GPU here, but torch {torch_version} is a CPU build. Install PyPI's: pip uninstall torch, "
            f"then pip install torch=={release} (driver R580 or newer), or its {OLDER_BUILD} build for an older driver"
        )
    major = int(cuda.partition(".")[0])
    known = system.driver is not None and major in OLDEST_DRIVER
    by_number = known and version(system.driver or "") < OLDEST_DRIVER[major]
    return _too_old(system, torch_version, cuda) if (system.cuda < major if system.cuda else by_number) else None


def _too_old(system: System, torch_version: str, cuda: str) -> str:
    release, oldest = torch_version.partition("+")[0], OLDEST_DRIVER.get(int(cuda.partition(".")[0]), (580, 65))
    has = f"the NVIDIA driver here is {system.driver}" if system.driver else "the NVIDIA driver here is too old"
    return (
        f"{has}, and torch {torch_version} (CUDA {cuda}) needs {oldest[0]}.{oldest[1]} or newer. Update the driver, or install "
        f"the {OLDER_BUILD} build of the same torch, which works from driver 525 on: pip uninstall -y torch && pip install "
        f"torch=={release} --index-url https://download.pytorch.org/whl/{OLDER_BUILD}"
    )


def version(text: str) -> tuple[int, ...]:
    """A version as numbers: "580.65.06" is (580, 65, 6)."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def _display_devices(root: Path) -> list[Path]:
    devices = (root / "sys/bus/pci/devices").glob("*")
    return [device for device in devices if _text(device / "class").startswith(DISPLAY)]


def _driver(root: Path) -> str | None:
    found = re.search(r"NVRM.*?\s(\d{3,}\.\d+(?:\.\d+)?)\s", _text(root / "proc/driver/nvidia/version"))
    return found[1] if found else None


def _hidden() -> bool:
    devices = os.environ.get("CUDA_VISIBLE_DEVICES")
    return devices is not None and devices.strip() in ("", "-1")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def torch_error() -> str:
    """What torch says when it is asked for a GPU; "" if it finds one."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error)
    return ""
