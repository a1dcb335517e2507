"""Convolution: any layout becomes channels last, any kernel (spatial…, inputs, outputs)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qir.errors import UnsupportedError
from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.rules.contraction import in_element
from qir.frontends.jaxpr.rules.shape import cut
from qir.frontends.shared.emitter import Emitter, Operand
from qir.ir import Value
from qir.ops import Conv, ConvTranspose, Dot
from qir.ops.windows import Padding, Pads, dilated
from qir.ops.windows import pads as same_pads
from qir.types import DType, Size, known


@primitive("conv_general_dilated")
def conv_general_dilated(
    b: Emitter,
    x: Operand,
    kernel: Operand,
    *,
    window_strides: Sequence[int],
    padding: Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    preferred_element_type: Any = None,
    **_: Any,
) -> Operand:
    """Convolution, or transposed convolution where the operand is dilated."""
    if batch_group_count != 1:
        raise UnsupportedError("conv_general_dilated: expected one group of the batch")
    lhs, rhs, out = (
        dimension_numbers.lhs_spec,
        dimension_numbers.rhs_spec,
        dimension_numbers.out_spec,
    )
    element = x.type.dtype if preferred_element_type is None else DType.of(preferred_element_type)
    x, kernel = in_element(b, x, kernel, element)
    laid = b.transpose(x, (lhs[0], *lhs[2:], lhs[1]))
    taps = b.transpose(kernel, (*rhs[2:], rhs[1], rhs[0]))
    pads = tuple((int(low), int(high)) for low, high in padding)
    strides, inner, outer = (
        tuple(map(int, values)) for values in (window_strides, rhs_dilation, lhs_dilation)
    )
    if not pads and feature_group_count == 1:
        found = b.emit(Dot(), laid, taps)
    elif any(step != 1 for step in outer):
        if any(step != 1 for step in strides):
            raise UnsupportedError(
                "conv_general_dilated: expected strides or dilation of the operand, not both"
            )
        found = _transposed(b, laid, taps, outer, pads, inner, feature_group_count)
    else:
        found = _plain(b, laid, taps, strides, pads, inner, feature_group_count)
    last = found.type.rank - 1
    places = dict(zip(out, (0, last, *range(1, last)), strict=True))
    result = b.transpose(found, [places[axis] for axis in range(found.type.rank)])
    return b.cast(result, element)


def _plain(
    b: Emitter,
    x: Operand,
    kernel: Operand,
    strides: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int,
) -> Value:
    sizes = x.type.shape[1:-1]
    if any(side < 0 for pair in pads for side in pair):
        starts = [0, *(max(-low, 0) for low, _ in pads), 0]
        limits: list[Size] = [
            known(size, "padding") + high if high < 0 else size
            for size, (_, high) in zip(x.type.shape, ((0, 0), *pads, (0, 0)), strict=True)
        ]
        x = cut(b, x, starts, limits, (1,) * x.type.rank)
        pads = tuple((max(low, 0), max(high, 0)) for low, high in pads)
        sizes = x.type.shape[1:-1]
    window = [known(size, "kernel") for size in kernel.type.shape[:-2]]
    spelling = spelled(sizes, dilated(window, dilation), strides, pads)
    return b.emit(Conv(strides, spelling, dilation, groups), x, kernel)


def _transposed(
    b: Emitter,
    x: Operand,
    kernel: Operand,
    strides: tuple[int, ...],
    pads: Pads,
    dilation: tuple[int, ...],
    groups: int,
) -> Value:
    window = [known(size, "kernel") for size in kernel.type.shape[:-2]]
    full = tuple((extent - 1, extent - 1) for extent in dilated(window, dilation))
    op = ConvTranspose(strides, () if pads == full else pads, dilation, groups)
    return b.emit(op, x, kernel)


def spelled(
    sizes: Sequence[Size],
    window: Sequence[int],
    strides: Sequence[int],
    pads: Sequence[tuple[int, int]],
) -> Padding:
    """Returns padding by its word where it has one.

    Args:
        sizes: Spatial sizes of the operand.
        window: Extents of the window, dilation included.
        strides: Steps of the window.
        pads: (before, after) of each spatial dimension.
    """
    if not any(map(any, pads)):
        return "valid"
    named_and_strided = any(
        not isinstance(size, int) and stride != 1
        for size, stride in zip(sizes, strides, strict=True)
    )
    if not named_and_strided and same_pads(sizes, window, strides, "same") == tuple(pads):
        return "same"
    return tuple(pads)
