"""Which split a sample is for: lists, or blocks."""

import json
import shutil

import h5py
import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.sample import SplitFractions
from mousefacelift.config.shard import Shard
from mousefacelift.shards.imports.facelift import import_facelift
from support.facelift import sample_folder, splits_of, stored


def test_a_sample_in_two_lists_is_refused(facelift, tmp_path):
    first = (facelift / "data_train.txt").read_text().split()[0]
    with (facelift / "data_val.txt").open("a") as file:
        file.write(f"{first}\n")
    with pytest.raises(UserError, match=r"a-train-000000.*listed for train and for val"):
        import_facelift(facelift, tmp_path / "back", Shard())


def test_lists_may_be_relative_name_the_json_and_be_called_otherwise(facelift, tmp_path):
    expected = ["a-train-000000", "a-train-000001", "a-train-000002"]
    for path in facelift.glob("data_*.txt"):
        path.unlink()
    (facelift / "data_mouse_train.txt").write_text(
        f"train/{expected[0]}\r\n\ntrain/{expected[1]}/opencv_cameras.json\n"
    )
    (facelift / "Validation.txt").write_text(f"./train/{expected[2]}\n")
    (facelift / "latest.txt").write_text("notes\n")
    import_facelift(facelift, tmp_path / "back", Shard())
    assert splits_of(tmp_path / "back") == {"train": expected[:2], "val": expected[2:], "test": []}
    with pytest.raises(UserError, match=r"data_mouse_train\.txt, Validation\.txt say which split"):
        import_facelift(facelift, tmp_path / "again", Shard(), SplitFractions())
    (facelift / "train.txt").write_text("")
    with pytest.raises(UserError, match=r"train\.txt: data_mouse_train\.txt is already the list of train"):
        import_facelift(facelift, tmp_path / "again", Shard())
    (facelift / "train.txt").rename(facelift / "train_val.txt")
    with pytest.raises(UserError, match=r"train_val\.txt: is this the list of train or of val"):
        import_facelift(facelift, tmp_path / "again", Shard())


def test_the_lists_of_a_data_set_that_was_moved_still_hold(small, facelift, tmp_path):
    facelift.rename(tmp_path / "moved")
    import_facelift(tmp_path / "moved", tmp_path / "back", Shard())
    assert set(stored(small)) == set(stored(tmp_path / "back" / "manifest.json"))


def test_without_lists_the_samples_are_divided_into_blocks_in_natural_order(facelift, tmp_path):
    for path in facelift.glob("data_*.txt"):
        path.unlink()
    source = sample_folder(facelift)
    for n in range(12):
        target = tmp_path / "theirs" / "session 1" / f"frame.{n}"
        shutil.copytree(source, target)
        content = json.loads((target / "opencv_cameras.json").read_text())
        theirs = {"frames": content["frames"]} | ({"id": "../up"} if n % 2 else {})
        (target / "opencv_cameras.json").write_text(json.dumps(theirs))
    shutil.copytree(source, tmp_path / "theirs" / ".half.1.partial" / "x")
    import_facelift(tmp_path / "theirs", tmp_path / "back", Shard(), SplitFractions(train=0.5, val=0.25, test=0.25))
    keys = [f"frame_{n}-{n:06d}" for n in range(12)]
    assert splits_of(tmp_path / "back") == {"train": keys[:6], "val": keys[6:9], "test": keys[9:]}
    with h5py.File(tmp_path / "back" / "train" / "theirs-0000.h5") as file:
        assert "world_from_mm" not in file
        assert list(file.attrs["views"]) == ["cam_000", "cam_001", "cam_002"]
        assert file["frame"][()].tolist() == list(range(6))
