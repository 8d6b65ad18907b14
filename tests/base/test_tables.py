"""Tables of text."""

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.base.tables import markdown_table, read_table, write_table


@pytest.mark.parametrize("delimiter", ["\t", ","])
def test_what_is_written_is_read_back(tmp_path, delimiter):
    path = tmp_path / "table"
    write_table(path, ("a", "b"), [(1, "x y"), (2.5, "")], delimiter)
    assert read_table(path, "sample", delimiter) == [{"a": "1", "b": "x y"}, {"a": "2.5", "b": ""}]


def test_a_missing_or_damaged_table_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"missing\.tsv: no such file; it is written by `sample`"):
        read_table(tmp_path / "missing.tsv", "sample")
    (tmp_path / "bad.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match=r"bad\.tsv: damaged .* run `sample` again"):
        read_table(tmp_path / "bad.tsv", "sample")


def test_a_bar_in_a_cell_does_not_end_it():
    assert markdown_table(["a", "b"], [["x|y", "z"]]).splitlines() == ["| a | b |", "| --- | --- |", "| x\\|y | z |"]
