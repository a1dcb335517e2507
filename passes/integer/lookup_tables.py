"""lookup-tables: any function of one 8-bit tensor becomes one lookup."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.analysis.properties import QUANTIZED
from qir.ir import Builder, Graph, Value
from qir.ops import Dequantize, Lookup, Quantize, Requantize
from qir.ops.lookup import index_bits
from qir.ops.rules import Coded
from qir.passes.shared.kept import KEPT
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule
from qir.types import Array, TensorType


@register
class LookupTables(Pass):
    """Turns elementwise functions between dequantize and quantize into lookups; composes lookups.

    The function is computed at all codes in float64 at compile time, so that every backend looks up
    the same integers. Exact with respect to the real function; a float32 evaluation of it may round
    to a neighbouring integer. What a selector keeps in floating point stays so. For a target
    without lookups nothing is changed.
    """

    name = "lookup-tables"
    requires = (QUANTIZED,)

    def run(self, graph: Graph, context: Context) -> None:
        if context.target is not None and not context.target.lookup:
            return
        rewrite(graph, [tabulate, compose], allow=context.allow, nested=False)


def all_codes(type: TensorType) -> Array:
    """Returns the stored numbers that a lookup has entries for, in the order of their patterns."""
    bits = index_bits(type)
    patterns = np.arange(2**bits)
    if type.dtype.bounds[0] < 0:
        patterns = (patterns + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    return patterns.astype(type.dtype.numpy)


def _inside(codes: Array, type: TensorType) -> Array:
    """Replaces bit patterns that the code does not use by the nearest number that it does."""
    assert type.quant is not None
    return np.clip(codes, *type.quant.range).astype(codes.dtype)


@rule(Quantize)
def tabulate(y: Value, b: Builder) -> Value | Skip | None:
    """quantize(f(dequantize(x))) -> lookup(x, table of f); f elementwise with scalar constants."""
    found = _function(y.inputs[0])
    if found is None or isinstance(found, Skip) or not isinstance(y.op, Quantize):
        return found if isinstance(found, Skip) else None
    leaf, order = found
    x = leaf.inputs[0]
    code = x.type.quant
    if code is None or code.storage.bits > 16 or not code.per_tensor or not y.op.to.per_tensor:
        return Skip("the operand or the result is not coded per tensor in at most 16 bits", x)
    if any(value.type.shape != x.type.shape for value in order):
        return Skip("the function broadcasts its operand", x)
    reals = {leaf: code.decode(_inside(all_codes(x.type), x.type)).astype(np.float64)}
    with np.errstate(all="ignore"):
        for value in order:
            assert value.op is not None
            operands = [
                reals[operand] if operand in reals else operand.array.reshape(()).astype(np.float64)
                for operand in value.inputs
            ]
            reals[value] = np.asarray(value.op.evaluate(*operands))
    entries = reals[y.inputs[0]]
    if np.any(np.isnan(entries)):
        return Skip("the function is undefined somewhere in the operand's range", x)
    table = b.const(y.op.encode(entries), f"{y.name}.table", y.op.to)
    return b.emit(Lookup(), x, table)


def _function(root: Value) -> tuple[Value, tuple[Value, ...]] | Skip | None:
    """Finds the dequantized value that a value is an elementwise function of.

    Returns:
        That value, and the values from there to the root, operands first; None where there is no
        function at all.
    """
    leaf: Value | None = None
    order: dict[Value, None] = {}
    stack = [(root, False)]
    while stack:
        value, computable = stack.pop()
        if computable:
            order[value] = None
        elif value in order or value is leaf or (value.is_constant and value.array.size == 1):
            continue
        elif isinstance(value.op, Dequantize):
            if leaf is not None:
                return Skip("is a function of several tensors", root)
            leaf = value
        elif value.node is not None and value.node.note == KEPT:
            return Skip(KEPT, value)
        elif value.op is None or not value.op.elementwise or value.is_constant:
            return Skip("is not an elementwise function of one tensor", value)
        else:
            stack.append((value, True))
            stack.extend((operand, False) for operand in value.inputs)
    return (leaf, tuple(order)) if leaf is not None and order else None


@rule()
def compose(y: Value, b: Builder) -> Value | Skip | None:
    """f(lookup(x, table)) -> lookup(x, f(table)), exact; f a lookup, requantize, relu or clip."""
    inner = y.inputs[0] if y.inputs else y
    match inner:
        case Value(Lookup(), [x, table]) if (
            table.is_constant
            and y.op is not None
            and (isinstance(y.op, Lookup | Requantize) or y.op.clip_bounds())
            and y.type.quant is not None
        ):
            if len(inner.uses) > 1:
                return Skip("the inner lookup has another user", inner)
            rest: Sequence[Value] = y.inputs[1:]
            if not all(value.is_constant for value in rest) or not y.type.quant.per_tensor:
                return Skip("the outer op has operands that are not constant", inner)
            operands = [
                Coded(table.array, table.type),
                *(Coded(value.array, value.type) for value in rest),
            ]
            result = TensorType(table.type.shape, y.type.quant)
            entries = np.asarray(y.op.integer(operands, result)).astype(y.type.dtype.numpy)
            return b.emit(Lookup(), x, b.const(entries, f"{y.name}.table", y.type.quant))
        case _:
            return None
