"""Damaged shards are refused before they are used."""

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.config.evaluate import Evaluate
from mousefacelift.stages.evaluate import evaluate
from support.balls import write_shards
from support.damage import chunk, flip


@pytest.mark.parametrize("split", ["val", "train"])
def test_an_evaluation_refuses_damaged_shards_before_it_draws(trained, tmp_path, split):
    manifest = write_shards(tmp_path / "shards", {"train": 1, "val": 1})
    path = next((manifest.parent / split).glob("*.h5"))
    flip(path, chunk(path, 0).byte_offset + 9)
    with pytest.raises(UserError, match=rf"{split}/{path.name}, sample ball-{split}-000000: image cannot be read"):
        evaluate(manifest, trained, tmp_path / "out", Evaluate(split="val"), threads=1)
    assert not (tmp_path / "out").exists()
