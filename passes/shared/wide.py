"""Wide sums: values that stay in i32 between ops, so that nothing rounds them to 8 bits."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from math import prod

import numpy as np

from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.observe.channels import ChannelStatistic
from qir.observe.statistics import Statistics
from qir.ops import Concat, Dot, Gelu, Mish, Silu
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.ops.rules import ExactSum, Normalize, Quotient, RescaledRows, SameCode
from qir.ops.softmax import Exponentials
from qir.ops.traits import Moves
from qir.passes.shared.codes import ZERO_SCALE, reach
from qir.passes.shared.observed_parts import known_part
from qir.types import Affine, DType, known

WIDE_BITS = 15
"""A wide code resolves its range to 2^-15, a 128th of what 8 bits do."""

SMOOTH: tuple[type[Op], ...] = (Gelu, Mish, Silu)
"""The functions that lose 2 dB where their argument is rounded to 8 bits before (MiniLM)."""

NARROWER = 0.8
"""A part whose range has at most this share of the whole one's is worth a code of its own."""

UNEVEN = 4.0
"""Heads whose largest magnitudes differ by this factor have codes of their own."""


def wide_code(
    observed: Interval,
    terms: Iterable[Interval] = (),
    expressed: DType = DType.F32,
    bits: int = WIDE_BITS,
) -> Affine:
    """Returns the wide code of a value: i32 with bounds, per tensor, zero point 0.

    Its scale is the largest magnitude over 2^bits, and its bounds lie at four times that, so that
    terms may be four times their sum and cancel.

    Args:
        observed: The range of the value.
        terms: The ranges of what it is the sum of.
        expressed: The floating-point type of the values.
        bits: Bits of the magnitude that was observed.
    """
    peak = max(_peak(observed), max(map(_peak, terms), default=0.0) / 4)
    scale = float(np.float32(peak / 2**bits)) or ZERO_SCALE
    bound = 2 ** (bits + 2) - 1
    return Affine.of(DType.I32, scale, bounds=(-bound, bound), expressed=expressed)


def _peak(interval: Interval) -> float:
    return max(abs(bound) for bound in interval.bounds)


def divided_sums(graph: Graph) -> set[Value]:
    """Returns the sums of products that a division reads, perhaps moved."""
    operands = [
        unmoved(value)
        for node in graph.nodes
        if isinstance(node.op.quant, Quotient)
        for value in node.inputs
    ]
    return {value for value in operands if _adds_products(value)}


def quotient_code(totals: Iterable[Value], expressed: DType) -> Affine | None:
    """Returns the code in which exact sums are added to be divided: i32 with all of its bits.

    Its bounds lie at what the operands' codes can sum to, not at what data did, so that a row whose
    sum is a thousandth of another's keeps bits too and none is cut off.

    Args:
        totals: The exact sums on codes, perhaps moved.
        expressed: The floating-point type of the values.

    Returns:
        None where one of them is no exact sum.
    """
    greatest = 0.0
    for value in map(unmoved, totals):
        op, operands = value.op, [operand.type for operand in value.inputs]
        if isinstance(op, Dot):
            count = known(operands[0].shape[-1], op.name)
        elif op is not None and isinstance(op.quant, ExactSum):
            count = op.weight(operands)
        else:
            return None
        codes = [operand.quant for operand in operands if operand.quant is not None]
        scale = value.type.code.greatest_scale
        greatest += scale * count * prod([reach(code) for code in codes])
    bound = 2**30 - 1
    scale = float(np.float32(greatest / bound)) or ZERO_SCALE
    return Affine.of(DType.I32, scale, bounds=(-bound, bound), expressed=expressed)


def unmoved(value: Value) -> Value:
    """Returns what a value is the moved numbers of, or itself."""
    while value.op is not None and value.op.moves.by_place:
        value = value.inputs[0]
    return value


def short_code(observed: Interval, expressed: DType = DType.F32) -> Affine:
    """Returns the code of 16 bits by which floating-point numbers enter a wide sum."""
    scale = float(np.float32(_peak(observed) / (2**WIDE_BITS - 1))) or ZERO_SCALE
    return Affine.of(DType.I16, scale, expressed=expressed)


def wide_values(
    graph: Graph,
    excluded: set[Node],
    ranges: Mapping[Value, Interval],
    fine: Collection[Value] = (),
) -> set[Value]:
    """Finds the values of a float program that had better not be rounded to 8 bits.

    They are what a norm or a softmax reads, back through sums, moves, concats and norms to rows of
    tables; the sum of several products; what a loop adds up; moved sums that are divided; and what
    parts are cut out of that have narrower ranges.

    Args:
        graph: The program.
        excluded: The nodes that stay in floating point.
        ranges: The range of each activation.
        fine: The values of 16 bits: what a loop adds up, and sums that a region takes.
    """
    found: set[Value] = set()
    stack = [value for value in fine if isinstance(value.op, Sum)]
    for node in graph.nodes:
        if isinstance(node.op.quant, Normalize):
            # Also where a selector keeps the norm in floating point: its operand is what it was.
            stack.append(node.inputs[0])
        if node in excluded:
            continue
        if isinstance(node.op.quant, Normalize):
            if any(user.op.clip_bounds() for user in node.output.users):
                stack.append(node.output)
        elif isinstance(node.op, Exponentials):
            stack.append(node.inputs[0])
        elif isinstance(node.op, Sum) and (
            _adds_products(node.output) or adds_to_taken(node.output, fine)
        ):
            stack.append(node.output)
        elif isinstance(node.op.quant, Quotient):
            # A sum that is moved before it divides is one still.
            bases = map(unmoved, node.inputs)
            stack += [
                value
                for value, base in zip(node.inputs, bases, strict=True)
                if _is_sum(base) or _adds_products(base)
            ]
    stack += (chain[0].inputs[0] for chain in _chains_to_parts(graph, ranges))
    while stack:
        value = stack.pop()
        op = value.op
        if value in found or op is None or value.node in excluded or not value.type.is_float:
            continue
        if isinstance(op, Sum):
            stack.extend(operand for operand in value.inputs if not operand.is_constant)
        elif isinstance(op, Concat):
            stack.extend(value.inputs)
        elif op.moves.by_place:
            stack.append(value.inputs[0])
        elif not isinstance(op.quant, Normalize | Quotient | RescaledRows):
            continue
        found.add(value)
    return found


def _is_product(value: Value) -> bool:
    """Whether a value is an exact sum that only one op reads; those of convolutions stay short."""
    return _is_sum(value) and len(value.uses) == 1


def _adds_products(value: Value) -> bool:
    return isinstance(value.op, Sum) and all(map(_is_product, value.inputs))


def adds_to_taken(value: Value, fine: Collection[Value]) -> bool:
    """Whether a value is the sum of what a region takes in 16 bits and of exact sums.

    Args:
        value: A value.
        fine: The values of 16 bits.
    """
    if not isinstance(value.op, Sum):
        return False
    terms = list(map(unmoved, value.inputs))
    taken = [term for term in terms if term.node is None and term in fine]
    return bool(taken) and all(term in fine or _is_sum(term) for term in terms)


def _is_sum(value: Value) -> bool:
    op = value.op
    return isinstance(op, Dot) or (op is not None and isinstance(op.quant, ExactSum))


def _is_narrower(node: Node, ranges: Mapping[Value, Interval]) -> bool:
    whole = ranges.get(node.inputs[0])
    parts = [ranges.get(value) for value in node.outputs]
    return whole is not None and any(
        part is not None and _width(part) <= NARROWER * _width(whole) for part in parts
    )


def _width(interval: Interval) -> float:
    low, high = interval.bounds
    return max(high, 0.0) - min(low, 0.0)


def moves_from_sums(graph: Graph) -> dict[Value, tuple[Node, ...]]:
    """Returns for each moved sum, and for the sums themselves, the moves that lead to it.

    Done on the sum, they let each part of it have a code of its own. Sums of convolutions stay
    short.
    """
    chains: dict[Value, tuple[Node, ...]] = {}
    for node in graph.nodes:
        rule = node.op.quant
        if isinstance(node.op, Dot | Sum) or isinstance(rule, Normalize | Quotient | RescaledRows):
            chains[node.output] = ()
        elif node.op.moves.by_place and isinstance(rule, SameCode):
            before = chains.get(node.inputs[0])
            if before is not None and not any(value.type.is_float for value in node.inputs[1:]):
                chains.update(dict.fromkeys(node.outputs, (*before, node)))
    return chains


def _chains_to_parts(graph: Graph, ranges: Mapping[Value, Interval]) -> list[tuple[Node, ...]]:
    """Returns the moves from sums to parts that have narrower ranges."""
    return [
        chain
        for chain in moves_from_sums(graph).values()
        if chain and chain[-1].op.moves is Moves.PARTS and _is_narrower(chain[-1], ranges)
    ]


def summed_parts(graph: Graph) -> set[Node]:
    """Returns the ops that take parts of the sum of a dot, perhaps behind other moves."""
    moves = {move for chain in moves_from_sums(graph).values() for move in chain}
    return {move for move in moves if move.op.moves is Moves.PARTS}


def moved_sums(graph: Graph, ranges: Mapping[Value, Interval], heads: Iterable[Value]) -> set[Node]:
    """Returns the moves that had better be done on sums: parts of them have codes of their own.

    Args:
        graph: The program.
        ranges: The range of each activation.
        heads: The values that are coded by head.
    """
    chains = moves_from_sums(graph)
    cut = {chain[-1].inputs[0] for chain in _chains_to_parts(graph, ranges)}
    siblings = [chain for chain in chains.values() if chain and chain[-1].inputs[0] in cut]
    return {move for chain in (*siblings, *(chains[value] for value in heads)) for move in chain}


def _multiplies_heads(node: Node) -> bool:
    """Whether a node multiplies two activations head by head; weights have codes by channel."""
    is_by_head = isinstance(node.op, Dot) and node.op.batch > 1
    return is_by_head and not any(value.is_constant for value in node.inputs)


def head_codes(graph: Graph, statistics: Statistics) -> dict[Value, Affine]:
    """Returns codes by head for operands of products of batches whose heads differ much in size.

    They are symmetric, one scale for each place along the batch axes but the first.

    Args:
        graph: The program.
        statistics: What calibration observed.
    """
    codes: dict[Value, Affine] = {}
    chains = moves_from_sums(graph)
    for value in chains:
        readers = list(value.users)
        if not readers or not all(map(_multiplies_heads, readers)):
            continue
        found: ChannelStatistic | None = known_part(value, statistics, "channels")
        if found is None or not found.count or found.axes != tuple(range(1, len(found.axes) + 1)):
            continue
        peaks = found.peaks.astype(np.float64)
        shape = (1, *peaks.shape, *(1,) * (value.type.rank - 1 - peaks.ndim))
        if any(count not in (1, size) for count, size in zip(shape, value.type.shape, strict=True)):
            continue
        if peaks.max(initial=0) >= UNEVEN * peaks.min(initial=np.inf) > 0:
            scale = (peaks / 127).astype(np.float32).reshape(shape)
            expressed = value.type.dtype
            codes[value] = Affine.of(DType.I8, scale, np.zeros(shape, int), expressed=expressed)
    return codes
