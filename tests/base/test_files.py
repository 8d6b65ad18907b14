import json
import os
import sys
import threading

import h5py
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.base.files import atomic, open_h5, read_json, write_json
from mousefacelift.base.progress import track


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "a.tar"
    with atomic(path) as temporary:
        temporary.write_text("half")
        assert temporary.suffix == ".tar"
        assert temporary.parent == path.parent
        assert str(os.getpid()) in temporary.name
        assert not path.exists()
    assert path.read_text() == "half"
    assert names(path.parent) == ["a.tar"]


def test_success_replaces_and_an_error_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError), atomic(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])
    with atomic(path) as temporary:
        temporary.write_text("new")
    assert (path.read_text(), names(tmp_path)) == ("new", ["a.txt"])


def test_a_reader_of_the_old_file_never_sees_half_of_the_new_one(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with path.open() as reader:
        with atomic(path) as temporary:
            temporary.write_text("new and longer")
        assert reader.read() == "old"


def test_an_error_leaves_nothing_where_nothing_was(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == []


def test_what_a_killed_writer_left_is_deleted_by_the_next(tmp_path):
    (tmp_path / ".a.1234.partial.txt").write_text("half")
    (tmp_path / ".b.1234.partial.txt").write_text("another file's")
    with atomic(tmp_path / "a.txt") as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == [".b.1234.partial.txt", "a.txt"]


def test_json_round_trips_in_order_and_refuses_nan(tmp_path):
    path, value = tmp_path / "a.json", {"z": [1, 2.5, None], "a": "µm"}
    write_json(path, value)
    assert list(read_json(path, "x")) == ["z", "a"]
    assert read_json(path, "x") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, float("nan"))
    assert json.loads(path.read_text()) == value
    assert names(tmp_path) == ["a.json"]


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe", b""])
def test_damaged_json_names_the_file_and_the_stage_that_makes_it(tmp_path, content):
    path = tmp_path / "rig.json"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"{path}: damaged .* run `mousefacelift cameras` again"):
        read_json(path, "mousefacelift cameras")


def test_missing_files_name_the_stage_that_writes_them(tmp_path):
    with pytest.raises(UserError, match=r"a\.json: no such file; it is written by `mousefacelift cameras`"):
        read_json(tmp_path / "a.json", "mousefacelift cameras")
    with pytest.raises(UserError, match=r"a\.h5: no such file; it is written by `mousefacelift center`"):  # noqa: SIM117
        with open_h5(tmp_path / "a.h5", "mousefacelift center"):
            pass


def test_damaged_hdf5_names_the_file_and_the_stage_that_makes_it(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file["frame"] = list(range(1000))
    with open_h5(path, "x") as file:
        assert file["frame"][3] == 3
    for missing in (lambda file: file["area_px"], lambda file: file.attrs["size"]):
        with pytest.raises(UserError, match=r"a\.h5: .*(area_px|size).*run `mousefacelift center` again"):  # noqa: SIM117
            with open_h5(path, "mousefacelift center") as file:
                missing(file)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(UserError, match=r"a\.h5: not a readable HDF5 file .* run `mousefacelift center` again"):  # noqa: SIM117
        with open_h5(path, "mousefacelift center"):
            pass


def test_a_log_gets_a_line_every_ten_percent_and_at_the_end(capsys):
    done = track(57, "center day1")
    for _ in range(57):
        done()
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 10
    assert lines[0].startswith("center day1: 6/57 (")
    assert lines[-1].startswith("center day1: 57/57 (")


def test_a_few_items_get_a_line_each(capsys):
    done = track(3, "x")
    for _ in range(3):
        done()
    assert [line.split(" (")[0] for line in capsys.readouterr().err.splitlines()] == ["x: 1/3", "x: 2/3", "x: 3/3"]


def test_progress_counts_every_item_from_any_thread(capsys):
    done = track(400, "x")
    threads = [threading.Thread(target=lambda: [done() for _ in range(100)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert any(line.startswith("x: 400/400") for line in lines)


def test_a_terminal_gets_a_bar_that_ends_full(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    done = track(4, "center day1")
    for _ in range(4):
        done()
    assert "4/4" in capsys.readouterr().err
