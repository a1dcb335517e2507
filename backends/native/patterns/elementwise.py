"""Sums, products and extrema of two tensors of codes of 8 bits, which may broadcast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.elementwise import (
    LONGEST_PERIOD,
    ExtremumKernel,
    PairsKernel,
    ProductKernel,
    SumKernel,
)
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns.cast import code_parameters
from qir.backends.native.patterns.epilogue import is_bytes
from qir.backends.native.patterns.flat import TASK_ELEMENTS, TASKS, block, lies, variables
from qir.backends.native.patterns.sums import rounding_behind
from qir.ir import Node, Value
from qir.ops import Add, Maximum, Minimum, Mul, Sub
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.types import Affine, DType, Shape


@dataclass(frozen=True)
class BroadcastAxes:
    """How a tensor meets one of all the elements.

    Attributes:
        before: Axes of the result along which both have a row of their own.
        shared: The axes after these, along which rows of the second repeat.
        after: The axes after these, which it has.
    """

    before: int
    shared: int
    after: int

    def sizes(self, shape: Sequence[int]) -> tuple[int, int, int]:
        """Returns how many elements a result of a shape has along the axes of each part."""
        stop = self.before + self.shared
        return prod(shape[: self.before]), prod(shape[self.before : stop]), prod(shape[stop:])


def broadcast(shape: Shape, other: Shape) -> BroadcastAxes | None:
    """Returns how a shape broadcasts to another; None where it alternates more than once."""
    own = (*(1,) * (len(shape) - len(other)), *other)
    # An axis of size 1 in both belongs wherever it is convenient.
    kinds = [None if size == 1 else mine == size for size, mine in zip(shape, own, strict=True)]
    for before in range(len(kinds) + 1):
        for shared in range(len(kinds) + 1 - before):
            parts = kinds[:before], kinds[before : before + shared], kinds[before + shared :]
            if all(
                kind is None or kind is wanted
                for part, wanted in zip(parts, (True, False, True), strict=True)
                for kind in part
            ):
                return BroadcastAxes(before, shared, len(kinds) - before - shared)
    return None


def unsigned(value: Value) -> bool:
    """Whether a value is stored in unsigned bytes."""
    return value.type.dtype is DType.U8


def quant(value: Value) -> Affine:
    """Returns the code of a value that has one."""
    return value.type.affine


def _way(node: Node, *others: Value) -> tuple[Value, Value] | str:
    """Returns the operand of all elements and the other one, or why there is none.

    Args:
        node: The node.
        others: What must be stored in bytes beside the operands.
    """
    if not all(is_bytes(value) for value in (*node.inputs, *others)):
        return "not codes of 8 bits"
    x, y = node.inputs
    shape = node.output.type.shape
    for first, second in ((x, y), (y, x)):
        if first.type.size == node.output.type.size and broadcast(shape, second.type.shape):
            return first, second
    return "both operands broadcast"


def _match(
    nodes: tuple[Node, ...],
    first: Value,
    second: Value,
    kind: type[PairsKernel],
    parameters: Mapping[str, int],
    **fields: bool,
) -> Match:
    axes = broadcast(nodes[-1].output.type.shape, second.type.shape)
    assert axes is not None
    kernel = partial(kind, unsigned(first), unsigned(second), unsigned(nodes[-1].output), **fields)
    writer = PairsWriter(nodes[-1].output, first, second, axes, kernel, parameters)
    return Match(nodes, variables(first, second), writer.write)


@dataclass(frozen=True, eq=False)
class PairsWriter:
    """Writes the step of an op of two tensors.

    Attributes:
        result: What it writes.
        first: The operand that has all the elements.
        second: The other one.
        axes: How the second meets the first.
        kernel: Returns the kernel: (whether a vector meets the second more than once).
        parameters: The parameters of the op.
    """

    result: Value
    first: Value
    second: Value
    axes: BroadcastAxes
    kernel: Callable[[bool], PairsKernel]
    parameters: Mapping[str, int]

    def write(self, placement: Placement) -> None:
        """Adds the step."""
        before, shared, after = self.axes.sizes(placement.shape(self.result))
        repeats = shared > 1 and after <= LONGEST_PERIOD
        if repeats:
            rows, length, y_rows = before, shared * after, 1
        elif shared > 1:
            rows, length, y_rows = before * shared, after, shared
        else:
            rows, length, y_rows = 1, before * after, 1
        elements = block(length, placement)
        ranges = -(-length // elements)
        tasks = max(min(rows * length // TASK_ELEMENTS, TASKS * placement.plan.threads), 1)
        block_rows = max(-(-rows * ranges // tasks), 1) if ranges == 1 else 1
        placement.plan.step(
            self.result.name,
            self.kernel(repeats),
            {
                **self.parameters,
                "rows": rows,
                "block_rows": block_rows,
                "length": length,
                "block": elements,
                "ranges": ranges,
                "y_rows": y_rows,
                "period": after if repeats else length,
            },
            {
                "x": lies(placement, self.first),
                "y": lies(placement, self.second),
                "out": placement.write(self.result),
            },
            tasks=-(-rows // block_rows) * ranges,
        )


@pattern(Add, Sub)
def add(op: Sum, node: Node, target: InstructionSet) -> Match | str:
    """One integer multiply-add of both operands, and one rounding."""
    way = _way(node, node.output)
    if isinstance(way, str):
        return way
    if not op.rounds_half_up:
        return f"no kernel for a sum with the rounding {op.rounding}"
    x, y = node.inputs
    (mx, my), shift = op.factors(x.type, y.type)
    addend = (1 << (shift - 1)) - mx * int(quant(x).zero_points) - my * int(quant(y).zero_points)
    own, other = (mx, my) if way[0] is x else (my, mx)
    parameters = {
        **code_parameters(quant(node.output)),
        "own": own,
        "other": other,
        # Sums wrap, and only the whole one is in range.
        "addend": (addend + 2**31) % 2**32 - 2**31,
        "shift": shift,
    }
    return _match((node,), *way, SumKernel, parameters)


@pattern(Mul)
def multiply(op: Mul, node: Node, target: InstructionSet) -> Match | str:
    """The exact product of two differences from zero points, and the requantize behind it."""
    way = _way(node)
    if isinstance(way, str):
        return way
    x_point, y_point = (int(quant(value).zero_points) for value in way)
    parameters = {"x_point": x_point, "y_point": y_point}
    behind = rounding_behind(node.output)
    form = None if behind is None else behind.form.high_word()
    if behind is None or form is None:
        return _match((node,), *way, ProductKernel, parameters, wide=True)
    parameters |= code_parameters(behind.op.to, behind.op.bounds)
    # Products of bytes fit int32 with any lift: they need not be held to the limit.
    parameters |= {"multiplier": int(form.value), "half": int(form.addend)}
    parameters |= {"places": int(form.places), "lift": int(form.lift)}
    return _match((node, behind.node), *way, ProductKernel, parameters, wide=False)


@pattern(Maximum, Minimum)
def extremum(op: Op, node: Node, target: InstructionSet) -> Match | str:
    """The greater or the lesser stored number."""
    way = _way(node, node.output)
    if isinstance(way, str):
        return way
    return _match((node,), *way, ExtremumKernel, {}, greatest=isinstance(op, Maximum))
