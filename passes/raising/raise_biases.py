"""raise-biases: constants that are added behind a layer become its bias."""

from __future__ import annotations

import numpy as np

from qir.ir import Builder, Value
from qir.ops import Add, Conv, ConvTranspose, Dot, Reshape
from qir.passes.shared.masking import MASKED
from qir.passes.shared.matching import in_float64, single_use
from qir.passes.shared.raising import Raising
from qir.pipeline import register
from qir.pipeline.rewrite import rule


@rule(Add)
def bias(y: Value, b: Builder) -> Value | None:
    """Makes a layer with a bias of conv(x, k) + c; the same of conv_transpose and dot."""
    for layer, constant in ((y.inputs[0], y.inputs[1]), (y.inputs[1], y.inputs[0])):
        if not (isinstance(layer.op, Conv | ConvTranspose | Dot) and constant.is_constant):
            continue
        columns = layer.type.shape[-1]
        array = constant.array
        if array.size and array.min() <= MASKED:
            continue  # A mask, which softmax may take as its own.
        is_per_column = array.size == 1 or (array.shape[-1] == array.size == columns)
        if not (is_per_column and single_use(layer) and y.type == layer.type) or not isinstance(
            columns, int
        ):
            continue
        x, kernel, *present = layer.inputs
        if present and not present[0].is_constant:
            continue
        if not present and array.shape == (columns,):
            return b.emit(layer.op, x, kernel, constant)
        total = np.broadcast_to(in_float64(constant).reshape(-1), (columns,))
        if present:
            total = total + in_float64(present[0])
        return b.emit(layer.op, x, kernel, b.const(total.astype(array.dtype)))
    return None


@rule(Add)
def bias_behind_reshape(y: Value, b: Builder) -> Value | None:
    """Puts a bias before the split of the last axis, as into attention heads, that it follows."""
    match y:
        case Value(Add(), (Value(Reshape(), (layer,)) as split, constant)):
            columns, shape = layer.type.shape[-1], constant.type.shape
            if (
                isinstance(layer.op, Conv | ConvTranspose | Dot)
                and constant.is_constant
                and single_use(split)
                and constant.array.size == columns
                and split.type.shape == (*layer.type.shape[:-1], *shape)
            ):
                name = constant.name if constant.named else None
                flat = b.const(constant.array.reshape(-1), name)
                return b.emit(Reshape(y.type.shape), b.emit(Add(), layer, flat))
        case _:
            return None
    return None


@register
class RaiseBiases(Raising):
    """Joins to a layer the constant that is added to each of its columns."""

    name = "raise-biases"
    rules = (bias, bias_behind_reshape)
