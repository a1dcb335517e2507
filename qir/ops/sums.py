"""Exact sums: the code of their result, and the requantize that rounds them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from qir.errors import QirError
from qir.numbers.int32 import INT32_MAX
from qir.numbers.rounding import rounding_mode
from qir.ops.cast import Requantize
from qir.ops.op import Op, infer
from qir.ops.type_rules import small_codes
from qir.types import Affine, Array, DType, FrozenArray, TensorType


def exact_code(operation: Op, *operands: TensorType, long: bool = False) -> Affine:
    """Returns the code of an exact sum: i32, the product of the operands' scales over the divisor.

    Args:
        operation: An op of rule ExactSum with one divisor.
        operands: Its operands.
        long: Whether the result is in i64 where i32 does not hold it.

    Raises:
        QirError: An operand is not coded per tensor in at most 16 bits, or the sum could leave i32.
    """
    codes = small_codes(operation, *operands)
    reach = prod(max(abs(bound - int(code.zero_points)) for bound in code.range) for code in codes)
    fits = (weight := operation.weight(operands)) * reach <= INT32_MAX
    if not fits and not long:
        raise operation.error(
            f"expected sums that 32 bits hold, got a weight of {weight} on steps of up to {reach}; "
            f"{INT32_MAX // reach} is the greatest weight"
        )
    scale = _scale(codes) / (operation.divisor(operands) or 1)
    storage = DType.I32 if fits else DType.I64
    return Affine(storage, FrozenArray(scale, np.float64), expressed=codes[0].expressed)


def rounded(
    operation: Op, operands: Sequence[TensorType], to: Affine, rounding: str = "fixed31"
) -> Requantize:
    """Returns the requantize that rounds the result of an op.

    Behind an exact sum with a divisor, the multiplier is formed of the scales and the divisor
    themselves: the scale of the sum is a rounded quotient. Where the mode would make another
    multiplier of that, the right one is written out.

    Args:
        operation: An op whose result has an i32 code.
        operands: Its operands.
        to: The code to round to.
        rounding: The rounding mode.

    Raises:
        QirError: The ratio of the scales is out of the rounding mode's reach.
    """
    plain = Requantize(to, rounding)
    (total,) = infer(operation, operands)
    divisor = operation.divisor(operands)
    if divisor is None or divisor == 1:
        plain.factors(total)
        return plain
    mode = rounding_mode(rounding)
    divided = to.scale.array.astype(np.float64) * divisor
    wanted = mode.multipliers(_scale(small_codes(operation, *operands)), divided)
    try:
        formed = plain.factors(total)
    except QirError:
        # A mode that takes whole ratios only may have none of a rounded quotient.
        pass
    else:
        if all(map(np.array_equal, (formed.value, formed.shift), (wanted.value, wanted.shift))):
            return plain
    shift = FrozenArray(wanted.shift) if mode.has_shift else None
    return Requantize(to, rounding, multiplier=FrozenArray(wanted.value), shift=shift)


def _scale(codes: Sequence[Affine]) -> Array:
    """Multiplies scales per tensor; float64, where the product of two float32 ones is exact."""
    return np.asarray(prod((code.scale.array.astype(np.float64) for code in codes), start=1.0))
