"""Sums, means, extrema and their places over neighbouring axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.backends.cpu.kernels.pool import AXES, Pool
from qir.backends.cpu.kernels.reduce import ArgMax as ArgMaxKernel
from qir.backends.cpu.kernels.reduce import Combination, How, Rows
from qir.backends.cpu.patterns.dense import BYTES, is_bytes
from qir.backends.cpu.target import Target
from qir.backends.native.pattern import Cover, Region, covers
from qir.errors import QirError
from qir.ir import Node, Value
from qir.numbers.int32 import INT32_MAX
from qir.numbers.rounding import ROUNDINGS, Scaled
from qir.ops import ArgMax, Mean, ReduceMax, ReduceMin, ReduceSum
from qir.ops.reduce import Extremum, Reduction
from qir.types import Array, DType

TASK_BYTES = 32 * 1024
"""Least bytes that a task reads; a smaller one is not worth handing out."""
NARROW_COUNT = 128
"""Most bytes whose sum 16 bits hold, signed or not."""


@dataclass(frozen=True, eq=False)
class Rescaled:
    """How sums of bytes become bytes.

    Attributes:
        terms: Terms of `kernels.reduce.Rescaling`: a row for each number of bytes, or one row.
        words: The bounds of what is stored.
    """

    terms: Array
    words: Mapping[str, int]


def has_bytes(value: Value) -> bool:
    """Whether a value is stored in 8 bits, in an order that is that of its numbers."""
    code = value.type.quant
    return value.type.dtype in BYTES and (code is None or code.levels is None)


def is_unsigned(value: Value) -> bool:
    """Whether a value is stored without a sign."""
    return value.type.dtype is DType.U8


def combination(how: How, value: Value, count: int = 0) -> Combination:
    """Returns how bytes of a value are combined; `count` is how many at most, for a sum."""
    bits = 8 if how != "sum" else 16 if count <= NARROW_COUNT else 32
    return Combination(how, is_unsigned(value), bits)  # type: ignore[arg-type]


def rescaled(x: Value, result: Value, counts: Array, divisors: Array) -> Rescaled | str:
    """Returns how sums are rescaled, or why 32 bits don't hold it.

    With a lift of j bits, acc * 2^j * M / 2^(s+j) is the same number, and s + j >= 33 is what the
    terms need. A count in the divisor makes s grow as fast as the sum.

    Args:
        x: What is summed.
        result: What is stored.
        counts: Numbers of bytes in the sums, one for each row of terms.
        divisors: What the sums are divided by.
    """
    code, to = x.type.quant, result.type.quant
    assert code is not None
    assert to is not None
    scale = to.scale.array.astype(np.float64) * divisors
    try:
        factors = ROUNDINGS["fixed31"].multipliers(code.scale.array, scale)
    except QirError:
        # A number of taps that no window has may be the one out of reach.
        return "a multiplier out of reach"
    point = int(code.zero_points)
    low, high = code.storage.bounds
    farthest = max(high - point, point - low)
    lift = np.where(factors.value == 0, 0, np.maximum(33 - factors.shift.astype(np.int64), 0))
    if np.any(counts * farthest > INT32_MAX >> lift):
        return "a sum or its multiplier too large for 32 bits"
    shift = (factors.shift + lift).astype(np.int32)
    form = Scaled(factors.value.astype(np.int32), shift).high_word(to.zero_points)
    if form is None:
        return "a multiplier too small for 32 bits"
    columns = (-point * counts, lift, form.value, form.addend, form.places)
    low, high = to.range
    return Rescaled(np.stack(columns, axis=-1).astype(np.int32), {"low": low, "high": high})


def blocks(rows: int, row_bytes: int, region: Region) -> int:
    """Returns how many rows a task takes, each of which reads some bytes."""
    wanted = min(rows, rows * row_bytes // TASK_BYTES, 8 * region.plan.threads)
    return max(-(-rows // max(wanted, 1)), 1)


def _parts(op: Reduction | ArgMax, x: Value) -> tuple[int, int] | None:
    """Returns the first of the axes and what follows the last, where no other is between them.

    Axes of size 1 are no matter.
    """
    axes = op.axes if isinstance(op, Reduction) else (op.axis,)
    shape = x.type.shape
    real = [axis for axis in axes if shape[axis] != 1] or [axes[0]]
    between = set(range(real[0], real[-1] + 1)) - set(axes)
    return None if any(shape[axis] != 1 for axis in between) else (real[0], real[-1] + 1)


def _sizes(region: Region, x: Value, parts: tuple[int, int]) -> tuple[int, int, int]:
    """Returns the numbers of elements before, along and behind the axes."""
    shape, (first, stop) = region.shape(x), parts
    return prod(shape[:first]), prod(shape[first:stop]), prod(shape[stop:])


@covers(Mean, ReduceSum)
def total(op: Reduction, node: Node, _: Target) -> Cover | str:
    """A sum or mean, rescaled."""
    (x,) = node.inputs
    if not is_bytes(x) or not is_bytes(node.output):
        return "a sum without codes of 8 bits"
    count = op.count(x.type)
    divisor = count if isinstance(op, Mean) else 1
    sums = rescaled(x, node.output, np.array([count]), np.array([divisor]))
    return sums if isinstance(sums, str) else _reduction(op, node, "sum", sums, count)


@covers(ReduceMax, ReduceMin)
def extremum(op: Extremum, node: Node, _: Target) -> Cover | str:
    """The greatest or least stored number."""
    if not has_bytes(node.inputs[0]):
        return "not stored in 8 bits"
    return _reduction(op, node, "greatest" if isinstance(op, ReduceMax) else "least")


def _reduction(
    op: Reduction, node: Node, how: How, sums: Rescaled | None = None, count: int = 0
) -> Cover | str:
    (x,) = node.inputs
    parts = _parts(op, x)
    if parts is None:
        return "axes that are not neighbours"

    def write(region: Region) -> None:
        outer, along, inner = _sizes(region, x, parts)
        words = {"rows": outer, **({} if sums is None else sums.words)}
        tensors = {"x": region.read(x), "out": region.write(node.output)}
        if sums is not None:
            tensors["terms"] = region.parameter(sums.terms)
        if inner == 1:
            # Nothing of the terms depends on the width of the sum: 32 bits serve every row.
            way = combination(how, x, NARROW_COUNT + 1)
            block = blocks(outer, along, region)
            region.plan.step(
                node.output.name,
                Rows(way, is_unsigned(node.output)),
                {**words, "block_rows": block, "count": along},
                tensors,
                tasks=-(-outer // block),
            )
            return
        block = blocks(outer, along * inner, region)
        wanted = min(along * inner // TASK_BYTES, 8 * region.plan.threads // max(outer, 1))
        # A range is whole cache lines of channels.
        range_channels = -(-inner // max(wanted, 1) // 64) * 64
        ranges = max(-(-inner // max(range_channels, 1)), 1) if block == 1 else 1
        way = combination(how, x, count)
        shapes = {"size": along, "places": 1, "window": along, "stride": 1, "before": 0}
        window = {
            f"{what}_{axis}": size if axis == "height" else int(what != "before")
            for what, size in shapes.items()
            for axis in AXES
        }
        words |= {
            **window,
            "block_rows": block,
            "channels": inner,
            "ranges": ranges,
            "range_channels": range_channels if ranges > 1 else inner,
            "out_pixel": inner,
        }
        if sums is not None:
            words["term_bytes"] = 0
        region.plan.step(
            node.output.name,
            Pool(way, is_unsigned(node.output)),
            words,
            tensors,
            tasks=-(-outer // block) * ranges,
            scratch=inner * way.bits // 8,
        )

    return Cover((node,), (x,), write)


@covers(ArgMax)
def first_greatest(op: ArgMax, node: Node, _: Target) -> Cover | str:
    """The first place of the greatest stored number of a row."""
    (x,) = node.inputs
    if not has_bytes(x):
        return "not stored in 8 bits"
    if any(size != 1 for size in x.type.shape[op.axis + 1 :]):
        return "an axis that is not the last"

    def write(region: Region) -> None:
        rows, count, _ = _sizes(region, x, (op.axis, op.axis + 1))
        block = blocks(rows, count, region)
        region.plan.step(
            node.output.name,
            ArgMaxKernel(is_unsigned(x)),
            {"rows": rows, "block_rows": block, "count": count},
            {"x": region.read(x), "out": region.write(node.output)},
            tasks=-(-rows // block),
        )

    return Cover((node,), (x,), write)
