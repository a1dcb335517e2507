"""Sums, means, extrema and their places over neighbouring axes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.cast import Stored
from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.pool import PoolKernel
from qir.backends.native.kernels.reduce import ArgMaxKernel, Combination, How, RowsKernel
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns.epilogue import BYTES, is_bytes
from qir.backends.native.patterns.sums import SumsEpilogue, sums_epilogue
from qir.backends.native.plan import BufferView
from qir.ir import Node, Value
from qir.ops import ArgMax, Mean, ReduceMax, ReduceMin, ReduceSum
from qir.ops.reduce import Extremum, Reduction
from qir.types import DType

TASK_BYTES = 32 * 1024
"""Least bytes that a task reads; a smaller one is not worth handing out."""
NARROW_COUNT = 128
"""Most bytes whose sum 16 bits hold, signed or not."""


def has_bytes(value: Value) -> bool:
    """Whether a value is stored in 8 bits, in an order that is that of its numbers."""
    return value.type.dtype in BYTES


def is_unsigned(value: Value) -> bool:
    """Whether a value is stored without a sign."""
    return value.type.dtype is DType.U8


def combination(how: How, value: Value, count: int = 0) -> Combination:
    """Returns how bytes of a value are combined; `count` is how many at most, for a sum."""
    bits = 8 if how != "sum" else 16 if count <= NARROW_COUNT else 32
    return Combination(how, is_unsigned(value), bits)  # type: ignore[arg-type]


def blocks(rows: int, row_bytes: int, placement: Placement) -> int:
    """Returns how many rows a task takes, each of which reads some bytes."""
    wanted = min(rows, rows * row_bytes // TASK_BYTES, 8 * placement.plan.threads)
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


def _sizes(placement: Placement, x: Value, parts: tuple[int, int]) -> tuple[int, int, int]:
    """Returns the numbers of elements before, along and behind the axes."""
    shape, (first, stop) = placement.shape(x), parts
    return prod(shape[:first]), prod(shape[first:stop]), prod(shape[stop:])


@pattern(Mean, ReduceSum)
def total(op: Reduction, node: Node, _: InstructionSet) -> Match | str:
    """The exact sums, and the requantize behind them."""
    (x,) = node.inputs
    if not is_bytes(x):
        return "a sum without codes of 8 bits"
    count = op.count(x.type)
    return _reduction(op, node, "sum", sums_epilogue(x, node.output, np.array([count])), count)


@pattern(ReduceMax, ReduceMin)
def extremum(op: Extremum, node: Node, _: InstructionSet) -> Match | str:
    """The greatest or least stored number."""
    if not has_bytes(node.inputs[0]):
        return "not stored in 8 bits"
    return _reduction(op, node, "greatest" if isinstance(op, ReduceMax) else "least")


def _reduction(
    op: Reduction, node: Node, how: How, sums: SumsEpilogue | None = None, count: int = 0
) -> Match | str:
    (x,) = node.inputs
    parts = _parts(op, x)
    if parts is None:
        return "axes that are not neighbours"
    writer = ReductionWriter(node, how, parts, sums, count)
    return Match(writer.nodes, (x,), writer.write)


@dataclass(frozen=True, eq=False)
class ReductionWriter:
    """Writes the step of a reduction.

    Attributes:
        node: Its node.
        how: How numbers are combined.
        parts: The first of the axes, and what follows the last.
        sums: What is stored of sums.
        count: Numbers in a sum.
    """

    node: Node
    how: How
    parts: tuple[int, int]
    sums: SumsEpilogue | None
    count: int

    @property
    def nodes(self) -> tuple[Node, ...]:
        """The nodes that it computes."""
        return (self.node, *(() if self.sums is None else self.sums.nodes))

    @property
    def _result(self) -> Value:
        return self.nodes[-1].output

    @property
    def _to(self) -> Stored:
        return "signed" if self.sums is None else self.sums.to

    def write(self, placement: Placement) -> None:
        """Adds the step."""
        (x,) = self.node.inputs
        outer, along, inner = _sizes(placement, x, self.parts)
        parameters = {"rows": outer, **({} if self.sums is None else self.sums.parameters)}
        tensors = {"x": placement.read(x), "out": placement.write(self._result)}
        if self.sums is not None:
            tensors["terms"] = placement.constant(self.sums.terms)
        if inner == 1:
            self._write_rows(placement, along, parameters, tensors)
        else:
            self._write_columns(placement, along, inner, parameters, tensors)

    def _write_rows(
        self,
        placement: Placement,
        along: int,
        parameters: Mapping[str, int],
        tensors: Mapping[str, BufferView],
    ) -> None:
        """Adds the step where the axes are the last ones."""
        rows = parameters["rows"]
        # Nothing of the terms depends on the width of the sum: 32 bits serve every row.
        way = combination(self.how, self.node.inputs[0], NARROW_COUNT + 1)
        block = blocks(rows, along, placement)
        placement.plan.step(
            self._result.name,
            RowsKernel(way, self._to),
            {**parameters, "block_rows": block, "count": along},
            tensors,
            tasks=-(-rows // block),
        )

    def _write_columns(
        self,
        placement: Placement,
        along: int,
        inner: int,
        parameters: Mapping[str, int],
        tensors: Mapping[str, BufferView],
    ) -> None:
        """Adds the step where channels follow the axes: a pool with one place, in height."""
        rows = parameters["rows"]
        block = blocks(rows, along * inner, placement)
        wanted = min(along * inner // TASK_BYTES, 8 * placement.plan.threads // max(rows, 1))
        # A range is whole cache lines of channels.
        range_channels = -(-inner // max(wanted, 1) // 64) * 64
        ranges = max(-(-inner // max(range_channels, 1)), 1) if block == 1 else 1
        way = combination(self.how, self.node.inputs[0], self.count)
        shapes = {"size": along, "places": 1, "window": along, "stride": 1, "before": 0}
        window = {
            f"{what}_{axis}": size if axis == "height" else int(what != "before")
            for what, size in shapes.items()
            for axis in AXES
        }
        window |= {"term_bytes": 0} if self.sums is not None else {}
        placement.plan.step(
            self._result.name,
            PoolKernel(way, self._to),
            {
                **parameters,
                **window,
                "block_rows": block,
                "channels": inner,
                "ranges": ranges,
                "range_channels": range_channels if ranges > 1 else inner,
                "out_pixel": inner * self._result.type.dtype.numpy.itemsize,
            },
            tensors,
            tasks=-(-rows // block) * ranges,
            scratch=inner * way.bits // 8,
        )


@pattern(ArgMax)
def first_greatest(op: ArgMax, node: Node, _: InstructionSet) -> Match | str:
    """The first place of the greatest stored number of a row."""
    (x,) = node.inputs
    if not has_bytes(x):
        return "not stored in 8 bits"
    if any(size != 1 for size in x.type.shape[op.axis + 1 :]):
        return "an axis that is not the last"

    def write(placement: Placement) -> None:
        rows, count, _ = _sizes(placement, x, (op.axis, op.axis + 1))
        block = blocks(rows, count, placement)
        placement.plan.step(
            node.output.name,
            ArgMaxKernel(is_unsigned(x)),
            {"rows": rows, "block_rows": block, "count": count},
            {"x": placement.read(x), "out": placement.write(node.output)},
            tasks=-(-rows // block),
        )

    return Match((node,), (x,), write)
