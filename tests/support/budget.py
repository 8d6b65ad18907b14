"""How much the tests try: a little by default, everything where MOUSEFACELIFT_TESTS=all, as in the gate."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")
ALL = os.environ.get("MOUSEFACELIFT_TESTS") == "all"
EXAMPLES = 60 if ALL else 20  # of each hypothesis test


def some(cases: Sequence[T], count: int = 2) -> list[T]:
    """`count` of the cases, the first and the last among them; all in the gate."""
    if ALL or count >= len(cases):
        return list(cases)
    return [cases[round(k * (len(cases) - 1) / (count - 1))] for k in range(count)]
