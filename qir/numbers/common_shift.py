"""Multipliers with one shift, by which operands of different scales are added with one rounding."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from qir.errors import QirError
from qir.numbers.checks import positive
from qir.numbers.int32 import INT32_MAX


def common_shift_multipliers(
    scales: Sequence[float],
    output_scale: float,
    magnitudes: int | Sequence[int] = 255,
    most: int = INT32_MAX,
) -> tuple[list[int], int]:
    """Forms the multipliers that add operands of different scales with a single rounding.

        q = clamp(rounding_shift(sum((q_i - z_i) * M_i), s) + z, low, high)
        M_i = rne(scale_i / output_scale * 2^s)

    Rescaling each operand to the output first would round once per operand and move a quarter of
    the results. Here the sum is exact, and the shift is the largest in [1, 30] for which it stays
    in int32, or below another limit: `sum(magnitude_i * M_i) + 2^(s-1) < 2^31`. Before its
    rounding, the sum is within `sum(magnitude_i) / 2^(s+1)` output steps of the real one, because
    each M_i is within 1/2 of its own: 2^-14 for two 8-bit operands of the output's scale. For a
    subtraction, negate the operand's multiplier.

    Args:
        scales: Scale of each operand.
        output_scale: Scale of the result.
        magnitudes: Largest `|q - zero_point|` of each operand, or one bound for all of them; 255
            holds for every operand of 8 bits.
        most: The greatest sum. Multipliers stay in int32 in any case.

    Returns:
        The multiplier of each operand, at least 0, and the shift.

    Raises:
        QirError: A scale is not finite and positive, or the largest ratio leaves so few fraction
            bits that the error above could reach half an output step.
    """
    bounds = [magnitudes] * len(scales) if isinstance(magnitudes, int) else list(magnitudes)
    exact_output = Fraction(float(positive(output_scale)))
    ratios = [Fraction(float(positive(scale))) / exact_output for scale in scales]
    for shift in range(30, sum(bounds).bit_length() - 1, -1):
        multipliers = [round(ratio * 2**shift) for ratio in ratios]
        products = (bound * value for bound, value in zip(bounds, multipliers, strict=True))
        if max(multipliers) <= INT32_MAX and sum(products) + 2 ** (shift - 1) <= most:
            return multipliers, shift
    worst = max(range(len(ratios)), key=ratios.__getitem__)
    kind = "an int32 sum" if most == INT32_MAX else f"a sum of {most.bit_length() + 1} bits"
    raise QirError(
        f"scale ratio: expected one that {kind} resolves to half an output step, got operand "
        f"{worst} of {len(scales)} at {float(ratios[worst]):g} times the output scale"
    )
