"""The integer square root and its inverse against Python's own integers."""

from __future__ import annotations

from fractions import Fraction
from math import isqrt

import numpy as np
import pytest

from qir.numbers.inverse_root import integer_root, inverse_root


def numbers() -> list[int]:
    """The ends, powers of two, squares and their neighbours, and numbers of every size."""
    rng = np.random.default_rng(0)
    powers = [2**bits + delta for bits in range(1, 62) for delta in (-1, 0, 1)]
    roots = [int(rng.integers(1, 2 ** int(bits))) for bits in rng.integers(1, 32, 200)]
    squares = [root * root + delta for root in [*roots, 2**31 - 1] for delta in (-1, 0, 1)]
    anywhere = [int(rng.integers(1, 2 ** int(bits))) for bits in rng.integers(1, 63, 500)]
    return sorted({number for number in [1, *powers, *squares, *anywhere] if 0 < number < 2**62})


def test_the_root_is_exact() -> None:
    given = numbers()
    assert integer_root(np.array(given)).tolist() == [isqrt(number) for number in given]


def test_the_significand_is_the_quotient_of_the_root() -> None:
    given = numbers()
    significand, exponent = inverse_root(np.array(given))
    for number, found, half in zip(given, significand.tolist(), exponent.tolist(), strict=True):
        shifted = number << (2 * half)
        assert 2**60 <= shifted < 2**62
        assert found == (2**61 - 1) // isqrt(shifted)
        assert 2**30 <= found < 2**31


@pytest.mark.parametrize("number", [1, 2, 3, 10**6, 2**40 + 12345, 2**62 - 1])
def test_the_error_is_below_the_bound(number: int) -> None:
    significand, exponent = (int(part) for part in inverse_root(np.array(number)))
    # (R * 2^(e - 61))² * n = (1 + d)²
    squared = Fraction(significand**2 * number) * Fraction(2) ** (2 * exponent - 122)
    assert (1 - Fraction(1, 2**29)) ** 2 < squared < (1 + Fraction(1, 2**29)) ** 2
