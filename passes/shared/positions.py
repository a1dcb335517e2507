"""Values whose size changes along a sequence, as that of means over all that came before."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from qir.ir import Graph, Node, Value
from qir.observe.channels import ChannelStatistic
from qir.observe.statistics import Statistics
from qir.ops import Dot
from qir.ops.rules import Quotient
from qir.ops.traits import Moves
from qir.ops.type_rules import MOST_PRODUCTS
from qir.passes.shared.codes import fine_code, reach
from qir.passes.shared.observed_parts import known_part
from qir.types import Affine, known

LEAST_SPREAD = 1.5
"""Decibels that a code of 8 bits may cost the average position beside the whole. Attention that
averages 32 keys one after another loses 1.9, trained encoders at most 1.0."""

TRIED_BITS = (12, 11, 10)
"""Bits of the codes that are tried: the first whose sums of products i32 holds."""


def spread(statistic: ChannelStatistic) -> float:
    """Returns by how many decibels the average position is smaller than all of them together.

    A code for all positions makes the same noise at each: by so much its signal to noise ratio
    there is below that of the whole. Positions of nothing but zeros are left out.

    Args:
        statistic: That of a value at each position, along the last of its axes.
    """
    squares = statistic.squares.array
    squares = squares.sum(axis=tuple(range(squares.ndim - 1)))
    squares = squares[squares > 0]
    if not squares.size:
        return 0.0
    return float(10 * (np.log10(squares.mean()) - np.log10(squares).mean()))


def uneven_codes(
    graph: Graph, statistics: Statistics, excluded: Iterable[Node] = ()
) -> dict[Value, Affine]:
    """Returns finer codes for quotients that are far larger at some positions than at others.

    Under a causal mask the first rows of attention are those of few values, the last ones means of
    many, which are small: 8 bits that hold the first ones leave the last ones few steps. They get
    the most bits of `TRIED_BITS` whose sums of products i32 holds, where nothing but products with
    constant weights reads them, perhaps moved.

    Args:
        graph: A float program with ranges.
        statistics: What calibration observed.
        excluded: The ops that stay in floating point.
    """
    kept = set(excluded)
    codes: dict[Value, Affine] = {}
    for node in graph.nodes:
        value = node.outputs[0] if node.outputs else None
        if value is None or not isinstance(node.op.quant, Quotient) or node in kept:
            continue
        readers = _readers(value)
        if value.range is None or not value.range.is_finite or not _are_products(readers, kept):
            continue
        found: ChannelStatistic | None = known_part(value, statistics, "positions")
        if found is None or not found.count or spread(found) < LEAST_SPREAD:
            continue
        terms = max(known(user.inputs[1].type.shape[-2], user.op.name) for _, user in readers)
        for bits in TRIED_BITS:
            code = fine_code(value.range, bits=bits, expressed=value.type.dtype)
            if terms * reach(code) * 128 <= MOST_PRODUCTS:
                codes[value] = code
                break
    return codes


def _readers(value: Value) -> list[tuple[Value, Node]]:
    """Returns what reads the numbers of a value, with the moved form that it reads."""
    found: list[tuple[Value, Node]] = []
    stack = [value]
    while stack:
        form = stack.pop()
        for user in form.users:
            if user.op.moves is Moves.ORDER:
                stack.append(user.output)
            else:
                found.append((form, user))
    return found


def _are_products(readers: Iterable[tuple[Value, Node]], kept: set[Node]) -> bool:
    """Whether all that reads a value are products with constant weights, in integers."""
    readers = list(readers)
    return bool(readers) and all(
        isinstance(user.op, Dot)
        and not user.op.batch
        and user.inputs[0] is form
        and user.inputs[1].is_constant
        and user not in kept
        for form, user in readers
    )
