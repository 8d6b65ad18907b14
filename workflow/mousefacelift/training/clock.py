"""How long the parts of a training step take, and how much memory they need, without making a GPU wait."""

import time
from collections import defaultdict
from typing import Any

import torch

# The parts of a step, in their order. `optimizer` begins with clipping.
PARTS = ("data", "model", "render", "loss", "backward", "optimizer")
# The columns of metrics.csv that tell of the machine: no two runs share them.
MACHINE_COLUMNS = ("seconds", "samples_per_s", "gpu_gb", *(f"seconds_{part}" for part in PARTS))


class DeviceClock:
    """Instants on a device: CUDA events, which do not make the GPU wait, or the CPU's own time."""

    def __init__(self, device: torch.device):
        self.device, self.cuda = device, device.type == "cuda"

    def now(self) -> Any:
        """The present instant in the device's work."""
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def seconds(self, begin: Any, end: Any) -> float:
        """Seconds between two instants, which the device must have reached."""
        return begin.elapsed_time(end) / 1000 if self.cuda else end - begin


class StepClock:
    """The seconds of each of PARTS, as means per step, and the peak of a GPU's memory.

    On a GPU an instant can be read only when the device has reached it. `settle` is called once per step, where the host has
    just waited for the device. What a step does after that, which is its `optimizer`, is then read in the next step.
    """

    def __init__(self, device: torch.device):
        self._clock = DeviceClock(device)
        self._ended: list[tuple[str, Any, Any]] = []
        self._reset()
        self.start()

    def start(self) -> None:
        """Begin a part now; what came before, since the end of the last one, belongs to none."""
        self._last = self._clock.now()

    def end(self, part: str) -> None:
        """End a part, and begin the next one."""
        begin, self._last = self._last, self._clock.now()
        self._ended.append((part, begin, self._last))

    def settle(self) -> None:
        """Read what has ended so far; the device must have reached it."""
        for part, begin, end in self._ended:
            self._seconds[part] += self._clock.seconds(begin, end)
        for part in {part for part, *_ in self._ended}:
            self._steps[part] += 1
        self._ended.clear()

    def take(self, batch_size: int) -> dict[str, float]:
        """What was read since the last call, and begin anew.

        Args:
            batch_size: samples of a step.

        Returns:
            MACHINE_COLUMNS but for `seconds`: seconds of each part, means per step; samples per second, if all parts are
            known; GB of the GPU's memory that tensors took at most, on a GPU.
        """
        if not self._clock.cuda:
            self.settle()
        means = {part: self._seconds[part] / steps for part, steps in self._steps.items()}
        row = {f"seconds_{part}": seconds for part, seconds in means.items()}
        if len(means) == len(PARTS):
            row["samples_per_s"] = batch_size / max(sum(means.values()), 1e-9)
        if self._clock.cuda:
            row["gpu_gb"] = torch.cuda.max_memory_allocated(self._clock.device) / 1e9
            torch.cuda.reset_peak_memory_stats(self._clock.device)
        self._reset()
        return row

    def _reset(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)
        self._steps: dict[str, int] = defaultdict(int)
