import h5py
import numpy as np
import pytest

from mousefacelift.artifacts.center import Arenas, CenteredChunk
from mousefacelift.base.errors import UserError
from support.stagefiles import chunk, same

CAMERAS = ("1", "top left")


def arenas():
    random = np.random.default_rng(0)
    models = {name: {"background": random.integers(0, 256, (4, 5, 3)).astype(np.uint8), "level": random.normal(size=(2, 2, 3)).astype(np.float32)} for name in CAMERAS}  # fmt: skip
    return Arenas("day1", models)


def test_crops_stay_in_an_opened_file_until_a_row_of_them_is_asked_for(tmp_path):
    file = chunk()
    file.write(tmp_path / "0000.h5")
    with CenteredChunk.open(tmp_path / "0000.h5", "day1") as opened:
        assert isinstance(opened.crop_zstd, h5py.Dataset)
        assert isinstance(opened.window, np.ndarray)
        for n in range(4):
            row = opened.crop_zstd[n]
            assert [crop.tolist() for crop in row] == [crop.tolist() for crop in file.crop_zstd[n]]
    with pytest.raises(UserError, match=r"0000\.h5: is of capture day1, not of day2"):  # noqa: SIM117
        with CenteredChunk.open(tmp_path / "0000.h5", "day2"):
            pass


def test_another_chunk_is_named(tmp_path):
    chunk(number=3).check_chunk(tmp_path / "0003.h5", 3)
    with pytest.raises(UserError, match=r"0003\.h5: is chunk 3 of capture day1, not chunk 2"):
        chunk(number=3).check_chunk(tmp_path / "0003.h5", 2)


def test_measures_of_chunks_are_joined_in_order():
    joined = CenteredChunk.joined([chunk(number=0), chunk(number=1)])
    assert joined.frame.tolist() == list(range(8))
    assert same(joined.at(slice(0, 4)), chunk(number=0))


def test_arenas_are_read_again_camera_by_camera(tmp_path):
    path = tmp_path / "background.h5"
    arenas().write(path)
    read = Arenas.read(path, "day1", CAMERAS)
    assert read.capture == "day1" and list(read.models) == list(CAMERAS)
    for name in CAMERAS:
        assert set(read.models[name]) == {"background", "level"}
        for key, value in arenas().models[name].items():
            assert read.models[name][key].dtype == value.dtype
            np.testing.assert_array_equal(read.models[name][key], value)
    assert list(Arenas.read(path, "day1", CAMERAS[1:]).models) == ["top left"]


def test_an_arena_that_does_not_fit_the_capture_is_named(tmp_path):
    path = tmp_path / "background.h5"
    with pytest.raises(UserError, match=r"background\.h5: no such file; it is written by `mousefacelift background`"):
        Arenas.read(path, "day1", CAMERAS)
    arenas().write(path)
    with pytest.raises(UserError, match=r"background\.h5: is of capture day1, not of day2"):
        Arenas.read(path, "day2", CAMERAS)
    with pytest.raises(
        UserError, match=r"background\.h5: lacks camera 7, 8 of .* run `mousefacelift background` again"
    ):
        Arenas.read(path, "day1", (*CAMERAS, "7", "8"))
    with h5py.File(path, "r+") as file:
        file.attrs["version"] = 1
    with pytest.raises(UserError, match=r"background\.h5: is of version 1 of .* run `mousefacelift background` again"):
        Arenas.read(path, "day1", CAMERAS)
