"""Ops that make a shape with names in it, once the sizes are known."""

from __future__ import annotations

from dataclasses import replace

from qir.ir.signature import Sizes
from qir.ops import Broadcast, Iota, Reshape
from qir.ops.op import Op
from qir.types import Dim


def in_sizes(op: Op, sizes: Sizes) -> Op:
    """Replaces the names in a shape that an op makes, which its operands need not tell.

    Args:
        op: Any op; one that makes no shape is returned as it is.
        sizes: The sizes of the names.

    Raises:
        QirError: No input tells the size of a name.
    """
    if isinstance(op, Reshape | Broadcast | Iota) and any(isinstance(s, Dim) for s in op.shape):
        return replace(op, shape=sizes.shape(op.shape))
    return op
