"""Parts of type rules that ops share: broadcasting, elements, axes, accumulators and biases."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from math import prod

import numpy as np

from qir.numbers.int32 import INT32_MAX
from qir.ops.op import Op
from qir.types import Affine, Array, DType, Element, Size, TensorType, multiplied

MOST_PRODUCTS = INT32_MAX // 2
"""The greatest sum of products of more than 8 bits in i32, which leaves a bias as much room."""


def broadcast(operation: Op, *types: TensorType) -> tuple[Size, ...]:
    """Returns the shape that the operands' shapes broadcast to, by numpy's rule.

    Raises:
        QirError: They don't broadcast.
    """
    rank = max(shape.rank for shape in types)
    result: list[Size] = []
    for axis in range(-rank, 0):
        sizes = {shape.shape[axis] for shape in types if shape.rank >= -axis} - {1}
        if len(sizes) > 1:
            raise operation.error(
                "shapes "
                + " and ".join(str(list(map(str, shape.shape))).replace("'", "") for shape in types)
                + " don't broadcast"
            )
        result.append(sizes.pop() if sizes else 1)
    return tuple(result)


def same_float(operation: Op, *types: TensorType) -> DType:
    """Returns the one plain type that all operands have.

    Raises:
        QirError: An operand has a code, the types differ, or their integers are of fewer bits than
            a byte, which machines don't compute with.
    """
    elements = {operand.element for operand in types}
    element = next(iter(elements))
    if len(elements) != 1 or not isinstance(element, DType):
        raise operation.error(
            "expected operands of one plain element type, got " + ", ".join(map(str, types))
        )
    if element.is_integer and element.bits < 8:
        raise operation.error(
            f"expected integers of at least 8 bits, got {types[0]}; cast them to "
            f"{element.value[0]}8 first, as those of fewer bits are stored and looked up only"
        )
    return element


def same_real(operation: Op, *types: TensorType) -> DType:
    """Returns the one plain type that all operands have, of floating-point numbers.

    Raises:
        QirError: An operand has a code, the types differ, or they are no floating-point numbers.
    """
    element = same_float(operation, *types)
    if not element.is_float:
        raise operation.error(
            f"expected floating-point numbers or codes, got {types[0]}; cast them first"
        )
    return element


def same_element(operation: Op, *types: TensorType) -> Element:
    """Returns the one element, plain or coded, that all operands have.

    Raises:
        QirError: They differ.
    """
    if len({operand.element for operand in types}) != 1:
        raise operation.error(
            "expected operands of one element, got " + " and ".join(map(str, types))
        )
    return types[0].element


def uncoded_axes(operation: Op, x: TensorType, axes: Iterable[int]) -> None:
    """Raises QirError where a code varies along an axis that the op joins, removes or resizes."""
    if x.quant is None or x.quant.per_tensor:
        return
    for axis in axes:
        if x.quant.grid[axis] != 1:
            raise operation.error(
                f"the code of {x} varies along axis {axis}; requantize to one code first"
            )


def affine_or_plain(operation: Op, x: TensorType) -> Element:
    """Returns the element of an operand.

    Raises:
        QirError: It has a code that is not affine, or multipliers.
    """
    code = x.quant
    if code is not None and (not isinstance(code, Affine) or code.multipliers is not None):
        raise operation.error(
            f"expected plain numbers or an affine code without multipliers, got {x}; dequantize it"
        )
    return x.element


def check_axes(operation: Op, axes: Sequence[int], rank: int | None = None) -> None:
    """Raises QirError unless axes increase, count from 0 and stay below the rank."""
    if list(axes) != sorted(set(axes)) or (axes and axes[0] < 0):
        raise operation.error(f"expected increasing axes counted from 0, got {list(axes)}")
    if rank is not None and axes and axes[-1] >= rank:
        raise operation.error(f"expected axes below {rank}, got {list(axes)}")


def check_axis(operation: Op, axis: int, rank: int) -> None:
    """Raises QirError unless an axis counts from 0 and stays below the rank."""
    if not 0 <= axis < rank:
        raise operation.error(f"expected an axis below {rank}, got {axis}")


def are_bytes(*types: TensorType) -> bool:
    """Whether tensors hold plain integers of at most 8 bits."""
    return all(
        isinstance(operand.element, DType) and operand.dtype.is_integer and operand.dtype.bits <= 8
        for operand in types
    )


def accumulator(
    operation: Op,
    left: TensorType,
    right: TensorType,
    rank: int,
    columns: Size,
    batch: int = 0,
    rows: int = 0,
    row_points: bool = False,
) -> DType | Affine:
    """Returns the element of a sum of products: the product of the operands' codes.

    Plain integers of at most 8 bits, of one type or of two, are summed in i32; so are codes of 8
    bits, and wider ones where their bounds and the number of terms prove that i32 holds every sum.
    Others are summed in i64. Scales along rows and along columns stay factors.

    Args:
        operation: The op, for messages.
        left: The activations; a scale may vary along the batch axes and rows.
        right: The weights; a code may vary along the last axis, a scale along the batch axes.
        rank: Rank of the result, whose last axis is the weights' last axis.
        columns: Size of that axis.
        batch: The number of leading axes that operands and result share.
        rows: The number of leading axes, those included, that the first operand and the result
            share.
        row_points: Whether zero points of the first operand may vary along rows too, each of which
            is a correction term of its own.

    Raises:
        QirError: One operand is coded and the other is not, the scale of one multiplies no
            integers, or varies along a summed axis.
    """
    a, b = left.quant, right.quant
    if are_bytes(left, right):
        return DType.I32
    if a is None and b is None:
        return same_float(operation, left, right)
    if a is None or b is None:
        raise operation.error(f"expected both operands coded or neither, got {left} and {right}")
    for operand, code in ((left, a), (right, b)):
        if code.step_bounds is None:
            raise operation.error(f"{operand}: {code.without_steps}")
    if not _varies_along(left, range(max(batch, rows)), points=row_points):
        with_points = " with one zero point" if not row_points else ""
        raise operation.error(
            f"expected a code per tensor, or a scale that varies along rows{with_points}, on the "
            f"first operand, got {left}"
        )
    by_column = _varies_along(right, [right.rank - 1], points=True)
    if not by_column and not _varies_along(right, [*range(batch), right.rank - 1]):
        raise operation.error(
            "expected a code per tensor or per channel of the last axis on the second "
            f"operand, got {right}; scales along the summed axis are multipliers of the steps, or "
            "float sums of what dequantize gives"
        )
    storage = _sum_storage(left, right, right.shape[batch:-1])
    if storage is DType.I64 and isinstance(a, Affine) and a.zero_points.ndim:
        raise operation.error(
            "expected one zero point on the first operand of sums in i64, got one for each row of "
            f"{left}; requantize it to a code of one zero point"
        )
    between = (1,) * (rank - batch - 1)

    def placed(factors: Array) -> Array:
        return factors.reshape(*factors.shape[:batch], *between, factors.shape[-1])

    scale = multiplied(a.scale.astype(np.float64), b.scale.astype(np.float64).map(placed))
    return Affine(storage, scale, expressed=a.expressed)


def _sum_storage(left: TensorType, right: TensorType, summed: Sequence[Size]) -> DType:
    """Returns i32 for sums of products of bytes, and where it holds all sums of wider ones."""
    one_level = all(x.code.multipliers is None for x in (left, right))
    if one_level and max(left.dtype.bits, right.dtype.bits) <= 8:
        return DType.I32
    counts = [size for size in summed if isinstance(size, int)]
    if len(counts) < len(summed):
        return DType.I64
    most = prod(counts) * _most_steps(left) * _most_steps(right)
    return DType.I32 if most <= MOST_PRODUCTS else DType.I64


def _most_steps(x: TensorType) -> int:
    """Returns the greatest magnitude of the integers that a code's scale multiplies."""
    bounds = x.code.step_bounds
    assert bounds is not None
    return max(map(abs, bounds))


def _varies_along(x: TensorType, axes: Collection[int], *, points: bool = False) -> bool:
    """Whether a code varies along some axes at most, with a scale for each place.

    Args:
        x: The type of a tensor with a code.
        axes: The axes.
        points: Whether zero points may vary as well.
    """
    code = x.code
    if not code.scale.shape:
        return True
    pairs = enumerate(zip(code.scale.shape, x.shape, strict=True))
    fits = all(count in ((1, size) if axis in axes else (1,)) for axis, (count, size) in pairs)
    return fits and (points or not (isinstance(code, Affine) and code.zero_points.ndim))


def check_bias(
    operation: Op, bias: TensorType | None, element: DType | Affine, columns: Size
) -> None:
    """Raises QirError unless a bias has one entry a column and the accumulator's own code."""
    if bias is None:
        return
    if bias.shape != (columns,):
        raise operation.error(f"expected a bias of shape [{columns}], got {bias}")
    if isinstance(element, DType):
        if bias.element != element:
            raise operation.error(f"expected a bias of {element.value}, got {bias}")
        return
    code = bias.quant
    if code is None or code.storage is not element.storage:
        raise operation.error(
            f"expected a bias coded in {element.storage.value} like the accumulator, got {bias}"
        )
    if prod(element.scale.shape[:-1]) != 1:
        raise operation.error(
            "expected no bias, as the accumulator's scale varies along rows, where no code holds "
            "one bias for all of them; add it behind the requantize or dequantize"
        )
    if not np.array_equal(code.scale.array.reshape(-1), element.scale.array.reshape(-1)):
        raise operation.error(
            "expected a bias with the accumulator's scale, the product of the operands' scales"
        )


def small_codes(operation: Op, *operands: TensorType) -> list[Affine]:
    """Returns the codes of operands.

    Raises:
        QirError: An operand is not coded per tensor in at most 16 bits.
    """
    codes = []
    for operand in operands:
        code = operand.quant
        if code is None or code.storage.bits > 16 or not code.per_tensor:
            raise operation.error(
                f"expected operands coded per tensor in at most 16 bits, got {operand}"
            )
        if not isinstance(code, Affine):
            raise operation.error(
                f"expected affine codes, got {operand}; dequantize it, or requantize it to one"
            )
        codes.append(code)
    return codes


def rescaled(operation: Op, code: Affine, *operands: TensorType) -> Affine:
    """Checks the codes around an op that gives its result a code of its own, and returns that code.

    Raises:
        QirError: An operand is not coded per tensor in at most 16 bits, or the result is not.
    """
    small_codes(operation, *operands)
    if code.storage.bits > 16 or not code.per_tensor:
        raise operation.error(
            f"expected a result coded per tensor in at most 16 bits, got {code.storage.value}"
        )
    return code
