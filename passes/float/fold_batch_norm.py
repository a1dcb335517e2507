"""fold-batch-norm: normalizations and other affine maps of channels become weights."""

from __future__ import annotations

import numpy as np

from qir.analysis.properties import FLOAT_OPS
from qir.ir import Builder, Graph, Value
from qir.ir.names import Inheritance
from qir.numbers.affine_map import AffineMap
from qir.ops import Add, BatchNorm, Conv, Mul
from qir.passes.shared.affine import Chain, affine_chain, at_linear_ops, chain_goes_on
from qir.passes.shared.constants import rounded
from qir.passes.shared.folding import fold_affine
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import Skip, rewrite, rule
from qir.types import Array


@register
class FoldBatchNorm(Pass):
    """Folds batch_norm, and any chain of sums and products with constants, into weights.

    A chain that is an affine map of each channel goes into the conv, conv_transpose or dot that
    computes its operand, or else into the ones that read it (where no padding would be shifted
    with it), directly or through ops that commute with it. What is left becomes one depthwise
    convolution of size 1, which quantize can make an integer op, or one mul and one add. Weights
    are computed in float64 and rounded once; weights that other ops read stay as they are.

    Attributes:
        depthwise: Whether maps that find no weights become depthwise convolutions.
    """

    depthwise: bool = True

    name = "fold-batch-norm"
    requires = (FLOAT_OPS,)

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        found = (into_depthwise, into_mul_and_add) if self.depthwise else (into_mul_and_add,)
        rest = [at_linear_ops(each) for each in found]
        fold_affine(graph)
        while (report := rewrite(graph, rest, allow=context.allow, nested=False)).applied:
            # A depthwise convolution has weights, into which other maps may go.
            fold_affine(graph)
        for _, root, skip in report.skips:
            if isinstance(root.op, BatchNorm) and root.node is not None:
                root.node.note = skip.reason
        names.settle()


@rule()
def into_depthwise(y: Value, b: Builder) -> Value | Skip | None:
    """X * c + d -> conv(x, c, d) of one channel each, for tensors of one to three dimensions."""
    if (chain := _whole_chain(y)) is None or isinstance(chain, Skip):
        return chain
    source, affine, values = chain
    rank, channels = y.type.rank, y.type.shape[-1] if y.type.rank else 1
    normalizes = any(isinstance(value.op, BatchNorm) for value in values)
    if not normalizes and not (affine.varies and affine.scales):
        return None
    if not 3 <= rank <= 5 or (affine.varies and affine.axis != rank - 1):
        return Skip("only channels of one to three dimensions become a convolution", y)
    if not isinstance(channels, int):
        return Skip(f"there are {channels} channels, which is no known number", y)
    weights = _rounded(np.broadcast_to(affine.factor, channels), y)
    sums = _rounded(np.broadcast_to(affine.offset, channels), y)
    if weights is None or sums is None:
        return Skip("the folded weights would not be finite", y)
    kernel = b.const(weights.reshape((1,) * (rank - 1) + (-1,)), f"{y.name}.kernel", y.type.dtype)
    operands = [kernel]
    if affine.shifts:
        operands.append(b.const(sums, f"{y.name}.bias", y.type.dtype))
    return b.emit(Conv(groups=channels), source, *operands)


@rule()
def into_mul_and_add(y: Value, b: Builder) -> Value | Skip | None:
    """((x - c) * d) + e -> x * d + (e - c * d): at most two ops."""
    if (chain := _whole_chain(y)) is None or isinstance(chain, Skip):
        return chain
    source, affine, values = chain
    wanted = affine.scales + affine.shifts
    if len(values) <= wanted and not any(isinstance(value.op, BatchNorm) for value in values):
        return None
    new = source
    if affine.scales:
        factor = _rounded(_shaped(affine.factor, affine, y), y)
        if factor is None:
            return Skip("the folded factor would not be finite", y)
        new = b.emit(Mul(), new, b.const(factor, f"{y.name}.factor", y.type.dtype))
    if affine.shifts:
        offset = _rounded(_shaped(affine.offset, affine, y), y)
        if offset is None:
            return Skip("the folded offset would not be finite", y)
        new = b.emit(Add(), new, b.const(offset, f"{y.name}.offset", y.type.dtype))
    return new


def _whole_chain(y: Value) -> Chain | Skip | None:
    """Returns the chain that ends at a value, unless the value's reader continues it."""
    if chain_goes_on(y):
        return None
    if (chain := affine_chain(y)) is not None:
        return chain
    return Skip("its statistics are computed", y) if isinstance(y.op, BatchNorm) else None


def _shaped(numbers: Array, affine: AffineMap, y: Value) -> Array:
    """Returns factors or offsets in the smallest shape that broadcasts against the value."""
    if numbers.size == 1:
        return numbers.reshape(())
    return numbers.reshape(-1, *(1,) * (y.type.rank - 1 - affine.axis))


def _rounded(numbers: Array, y: Value) -> Array | None:
    return rounded(numbers, y.type.dtype)
