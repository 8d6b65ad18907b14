"""Small shards, and FaceLift's folders made from shards."""

import pytest

from mousefacelift.shards.exports.facelift import export_facelift
from support.small import write_small


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """Two captures with cameras of other names; read only."""
    samples = {"a": {"train": 3, "val": 1, "test": 1}, "b": {"train": 2, "val": 0, "test": 0}}
    return write_small(tmp_path_factory.mktemp("small"), samples)


@pytest.fixture(scope="session")
def exported(demo_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("export") / "facelift"
    export_facelift(demo_run.folder / "shard" / "manifest.json", folder, threads=2)
    return folder


@pytest.fixture
def facelift(small, tmp_path):
    """FaceLift's folders of the small shards, to be changed by a test."""
    export_facelift(small, tmp_path / "facelift")
    return tmp_path / "facelift"
