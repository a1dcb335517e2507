"""Functions of one stored byte."""

from __future__ import annotations

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.lookup import ClampKernel, LookupKernel
from qir.backends.native.pattern import Match, pattern
from qir.backends.native.patterns.epilogue import BYTES, is_bytes
from qir.backends.native.patterns.flat import passed
from qir.ir import Node, Value
from qir.ops import Clip, Lookup, Relu
from qir.ops.rules import Coded
from qir.types import Array, DType, TensorType


def every_byte(node: Node) -> Array:
    """Returns what a node computes of every byte that its only operand can hold.

    Args:
        node: A node whose op computes each element from one of 8 bits.

    Returns:
        256 bytes, in the order of the operand's bits as an unsigned number.
    """
    (x,) = node.inputs
    code = x.type.affine
    stored = np.arange(256, dtype=np.uint8).view(x.type.dtype.numpy).clip(*code.range)
    operand = Coded(stored, TensorType(stored.shape, code))
    found = node.op.integer([operand], TensorType(stored.shape, node.output.type.element))
    assert isinstance(found, np.ndarray)
    return found.astype(node.output.type.dtype.numpy)


def looked_up(node: Node, table: Array | Value) -> Match:
    """Returns a match of a node by its table."""
    return passed(node, LookupKernel(), {}, {"table": table})


@pattern(Lookup)
def lookup(op: Lookup, node: Node, target: InstructionSet) -> Match | str:
    """A table of 256 bytes."""
    x, table = node.inputs
    if x.type.dtype not in BYTES or table.type.dtype not in BYTES:
        return "not from 8 bits to 8"
    return looked_up(node, table)


@pattern(Relu)
def relu(op: Relu, node: Node, target: InstructionSet) -> Match | str:
    """Bytes of at least the zero point."""
    if not is_bytes(node.output):
        return "not a code of 8 bits"
    code = node.output.type.affine
    parameters = {"low": int(code.zero_points), "high": code.range[1]}
    return passed(node, ClampKernel(code.storage is DType.U8), parameters, {})


@pattern(Clip)
def clip(op: Clip, node: Node, target: InstructionSet) -> Match | str:
    """Bytes between the codes of the bounds."""
    if not is_bytes(node.output):
        return "not a code of 8 bits"
    code = node.output.type.affine
    low, high = op.coded_bounds(code)
    return passed(node, ClampKernel(code.storage is DType.U8), {"low": low, "high": high}, {})
