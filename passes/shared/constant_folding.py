"""Ops of constants, computed when the program is made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import QirError, counted
from qir.ir import Builder, Node, Value
from qir.ops import Dequantize
from qir.ops.rules import Coded
from qir.pipeline.rewrite import Rule, Skip, rule
from qir.types import Array, TensorType, known


def constant_folding(growth: int) -> Rule:
    """Returns the rule that replaces ops of constants by their results.

    Args:
        growth: Bytes by which the results may be larger than the operands.
    """

    def fold_constants(y: Value, b: Builder) -> Sequence[Value] | Skip | None:
        node = y.node
        if node is None or node.regions or not node.inputs:
            return None
        if not all(value.is_constant for value in node.inputs):
            return None
        if isinstance(node.op, Dequantize):
            return Skip("folding would store the numbers wider than their code", y)
        results = [value.type for value in node.outputs]
        if not all(isinstance(size, int) for type in results for size in type.shape):
            return Skip("the result has a named dimension", y)
        grown = sum(map(_bytes, results)) - sum(value.array.nbytes for value in node.inputs)
        if grown > growth:
            return Skip(f"the result would take {counted(grown, 'byte')} more than its operands", y)
        try:
            arrays = _compute(node)
        except QirError as error:
            return Skip(error.message, y)
        pairs = zip(node.outputs, arrays, strict=True)
        return [b.const(array, old.name, old.type.element) for old, array in pairs]

    return rule()(fold_constants)


def _bytes(type: TensorType) -> int:
    return known(type.size, "constant") * type.dtype.numpy.itemsize


def _compute(node: Node) -> list[Array]:
    """Computes an op of constants: in integers where one has a code, else reals in float64."""
    with np.errstate(all="ignore"):
        if any(value.type.quant for value in (*node.inputs, *node.outputs)):
            operands = [Coded(value.array, value.type) for value in node.inputs]
            found = node.op.integer(operands, node.outputs[0].type)
        else:
            found = node.op.evaluate(*map(_wide, node.inputs))
        arrays = found if isinstance(found, tuple) else (found,)
        return [
            np.asarray(array).astype(value.type.dtype.numpy)
            for array, value in zip(arrays, node.outputs, strict=True)
        ]


def _wide(constant: Value) -> Array:
    return constant.array.astype(np.float64) if constant.type.is_float else constant.array
