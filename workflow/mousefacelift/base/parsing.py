"""What a user gives as text: names among valid ones, and JSON."""

import difflib
import json
from collections.abc import Iterable
from typing import Any

from mousefacelift.base.errors import UserError


def nearest(name: str, valid: Iterable[str]) -> str:
    """`did you mean 'NAME'?` for the valid name most like a wrong one; empty if none is like it."""
    near = difflib.get_close_matches(name, list(valid), n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else ""


def parse_json(text: str, where: str) -> Any:
    """The value of JSON text. Raises UserError, beginning with `where`, for anything else."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise UserError(f"{where}: not valid JSON ({error})") from None
