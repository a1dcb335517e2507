"""Biases of sums of products whose operands have codes already."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qir.ir import Builder, Value
from qir.passes.shared.codes import bias_code, holds_bias
from qir.passes.shared.plan import KeptFloat
from qir.types import Affine, TensorType, known

MOST_SCALE_ERROR = 2.0**-22
"""Relative difference of the scale of a bias from the accumulator's: that of a float32 product."""


def stored_bias(
    bias: Value,
    source: Value | None,
    accumulator: TensorType,
    operands: Sequence[Value],
    builder: Builder,
    *,
    may_round: bool,
) -> Value:
    """Returns a bias in the accumulator's steps: as it is stored, or what rounds to them.

    Args:
        bias: The bias in floating point.
        source: The stored numbers that mean just its numbers, or None.
        accumulator: The type of the sum without it.
        operands: Both operands of the product, in codes.
        builder: Where to build.
        may_round: Whether it may be rounded to the accumulator's steps.

    Raises:
        KeptFloat: It is no constant, no whole number of steps where it may not be rounded, or too
            large for the accumulator.
        QirError: The accumulator's scale varies by row.
    """
    name = bias.name if source is None else source.name
    channels = known(accumulator.shape[-1], "bias")
    code = bias_code(accumulator.code, channels)
    own = None if source is None else source.type.quant
    if source is not None and isinstance(own, Affine) and own.storage is code.storage:
        if own == code and not source.is_constant:
            return source
        if source.is_constant and _has_steps(own, code, channels):
            # A copy: a bias that is added behind the product may stand behind it as well.
            stored = np.broadcast_to(source.array.reshape(-1), (channels,))
            return builder.const(np.ascontiguousarray(stored), name, code)
    if not bias.is_constant and (source is None or not source.is_constant):
        raise KeptFloat(f"the bias %{bias.name} is not a constant")
    real = bias.array if source is None else source.real
    real = np.broadcast_to(real.reshape(-1), (channels,)).astype(np.float64)
    steps = real / code.scale.array
    if not may_round and np.any(steps != np.rint(steps)):
        raise KeptFloat(f"the bias %{bias.name} is no whole number of the accumulator's steps")
    terms = prod(known(size, "bias") for size in operands[1].type.shape[:-1])
    if not holds_bias(code, real, terms, operands):
        raise KeptFloat(f"its sum has no room for the bias %{bias.name}")
    return builder.const(code.encode(real), name, code)


def _has_steps(own: Affine, code: Affine, channels: int) -> bool:
    """Whether the steps of a bias are the accumulator's, as near as float32 products are."""
    scale, wanted = own.scale.array.reshape(-1), code.scale.array.reshape(-1)
    if scale.size not in (1, channels):
        return False
    return bool(np.all(np.abs(scale / wanted - 1) <= MOST_SCALE_ERROR))


def is_bias(bias: TensorType, x: TensorType, result: TensorType) -> bool:
    """Whether what is added to a tensor is a number for each channel along its last axis."""
    along = all(size == 1 for size in bias.shape[:-1])
    return along and result.shape == x.shape and bias.rank <= x.rank
