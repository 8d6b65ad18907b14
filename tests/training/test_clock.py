"""The clock of a step's parts, on the CPU and on a device whose instants can be read only when it has reached them."""

from typing import ClassVar

import pytest
import torch

from mousefacelift.training import clock
from mousefacelift.training.clock import MACHINE_COLUMNS, PARTS, StepClock


class Time:
    """A clock that the test sets."""

    now = 100.0

    def perf_counter(self):
        return self.now


@pytest.fixture
def passing(monkeypatch):
    monkeypatch.setattr(clock, "time", found := Time())
    return found


def test_seconds_are_means_per_step_since_they_were_last_taken(passing):
    measured = StepClock(torch.device("cpu"))
    for first in (1, 2, 3):  # seconds of the first part; each other part takes one more than the one before it
        measured.start()
        for number, part in enumerate(PARTS):
            passing.now += first + number
            measured.end(part)
        measured.settle()
    row = measured.take(batch_size=54)
    assert row == {f"seconds_{part}": 2 + number for number, part in enumerate(PARTS)} | {"samples_per_s": 2}
    assert row.keys() == set(MACHINE_COLUMNS) - {"seconds", "gpu_gb"}
    measured.start()
    for part in PARTS:
        passing.now += 1
        measured.end(part)
    assert measured.take(6) == {f"seconds_{part}": 1 for part in PARTS} | {"samples_per_s": 1}


def test_the_parts_of_a_batch_in_parts_add_up_to_its_step(passing):
    measured = StepClock(torch.device("cpu"))
    for parts in (PARTS[:-1], PARTS):
        measured.start()
        for part in parts:
            passing.now += 1
            measured.end(part)
    row = measured.take(11)
    assert row["seconds_model"] == 2 and row["seconds_optimizer"] == 1 and row["samples_per_s"] == 1


def test_what_happens_before_a_start_belongs_to_no_part(passing):
    measured = StepClock(torch.device("cpu"))
    passing.now += 50  # a validation
    measured.start()
    passing.now += 1
    measured.end("data")
    assert measured.take(1) == {"seconds_data": 1}


class Event:
    """A CUDA event of a device that has reached what was recorded before the host last waited for it."""

    recorded: ClassVar[list["Event"]] = []
    reached = 0

    def __init__(self, enable_timing):
        assert enable_timing

    def record(self):
        self.number = len(Event.recorded)
        Event.recorded.append(self)

    def elapsed_time(self, end):
        assert self.number < Event.reached and end.number < Event.reached, "the device has not reached the event"
        return 1000.0 * (end.number - self.number)


def test_a_gpu_is_never_waited_for(monkeypatch):
    """Its events are read where the host has waited anyway; what a step does after that is read in the next one."""
    monkeypatch.setattr(Event, "recorded", [])
    monkeypatch.setattr(clock.torch.cuda, "Event", Event)
    monkeypatch.setattr(clock.torch.cuda, "max_memory_allocated", lambda _: 3.5e9)
    resets = []
    monkeypatch.setattr(clock.torch.cuda, "reset_peak_memory_stats", resets.append)
    monkeypatch.setattr(clock.torch.cuda, "synchronize", lambda *_: pytest.fail("the GPU was waited for"))
    measured = StepClock(torch.device("cuda"))
    for number in range(2):
        measured.start()
        for part in PARTS[:-1]:
            measured.end(part)
        Event.reached = len(Event.recorded)
        measured.settle()
        measured.end("optimizer")
        row = measured.take(2)
        assert row["gpu_gb"] == 3.5 and len(resets) == number + 1
        assert all(row[f"seconds_{part}"] == 1 for part in PARTS[:-1])
        assert ("seconds_optimizer" in row) == ("samples_per_s" in row) == bool(number)
