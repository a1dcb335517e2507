"""The scores of a softmax: the values that they are made of, and whose products they are."""

from __future__ import annotations

from qir.ir import Graph, Value
from qir.numbers.interval import Interval
from qir.ops import Broadcast, Clip, Div, Dot, Mul, Reshape, Select, Transpose
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.ops.softmax import Exponentials

_MOVES: tuple[type[Op], ...] = (Broadcast, Reshape, Transpose)
_CHANGES: tuple[type[Op], ...] = (*_MOVES, Clip, Div, Mul, Select, Sum)
"""What may stand between a product and the softmax."""

_TERMS: tuple[type[Op], ...] = (*_MOVES, Clip, Select, Sum)
"""What scores of one code are made of in that code, or rounded to it from the same size."""

LOPSIDED = 2.0
"""Ranges that reach further than this times as far to one side of 0 as to the other stay so."""


def score_factors(graph: Graph) -> set[Value]:
    """Finds the queries and keys of attention, and what they are the moved numbers of.

    Args:
        graph: A float program.
    """
    found: set[Value] = set()
    seen: set[Value] = set()
    stack = [node.inputs[0] for node in graph.nodes if isinstance(node.op, Exponentials)]
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if isinstance(value.op, _CHANGES):
            stack.extend(operand for operand in value.inputs if not operand.is_constant)
        elif isinstance(value.op, Dot) and not any(x.is_constant for x in value.inputs):
            for operand in value.inputs:
                found.add(operand)
                while isinstance(operand.op, _MOVES):
                    operand = operand.inputs[0]
                    found.add(operand)
    return found


def score_terms(graph: Graph) -> set[Value]:
    """Finds what lies between products and a softmax where more than a product makes the scores.

    A mask or a bias is added to the product, or chosen beside it. The softmax reads a rounded
    sum then, whose steps show in the shares as those of the product itself would.

    Args:
        graph: A float program.
    """
    found: set[Value] = set()
    stack = [
        node.inputs[0]
        for node in graph.nodes
        if isinstance(node.op, Exponentials) and isinstance(node.inputs[0].op, _TERMS)
    ]
    while stack:
        value = stack.pop()
        if value in found or value.is_constant or not value.type.is_float:
            continue
        if isinstance(value.op, Dot):
            found.add(value)
        elif isinstance(value.op, _TERMS):
            found.add(value)
            stack.extend(value.inputs)
    return found


def is_two_sided(observed: Interval) -> bool:
    """Whether a range reaches about as far to one side of 0 as to the other.

    Its code had better reach exactly as far: the largest scores decide a row of softmax, and they
    are products of the largest numbers, on either side. What calibration saw of one side tells what
    the other may hold, and one number cut off by a fifth costs all scores of its row more than the
    somewhat longer steps.

    Args:
        observed: A range.
    """
    low, high = observed.bounds
    return 0 < max(-low, high) <= LOPSIDED * min(-low, high)
