"""Layouts of channels-first sources: their tensors, kernels and paddings as QIR's ops take them.

QIR's ops have channels last: [batch, spatial…, channels], kernels [spatial…, inputs, outputs]. A
rule turns operands at the borders of an op; weights are turned at import, and passes move the
transposes of activations out of the network.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.errors import QirError, UnsupportedError
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.known import Known
from qir.ops import Reverse
from qir.ops.op import Op
from qir.ops.windows import Pads
from qir.types import Size, known


def channels_last(b: Emitter, x: Operand) -> Operand:
    """Turns [batch, channels, spatial…] to [batch, spatial…, channels]."""
    rank = x.type.rank
    return b.transpose(x, (0, *range(2, rank), 1))


def channels_first(b: Emitter, x: Operand) -> Operand:
    """Turns [batch, spatial…, channels] to [batch, channels, spatial…]."""
    rank = x.type.rank
    return b.transpose(x, (0, rank - 1, *range(1, rank - 1)))


def on_channels_last(b: Emitter, op: Op, x: Operand, *operands: Operand) -> Operand:
    """Returns the result of an op with channels last, such as a pool, on a channels-first tensor.

    Args:
        b: Where to write.
        op: The op.
        x: The tensor, which is turned.
        operands: Further operands, which are taken as they are.
    """
    return channels_first(b, b.emit(op, channels_last(b, x), *operands))


def conv_kernel(b: Emitter, kernel: Operand) -> Operand:
    """Turns [outputs, inputs / groups, spatial…] to the kernel of op conv, of any groups."""
    rank = kernel.type.rank
    return b.transpose(kernel, (*range(2, rank), 1, 0))


def conv_transpose_kernel(b: Emitter, kernel: Operand, groups: int = 1) -> Operand:
    """Turns [inputs, outputs / groups, spatial…] to the kernel of op conv_transpose.

    Sources scatter each number of x over the taps; QIR's op gathers them, so that the taps are in
    reverse.

    Raises:
        QirError: The groups do not divide the inputs.
    """
    inputs, outputs, *window = (known(size, "kernel") for size in kernel.type.shape)
    if inputs % groups:
        raise QirError(f"kernel: expected inputs in {groups} groups, got {inputs}")
    taps = tuple(range(3, 3 + len(window)))
    parted = b.reshape(kernel, (groups, inputs // groups, outputs, *window))
    turned = b.transpose(parted, (*taps, 1, 0, 2))
    merged = b.reshape(turned, (*window, inputs // groups, groups * outputs))
    axes = tuple(range(len(window)))
    if isinstance(merged, Known):
        return Known(np.flip(merged.full, axes), merged.shape, merged.name)
    return b.emit(Reverse(axes), merged)


def conv_transpose_pads(
    pads: Pads, window: Sequence[int], dilation: Sequence[int], output_padding: Sequence[int]
) -> Pads:
    """Returns the padding of op conv_transpose for what a source crops from its result.

    Args:
        pads: What is cropped before and after, for each spatial dimension.
        window: Spatial sizes of the kernel.
        dilation: Distance between taps.
        output_padding: What is added after.
    """
    each = zip(pads, window, dilation, output_padding, strict=True)
    return tuple(
        (step * (size - 1) - before, step * (size - 1) - after + more)
        for (before, after), size, step, more in each
    )


def pairs(pads: Sequence[int]) -> Pads:
    """Pairs paddings that a source lists as all before, then all after.

    Raises:
        QirError: Their number is odd.
    """
    half, odd = divmod(len(pads), 2)
    if odd:
        raise QirError(f"padding: expected a number before and after, got {list(pads)}")
    return tuple((int(low), int(high)) for low, high in zip(pads[:half], pads[half:], strict=True))


def same_pads(
    sizes: Sequence[Size],
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    *,
    lower: bool = False,
) -> Pads:
    """Returns the padding by which a result has ceil(size / stride) places.

    QIR's own `same` puts the odd place after; this is for sources that put it before.

    Args:
        sizes: Spatial sizes of the tensor.
        window: Spatial sizes of the kernel.
        strides: Step in each spatial dimension.
        dilation: Distance between taps.
        lower: Whether the odd place is before.

    Raises:
        UnsupportedError: A size is named.
    """
    found: list[tuple[int, int]] = []
    for size, taps, stride, step in zip(sizes, window, strides, dilation, strict=True):
        if not isinstance(size, int):
            raise UnsupportedError(f"padding: expected a known size, got {size}; fix it at import")
        total = max((-(-size // stride) - 1) * stride + step * (taps - 1) + 1 - size, 0)
        less, more = total // 2, total - total // 2
        found.append((more, less) if lower else (less, more))
    return tuple(found)
