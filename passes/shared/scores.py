"""The scores of a softmax: the values that they are made of, and whose products they are."""

from __future__ import annotations

from qir.ir import Graph, Value, reachable
from qir.numbers.interval import Interval
from qir.ops import Clip, Div, Dot, Mul, Select
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.ops.softmax import Exponentials

_TERMS: tuple[type[Op], ...] = (Clip, Select, Sum)
"""What scores of one code are made of in that code, or rounded to it from the same size."""

_CHANGES: tuple[type[Op], ...] = (*_TERMS, Div, Mul)
"""What may stand between a product and the softmax, beside moves."""

LOPSIDED = 2.0
"""Ranges that reach further than this times as far to one side of 0 as to the other stay so."""


def score_factors(graph: Graph) -> set[Value]:
    """Finds the queries and keys of attention, and what they are the moved numbers of.

    Args:
        graph: A float program.
    """
    scores = reachable(
        (node.inputs[0] for node in graph.nodes if isinstance(node.op, Exponentials)),
        lambda value: value.inputs if _is_moved(value) or isinstance(value.op, _CHANGES) else (),
    )
    products = [value for value in scores if isinstance(value.op, Dot)]
    return set(
        reachable(
            (x for y in products if not any(x.is_constant for x in y.inputs) for x in y.inputs),
            lambda value: value.inputs[:1] if _is_moved(value) else (),
        )
    )


def score_terms(graph: Graph) -> set[Value]:
    """Finds what lies between products and a softmax where more than a product makes the scores.

    A mask or a bias is added to the product, or chosen beside it. The softmax reads a rounded
    sum then, whose steps show in the shares as those of the product itself would.

    Args:
        graph: A float program.
    """
    sums = (
        node.inputs[0]
        for node in graph.nodes
        if isinstance(node.op, Exponentials) and _is_term(node.inputs[0])
    )
    met = reachable(sums, lambda value: value.inputs if _is_term(value) else ())
    return {
        value
        for value in met
        if _is_term(value) or (value.type.is_float and isinstance(value.op, Dot))
    }


def _is_moved(value: Value) -> bool:
    return value.op is not None and value.op.moves.keeps_all


def _is_term(value: Value) -> bool:
    return value.type.is_float and (_is_moved(value) or isinstance(value.op, _TERMS))


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
