"""Products of vectors with the small matrices of Winograd's transforms."""

from __future__ import annotations

from collections.abc import Sequence

from qir.backends.cpu.emitter import LlvmEmitter, LlvmValue, constant
from qir.backends.native.kernels.transforms import Matrix


def multiplied(
    e: LlvmEmitter, factors: Sequence[Matrix], numbers: Sequence[LlvmValue]
) -> list[LlvmValue]:
    """Multiplies vectors by small matrices, mostly by shifts and sums."""
    values = list(numbers)
    for matrix in factors:
        values = [_sum(e, row, values) for row in matrix]
    return values


def _sum(e: LlvmEmitter, row: Sequence[int], values: Sequence[LlvmValue]) -> LlvmValue:
    # A positive term comes first: each row has one.
    terms = sorted(
        ((factor, value) for factor, value in zip(row, values, strict=True) if factor),
        key=lambda term: term[0] < 0,
    )
    total = None
    for factor, value in terms:
        if abs(factor).bit_count() > 1:
            value = e.build.mul(value, constant(value.type, abs(factor)))
        elif abs(factor) > 1:
            value = e.build.shl(value, constant(value.type, abs(factor).bit_length() - 1))
        if total is None:
            total = value
        else:
            total = (e.build.add if factor > 0 else e.build.sub)(total, value)
    return total
