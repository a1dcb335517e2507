"""What can hold of a graph, computed on the graph itself: it survives saving and editing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from qir.ir import Graph, Node
from qir.ops.cast import Dequantize, Quantize
from qir.ops.core import Const, Return
from qir.ops.embedding import Embedding
from qir.ops.quantize_dynamic import QuantizeDynamic
from qir.ops.traits import Moves


@dataclass(frozen=True)
class Property:
    """A statement about a graph.

    Args:
        name: What it is called in messages.
        remedy: What to do where it is missing.
        missing: Returns why it does not hold, or None when it holds.
    """

    name: str
    remedy: str
    missing: Callable[[Graph], str | None]


def _not_float(graph: Graph) -> str | None:
    coded = next((value for value in graph.values_inside() if value.type.quant is not None), None)
    return None if coded is None else f"%{coded.name} has a code already, {coded.type}"


def _computes_on_codes(graph: Graph) -> str | None:
    for value in graph.values_inside():
        if value.type.quant is None:
            continue
        if not all(
            isinstance(user.op, Dequantize | Return) or _is_table(user) for user in value.users
        ):
            return f"%{value.name} has a code already, {value.type}"
    return None


def _is_table(node: Node) -> bool:
    return isinstance(node.op, Embedding) and all(value.type.is_float for value in node.outputs)


def _not_ranged(graph: Graph) -> str | None:
    for value in graph.values():
        if not value.type.is_float or value.is_constant or value.range is not None:
            continue
        given = isinstance(value.op, Dequantize) or all(
            isinstance(node.op, Quantize) for node in value.users
        )
        if not given:
            return f"%{value.name} has no range"
    regions = (region for node in graph.nodes for region in node.regions)
    missing = (_not_ranged(region) for region in regions if _was_run(region))
    return next((reason for reason in missing if reason), None)


def _was_run(region: Graph) -> bool:
    """Whether calibration saw what a region computes: a branch that no data takes has no ranges.

    What is only moved may have been seen outside.
    """
    return any(
        value.observed is not None
        for node in region.walk()
        for value in node.outputs
        if node.op.moves is not Moves.ORDER and not node.regions
    )


def _not_quantized(graph: Graph) -> str | None:
    coded = any(value.type.quant for value in graph.values_inside())
    return None if coded else "no value has a code"


def is_float_op(node: Node) -> bool:
    """Whether a node computes in floating point; casts to and from codes and constants don't.

    Float constants beside coded operands are no floats that it computes with: machine numbers are
    made of them at compile time. Rows of a coded table that leave as floating-point numbers are
    cast.
    """
    if isinstance(node.op, Quantize | QuantizeDynamic | Dequantize | Const | Return):
        return False
    if isinstance(node.op, Embedding):
        return node.inputs[0].type.quant is None
    computed = (value for value in (*node.inputs, *node.outputs) if not value.is_constant)
    return any(value.type.is_float for value in computed)


def _not_integer(graph: Graph) -> str | None:
    node = next((node for node in graph.walk() if is_float_op(node)), None)
    if node is not None:
        return f"{node.op.name} computes %{node.outputs[0].name} in floating point"
    return _not_quantized(graph)


FLOAT = Property("a float program", "quantize a program once only", _not_float)
FLOAT_OPS = Property(
    "a float program",
    "quantize a program once only, or finish it by 'calibrate, quantize, integer'",
    _computes_on_codes,
)
RANGED = Property("ranges", "put calibrate before it", _not_ranged)
QUANTIZED = Property("a quantized program", "put quantize before it", _not_quantized)
INTEGER = Property("an integer program", "see qir.explain for what stayed float", _not_integer)
