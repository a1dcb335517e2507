"""Normalizations and softmax."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.numbers.interval import Interval
from qir.ops.attributes import by_type
from qir.ops.elementwise import result_code
from qir.ops.op import Coded, FixedCode, KeepFloat, Op, op
from qir.ops.type_rules import rescaled, same_float
from qir.types import Array, DType, Quant, TensorType, known


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


SOFTMAX_CODE = Quant.of(DType.I8, 1 / 256, -128)


@op("softmax")
class Softmax(Op):
    """exp(x) / sum of exp(x) along an axis.

    On codes, with the operand `table` [256] of exponentials E[d] = rint(2^k * exp(-scale * d)),
    i32, built by `softmax_table`: d = max - q, S = sum of E[d], result (256 * E[d] + S // 2) // S -
    128, at scale 1/256. All of it fits int32 by the choice of k.

    Attributes:
        axis: The axis, counted from 0.
    """

    axis: int
    to: Quant | None = by_type(result_code, None)

    quant = FixedCode(SOFTMAX_CODE)

    def result(self, x: TensorType, table: TensorType | None = None) -> TensorType:
        if not 0 <= self.axis < x.rank:
            raise self.error(f"expected an axis below {x.rank}, got {self.axis}")
        if self.to is None:
            if table is not None:
                raise self.error("a table goes with coded operands only")
            return TensorType(x.shape, same_float(self, x))
        if table is None or table.shape != (256,) or table.element is not DType.I32:
            raise self.error(f"expected a table of exponentials, i32[256], got {table}")
        if self.to != SOFTMAX_CODE:
            raise self.error("expected a result coded i8 with scale 1/256 and zero point -128")
        if not known(x.shape[self.axis], "softmax"):
            raise self.error(f"expected at least one number along axis {self.axis}, got {x}")
        return TensorType(x.shape, rescaled(self, self.to, x))

    def interval(self, x: Interval, table: Interval | None = None) -> Interval:
        return Interval.of(0, 1)

    def evaluate(self, x: Array, table: Array | None = None) -> Array:
        powers = np.exp(x - x.max(axis=self.axis, keepdims=True, initial=-np.inf))
        return np.asarray(powers / powers.sum(axis=self.axis, keepdims=True))

    def integer_tables(self, operands: Sequence[TensorType]) -> dict[str, Array]:
        (x,) = operands
        if x.quant is None or not x.quant.per_tensor:
            raise self.error(f"expected an operand coded per tensor, got {x}")
        return {
            "table": softmax_table(float(x.quant.scale.array), known(x.shape[self.axis], "softmax"))
        }

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        x, table = operands
        below = x.stored.max(axis=self.axis, keepdims=True).astype(np.int64) - x.stored
        powers = table.stored.astype(np.int64)[below]
        total = powers.sum(axis=self.axis, keepdims=True)
        return np.asarray(np.minimum((powers * 256 + total // 2) // total - 128, 127))


def softmax_table(scale: float, count: int) -> Array:
    """Returns the exponentials that softmax looks up, rint(2^k * exp(-scale * d)) for d = 0 … 255.

    Args:
        scale: Scale of the operand's code.
        count: Numbers along the axis; k = min(22, 30 - ceil(log2(count))) keeps their sum below
            2^30.

    Returns:
        An int32 array of shape (256,).
    """
    k = min(22, 30 - int(np.ceil(np.log2(count))))
    powers: Array = np.rint(2.0**k * np.exp(-scale * np.arange(256)))
    return powers.astype(np.int32)
