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

from mousefacelift.errors import UserError
from mousefacelift.rigs import read_rig
from rigfiles import FIXTURES, files_of

SLOW = ("multicam-hdf5", "label3d-7.3")
SHARE = int(os.environ.get("MOUSEFACELIFT_FUZZ", "400")) / (len(FIXTURES) - 0.9 * len(SLOW))
SECONDS = 20
TOKENS = [
    b"0", b"-1", b"1e999", b"nan", b".Nan", b"Infinity", b"1e-320", b"9" * 400, b"-", b"null", b"true", b'""', b"[]", b"{}", b"[", b"]",
    b"{", b"}", b":", b",", b"\n", b"\t", b"\0", b"\xff", b"\xef\xbb\xbf", b"%YAML:1.0\n---\n", b"!!opencv-matrix", b"!!python/name:os.system",
    b"&a", b"*a", b"<!DOCTYPE a>", b"<!--", b"]]>", b"&lt;", b"...\n---\n", b"\r\n", b"cos\nsystem\n", b"R", b"\x80\x04", b"\x89HDF",
    b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\xff" * 8, b"\x00" * 8, b"\x00\x00\x00\x80", b"names", b"cameras", b"K", b"R_cam_1",
    "é".encode(), "١".encode(), "🐭".encode(), b"..", b"../../etc/passwd", b"'", b'"', b"\\u0000", b"#", b"=", b"rows: 1000000000",
]  # fmt: skip


def mutate(data, kind, at, to, token):
    """One change of a file's bytes. at, to: places as fractions of its length."""
    i, j = sorted((int(at * len(data)), int(to * len(data))))
    if kind == "flip" and data:
        i = min(i, len(data) - 1)
        return data[:i] + bytes([data[i] ^ (1 << (len(token) + j) % 8)]) + data[i + 1 :]
    if kind == "cut":
        return data[:i]
    if kind == "insert":
        return data[:i] + token + data[i:]
    if kind == "overwrite":
        return data[:i] + token + data[i + len(token) :]
    if kind == "duplicate":
        return data[: min(j, i + 4000)] + data[i:]
    if kind == "remove":
        return data[:i] + data[min(j, i + 200) :]
    lines = data.split(b"\n")
    line = min(int(at * len(lines)), len(lines) - 1)
    if kind == "remove line":
        return b"\n".join(lines[:line] + lines[line + 1 :])
    if kind == "repeat line":
        return b"\n".join(lines[: line + 1] + lines[line:])
    # A whole word, number or name, becomes another.
    start = max(data.rfind(mark, 0, i) for mark in (b" ", b"[", b"\n", b'"')) + 1
    ends = [end for mark in (b" ", b",", b"\n", b'"', b"]") if (end := data.find(mark, start)) >= 0]
    return data[:start] + token + data[min(ends, default=len(data)) :]


KINDS = ["flip", "cut", "insert", "overwrite", "duplicate", "remove", "remove line", "repeat line", "word"]
fractions = st.integers(0, 9999).map(lambda n: n / 10_000)
tokens = st.sampled_from(TOKENS) | st.floats().map(lambda x: repr(x).encode()) | st.binary(max_size=12)
mutations = st.lists(st.tuples(st.sampled_from(KINDS), fractions, fractions, tokens), min_size=1, max_size=4)


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
    monkeypatch.setattr("mousefacelift.rigs.hdf5.MAX_CPU_SECONDS", 3)
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
