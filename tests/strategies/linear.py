"""Sums of products: convolution and dot."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from qir.ops import Conv, Dot
from qir.ops.type_rules import accumulator
from qir.ops.windows import Padding, dilated
from qir.types import Affine, Array, Code, DType, PowerOfTwo
from tests.strategies.base import (
    BYTES,
    FLOATS,
    NARROW,
    WIDE,
    Case,
    Draw,
    Operand,
    cases_of,
    codebooks,
    coded_operand,
    codes,
    float_operand,
    generator,
    in_float,
    program,
    rounded,
    stored,
)
from tests.strategies.kinds import in_two_levels


def powers(draw: Draw, shape: tuple[int, ...], axis: int) -> PowerOfTwo:
    """Draws powers of two with integer steps, whose scales may vary along an axis."""
    bits = draw(st.sampled_from([2, 3, 4, 4, 5]))
    return PowerOfTwo(DType.U8 if bits > 4 else DType.U4, codebooks(draw, shape, axis).scale, bits)


def weights(draw: Draw, shape: tuple[int, ...], far: bool = False) -> Operand:
    """Draws weights: mostly constant and symmetric per channel, sometimes with zero points.

    Some are of other kinds, and some of each kind have scales of two levels by block.
    """
    kept = draw(st.sampled_from([True, True, False]))
    code = _code_of_weights(draw, shape, far)
    if draw(st.integers(0, 3)) == 0:
        code = in_two_levels(draw, code, shape)
    return coded_operand(draw, code, shape, constant=kept)


def _code_of_weights(draw: Draw, shape: tuple[int, ...], far: bool) -> Code:
    if draw(st.integers(0, 4)) == 0:
        kind = powers if draw(st.booleans()) else codebooks
        return kind(draw, shape, len(shape) - 1)
    symmetric = draw(st.booleans())
    storages = draw(st.sampled_from([NARROW, NARROW, WIDE]))
    return draw(codes(storages, shape=shape, axis=len(shape) - 1, symmetric=symmetric, far=far))


def heads(draw: Draw, shape: tuple[int, ...], axis: int, *, points: bool = False) -> Affine:
    """Draws a code that varies along a batch axis or along rows, its zero points too if asked."""
    varying = tuple(size if place == axis else 1 for place, size in enumerate(shape))
    scales, zeros = generator(draw).uniform(0.1, 1.0, varying), np.full(varying, 3)
    storage = draw(st.sampled_from(BYTES))
    if points:
        zeros = generator(draw).integers(*storage.bounds, varying, endpoint=True)
    return Affine.of(storage, scales, zeros)


def activations(draw: Draw, storages: Sequence[DType], *, far: bool) -> Affine:
    """Draws a code of 8 bits, or of up to 16 by its bounds."""
    code = draw(codes(draw(st.sampled_from([storages, WIDE])), far=far))
    if code.storage in WIDE and draw(st.booleans()):
        bits = draw(st.integers(3, 15))
        low, high = (-(2**bits), 2**bits - 1) if code.storage is DType.I16 else (0, 2**bits)
        point = int(np.clip(code.zero_points, low, high))
        code = Affine.of(code.storage, code.scale.array, point, bounds=(low, high))
    return code


def bias(draw: Draw, code: Affine, outputs: int) -> Operand:
    """Draws a bias of the accumulator's code, far larger than the products."""
    scale = code.scale.array.reshape(-1) if code.scale.array.ndim else code.scale.array
    long = code.storage is DType.I64
    reach = 2**45 if long else 2**30
    array: Array = generator(draw).integers(-reach, reach, outputs).astype(code.storage.numpy)
    return Operand(array, Affine.of(code.storage, scale), constant=long or draw(st.booleans()))


def plain_operands(
    draw: Draw, x_shape: tuple[int, ...], shape: tuple[int, ...], *, named: bool
) -> list[Operand]:
    """Draws x, weights and perhaps a bias without codes: floats, or bytes summed in i32."""
    kept, biased = draw(st.booleans()), draw(st.booleans())
    if draw(st.booleans()):
        dtype = draw(st.sampled_from(FLOATS))
        x = float_operand(draw, x_shape, dtype, named=named)
        biases = [float_operand(draw, shape[-1:], dtype)] if biased else []
        return [x, float_operand(draw, shape, dtype, constant=kept), *biases]
    storages = [draw(st.sampled_from(NARROW)) for _ in range(2)]
    x, kernel = (
        Operand(stored(draw, Affine.of(storage, 1), sizes), storage, **options)
        for storage, sizes, options in zip(
            storages, (x_shape, shape), ({"named": named}, {"constant": kept}), strict=True
        )
    )
    sums = stored(draw, Affine.of(DType.I32, 1), shape[-1:])
    return [
        x,
        kernel,
        *([Operand(sums, DType.I32, constant=draw(st.booleans()))] if biased else []),
    ]


@cases_of(Conv)
def convs(draw: Draw, cls: type[Conv]) -> Case:
    count = draw(st.integers(1, 3))
    widest = draw(st.sampled_from([1, 3, 3, 3]))  # of one place each, it is a product
    window = tuple(draw(st.integers(1, widest)) for _ in range(count))
    strides = draw(st.sampled_from([(), tuple(draw(st.integers(1, 3)) for _ in range(count))]))
    dilation = draw(st.sampled_from([(), tuple(draw(st.integers(1, 2)) for _ in range(count))]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    channels = draw(st.integers(1, 4))
    if groups > 1 and draw(st.booleans()):
        channels = 1
    pairs: Padding = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(count))
    padding: Padding = draw(st.sampled_from(["valid", "same", pairs]))
    extents = dilated(window, dilation or (1,) * count)
    spatial = tuple(extent + draw(st.integers(0, 3)) for extent in extents)
    op = cls(strides, padding, dilation, groups)

    x_shape = (draw(st.integers(1, 2)), *spatial, channels * groups)
    shape = (*window, channels, groups * draw(st.integers(1, 3)))
    named = draw(st.booleans())
    if not in_float(draw):
        x_code = activations(draw, NARROW, far=padding == "valid")
        kernel = weights(draw, shape)
        if not named and draw(st.integers(0, 4)) == 0:
            x = coded_operand(draw, heads(draw, x_shape, 0), x_shape)
            return rounded(draw, program(op, x, kernel))
        if padding == "valid" and draw(st.integers(0, 7)) == 0:
            x = coded_operand(draw, codebooks(draw), x_shape, named=named)
        else:
            x = coded_operand(draw, x_code, x_shape, named=named)
        code = accumulator(op, x.type, kernel.type, count + 2, shape[-1])
        assert isinstance(code, Code)
        biases = [bias(draw, code, shape[-1])] if draw(st.booleans()) else []
        return rounded(draw, program(op, x, kernel, *biases))
    return program(op, *plain_operands(draw, x_shape, shape, named=named))


@cases_of(Dot)
def dots(draw: Draw, cls: type[Dot]) -> Case:
    batch = tuple(draw(st.integers(1, 3)) for _ in range(draw(st.integers(0, 2))))
    rows = tuple(draw(st.integers(1, 4)) for _ in range(draw(st.integers(0, 2))))
    depth, columns = draw(st.integers(1, 9)), draw(st.integers(1, 5))
    op = cls(len(batch))
    x_shape, shape = (*batch, *rows, depth), (*batch, depth, columns)
    named = not batch and len(x_shape) > 1 and draw(st.booleans())
    if not in_float(draw):
        x = coded_operand(draw, activations(draw, BYTES, far=True), x_shape, named=named)
        if rows and not named and draw(st.integers(0, 2)) == 0:
            axis, kernel = draw(st.integers(0, len(x_shape) - 2)), weights(draw, shape)
            # Sums in i64 take one zero point.
            points = kernel.type.dtype.bits <= 8 and draw(st.booleans())
            x = coded_operand(draw, heads(draw, x_shape, axis, points=points), x_shape)
            return rounded(draw, program(op, x, kernel))
        if draw(st.integers(0, 7)) == 0:
            x = coded_operand(draw, codebooks(draw), x_shape, named=named)
        # Sums of products of numbers that are both far from zero leave int32 soon.
        kernel = weights(draw, shape, far=x.type.quant is not None and x.type.quant.holds_zero)
        if len(batch) > 0 and draw(st.booleans()):
            axis = draw(st.integers(0, len(batch) - 1))
            x = coded_operand(draw, heads(draw, x_shape, axis), x_shape)
            if draw(st.booleans()):
                kernel = coded_operand(draw, heads(draw, shape, axis), shape)
            return rounded(draw, program(op, x, kernel))
        code = accumulator(op, x.type, kernel.type, len(x_shape), columns)
        assert isinstance(code, Code)
        biases = [bias(draw, code, columns)] if draw(st.booleans()) else []
        return rounded(draw, program(op, x, kernel, *biases))
    return program(op, *plain_operands(draw, x_shape, shape, named=named))
