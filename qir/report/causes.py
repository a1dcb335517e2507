"""Why a value is inaccurate: what its numbers and its code look like side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from qir.ir import Value, reachable
from qir.ir.accuracy import ROWS_BELOW, Cause
from qir.ops import Dequantize, LayerNorm
from qir.types import Affine, Array, Code

MASK = -1e4
"""Numbers at or below this are a mask where all others are small beside it."""

UNEQUAL = 16.0
"""Peaks are unequal where the largest is this many times one in ten: four bits are lost."""

FEW = 4
"""With fewer numbers in each, the peaks of parts say nothing."""

NEAR_ZERO = 8.0
"""A divisor is near zero below this many steps of its code: one step is a tenth of it."""

FEW_STEPS = 8.0
"""A code is too coarse where all numbers are below this many steps."""

NOT_BY_CODE = 6.0
"""How far in dB below what its code makes, an error is for the most part not made by the code."""

FAR = 2.0
"""A range is far from zero where its middle is this many times its width away."""


def far_middle(numbers: Array) -> float:
    """Returns the middle of the range of numbers that is far from zero; 0 where it is not.

    Numbers that are all equal, but for a few roundings of float32, have no range.
    """
    finite = numbers[np.isfinite(numbers)].astype(np.float64)
    if not finite.size:
        return 0.0
    low, high = float(finite.min()), float(finite.max())
    middle, width = (low + high) / 2, high - low
    return middle if abs(middle) > FAR * width > FAR * 2**-16 * abs(middle) else 0.0


REMEDIES: dict[Cause, str] = {
    "mask": "give softmax its mask by a select such as jnp.where right before it, or add a mask to "
    "nothing but the operand of a softmax, so that it becomes the softmax's own and has no range",
    "shared code": "one scale serves parts of very different size: split them before the op that "
    "computes them, normalize them, scale them by a constant, or keep the op in floating point by "
    "quantize(keep_float=[...])",
    "rows": "one scale serves rows of very different size: normalize the rows before, or keep the "
    "op in floating point by quantize(keep_float=[...])",
    "clipping": "numbers lie outside of the calibrated range: calibrate on data like that of use, "
    "or by calibrate(method=minmax)",
    "division": "the divisor comes near to zero beside its own range: add an epsilon that its "
    "code can tell from 0, clamp it, or keep the op in floating point by "
    "quantize(keep_float=[...])",
    "constant range": "the calibrated range is a point, or far from zero beside its width: "
    "calibrate on data that varies, or subtract the offset first",
    "few bits": "the weights are rounded to less than 8 bits: take a pipeline with weights of 8, "
    "such as w8a8, or w8 where activations are floats, keep the op in floating point by "
    "quantize(keep_float=[...]), or train with the rounding",
    "no end": "the condition asks for more than codes of 8 bits tell apart: keep the loop in "
    "floating point by quantize(keep_float=[...]), take a pipeline with activations of 16 bits, "
    "such as w8a16, or let the condition count trips too",
    "rounding": "8 bits are few for this op here: keep it in floating point by "
    "quantize(keep_float=[...])",
}


@dataclass(frozen=True)
class Seen:
    """A value of an integer program beside the one of the float program that it stands for.

    Args:
        value: The value of the integer program.
        reference: That of the float program.
        exact: The numbers of the float program.
        sqnr: Signal to noise of the integer program's numbers in dB, of exact operands.
        rows: The 5th percentile by rows.
        coded: The lesser of both, of the exact numbers in the value's code.
    """

    value: Value
    reference: Value
    exact: Array
    sqnr: float
    rows: float
    coded: float

    @property
    def figure(self) -> float:
        """Returns the lesser of both figures."""
        return lesser(self.sqnr, self.rows)

    @property
    def is_of_code(self) -> bool:
        """Whether the value's own code makes a fair part of the error, not what computes it."""
        return self.figure >= self.coded - NOT_BY_CODE


def lesser(sqnr: float, rows: float) -> float:
    """Returns the lesser figure, of the whole tensor or of the rows, in dB."""
    return min(sqnr, rows + ROWS_BELOW)


def find_cause(one: Seen, seen: Mapping[Value, Seen]) -> tuple[Cause, str, str]:
    """Returns why a value is inaccurate, in which value that shows, and the numbers that show it.

    Args:
        one: The inaccurate value.
        seen: All values of the integer program that stand for one of the float program.
    """
    operands = [seen[value] for value in _sources(one.value) if value in seen]
    if found := _division(one, operands) or _centred(one, operands):
        return found
    few_bits = next((x for x in _weights(one.value, seen) if x.type.dtype.bits < 8), None)
    if few_bits is not None and not one.is_of_code:
        return _few_bits(few_bits)
    for place in (*operands, one):
        code = code_of(place.value)
        if isinstance(code, Affine) and (found := _of_code(place, code)):
            return found
    if few_bits is not None:
        return _few_bits(few_bits)
    return "rounding", one.reference.name, "its numbers and those of its operands fill their codes"


def _few_bits(weights: Value) -> tuple[Cause, str, str]:
    return "few bits", weights.name, f"its weights have {weights.type.dtype.bits} bits"


def _of_code(place: Seen, code: Affine) -> tuple[Cause, str, str] | None:
    """Returns what is wrong with one value's code, None where nothing is."""
    exact, name = np.asarray(place.exact, np.float64), place.reference.name
    exact = exact[..., None] if exact.ndim == 0 else exact
    finite = exact[np.isfinite(exact)]
    if not finite.size:
        return None
    step = code.greatest_scale
    low, high = (
        float(code.decode(np.full((1,) * max(place.value.type.rank, 1), end)).min())
        if code.per_tensor
        else -np.inf
        for end in code.range
    )
    masked = finite[finite > MASK]
    least, peak = float(finite.min()), float(np.abs(masked).max(initial=0))
    if code.per_tensor:
        least = min(least, low)
    if least <= MASK and masked.size and peak < FEW_STEPS * step:
        text = f"its code reaches down to {least:.4g}, all but a mask is at most {peak:.4g}"
        return "mask", name, text
    if 0 < peak < FEW_STEPS * step:
        text = f"its code has steps of {step:.3g}, its numbers are at most {peak:.4g}"
        return "shared code", name, text
    if code.per_tensor:
        outside = np.maximum(finite - high, low - finite).clip(0)
        if (outside > step).any():
            rounded = finite - code.decode(code.encode(finite)).astype(np.float64)
            if (outside**2).sum() > 0.5 * (rounded**2).sum():
                share = np.count_nonzero(outside) / finite.size
                text = f"{share:.2%} of its numbers lie outside of [{low:.4g}, {high:.4g}]"
                return "clipping", name, text
    width = float(finite.max() - finite.min())
    middle = float(abs(finite.max() + finite.min()) / 2)
    if middle > FAR * width and width < 64 * step:
        text = f"it goes from {finite.min():.6g} to {finite.max():.6g}, in steps of {step:.3g}"
        return "constant range", name, text
    return _unequal(exact, name)


def _unequal(exact: Array, name: str) -> tuple[Cause, str, str] | None:
    """Returns whether rows or other parts of a tensor have peaks of very different size."""
    magnitude = np.abs(np.where(np.isfinite(exact), exact, 0))
    rows = _spread(magnitude.max(axis=-1)) if magnitude.shape[-1] >= FEW else 1.0
    parts = {
        axis: _spread(np.moveaxis(magnitude, axis, 0).reshape(size, -1).max(axis=1))
        for axis, size in enumerate(magnitude.shape)
        if axis and magnitude.size // size >= FEW
    }
    axis = max(parts, key=parts.__getitem__, default=0)
    # Rows of unequal parts are unequal too, hence the factor.
    if axis and parts[axis] > max(UNEQUAL, rows / 4):
        text = f"the peak of one part along axis {axis} is {parts[axis]:.3g} times that of another"
        return "shared code", name, text
    if rows > UNEQUAL:
        return "rows", name, f"the peak of one row is {rows:.3g} times that of another"
    return None


def _spread(peaks: Array) -> float:
    """Returns how many times the peak of one part in ten the largest one is; parts of 0 aside."""
    known = np.sort(peaks[peaks > 0], axis=None)
    return float(known[-1] / known[known.size // 10]) if known.size else 1.0


def _division(one: Seen, operands: list[Seen]) -> tuple[Cause, str, str] | None:
    ends = {operand.reference for operand in operands}

    def computed_of(value: Value) -> Iterator[Value]:
        if value.op is not None and (value is one.reference or value.op.elementwise):
            yield from (end for end in value.inputs if end not in ends)

    divisors: list[Value] = []
    for value in reachable([one.reference], computed_of):
        edge = None if value.op is None else value.op.edge
        if edge and edge.number == 0 and (edge.divides or not (edge.both or edge.included)):
            divisors.append(value.inputs[edge.operand])
    read = reachable(divisors, lambda value: value.inputs if _is_elementwise(value) else ())
    for operand in operands:
        code = code_of(operand.value)
        if code is None or operand.reference not in read:
            continue
        exact = np.abs(operand.exact[np.isfinite(operand.exact)])
        step = code.greatest_scale
        if exact.size and exact.min() < NEAR_ZERO * step:
            text = f"the least magnitude is {exact.min():.3g}, in steps of {step:.3g}"
            return "division", operand.reference.name, text
    return None


def _centred(one: Seen, operands: list[Seen]) -> tuple[Cause, str, str] | None:
    """Returns whether a norm takes off a mean beside which its operand's code shows little else."""
    op = one.reference.op
    if not isinstance(op, LayerNorm):
        return None
    for operand in operands:
        code = code_of(operand.value)
        if operand.reference is not one.reference.inputs[0] or code is None:
            continue
        deviation = float(np.median(np.std(np.asarray(operand.exact, np.float64), axis=op.axes)))
        step = code.greatest_scale
        if deviation < FEW_STEPS * step:
            text = f"it varies by {deviation:.3g} about the means of rows, in steps of {step:.3g}"
            return "constant range", operand.reference.name, text
    return None


def _is_elementwise(value: Value) -> bool:
    return value.op is not None and value.op.elementwise


def is_exact(code: Code) -> bool:
    """Whether a code is that of exact sums; one with bounds is of sums rounded to more bits."""
    return code.storage.bits > 16 and code.range == code.storage.bounds


def code_of(value: Value) -> Code | None:
    """Returns the code of a value; of a decoded one that which it had."""
    if isinstance(value.op, Dequantize):
        return value.inputs[0].type.quant
    return value.type.quant


def _sources(value: Value) -> Iterator[Value]:
    """Yields the operands of an op that are no constants; through exact sums those of the sum."""
    for operand in value.inputs:
        code = operand.type.quant
        if code is not None and is_exact(code):
            yield from _sources(operand)
        elif not operand.is_constant:
            yield operand


def readers_of(value: Value) -> Iterator[Value]:
    """Yields the results of the ops that read a value; of exact sums what they are rounded to."""
    for node in value.users:
        for result in node.outputs:
            code = result.type.quant
            if code is not None and is_exact(code):
                yield from readers_of(result)
            else:
                yield result


def _weights(value: Value, seen: Mapping[Value, Seen]) -> Iterator[Value]:
    """Yields the coded constants behind a value, up to those whose numbers are the exact ones.

    A factor that went into weights leaves values between that stand for none of the float program:
    their errors count as the value's own.

    Args:
        value: A value of the integer program.
        seen: The values that stand for one of the float program.
    """
    done, stack = {value}, [value]
    while stack:
        for operand in stack.pop().inputs:
            if operand in done:
                continue
            done.add(operand)
            if not operand.is_constant:
                if operand not in seen:
                    stack.append(operand)
            elif operand.type.quant is not None and operand.type.rank > 1:
                yield operand
