"""Additive powers of two: levels that are sums of a few powers of two."""

from __future__ import annotations

from itertools import product

import numpy as np

from qir.types.arrays import FrozenArray

TERMS: dict[int, tuple[tuple[int, ...], ...]] = {
    2: ((0, 4, 2, 1),),
    3: ((0, 8, 4, 1), (0, 2)),
    4: ((0, 32, 8, 2), (0, 16, 4, 1)),
    5: ((0, 64, 16, 2), (0, 32, 8, 1), (0, 4)),
    6: ((0, 256, 32, 4), (0, 128, 16, 2), (0, 64, 8, 1)),
}
"""The powers that each term of a magnitude of so many bits is one of; the paper has them as
negative exponents, here they are integers."""


def apot(bits: int) -> FrozenArray:
    """Returns the levels of additive powers of two, a sign and all sums of a power of each term.

    "Additive Powers-of-Two Quantization: An Efficient Non-uniform Discretization for Neural
    Networks" (Li, Dong and Wang, ICLR 2020, arXiv:1909.13144), and for widths that its terms of 2
    bits do not divide the code that its authors published.

    Args:
        bits: The width, 3 to 7, the sign one of them.

    Returns:
        Increasing integers, 2^bits - 1 of them; up to 6 bits they are signed bytes.
    """
    sums = np.array(sorted({sum(powers) for powers in product(*TERMS[bits - 1])}))
    return FrozenArray(np.concatenate([-sums[:0:-1], sums]), np.int32)
