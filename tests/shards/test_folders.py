"""Nothing is written over."""

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.shard import Shard
from mousefacelift.shards.exports.facelift import export_facelift
from mousefacelift.shards.exports.transforms import export_transforms
from mousefacelift.shards.imports.facelift import import_facelift


def test_a_folder_with_something_in_it_is_not_written_to(small, facelift, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("")
    for write in (
        lambda folder: export_facelift(small, folder),
        lambda folder: export_transforms(small, folder),
        lambda folder: import_facelift(facelift, folder, Shard()),
    ):
        for folder in (tmp_path / "mine", tmp_path / "mine" / "thesis.tex", facelift):
            with pytest.raises(UserError, match=f"{folder}: already exists and is not an empty folder"):
                write(folder)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
    (tmp_path / "empty").mkdir()
    export_facelift(small, tmp_path / "empty")
    assert (tmp_path / "empty" / "data_train.txt").exists()
