"""How far integers can reach: the least and the greatest that can occur."""

from __future__ import annotations

from typing import TypeAlias

from qir.numbers.int32 import INT32_MAX, INT32_MIN
from qir.numbers.long_sums import LONG_MAX, LONG_MIN

Reach: TypeAlias = tuple[int, int]
"""The least and the greatest integer that can occur."""

INT32: Reach = (INT32_MIN, INT32_MAX)

LONG: Reach = (LONG_MIN, LONG_MAX)
"""What sums in i64 may be."""


def with_zero(reach: Reach) -> Reach:
    """Adds the real number 0, which padding puts between the others."""
    return min(reach[0], 0), max(reach[1], 0)


def corners(a: Reach, b: Reach) -> Reach:
    """Returns the reach of products."""
    found = [left * right for left in a for right in b]
    return min(found), max(found)
