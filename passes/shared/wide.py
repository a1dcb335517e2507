"""Wide sums: values that stay in i32 between ops, so that nothing rounds them to 8 bits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.ops import (
    Broadcast,
    Clip,
    Dot,
    Gather,
    Gelu,
    Mish,
    Relu,
    Reshape,
    Silu,
    Slice,
    Split,
    Transpose,
)
from qir.ops.elementwise import Sum
from qir.ops.op import ExactSum, Op, SameCode
from qir.passes.shared.codes import ZERO_SCALE
from qir.types import DType, Quant

BITS = 15
"""A wide code resolves its range to 2^-15, a 128th of what 8 bits do."""

BOUND = 2**17 - 1
"""The largest magnitude of a wide code: four times what calibration saw of its value."""

FINE_BOUNDS = (-(2**11), 2**11 - 1)
"""The bounds of the code from which a function is looked up that stands behind a sum."""

SMOOTH: tuple[type[Op], ...] = (Gelu, Mish, Silu)
"""The functions that lose 2 dB where their argument is rounded to 8 bits before (MiniLM)."""

PARTS: tuple[type[Op], ...] = (Slice, Split, Gather)
"""The moves that leave numbers out."""

_MOVES: tuple[type[Op], ...] = (*PARTS, Broadcast, Reshape, Transpose)

NARROWER = 0.8
"""A part whose range has at most this share of the whole one's is worth a code of its own."""


def wide_code(ranges: Iterable[Interval], expressed: DType = DType.F32) -> Quant:
    """Returns the wide code of a sum: i32 with bounds, per tensor, zero point 0.

    Its scale is the largest magnitude over 2^15, and its bounds lie at four times that.

    Args:
        ranges: The ranges of the sum and of what is added.
        expressed: The floating-point type of the values.
    """
    peak = max(abs(bound) for known in ranges for bound in known.bounds)
    scale = float(np.float32(peak / 2**BITS)) or ZERO_SCALE
    return Quant.of(DType.I32, scale, bounds=(-BOUND, BOUND), expressed=expressed)


def fine_code(observed: Interval, expressed: DType = DType.F32) -> Quant:
    """Returns a code of 12 bits in i16 that covers a range and 0, with its zero point at 0."""
    low, high = FINE_BOUNDS
    least, greatest = observed.bounds
    scale = float(np.float32(max(least / low, greatest / high))) or ZERO_SCALE
    return Quant.of(DType.I16, scale, bounds=FINE_BOUNDS, expressed=expressed)


def short_code(observed: Interval, expressed: DType = DType.F32) -> Quant:
    """Returns the code of 16 bits by which floating-point numbers enter a wide sum."""
    peak = max(abs(bound) for bound in observed.bounds)
    scale = float(np.float32(peak / (2**BITS - 1))) or ZERO_SCALE
    return Quant.of(DType.I16, scale, expressed=expressed)


def wide_values(graph: Graph, excluded: set[Node], ranges: Mapping[Value, Interval]) -> set[Value]:
    """Finds the values of a float program that had better not be rounded to 8 bits.

    They are what a norm reads, back through sums, moves and norms; the sum of several products; and
    a norm that is read in several codes.

    Args:
        graph: The program.
        excluded: The nodes that stay in floating point.
        ranges: The range of each activation.
    """
    found: set[Value] = set()
    stack: list[Value] = []
    for node in graph.nodes:
        if node in excluded:
            continue
        if node.op.takes_sums:
            stack.append(node.inputs[0])
            if any(_reads_part(user, ranges) for user in node.output.users):
                stack.append(node.output)
        elif isinstance(node.op, Sum) and all(map(_is_product, node.inputs)):
            stack.append(node.output)
    while stack:
        value = stack.pop()
        op = value.op
        if value in found or op is None or value.node in excluded or not value.type.is_float:
            continue
        if isinstance(op, Sum):
            stack.extend(operand for operand in value.inputs if not operand.is_constant)
        elif isinstance(op, _MOVES):
            stack.append(value.inputs[0])
        elif not op.takes_sums:
            continue
        found.add(value)
    return found


def _is_product(value: Value) -> bool:
    """Whether a value is an exact sum that only one op reads; those of convolutions stay short."""
    product = isinstance(value.op, Dot) or (
        value.op is not None and isinstance(value.op.quant, ExactSum)
    )
    return product and len(value.uses) == 1


def _reads_part(node: Node, ranges: Mapping[Value, Interval]) -> bool:
    if isinstance(node.op, Relu | Clip):
        return True
    return isinstance(node.op, PARTS) and _is_narrower(node, ranges)


def _is_narrower(node: Node, ranges: Mapping[Value, Interval]) -> bool:
    whole = ranges.get(node.inputs[0])
    parts = [ranges.get(value) for value in node.outputs]
    return whole is not None and any(
        part is not None and _width(part) <= NARROWER * _width(whole) for part in parts
    )


def _width(interval: Interval) -> float:
    low, high = interval.bounds
    return max(high, 0.0) - min(low, 0.0)


def summed_parts(graph: Graph) -> dict[Node, tuple[Node, ...]]:
    """Finds the ops that take parts of the sum of a dot, perhaps behind other moves.

    Returns:
        For each such op the moves from the sum to it, itself the last. Done on the sum they let
        each part have a code of its own.
    """
    chains: dict[Value, tuple[Node, ...]] = {}
    found = {}
    for node in graph.nodes:
        if isinstance(node.op, Dot):
            chains[node.output] = ()
        elif isinstance(node.op, _MOVES) and isinstance(node.op.quant, SameCode):
            before = chains.get(node.inputs[0])
            if before is None or any(value.type.is_float for value in node.inputs[1:]):
                continue
            chain = (*before, node)
            chains.update(dict.fromkeys(node.outputs, chain))
            if isinstance(node.op, PARTS):
                found[node] = chain
    return found


def moved_sums(graph: Graph, ranges: Mapping[Value, Interval]) -> set[Node]:
    """Returns the moves that had better be done on sums: parts of them have narrower ranges.

    Args:
        graph: The program.
        ranges: The range of each activation.
    """
    chains = summed_parts(graph)
    cut = {node.inputs[0] for node in chains if _is_narrower(node, ranges)}
    return {move for node, chain in chains.items() if node.inputs[0] in cut for move in chain}
