"""Intervals hold the values that ops compute, in real numbers and on codes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st

from qir.backends.reference.interpreter import run_all
from qir.ir import Value
from qir.numbers.interval import Interval
from qir.ops import Const, Dequantize, Quantize, Requantize, Return
from qir.ops.op import OPS, Op
from qir.ops.rules import Coded
from qir.types import Affine, Array, LevelCode, expand
from tests.drawing import examples
from tests.strategies import STRATEGIES, Case

OPERATIONS = [cls for cls in OPS.values() if cls not in (Const, Return)]
NOWHERE = np.asarray(0.0)


def real(value: Value, array: Array) -> Array:
    """Returns the real numbers of a value, in float64."""
    if value.type.quant is None:
        return array.astype(np.float64)
    code = value.type.code
    if code.step_bounds is None:
        scale = expand(code.decoding_scale.astype(np.float64), array.shape)
        return np.asarray(code.multiples(array) * scale)
    scale = expand(code.scale.array.astype(np.float64), array.shape)
    return np.asarray(Coded(array, value.type).steps * scale)


def around(value: Value, array: Array, extent: str) -> Interval:
    """Returns an operand's interval: of each number, each channel or all; a constant's numbers."""
    numbers = real(value, array)
    if value.is_constant:
        return Interval.point(numbers)
    if extent == "number":
        return Interval.of(
            *(np.where(np.isnan(numbers), end, numbers) for end in (-np.inf, np.inf))
        )
    axes = tuple(range(numbers.ndim - 1)) if extent == "channel" and numbers.ndim else None
    known = ~np.isnan(numbers)
    low = numbers.min(axis=axes, initial=np.inf, where=known)
    high = numbers.max(axis=axes, initial=-np.inf, where=known)
    return Interval.of(np.minimum(low, high), np.maximum(low, high))


def reachable(found: Interval, value: Value, shape: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Returns the bounds of a value by an interval, and how far rounding may lead past them.

    Codes saturate at their ends and are rounded by less than a step, or than a gap of levels;
    floats that casts make are rounded to their own type, others are computed in float64. Plain
    integers may wrap.
    """
    low, high, code = found.lo, found.hi, value.type.quant
    if isinstance(code, Affine):
        scale = expand(code.step_sizes.astype(np.float64), shape)
        bounds = value.op.bounds if isinstance(value.op, Requantize) else code.range
        points = expand(code.zero_points.astype(np.int64), shape)
        ends = [(bound - points) * scale for bound in bounds]
        if isinstance(value.op, Requantize) and value.op.multiplier is not None:
            return ends[0], ends[1], 0 * scale  # it need not be the ratio of the scales
        return np.clip(low, *ends), np.clip(high, *ends), 1.01 * scale
    if isinstance(code, LevelCode):
        size = expand(code.step_sizes.astype(np.float64), shape)
        ends = [end * size for end in code.real_bounds]
        finite = code.levels[np.isfinite(code.levels)]
        return (
            np.clip(low, *ends),
            np.clip(high, *ends),
            1.01 * np.diff(np.sort(finite)).max() * size,
        )
    if isinstance(value.op, Dequantize):
        with np.errstate(over="ignore"):
            rounded = [bound.astype(value.type.dtype.numpy) for bound in (low, high)]
        low, high = (bound.astype(np.float64) for bound in rounded)
        # Of a wide code the difference, the scale and the product are rounded to float32 each.
        if value.inputs[0].type.dtype.bits < 32:
            return low, high, NOWHERE
        largest = np.maximum(np.abs(low), np.abs(high))
        return low, high, 3 * 2.0**-24 * np.where(np.isfinite(largest), largest, 0)
    if value.type.dtype.is_integer:
        least, greatest = value.type.dtype.bounds
        if found.bounds[0] < least or found.bounds[1] > greatest:
            return NOWHERE - np.inf, NOWHERE + np.inf, NOWHERE
    largest = np.maximum(np.abs(low), np.abs(high))
    return low, high, 1e-9 * (1 + np.where(np.isfinite(largest), largest, 0))


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_interval_contains_values(cls: type[Op]) -> None:
    @examples(80, phases=[Phase.generate])
    @given(STRATEGIES[cls], st.sampled_from(["tensor", "channel", "number"]))
    def contains(case: Case, extent: str) -> None:
        arrays = run_all(case.graph, *case.inputs, precision=np.float64)
        node = case.node
        operands = [around(value, arrays[value], extent) for value in node.inputs]
        found = node.op.interval(*operands)
        for value in node.outputs:
            numbers = real(value, arrays[value])
            low, high, slack = reachable(found, value, numbers.shape)
            wrong = (numbers < low - slack) | (numbers > high + slack)
            if isinstance(node.op, Quantize):
                # What is no number gets the code of 0, whatever the others are.
                wrong &= ~np.isnan(arrays[node.inputs[0]])
            assert not wrong.any(), f"{found} for {numbers[wrong]} in {case.shown()}"

    contains()
