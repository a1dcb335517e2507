"""Contraction of any axes as a matrix product of (batch…, rows…, k) and (batch…, k, columns)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.known import Known
from qir.ops import Dot
from qir.ops.type_rules import are_bytes
from qir.types import DType, product

Axes: TypeAlias = Sequence[int]


@primitive("dot_general")
def dot_general(
    b: Emitter,
    x: Operand,
    y: Operand,
    *,
    dimension_numbers: tuple[tuple[Axes, Axes], tuple[Axes, Axes]],
    preferred_element_type: Any = None,
    **_: Any,
) -> Operand:
    """A matrix product; a constant operand becomes the kernel on whichever side it stands."""
    (left, right), (left_batch, right_batch) = dimension_numbers
    element = x.type.dtype if preferred_element_type is None else DType.of(preferred_element_type)
    x, y = in_element(b, x, y, element)
    if _is_better_turned(x, y, (left, right), (left_batch, right_batch)):
        turned = _product(b, y, x, (right, left), (right_batch, left_batch))
        batch = len(left_batch)
        rows = y.type.rank - len(right)
        last = turned.type.rank
        turned = b.transpose(turned, [*range(batch), *range(rows, last), *range(batch, rows)])
        return b.cast(turned, element)
    found = _product(b, x, y, (left, right), (left_batch, right_batch))
    return b.cast(found, element)


def in_element(b: Emitter, x: Operand, y: Operand, element: DType) -> tuple[Operand, Operand]:
    """Casts two operands to the type of their sums of products, but not bytes, summed in i32."""
    if element is DType.I32 and are_bytes(x.type, y.type):
        return x, y
    return b.cast(x, element), b.cast(y, element)


def _is_better_turned(
    x: Operand, y: Operand, summed: tuple[Axes, Axes], batch: tuple[Axes, Axes]
) -> bool:
    """Whether y should come first: x is the constant one, or fewer operands need a transpose."""
    if isinstance(x, Known) != isinstance(y, Known):
        return isinstance(x, Known)

    def transposes(first: Operand, second: Operand, one: int, two: int) -> int:
        orders = (
            (*batch[one], *_free(first, summed[one], batch[one]), *summed[one]),
            (*batch[two], *summed[two], *_free(second, summed[two], batch[two])),
        )
        return sum(list(order) != sorted(order) for order in orders)

    return transposes(y, x, 1, 0) < transposes(x, y, 0, 1)


def _free(x: Operand, summed: Axes, batch: Axes) -> list[int]:
    return [axis for axis in range(x.type.rank) if axis not in (*summed, *batch)]


def _product(
    b: Emitter, x: Operand, y: Operand, summed: tuple[Axes, Axes], batch: tuple[Axes, Axes]
) -> Operand:
    rows, columns = _free(x, summed[0], batch[0]), _free(y, summed[1], batch[1])
    left = b.transpose(x, (*batch[0], *rows, *summed[0]))
    right = b.transpose(y, (*batch[1], *summed[1], *columns))
    outer = left.type.shape[: len(batch[0])]
    row_sizes = left.type.shape[len(outer) : len(outer) + len(rows)]
    column_sizes = right.type.shape[len(outer) + len(summed[1]) :]
    depth = product(left.type.shape[len(outer) + len(rows) :])
    left = b.reshape(left, (*outer, *row_sizes, depth))
    right = b.reshape(right, (*outer, depth, product(column_sizes)))
    found = b.emit(Dot(len(outer)), left, right)
    return b.reshape(found, (*outer, *row_sizes, *column_sizes))
