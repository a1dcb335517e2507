"""What passes ask of an op beside its meaning: the words of the traits that `Op` declares."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from qir.numbers.affine_map import AffineMap
from qir.numbers.reach import Reach
from qir.types import Array, TensorType

if TYPE_CHECKING:
    from qir.ops.op import Op


ONE_OR_MORE = -1
"""The number of regions of an op that has at least one, and as many as it is given."""


class Moves(Enum):
    """Which numbers of its operands an op's results are made of."""

    NONE = "others"
    PICKS = "numbers of its operands, compared or chosen"
    PARTS = "numbers of the first operand, by their places alone"
    COPIES = "every number of the first operand, by their places alone"
    ORDER = "every number of the first operand once"

    @property
    def by_place(self) -> bool:
        """Whether the results are numbers of the first operand, whatever these are."""
        return self not in (Moves.NONE, Moves.PICKS)

    @property
    def keeps_all(self) -> bool:
        """Whether none of the first operand's numbers is left out."""
        return self in (Moves.COPIES, Moves.ORDER)


class Maps(Enum):
    """The affine maps x * factor + offset that an op commutes with, where all operands are mapped.

    Factors and offsets may vary along an axis that the op carries.
    """

    NONE = "none"
    FACTORS = "factors greater than 0"
    INCREASING = "factors greater than 0, and offsets"
    ALL = "all"


class Carried(NamedTuple):
    """An axis of an operand that an op carries into a result.

    The numbers of the result at a place along the axis follow from those of the operand at the same
    place along its own, and from no others of the operand.

    Attributes:
        operand: The position of the operand.
        axis: Its axis, counted from 0.
        becomes: The axis of the result.
        result: The position of the result.
    """

    operand: int
    axis: int
    becomes: int
    result: int = 0


class Inward(NamedTuple):
    """How an affine map of a result is one of operands: affine(op(x, …)) = op'(map(x), …).

    Attributes:
        op: The op with other attributes, or the same.
        maps: The map of each operand; None where it stays. Where operands broadcast, the axis is
            the result's, and an operand that lacks it would have to be repeated along it.
    """

    op: Op
    maps: tuple[AffineMap | None, ...]


class Outward(NamedTuple):
    """How affine maps of operands are one of the result: op(map(x), …) = affine(op'(x, …)).

    Attributes:
        op: The op with other attributes, or the same.
        affine: The map of the result.
    """

    op: Op
    affine: AffineMap


class Linear(NamedTuple):
    """An op whose other operands are constants, as an affine map of the one that varies.

    Attributes:
        operand: The position of the one that varies.
        factor: What it is multiplied by, float64, which broadcasts against the result.
        offset: What is added, likewise.
    """

    operand: int
    factor: Array
    offset: Array


class Edge(NamedTuple):
    """The end of the numbers for which an op is finite.

    Attributes:
        operand: The position of the operand that it is of.
        number: What this must not be; below it most ops have no meaning.
        included: Whether the op is finite at the number itself.
        both: Whether the op may be finite below the number as well.
        divides: Whether the op divides by what lies beyond the number.
        steep: Whether the op is steep beside the number, so that an operand that reaches it exactly
            had better not leave it by rounding.
    """

    operand: int = 0
    number: float = 0.0
    included: bool = False
    both: bool = False
    divides: bool = False
    steep: bool = False


class Depth(NamedTuple):
    """How far below the greatest of a row a number counts as nothing.

    Attributes:
        axes: The axes of a row of the first operand.
        below: The distance: raising all numbers that lie deeper to it moves no result by more than
            exp(-below) for each of them, relatively to the greatest of the row.
    """

    axes: tuple[int, ...]
    below: float


class Formed(NamedTuple):
    """The integers that an op forms on codes before it rounds.

    Attributes:
        least: The least that can occur.
        greatest: The greatest, likewise.
        long: Whether they may have 48 bits, not 32.
    """

    least: int
    greatest: int
    long: bool = False


class StoredOperand(NamedTuple):
    """What is known of the stored numbers of an operand.

    Attributes:
        type: The operand's type.
        reach: The least and the greatest that can occur.
        array: The stored numbers themselves; None where they are computed.
    """

    type: TensorType
    reach: Reach
    array: Array | None = None


def carried_by_broadcasting(
    operands: Sequence[TensorType], results: Sequence[TensorType]
) -> list[Carried]:
    """Lists the axes that elementwise ops carry: those that no operand is repeated along."""
    result = results[0].shape
    return [
        Carried(index, axis, axis + len(result) - x.rank)
        for index, x in enumerate(operands)
        for axis, size in enumerate(x.shape)
        if size == result[axis + len(result) - x.rank]
    ]


def carried_in_place(axes: Iterable[int], operand: int = 0, result: int = 0) -> list[Carried]:
    """Lists axes that stay where they are."""
    return [Carried(operand, axis, axis, result) for axis in axes]


def hindrance(op: Op, affine: AffineMap) -> str | None:
    """Says why an op does not commute with a map, by `Op.commutes` alone; None where it does."""
    if not affine.factor.size or not affine.offset.size:
        return "the map is of no numbers"
    match op.commutes:
        case Maps.NONE:
            return f"it does not commute with {op.name}"
        case Maps.FACTORS if affine.shifts:
            return f"an offset does not commute with {op.name}"
        case Maps.FACTORS | Maps.INCREASING if not affine.is_positive:
            return f"a factor that is not positive does not commute with {op.name}"
        case _:
            return None


def travelled(
    op: Op,
    affine: AffineMap,
    operands: Sequence[TensorType],
    results: Sequence[TensorType],
    *,
    inward: bool,
) -> AffineMap | str:
    """Returns a map of the first result as one of the first operand, or the other way round.

    Args:
        op: The op.
        affine: The map, which the op commutes with.
        operands: The operand types.
        results: The result types.
        inward: Whether the map is the result's.

    Returns:
        The map along the axis that is carried; else why there is none.
    """
    if not affine.varies:
        return affine
    for operand, axis, becomes, result in op.carried(operands, results):
        here, there = (becomes, axis) if inward else (axis, becomes)
        if operand == result == 0 and here == affine.axis:
            return affine.along(there)
    return f"{op.name} joins or drops the axis along which it varies"


def lone_operand(constants: Sequence[Array | None]) -> tuple[int, Array | None]:
    """Tells which of two operands varies, and the numbers of the other; None where there is none.

    Args:
        constants: The numbers of each operand; None for one that varies.
    """
    x, y = constants
    if x is None:
        return 0, y
    return 1, x if y is None else None
