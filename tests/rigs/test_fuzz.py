"""Mutated files of every format: a reader may succeed or raise UserError, and nothing else, in bounded memory.

MOUSEFACELIFT_FUZZ sets the number of examples, over all formats. HDF5 is read by a process of its own, which takes a
third of a second to start: these formats get a tenth of the others' examples.
"""

import os
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mousefacelift.base.errors import UserError
from mousefacelift.rigs.registry import read_rig
from support.mutations import mutate, mutations
from support.rigfiles import FIXTURES, files_of

SLOW = ("multicam-hdf5", "label3d-7.3")
SHARE = int(os.environ.get("MOUSEFACELIFT_FUZZ", "400")) / (len(FIXTURES) - 0.9 * len(SLOW))
SECONDS = 20


@pytest.fixture(scope="module", autouse=True)
def limited_memory():
    """At most 2 GiB of addresses and 300 MB of memory more than now."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    if status.exists():
        used = int(status.read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 300_000, "a reader took too much memory"


@pytest.mark.parametrize("name", FIXTURES)
def test_mutated_files_are_read_or_refused(tmp_path, monkeypatch, capsys, name):
    monkeypatch.setattr("mousefacelift.rigs.containers.hdf5.MAX_CPU_SECONDS", 3)
    fixture = FIXTURES[name]
    source = fixture.write(tmp_path, fixture.truths())
    originals = {path: path.read_bytes() for path in tmp_path.iterdir()}
    paths = files_of(source)

    @settings(max_examples=max(1, round(SHARE * (0.1 if name in SLOW else 1))), suppress_health_check=list(HealthCheck))
    @given(st.integers(0, len(paths) - 1), mutations)
    def check(which, changes):
        data = originals[paths[which]]
        for change in changes:
            data = mutate(data, *change)
        paths[which].write_bytes(data)
        start = time.monotonic()
        try:
            for format in (fixture.format, "auto"):
                try:
                    rig = read_rig(source, format)
                except UserError as error:
                    assert str(tmp_path) in str(error)
                else:
                    numbers = np.concatenate([np.concatenate([c.K.ravel(), c.dist, c.R.ravel(), c.t]) for c in rig])
                    assert np.isfinite(numbers).all()
            assert time.monotonic() - start < SECONDS
            assert paths[which].read_bytes() == data
            assert set(tmp_path.iterdir()) == set(originals)
        finally:
            paths[which].write_bytes(originals[paths[which]])

    check()
    capsys.readouterr()
