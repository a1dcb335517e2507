"""Winograd's transforms of convolutions with windows of 3 x 3, in integers.

F(t x t, 3 x 3) of Winograd, Arithmetic Complexity of Computations, 1980, as Lavin and Gray use it
in Fast Algorithms for Convolutional Neural Networks, 2015 (arXiv:1509.09308). A patch of t + 2
pixels a side gives t x t places with (t + 2)^2 products in place of 9 t^2: 2.25 times fewer for
t = 2, and 4 times for t = 4.

In one dimension, t places y of t + 2 pixels x and a window w are y = A [(G w) * (B x)]. B and A
hold integers for the points 0, 1, -1 and infinity (t = 2), with 2 and -2 (t = 4). G has fractions:
each of its rows is multiplied by what makes it whole, and A is divided by that, row by row up to a
factor. So place i of a dimension comes out odd * 2^places[i] times too large (`Transform`).

All sums may wrap: a place (i, j) comes back as odd^2 * 2^(places[i] + places[j]) * y modulo 2^32.
The odd factor has an inverse modulo 2^32, and an arithmetic shift then gives y itself, if y fits in
the `Transform.bits` that are left. Whoever gives the weights sees to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce

import numpy as np

from qir.types import Array

Matrix = tuple[tuple[int, ...], ...]
"""Rows of a small matrix of integers."""
Factors = tuple[Matrix, ...]
"""Matrices whose product is meant: the first is applied first. Fewer operations than the product
needs, since numbers are shared."""


@dataclass(frozen=True)
class Transform:
    """F(t, 3) in one dimension, in integers.

    Attributes:
        data: The transform of t + 2 pixels, as factors: the first is applied first.
        weights: That of three weights, as factors.
        sums: That of t + 2 sums, as factors.
        odd: The odd factor of each of the t results.
        places: By how many binary places each of them is too large besides.
    """

    data: Factors
    weights: Factors
    sums: Factors
    odd: int
    places: tuple[int, ...]

    @property
    def size(self) -> int:
        """Pixels of a patch in each direction."""
        return len(self.weights[-1])

    @property
    def positions(self) -> int:
        """Numbers of a transformed patch."""
        return self.size**2

    @property
    def bits(self) -> int:
        """Bits that a sum may have, its sign included."""
        return 32 - 2 * max(self.places)

    @property
    def growth(self) -> int:
        """How many times as large as three weights a transformed one may be."""
        return int(np.abs(product(self.weights)).sum(axis=1).max())

    @property
    def inverse(self) -> int:
        """Inverse of the odd factor of both directions, modulo 2^32."""
        return pow(self.odd**2, -1, 2**32)


TRANSFORMS = {
    2: Transform(
        data=(((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1)),),
        weights=(
            ((1, 0, 0), (1, 0, 1), (0, 1, 0), (0, 0, 1)),
            ((2, 0, 0, 0), (0, 1, 1, 0), (0, 1, -1, 0), (0, 0, 0, 2)),
        ),
        sums=(((1, 1, 1, 0), (0, 1, -1, -1)),),
        odd=1,
        places=(1, 1),
    ),
    4: Transform(
        data=(
            (
                (1, 0, -1, 0, 0, 0),
                (0, 0, -4, 0, 1, 0),
                (0, -4, 0, 1, 0, 0),
                (0, 0, -1, 0, 1, 0),
                (0, -1, 0, 1, 0, 0),
                (0, 0, 0, -1, 0, 1),
            ),
            (
                (4, 0, 0, 1, 0, 0),
                (0, 1, 1, 0, 0, 0),
                (0, 1, -1, 0, 0, 0),
                (0, 0, 0, 1, 2, 0),
                (0, 0, 0, 1, -2, 0),
                (0, 0, 0, 0, -4, 1),
            ),
        ),
        weights=(
            ((1, 0, 0), (1, 0, 1), (0, 1, 0), (1, 0, 4), (0, 0, 1)),
            (
                (6, 0, 0, 0, 0),
                (0, 1, 1, 0, 0),
                (0, 1, -1, 0, 0),
                (0, 0, 2, 1, 0),
                (0, 0, -2, 1, 0),
                (0, 0, 0, 0, 6),
            ),
        ),
        sums=(
            (
                (1, 0, 0, 0, 0, 0),
                (0, 1, 1, 0, 0, 0),
                (0, 1, -1, 0, 0, 0),
                (0, 0, 0, 1, 1, 0),
                (0, 0, 0, 1, -1, 0),
                (0, 0, 0, 0, 0, 1),
            ),
            (
                (1, -4, 0, 1, 0, 0),
                (0, 0, -2, 0, 1, 0),
                (0, -1, 0, 1, 0, 0),
                (0, 0, -1, 0, 2, 1),
            ),
        ),
        odd=3,
        places=(3, 2, 1, 1),
    ),
}
"""By places that a patch gives in each direction. The bounds of 16 bits hold: B adds up to 10 times
a number in each direction, G to 7 times a weight, of numbers below 256 (t = 4; fewer for t = 2)."""


def product(factors: Factors) -> Array:
    """Returns the matrix that factors stand for."""
    return reduce(lambda done, factor: factor @ done, map(np.array, factors))
