"""Twelve kinds of damage for every reader: each must end in a UserError that names the file and, where there is one, the
field, and must run nothing, write nothing and take no memory to speak of.
"""

import os
import pickle
import re
import tracemalloc
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io

from mousefacelift.base.errors import UserError
from mousefacelift.rigs.containers import hdf5_child
from mousefacelift.rigs.containers.documents import MAX_PICKLE_BYTES, open_document
from mousefacelift.rigs.containers.hdf5 import load_hdf5, load_matlab73
from mousefacelift.rigs.names import match_cameras
from mousefacelift.rigs.registry import read_rig
from support import rigfiles
from support.rigfiles import FIXTURES, files_of
from support.rigs import rig

SIZE = (1152, 1024)


def nan(truth, fixture):
    """A NaN in the field whose name is returned."""
    if fixture.dist:
        return replace(truth, dist=truth.dist * [np.nan, 1, 1, 1, 1]), "dist"
    return replace(truth, t=truth.t * [1, np.nan, 1]), "t"


def stretched(truth, fixture):
    return replace(truth, R=truth.R * 1.02), "R"


def mirrored(truth, fixture):
    return replace(truth, R=truth.R @ np.diag([1, -1, 1.0])), "R"


def wrong_shape(truth, fixture):
    return replace(truth, K=truth.K[:2]), "K"


def swapped(truth, fixture):
    return replace(truth, K=truth.R, R=truth.K), "[KR]"


NUMERIC = {
    "NaN": nan,
    "not orthonormal": stretched,
    "mirrored": mirrored,
    "wrong shapes": wrong_shape,
    "swapped fields": swapped,
}


@pytest.mark.parametrize("kind", NUMERIC)
@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize("name", FIXTURES)
def test_damaged_numbers(tmp_path, name, kind):
    fixture = FIXTURES[name]
    truths = fixture.truths()
    damaged = [NUMERIC[kind](truth, fixture) for truth in truths]
    field = damaged[0][1]
    if name == "multicam-hdf5" or (name in ("mammal", "easymocap") and kind != "swapped fields"):
        changed = [truth for truth, _ in damaged]  # arrays of all cameras
    else:
        changed = [*truths[:2], damaged[2][0], truths[3]]
    source = fixture.write(tmp_path, changed)
    fields = "|".join(fixture.fields.values()) if field == "[KR]" else fixture.fields[field]
    with pytest.raises(UserError, match=rf"(?s){re.escape(str(tmp_path))}.*({fields})") as caught:
        read_rig(source, fixture.format)
    message = str(caught.value)
    if kind == "NaN":
        assert "NaN" in message
    if kind == "mirrored" and fixture.rotation == "matrix":
        assert "mirrored" in message
    if kind == "not orthonormal" and fixture.rotation != "vector":
        assert "not a rotation" in message


@pytest.mark.parametrize("factor", [1e-3, 1e3])
@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize("name", FIXTURES)
def test_a_unit_off_by_1000(tmp_path, name, factor):
    fixture = FIXTURES[name]
    source = fixture.write(tmp_path, [replace(truth, t=truth.t * factor) for truth in fixture.truths()])
    with pytest.raises(UserError, match=rf"{re.escape(str(tmp_path))}.*is the unit off by 1000.*; a unit .* fits"):
        read_rig(source, fixture.format)


@pytest.mark.usefixtures("hdf5_in_this_process")
@pytest.mark.parametrize("name", FIXTURES)
def test_a_missing_camera(tmp_path, name):
    fixture = FIXTURES[name]
    truths = fixture.truths()
    found = read_rig(fixture.write(tmp_path, truths[:3]), fixture.format)
    names = [truth.name for truth in truths]
    with pytest.raises(
        UserError, match=rf"capture x: camera '{names[3]}' is not in the calibration: .*{', '.join(names[:3])}$"
    ):
        match_cameras(found, names, [truth.size for truth in truths], "capture x")


class Payload:
    def __reduce__(self):
        return os.system, ("touch payload-ran",)


def payload_pickle():
    return pickle.dumps([{"K": Payload(), "R": np.eye(3), "T": np.zeros(3)}])


def hdf5_bomb(path):
    """A few kilobytes that claim a terabyte each."""
    with h5py.File(path, "w") as file:
        group = file.create_group("camera_parameters")
        for name, shape in (("intrinsic", (10**9, 3, 3)), ("rotation", (10**9, 3, 3)), ("translation", (10**10, 3))):
            group.create_dataset(name, shape, "f8", chunks=(1000, *shape[1:]), compression="gzip", fillvalue=1)
    return path.read_bytes()


YAML_PAYLOAD = b'%YAML:1.0\n---\ncamera_matrix: !!python/object/apply:os.system ["touch payload-ran"]\n'

WHOLE_FILES = {
    "empty": lambda folder: b"",
    "garbage": lambda folder: np.random.default_rng(3).bytes(5000),
    "pickle payload": lambda folder: payload_pickle(),
    "hdf5 bomb": lambda folder: hdf5_bomb(folder / "bomb"),
    "yaml tag": lambda folder: YAML_PAYLOAD,
}
NAMES = {
    "empty": "is empty",
    "garbage": "looks like|neither text",
    "pickle payload": "pickle",
    "hdf5 bomb": "HDF5|shape",
    "yaml tag": "YAML",
}


@pytest.mark.parametrize("kind", ["truncated", *WHOLE_FILES])
@pytest.mark.parametrize("name", FIXTURES)
def test_damaged_files(tmp_path, tmp_path_factory, monkeypatch, name, kind):
    fixture = FIXTURES[name]
    source = fixture.write(tmp_path, fixture.truths())
    monkeypatch.chdir(tmp_path)
    for path in files_of(source):
        whole = path.read_bytes()
        path.write_bytes(
            # In the middle of the numbers of the last camera.
            whole[: len(whole) * 7 // 8] if kind == "truncated" else WHOLE_FILES[kind](tmp_path_factory.mktemp("made"))
        )
        before = sorted(tmp_path.rglob("*"))
        for format in (fixture.format, "auto"):
            with pytest.raises(UserError) as caught:
                read_rig(source, format)
            message = str(caught.value)
            assert path.name in message or str(tmp_path) in message
            if format != "auto" and kind != "truncated" and fixture.format != "colmap":
                assert re.search(NAMES[kind], message), message
            assert len(message) < 2500
        assert sorted(tmp_path.rglob("*")) == before, "something ran, or was written"
        path.write_bytes(whole)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    ("thing", "named"),
    [
        (Payload(), "(posix|nt).system"),
        (np.array([{"a": 1}], object), "an array of 'O8'"),
        (np.zeros(2, [("x", float)]), "an array of 'V8'"),
        (Path("x"), "pathlib"),
        (eval, "builtins.eval|__builtin__.eval"),
        (complex(1, 2), "complex"),
    ],
)
def test_a_pickles_forbidden_names_are_told(tmp_path, monkeypatch, thing, named, protocol):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "new_cam.pkl").write_bytes(pickle.dumps([{"K": thing, "R": np.eye(3), "T": np.zeros(3)}], protocol))
    with pytest.raises(
        UserError, match=rf"new_cam\.pkl: the pickle asks for .*({named}).* refused, and nothing in it was run"
    ):
        read_rig(tmp_path / "new_cam.pkl", "mammal")
    assert not (tmp_path / "payload-ran").exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x04]r\xff\xff\xff\x7f.",  # a memo of two billion entries
        b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.",  # a bytearray of a terabyte
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\x00\x00\x00.",  # bytes of a terabyte
        b"\x80\x04\x95\xff\xff\xff\xff\xff\x00\x00\x00.",  # a frame of a terabyte
        b"\x80\x04cnumpy\nndarray\n(I1000000000000\ntR.",  # an array of eight terabytes
        b"\x80\x04cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I1000000000000\ntVb\ntR.",
        b"\x80\x04]" + b"]q\x00(" + b"h\x00" * 50 + b"e" + b"a.",  # a list that contains itself
        b"\x80\x04]q\x00K\x01a" + b"".join(b"]q%c(" % i + b"h%c" % (i - 1) * 10 + b"e" for i in range(1, 13)) + b".",
        b"\x80\x04" + b"]" * 100_000 + b"a" * 99_999 + b".",
        b"\x80\x04cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR}S'dtype'\nNsb.",
        b"\x80\x04cnumpy\ndtype\nN}S'function'\nNs\x86b.",  # sets an attribute of numpy's own function
    ],
)  # fmt: skip
def test_pickles_that_would_fill_the_memory_are_refused(tmp_path, limited_memory, program):
    (tmp_path / "new_cam.pkl").write_bytes(program)
    with pytest.raises(UserError, match=r"new_cam\.pkl: "):
        read_rig(tmp_path / "new_cam.pkl", "mammal")


@pytest.fixture
def limited_memory():
    """At most 2 GiB more than the process has now."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/statm")
    used = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else 8 << 30
    resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


def test_files_that_are_too_large_are_not_read(tmp_path):
    path = tmp_path / "new_cam.pkl"
    path.write_bytes(pickle.dumps([{"K": np.eye(3), "R": np.eye(3), "T": np.zeros(3)}]))
    os.truncate(path, MAX_PICKLE_BYTES + 1)  # a hole, which takes no disk
    with pytest.raises(UserError, match=r"new_cam\.pkl: 128 MiB; a calibration of this format has at most"):
        read_rig(path, "mammal")
    text = tmp_path / "a.toml"
    text.write_text("[cam_0]\n" + "#" * (5 << 20))
    with pytest.raises(UserError, match=r"a\.toml: 5 MiB"):
        read_rig(text)


# --- HDF5 ------------------------------------------------------------------------------------------------------------


def test_hdf5_bombs_are_named_before_memory_is_taken(tmp_path, limited_memory):
    hdf5_bomb(tmp_path / "bomb.h5")
    with pytest.raises(UserError, match=r"bomb\.h5, camera_parameters: field 'intrinsic' .*shape \(1000000000, 3, 3\)"):
        read_rig(tmp_path / "bomb.h5")


def test_hdf5_files_may_not_point_elsewhere_or_unfold(tmp_path, limited_memory):
    original = rigfiles.multicam_h5(tmp_path, rig())

    def with_rotation(name, make):
        path = tmp_path / f"{name}.h5"
        path.write_bytes(original.read_bytes())
        with h5py.File(path, "r+") as file:
            del file["camera_parameters/rotation"]
            make(file["camera_parameters"])
        return path

    def chunk(group):
        group.create_dataset(
            "rotation", (4, 3, 3), "f8", maxshape=(None, None, None), chunks=(10_000, 100, 100), compression="gzip"
        )

    def virtual(group):
        layout = h5py.VirtualLayout((4, 3, 3), "f8")
        layout[:] = h5py.VirtualSource(original, "camera_parameters/rotation", (4, 3, 3))
        group.create_virtual_dataset("rotation", layout)

    def raw(group):
        group.create_dataset("rotation", (4, 3, 3), "f8", external=[("/etc/passwd", 0, 288)])

    def loop(group):
        group["rotation"] = group

    cases = {
        "external": (lambda g: g.__setitem__("rotation", h5py.ExternalLink(str(original), "x")), "'rotation' is a link to another"),
        "soft": (lambda g: g.__setitem__("rotation", h5py.SoftLink("/x")), "'rotation' is a link to another"),
        "chunk": (chunk, "'rotation' declares chunks"),
        "virtual": (virtual, "'rotation' lies in other files"),
        "raw": (raw, "'rotation' lies in other files"),
        "loop": (loop, "more nested groups"),
        "text": (lambda g: g.__setitem__("rotation", "no matrix"), "field 'rotation' is not a numeric array"),
        "complex": (lambda g: g.__setitem__("rotation", np.ones((4, 3, 3), complex)), "field 'rotation' is not a numeric array"),
        "group": (lambda g: g.create_group("rotation"), "field 'rotation' is not a numeric array"),
        "none": (lambda g: g.__setitem__("rotation", h5py.Empty("f8")), "field 'rotation' is not a numeric array"),
    }  # fmt: skip
    for name, (make, message) in cases.items():
        path = with_rotation(name, make)
        with pytest.raises(UserError, match=rf"{name}\.h5.*{message}"):
            read_rig(path)
        # The process that reads HDF5 answers the same in this one.
        found = hdf5_child.answer("hdf5", str(path))
        assert ("problem" in found) is ("numeric array" not in message)
        assert "numeric array" in message or re.search(message, found["problem"])


def test_hdf5_files_on_which_the_library_never_ends_are_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr("mousefacelift.rigs.containers.hdf5.MAX_CPU_SECONDS", 1)
    path = rigfiles.multicam_h5(tmp_path, rig())
    data = bytearray(path.read_bytes())
    # The heap of camera names: a free block of no size, after which the library looks for the next one for ever.
    heap = data.index(b"GCOL")
    data[heap + 24 : heap + 32] = bytes(8)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"camera_params\.h5: damaged HDF5 file: the HDF5 library did not finish"):
        read_rig(path)


def test_hdf5_is_read_alike_in_a_process_of_its_own(tmp_path):
    for layout, name in (("hdf5", "multicam-hdf5"), ("matlab", "label3d-7.3")):
        path = FIXTURES[name].write(tmp_path, FIXTURES[name].truths())
        load = {"hdf5": load_hdf5, "matlab": load_matlab73}[layout]
        apart, here = load(path, "x"), hdf5_child.answer(layout, str(path))["content"]["group"]
        assert list(apart) == list(here)
        path.write_bytes(path.read_bytes()[:900])
        assert "damaged HDF5 file" in hdf5_child.answer(layout, str(path))["problem"]


def test_text_in_hdf5_files_is_bounded(tmp_path):
    path = rigfiles.multicam_h5(tmp_path, rig())
    with h5py.File(path, "r+") as file:
        del file["camera_parameters/camera_names"]
        file["camera_parameters/camera_names"] = np.array(["x" * 60_000] * 4, h5py.string_dtype())
    with pytest.raises(UserError, match="field 'camera_names' holds more text than names of cameras"):
        read_rig(path)


# --- MATLAB ----------------------------------------------------------------------------------------------------------


def test_zlib_bombs_in_matlab_files_are_left_packed(tmp_path):
    (truth, *_) = rig()
    scipy.io.savemat(tmp_path / "a.mat", rigfiles.dannce_table(truth), do_compression=True)
    packer = zlib.compressobj()
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(200)) + packer.flush()
    data = (tmp_path / "a.mat").read_bytes()
    bomb = np.array([15, len(packed)], "<u4").tobytes() + packed
    (tmp_path / "b.mat").write_bytes(data[:128] + bomb + data[128:])
    tracemalloc.start()
    assert len(read_rig(tmp_path / "b.mat")) == 1, "what is no calibration is skipped"
    assert tracemalloc.get_traced_memory()[1] < 20 << 20, "200 MiB were unpacked"
    tracemalloc.stop()
    (tmp_path / "c.mat").write_bytes(data[:128] + bomb)
    with pytest.raises(UserError, match=r"c\.mat.*no field 'K' \(found nothing\)"):
        read_rig(tmp_path / "c.mat", "dannce")


def test_matlab_arrays_that_claim_more_than_is_there(tmp_path, limited_memory):
    (truth, *_) = rig()
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, {"params": rigfiles.cell([rigfiles.dannce_table(truth)]), "camnames": rigfiles.cell(["a"])})
    data = path.read_bytes()
    dims = np.array([1, 1], "<i4").tobytes()
    for position in [match.start() for match in re.finditer(re.escape(dims), data)]:
        huge = np.array([2**31 - 1, 2**31 - 1], "<i4").tobytes()
        path.write_bytes(data[:position] + huge + data[position + 8 :])
        with pytest.raises(UserError, match=r"a\.mat"):
            read_rig(path, "dannce")


@pytest.mark.parametrize("missing", ["K", "r", "t", "RDistort", "TDistort"])
def test_missing_matlab_fields_are_named(tmp_path, missing):
    (truth, *_) = rig()
    table = rigfiles.dannce_table(truth)
    del table[missing]
    scipy.io.savemat(tmp_path / "cam1.mat", table)
    with pytest.raises(UserError, match=rf"^capture x: .*cam1\.mat, camera 'cam1': no field '{missing}' \(found "):
        read_rig(tmp_path / "cam1.mat", where="capture x")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"r": np.ones((1, 3))}, r"field 'r' has shape \(1, 3\), expected 3x3 numbers"),
        ({"t": [[1.0, 2]]}, r"field 't' has shape \(1, 2\), expected 3 numbers"),
        ({"TDistort": np.ones((2, 2))}, r"field 'TDistort' has shape \(2, 2\), expected 2 numbers"),
        ({"RDistort": [[1.0]]}, "field 'RDistort' holds 1 coefficients; 2 or 3 expected"),
        ({"t": "far"}, "field 't' is not a numeric array, but the text 'far'"),
        ({"r": {"a": 1}}, "field 'r' is not a numeric array, but a table with a"),
        ({"K": np.eye(3) * 1j}, "field 'K' is not a numeric array"),
        ({"t": [[1e200, 0, 0]]}, "field 't' holds 1e.200, more than any camera has"),
    ],
)
def test_wrong_matlab_fields_are_named(tmp_path, changes, message):
    (truth, *_) = rig()
    scipy.io.savemat(tmp_path / "cam1.mat", {**rigfiles.dannce_table(truth), **changes})
    with pytest.raises(UserError, match=rf"cam1\.mat, camera 'cam1': {message}"):
        read_rig(tmp_path / "cam1.mat")


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"camera 1: .*absent\.mat: no such file"):
        read_rig({"1": tmp_path / "absent.mat"})
    with pytest.raises(UserError, match="no calibration in this folder"):
        read_rig(tmp_path, "anipose")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="pipe: not a regular file"):
        read_rig(tmp_path / "pipe")


# --- Text ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": NaN}', "field 'a' is NaN or infinity"),
        ('{"a": [1, {"b": -Infinity}]}', r"field 'a\[1\]\.b' is NaN or infinity"),
        ('{"cam": 1, "cam": 2}', "'cam' occurs twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": 1', "damaged JSON"),
        ('{"a": ' + "1" * 5000 + "}", "damaged JSON"),
        ("a = " + "[" * 100_000, "damaged TOML|nested too deeply"),
        ("%YAML:1.0\n---\na: " + "[" * 20_000, "nested too deeply|damaged"),
        ("%YAML:1.0\n---\na: &x [1]\nb: *x\n", "aliases .* are refused"),
        ("%YAML:1.0\n---\na: 1\na: 2\n", "'a' twice"),
        ("%YAML:1.0\n---\na: !!opencv-matrix\n  rows: 9999999\n  cols: 9999999\n  dt: d\n  data: [1]\n", "holds 1"),
        ("%YAML:1.0\n---\na: !!opencv-matrix\n  rows: 1\n", "lacks cols, data, dt"),
        ("%YAML:1.0\n---\na: !!opencv-matrix\n  rows: 1\n  cols: 1\n  dt: q\n  data: [1]\n", "unknown type 'q'"),
        ("%YAML:1.0\n---\na: !!python/name:os.system\n", "tag 'tag:yaml.org,2002:python/name:os.system' is refused"),
        ("%YAML:1.0\n---\n- !<tag:yaml.org,2002:map> [1]\n", "expected a table"),
        ('<?xml version="1.0"?><!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>', "document type, entities or CDATA is refused"),
        ("<a>" * 50_000 + "</a>" * 50_000, "nested too deeply"),
        ("<a><b></a>", "damaged XML"),
        ("<opencv_storage><K type_id='opencv-matrix'><rows>3</rows></K></opencv_storage>", "damaged XML"),
    ],
)  # fmt: skip
def test_dangerous_or_damaged_text_is_refused(tmp_path, limited_memory, text, message):
    (tmp_path / "file").write_text(text)
    with pytest.raises(UserError, match=f"(?s)file: .*({message})"):
        open_document(tmp_path / "file", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("name", "file"), [("easymocap", "intri.yml"), ("colmap-text", "images.txt"), ("colmap-binary", "images.bin")]
)
def test_errors_in_a_folders_file_begin_with_the_capture(tmp_path, name, file):
    source = FIXTURES[name].write(tmp_path, FIXTURES[name].truths())
    (tmp_path / file).write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"^capture x: {re.escape(str(tmp_path / file))}: |^capture x: .*no cameras in it"
    ):
        read_rig(source, where="capture x")


def test_numbers_that_are_none_say_so(tmp_path):
    truths = rig()
    source = rigfiles.jarvis(tmp_path, truths)
    path = source["cam_2"]
    path.write_text(re.sub(r"data: \[ [^,]*,", "data: [ .Nan,", path.read_text(), count=1))
    with pytest.raises(UserError, match=r"camera cam_2: .*cam_2\.yaml, camera 'cam_2': field '.*' holds NaN"):
        read_rig(source)


def test_every_fixture_is_damaged_and_every_reader_has_a_fixture():
    from mousefacelift.rigs.registry import FORMATS

    assert {fixture.format for fixture in FIXTURES.values()} == set(FORMATS)
    assert all(isinstance(fixture.fields, Mapping) for fixture in FIXTURES.values())
