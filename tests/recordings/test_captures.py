import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mousefacelift.base.errors import UserError
from mousefacelift.recordings.captures import captures_table, demo_table, read_captures
from support.mutations import mutate, mutations
from support.paths import ROOT

HEADER = "capture\tanimal\tvideos\tmasks\tcalibration\tformat\tfps\tunit"
ROW = "day1\tm01\tv/cam{camera}.mp4\tm/cam{camera}.mkv\tc/cam{camera}.mat\tdannce\t50\tcm"


SYNC = f"{HEADER}\tsync\tcalibration_names"


@pytest.fixture
def lab(tmp_path):
    """A function that writes a table beside the files of two cameras, 2 and 10, and returns its path."""
    touch(tmp_path, *(f for c in ("2", "10") for f in (f"v/cam{c}.mp4", f"m/cam{c}.mkv", f"c/cam{c}.mat")))

    def write(*lines, name="captures.tsv", encoding="utf-8"):
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding=encoding)
        return path

    return write


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def error(path):
    with pytest.raises(UserError) as caught:
        read_captures(path)
    return str(caught.value)


def test_a_row_becomes_a_capture_with_its_files_matched_by_camera(lab, tmp_path):
    capture = read_captures(lab(HEADER, ROW))["day1"]
    assert (capture.name, capture.animal, capture.format, capture.fps, capture.unit) == (
        "day1",
        "m01",
        "dannce",
        50,
        "cm",
    )
    assert capture.cameras == ("2", "10")
    assert capture.videos == (tmp_path / "v/cam2.mp4", tmp_path / "v/cam10.mp4")
    assert capture.masks == (tmp_path / "m/cam2.mkv", tmp_path / "m/cam10.mkv")
    assert capture.calibration == (tmp_path / "c/cam2.mat", tmp_path / "c/cam10.mat")


def test_optional_columns_have_defaults_whether_empty_or_absent(lab):
    empty = lab(HEADER, "day1\t\tv/cam{camera}.mp4\t\tc/cam{camera}.mat\t\t\t")
    absent = lab(
        "videos\tcalibration\tcapture",
        "v/cam{camera}.mp4\tc/cam{camera}.mat\tday1",
        name="short.tsv",
    )
    for path in (empty, absent):
        capture = read_captures(path)["day1"]
        assert (capture.animal, capture.format, capture.fps, capture.unit) == ("day1", "auto", None, "mm")
        assert (capture.masks, capture.sync, capture.calibration_names) == ((), (0, 0), {})


def test_animals_of_one_recording_are_rows_with_its_files_and_their_labels(lab):
    one, two = ROW.replace("day1", "a", 1) + "\t1", ROW.replace("day1", "b", 1) + "\t2"
    captures = read_captures(lab(HEADER + "\tlabel", one, two))
    assert [(each.label, each.videos) for each in captures.values()] == [
        (1, captures["a"].videos),
        (2, captures["a"].videos),
    ]
    assert read_captures(lab(HEADER, ROW))["day1"].label is None


def test_a_label_is_a_number_that_an_image_of_labels_can_hold(lab):
    for text in ("left", "-1", "65535", "1.5"):
        with pytest.raises(
            UserError, match=rf"line 2: capture 'day1', column 'label': '{text}' is not an animal's number"
        ):
            read_captures(lab(HEADER + "\tlabel", ROW + "\t" + text))


def test_a_calibration_may_be_one_file_or_folder_for_the_whole_rig(lab, tmp_path):
    touch(tmp_path, "rig.toml")
    for name in ("rig.toml", "c"):
        capture = read_captures(lab(HEADER, ROW.replace("c/cam{camera}.mat", name)))["day1"]
        assert capture.calibration == tmp_path / name


def test_late_cameras_and_other_names_in_the_calibration_are_given_by_camera(lab):
    capture = read_captures(lab(SYNC, f"{ROW}\t10=3, 2=-1\t2 = left, 10=top view"))["day1"]
    assert capture.sync == (-1, 3)
    assert capture.calibration_names == {"2": "left", "10": "top view"}


def test_a_recording_may_be_a_folder(lab, tmp_path):
    touch(tmp_path, *(f"f/Camera{c}/{k}.mp4" for c in (2, 10) for k in (0, 3000)))
    capture = read_captures(lab(HEADER, ROW.replace("v/cam{camera}.mp4", "f/Camera{camera}")))["day1"]
    assert capture.videos == (tmp_path / "f/Camera2", tmp_path / "f/Camera10")


def test_cameras_come_in_natural_order(lab, tmp_path):
    names = ["cam1", "cam2", "cam10", "cam10b", "side", "top2", "top11"]
    touch(tmp_path, *(f"n/{kind}_{name}.x" for name in names for kind in "vmc"))
    table = lab(HEADER, "day1\t\tn/v_{camera}.x\tn/m_{camera}.x\tn/c_{camera}.x\t\t\t")
    assert read_captures(table)["day1"].cameras == tuple(names)


def test_a_camera_may_be_a_folder_of_the_path(lab, tmp_path):
    touch(tmp_path, "videos/Camera2/0.mp4", "videos/Camera10/0.mp4", "videos/Camera10/3000.mp4", "videos/readme/0.mp4")
    table = lab(HEADER, ROW.replace("v/cam{camera}.mp4", "videos/Camera{camera}/0.mp4"))
    assert read_captures(table)["day1"].videos == (
        tmp_path / "videos/Camera2/0.mp4",
        tmp_path / "videos/Camera10/0.mp4",
    )


def test_paths_are_relative_to_the_table_or_absolute(lab, tmp_path):
    (tmp_path / "tables").mkdir()
    above = lab(
        HEADER, ROW.replace("v/", "../v/").replace("m/", f"{tmp_path}/m/").replace("c/", "../c/"), name="tables/a.tsv"
    )
    capture = read_captures(above)["day1"]
    assert all(path.exists() for path in (*capture.videos, *capture.masks, *capture.calibration))


def test_a_pattern_is_no_regular_expression(lab, tmp_path):
    touch(tmp_path, "p/a+(1).mp4", "p/aa1x.mp4")
    table = lab(HEADER, "d\t\tp/a+({camera}).mp4\tp/a+({camera}).mp4\tp/a+({camera}).mp4")
    assert read_captures(table)["d"].cameras == ("1",)


def test_comments_empty_lines_and_a_byte_order_mark_are_skipped(lab):
    plain = lab(HEADER, ROW)
    decorated = lab("# a comment", "", HEADER, "  # another", "\t\t", ROW, "", name="b.tsv", encoding="utf-8-sig")
    assert decorated.read_bytes().startswith(b"\xef\xbb\xbf")
    assert read_captures(decorated) == read_captures(plain)


def test_windows_line_ends_and_spaces_around_cells_do_not_matter(lab, tmp_path):
    plain = lab(HEADER, ROW)
    path = tmp_path / "windows.tsv"
    path.write_bytes(f"{HEADER}\r\n{ROW}\r\n".replace("\t", " \t ").encode())
    assert read_captures(path) == read_captures(plain)


def test_a_table_without_rows_means_the_demo(lab, tmp_path):
    assert captures_table(None) == demo_table()
    assert captures_table(str(lab("# nothing yet", HEADER))) == demo_table()
    assert captures_table(str(lab(""))) == demo_table()
    used = lab(HEADER, ROW)
    assert captures_table(str(used)) == used
    with pytest.raises(UserError, match="no captures in the table"):
        read_captures(lab(HEADER))


def test_the_demo_is_one_capture_of_six_cameras_in_millimetres(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (capture,) = read_captures(demo_table()).values()
    assert (capture.name, capture.cameras, capture.fps, capture.unit) == ("rodent-a", tuple("123456"), 20, "mm")
    monkeypatch.chdir(ROOT)
    assert demo_table() == Path("workflow/demo/captures.tsv")


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ((HEADER.replace("fps", "rate"), ROW), "line 1: unknown column 'rate'; valid, separated by tabs: capture, animal,"),
        ((HEADER.replace("\t", " "), ROW), "line 1: unknown column 'capture animal"),
        (("# c", HEADER, "", ROW + "\tx"), "line 4: 9 cells for 8 columns"),
        ((HEADER, ROW.replace("day1", "")), "line 2: column 'capture' is empty"),
        ((HEADER, ROW.replace("c/cam{camera}.mat", "")), "line 2: column 'calibration' is empty"),
        ((HEADER, ROW.replace("c/cam{camera}.mat", "rig.toml")), "column 'calibration': no such file or folder: "),
        ((SYNC, f"{ROW}\t2"), "column 'sync': '2' is not camera=value"),
        ((SYNC, f"{ROW}\t3=1"), "column 'sync': no camera '3'; the videos name 2, 10"),
        ((SYNC, f"{ROW}\t2=1.5"), "column 'sync', camera 2: '1.5' is not a number of frames"),
        ((SYNC, f"{ROW}\t2=1,2=3"), "column 'sync': camera '2' is named twice"),
        ((SYNC, f"{ROW}\t\t10="), "column 'calibration_names': '10=' is not camera=value"),
        ((HEADER, "day1"), "line 2: column 'videos' is empty"),
        ((HEADER, ROW.replace("day1", "day 1")), "line 2: capture 'day 1': use at most 64 letters, digits"),
        ((HEADER, ROW.replace("day1", "../day1")), "capture '../day1': use at most 64 letters"),
        ((HEADER, ROW, "# c", ROW), "line 4: capture 'day1' is listed twice"),
        ((HEADER, ROW.replace("cm", "inch")), "capture 'day1', column 'unit': 'inch' is not one of mm, cm, m"),
        ((HEADER, ROW.replace("50", "-50")), "column 'fps': '-50' is not a positive number"),
        ((HEADER, ROW.replace("50", "0")), "column 'fps': '0' is not a positive number"),
        ((HEADER, ROW.replace("50", "inf")), "column 'fps': 'inf' is not a positive number"),
        ((HEADER, ROW.replace("50", "nan")), "column 'fps': 'nan' is not a positive number"),
        ((HEADER, ROW.replace("50", "fast")), "column 'fps': 'fast' is not a positive number"),
        ((HEADER, ROW.replace("dannce", "matlab")), "column 'format': 'matlab' is not one of auto, "),
        ((HEADER, ROW.replace("v/", "films/")), "column 'videos': no file matches"),
        ((HEADER, ROW.replace("cam{camera}.mp4", "cam2.mp4")), "'v/cam2.mp4' must hold {camera} once"),
        ((HEADER, ROW.replace("v/cam", "v{camera}/cam")), "must hold {camera} once"),
        ((HEADER, '"' + ROW, ROW), "line 2: column 'videos' is empty"),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_table_line_and_column(lab, lines, message):
    path = lab(*lines)
    found = error(path)
    assert found.startswith(f"{path}, line ")
    assert message in found


def test_a_camera_present_in_one_column_only_is_named(lab, tmp_path):
    touch(tmp_path, "m/cam3.mkv")
    (tmp_path / "m/cam10.mkv").unlink()
    found = error(lab(HEADER, ROW))
    assert "capture 'day1'" in found
    assert "names cameras 2, 10; column 'masks' (m/cam{camera}.mkv) lacks 10; also has 3" in found


def test_a_missing_or_unreadable_table_is_named(tmp_path):
    assert error(tmp_path / "no.tsv") == f"{tmp_path}/no.tsv: no such captures table (configuration key 'captures')"
    binary = tmp_path / "binary.tsv"
    binary.write_bytes(b"\xff\xfe\x00capture")
    for path in (binary, tmp_path):
        assert error(path).startswith(f"{path}: not a readable text file")


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_gives_captures_or_a_users_error(text):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "captures.tsv"
        path.write_text(f"{HEADER}\n{text}\n", encoding="utf-8")
        with pytest.raises(UserError, match=re.escape(str(path))):
            read_captures(path)


@given(st.lists(st.text("a1²٣_", min_size=1, max_size=4), min_size=1, max_size=5, unique=True))
def test_any_camera_names_can_be_ordered(names):
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        touch(Path(folder), *(f"cam-{name}.x" for name in names))
        table = Path(folder) / "captures.tsv"
        table.write_text("capture\tvideos\tmasks\tcalibration\nd" + "\tcam-{camera}.x" * 3)
        assert sorted(read_captures(table)["d"].cameras) == sorted(names)


@pytest.mark.filterwarnings("error")
def test_a_mutated_table_gives_captures_or_a_users_error_and_touches_nothing(tmp_path):
    """MOUSEFACELIFT_FUZZ sets the number of tables."""
    touch(tmp_path, *(f for c in ("2", "10") for f in (f"v/cam{c}.mp4", f"m/cam{c}.mkv", f"c/cam{c}.mat")))
    path = tmp_path / "captures.tsv"
    table = f"# comment\n{SYNC}\n{ROW}\t2=3\t10=left\n{ROW.replace('day1', 'day2')}\n".encode()
    before = sorted(tmp_path.rglob("*"))

    @settings(max_examples=int(os.environ.get("MOUSEFACELIFT_FUZZ", "400")) // 2)
    @given(mutations)
    def check(changes):
        data = table
        for change in changes:
            data = mutate(data, *change)
        path.write_bytes(data)
        try:
            found = read_captures(path)
        except UserError as error:
            assert str(path) in str(error)
        else:
            assert all(len(c.videos) == len(c.cameras) == len(c.sync) for c in found.values())
        assert sorted(tmp_path.rglob("*")) in (before, sorted([*before, path]))

    check()
