"""How ops are computed on codes: a small closed set of rules."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from numpy.typing import DTypeLike

from qir.errors import QirError
from qir.numbers.carrier import carrier
from qir.numbers.interval import Interval
from qir.types import Affine, Array, Code, TensorType, expand

if TYPE_CHECKING:
    from qir.ops.op import Op

Results: TypeAlias = Array | tuple[Array, ...]
"""What an op computes: one array, or one for each result."""


@dataclass(frozen=True, eq=False)
class Coded:
    """An operand of an integer op: the stored numbers with their type.

    Args:
        stored: The stored numbers, of any integer numpy type.
        type: The tensor's type, with a code or without one.
    """

    stored: Array
    type: TensorType

    @property
    def code(self) -> Code:
        """The operand's code; raises QirError for plain numbers."""
        return self.type.code

    @property
    def steps(self) -> Array:
        """The integers that the scale multiplies, as int64; see `Code.steps`."""
        code = self.type.quant
        return self.stored.astype(np.int64) if code is None else code.steps(self.stored)

    @property
    def is_scaled(self) -> bool:
        """Whether the steps are the stored numbers, of 16 bits at most."""
        code = self.type.quant
        return self.stored.itemsize <= 2 and (
            code is None
            or (
                isinstance(code, Affine) and code.multipliers is None and not code.zero_points.any()
            )
        )

    @property
    def carried(self) -> Array:
        """The same integers as floats, which matrix products of numpy are fast for."""
        code = self.type.quant
        element: DTypeLike = np.float32 if self.stored.itemsize <= 2 else np.float64
        if code is not None and (not isinstance(code, Affine) or code.multipliers is not None):
            return code.steps(self.stored).astype(np.float64)
        steps = self.stored.astype(element)
        if code is not None and code.zero_points.any():
            steps -= expand(code.zero_points.astype(element), steps.shape)
        return steps


_PART = 2**22
"""Weights that are computed with at a time: 16 MB as float32."""


class QuantRule:
    """How an op is computed on codes.

    The set of rules is closed; each has one place in pass quantize.
    """

    def integer(self, op: Op, operands: Sequence[Coded], result: TensorType) -> Results:
        """Returns the stored numbers of the result.

        Raises:
            QirError: The rule gives no formula; its ops override `Op.integer`.
        """
        raise QirError(f"{op.name}: has no integer meaning")


@dataclass(frozen=True)
class Accumulate(QuantRule):
    """Sums of products: exact in i32 (i64 with 16-bit operands), the scale a product of scales.

    Args:
        left: Position of the activation operand.
        right: Position of the weight operand.
        bias: Position of the optional operand that is added, at the accumulator's own code.
    """

    left: int = 0
    right: int = 1
    bias: int = 2

    def integer(self, op: Op, operands: Sequence[Coded], result: TensorType) -> Array:
        """Returns the sums of products of the operands' steps, as int64."""
        kernel = operands[self.right]
        outputs = kernel.stored.shape[-1]
        width = max(1, outputs * _PART // max(1, kernel.stored.size))
        if width >= outputs or not kernel.is_scaled or getattr(op, "groups", 1) > 1:
            return self.exactly(op, *(operand.carried for operand in operands))
        # Large weights for some outputs at a time: as floats they take 4 to 8 times the memory.
        x = operands[self.left].carried
        bias = [operand.carried for operand in operands[self.bias :]]
        found = []
        for start in range(0, outputs, width):
            part = slice(start, start + width)
            some = kernel.stored[..., part].astype(np.float32)
            found.append(self.exactly(op, x, some, *(numbers[part] for numbers in bias)))
        return np.concatenate(found, axis=-1)

    @staticmethod
    def exactly(op: Op, *operands: Array) -> Array:
        """Returns an op's sums of products of integers as int64; they must stay below 2^53."""
        element = carrier(*operands)
        found = op.evaluate(*(operand.astype(element, copy=False) for operand in operands))
        return np.asarray(found).astype(np.int64)


def holds_bytes(array: Array) -> bool:
    """Whether an array has integers of one byte, in which sums would wrap."""
    return array.dtype.kind in "iu" and array.itemsize == 1


@dataclass(frozen=True)
class ExactSum(QuantRule):
    """A product or a weighted sum of steps: exact in i32, and rounded by the requantize behind it.

    The scale of the result is the product of the operands' scales over `Op.divisor`, so that the
    sum of a mean is stored, and the requantize divides. An op whose divisor varies from place to
    place has a code of its own instead, as by rule Rescale.
    """


@dataclass(frozen=True)
class Rescale(QuantRule):
    """The result has a code of its own and is rounded once."""


@dataclass(frozen=True)
class Normalize(Rescale):
    """As Rescale for the first operand; the others are float constants and stay such.

    Machine numbers are formed of them and of the codes at compile time.
    """


@dataclass(frozen=True)
class RescaledRows(Rescale):
    """As Rescale, for rows of the first operand: weights whose code has a scale for each row.

    What chooses the rows is plain. Without a code of its own the result is dequantized rows.
    """


@dataclass(frozen=True)
class Quotient(Rescale):
    """As Rescale for a quotient: exact sums in i32 are operands as they are.

    The divisor's code has no step of 0; see `qir.ops.quotient`.

    Args:
        least_steps: The least magnitude of a divisor in steps of its code; below, its rounding
            alone is a relative error of more than 1 / (2 * least_steps).
    """

    least_steps: int = 16


@dataclass(frozen=True)
class SameCode(QuantRule):
    """The stored numbers are moved or compared, never changed.

    The result has the operand's code, or none where it is no real number (argmax, comparisons); the
    type rule says which. Operands that mean no real number (masks, indices) are plain; all coded
    operands have one code.
    """

    def integer(self, op: Op, operands: Sequence[Coded], result: TensorType) -> Results:
        """Returns what the op makes of the stored numbers."""
        return op.evaluate(*(operand.stored for operand in operands))


@dataclass(frozen=True)
class SharedCode(SameCode):
    """As SameCode for several operands, all of which must have the code of the result."""


@dataclass(frozen=True)
class FixedCode(QuantRule):
    """The result's code is known without data, unless a recipe overrides it.

    Args:
        code: The code of the result.
        least_peak: The greatest magnitude of a result that the code serves; where all that was
            observed is below, the code is one that the range asks for.
    """

    code: Affine
    least_peak: float = 0.0

    def serves(self, observed: Interval | None) -> bool:
        """Whether the result has the fixed code, given its observed range."""
        if observed is None or not observed.is_finite:
            return True
        return max(map(abs, observed.bounds)) >= self.least_peak


@dataclass(frozen=True)
class Table(QuantRule):
    """A function of one operand, any others being constants: one lookup.

    There are 256 entries for an operand of 8 bits, 65,536 for one of 16. They are computed in
    float64 at compile time.

    Args:
        otherwise: Why the op stays in floating point where more than one operand varies.
    """

    otherwise: str = ""


@dataclass(frozen=True)
class KeepFloat(QuantRule):
    """The op stays in floating point.

    Args:
        reason: Why, as `qir.explain` reports it.
    """

    reason: str
