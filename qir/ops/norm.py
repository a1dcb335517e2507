"""Normalizations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.numbers.interval import Interval
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned
from qir.ops.rules import KeepFloat
from qir.ops.traits import Carried, Linear, carried_in_place
from qir.ops.type_rules import same_float
from qir.types import Array, TensorType


@op("batch_norm")
class BatchNorm(Op):
    """Batch normalization at inference, along the last axis.

    y = (x - mean) / sqrt(variance + epsilon) * gamma + beta.

    Operands: x [batch, …, channels], then gamma, beta, mean and variance [channels]
    (arXiv:1502.03167).

    Attributes:
        epsilon: Added to the variance.
    """

    epsilon: float = 1e-5

    quant = KeepFloat("fold-batch-norm has not folded it into a convolution or dot")

    def result(
        self,
        x: TensorType,
        gamma: TensorType,
        beta: TensorType,
        mean: TensorType,
        variance: TensorType,
    ) -> TensorType:
        same_float(self, x, gamma, beta, mean, variance)
        for operand in (gamma, beta, mean, variance):
            if not x.rank or operand.shape != x.shape[-1:]:
                raise self.error(
                    f"expected statistics of shape [{x.shape[-1] if x.rank else ''}], got {operand}"
                )
        return x

    def affine(
        self, gamma: Array, beta: Array, mean: Array, variance: Array
    ) -> tuple[Array, Array]:
        """Returns factor and offset of the equal x * factor + offset, in the arrays' precision."""
        factor = gamma / np.sqrt(variance + np.asarray(self.epsilon, variance.dtype))
        return factor, beta - mean * factor

    def interval(
        self, x: Interval, gamma: Interval, beta: Interval, mean: Interval, variance: Interval
    ) -> Interval:
        factor, offset = self.affine(gamma.lo, beta.lo, mean.lo, variance.lo)
        known_statistics = all(part.is_point for part in (gamma, beta, mean, variance))
        return (
            x * Interval.point(factor) + Interval.point(offset)
            if known_statistics
            else Interval.of(-np.inf, np.inf)
        )

    def evaluate(self, x: Array, gamma: Array, beta: Array, mean: Array, variance: Array) -> Array:
        factor, offset = self.affine(gamma, beta, mean, variance)
        return np.asarray(x * factor + offset)

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        last = operands[0].rank - 1
        return [*carried_in_place(range(last + 1)), *(Carried(i, 0, last) for i in range(1, 5))]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        return Turned(self, (0,), (order,)) if order[-1] == len(order) - 1 else None

    def linear(self, constants: Sequence[Array | None]) -> Linear | None:
        known = [array for array in constants[1:] if array is not None]
        if constants[0] is not None or len(known) != 4:
            return None
        with np.errstate(all="ignore"):
            return Linear(0, *self.affine(*known))
