"""Shards to verify."""

import shutil

import pytest

from mousefacelift.shards.verify.manifest import verify
from support.balls import write_shards


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two shards of train with 3 and 2 samples, one of val with 1, and an empty one. Read only."""
    return write_shards(tmp_path_factory.mktemp("whole"), [("train", 3), ("train", 2), ("val", 1)])


@pytest.fixture
def shards(whole, tmp_path):
    """A private copy to damage."""
    return shutil.copytree(whole.parent, tmp_path / "shards") / "manifest.json"


@pytest.fixture
def problems(call):
    """What verify finds, after looking that the command line says the same, ends with status 1 and writes no receipt."""

    def find(manifest):
        found = verify(manifest, 2)
        status, out, err = call("verify", manifest, "--output", manifest.parent.parent / "receipt.json")
        assert (status, out.splitlines()) == (1, [str(problem) for problem in found])
        assert (
            f"{len(found)} problem{'s' * (len(found) > 1)}; delete the files named above and rerun the workflow" in err
        )
        assert not (manifest.parent.parent / "receipt.json").exists()
        return found

    return find
