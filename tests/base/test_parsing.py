"""What a user gives as text."""

import pytest

from mousefacelift.base.errors import UserError
from mousefacelift.base.parsing import nearest, parse_json


def test_the_name_most_like_a_wrong_one_is_proposed():
    assert nearest("provded", ["provided", "onnx"]) == "did you mean 'provided'?"
    assert nearest("sam", ["provided", "onnx"]) == ""


@pytest.mark.parametrize("text", ["{", "", "1" * 5000, "[" * 100_000])
def test_what_is_no_json_is_an_error_that_names_the_option(text):
    with pytest.raises(UserError, match=r"^--settings: not valid JSON"):
        parse_json(text, "--settings")
