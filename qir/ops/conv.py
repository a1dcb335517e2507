"""Convolution and its transpose in 1, 2 and 3 spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from qir.interval import Interval
from qir.op import Accumulate, Op, op
from qir.ops.type_rules import accumulator, check_bias
from qir.ops.windows import (
    Padding,
    Pads,
    check_spatial,
    dilated,
    pad_spatial,
    pads,
    per_dimension,
    sliding,
    windowed,
)
from qir.types import Array, Dim, Shape, Size, TensorType, known


def check_channels(operation: Op, x: TensorType, kernel: TensorType, groups: int) -> int:
    """Returns a kernel's outputs; raises QirError where its channels or groups don't fit x."""
    channels, outputs = (known(size, f"{operation.name}: kernel") for size in kernel.shape[-2:])
    if x.shape[-1] != channels * groups:
        grouped = f" in {groups} groups" if groups > 1 else ""
        raise operation.error(f"kernel has {channels} input channels{grouped}, x has {x.shape[-1]}")
    if outputs % groups:
        raise operation.error(f"expected a multiple of {groups} output channels, got {outputs}")
    return outputs


@op("conv")
class Conv(Op):
    """Convolution of a channels-last tensor.

    y[n, p, o] = sum over taps t and channels i of x[n, p*s + t*d, i] * k[t, i, o] + b[o].

    Operands: x [batch, spatial…, channels], kernel [spatial…, channels / groups, outputs], bias
        [outputs]. With codes the
    padding is the real number 0, that is x's zero point.

    Attributes:
        strides: Step of the window in each spatial dimension; left out, 1.
        padding: `valid`, `same`, or (before, after) for each spatial dimension.
        dilation: Distance between taps; left out, 1.
        groups: Number of groups that channels and outputs are split into; all channels make it
            depthwise.
    """

    strides: tuple[int, ...] = ()
    padding: Padding = "valid"
    dilation: tuple[int, ...] = ()
    groups: int = 1

    quant = Accumulate()

    def check(self) -> None:
        if any(value < 1 for value in (*self.strides, *self.dilation, self.groups)):
            raise self.error("expected strides, dilation and groups of at least 1")
        if not isinstance(self.padding, str) and any(
            side < 0 for pair in self.padding for side in pair
        ):
            raise self.error(f"expected padding of at least 0, got {self.padding}")

    def geometry(
        self, x: TensorType, kernel: TensorType
    ) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        """Returns strides, dilation and padding, one entry for each spatial dimension."""
        window = [known(size, "conv: kernel") for size in kernel.shape[:-2]]
        strides = per_dimension(self.strides, len(window))
        dilation = per_dimension(self.dilation, len(window))
        return (
            strides,
            dilation,
            pads(x.shape[1:-1], dilated(window, dilation), strides, self.padding),
        )

    def result(
        self, x: TensorType, kernel: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        window = [known(size, "conv: kernel") for size in kernel.shape[:-2]]
        check_spatial(
            self, x, window, strides=self.strides, padding=self.padding, dilation=self.dilation
        )
        outputs = check_channels(self, x, kernel, self.groups)
        strides, dilation, padding = self.geometry(x, kernel)
        spatial = windowed(self, x.shape[1:-1], dilated(window, dilation), strides, padding)
        shape: tuple[Size, ...] = (x.shape[0], *spatial, outputs)
        element = accumulator(self, x, kernel, len(shape), outputs)
        check_bias(self, bias, element, outputs)
        return TensorType(shape, element)

    def interval(self, x: Interval, kernel: Interval, bias: Interval | None = None) -> Interval:
        values = x if self.padding == "valid" else x.union(Interval.of(0, 0))
        if values.lo.ndim == 0 or values.lo.shape[-1] == 1 or self.groups > 1:
            values = values.hull()
        elif values.lo.ndim:
            values = Interval.of(
                values.lo.min(axis=tuple(range(values.lo.ndim - 1))),
                values.hi.max(axis=tuple(range(values.lo.ndim - 1))),
            )

        def total(value: Array, weights: Array) -> Array:
            spread = value[:, None] if value.ndim else value
            summed: Array = (spread * weights).sum(axis=tuple(range(weights.ndim - 1)))
            return summed

        sums = values.weighted(kernel, total)
        return sums if bias is None else sums + bias

    def evaluate(self, x: Array, kernel: Array, bias: Array | None = None) -> Array:
        window, (channels, outputs) = kernel.shape[:-2], kernel.shape[-2:]
        strides = per_dimension(self.strides, len(window))
        dilation = per_dimension(self.dilation, len(window))
        padding = pads(x.shape[1:-1], dilated(window, dilation), strides, self.padding)
        patches = sliding(pad_spatial(x, padding, 0), window, strides, dilation)
        places = patches.shape[: len(window) + 1]
        # (batch, places…, channels, taps…) -> (batch, places…, groups, channels / groups, taps…)
        patches = patches.reshape(*places, self.groups, channels, *window)
        taps = np.moveaxis(kernel, -2, 0).reshape(-1, self.groups, outputs // self.groups)
        rows = np.moveaxis(patches, len(places), 0).reshape(
            self.groups, -1, channels * int(np.prod(window))
        )
        result = np.matmul(rows, np.moveaxis(taps, 1, 0))
        result = np.moveaxis(result, 0, 1).reshape(*places, outputs)
        return np.asarray(result if bias is None else result + bias)


@op("conv_transpose")
class ConvTranspose(Op):
    """A convolution of step 1 over x with strides - 1 zeros between its numbers.

    y[n, p, o] = sum over taps t and channels i of z[n, p + t*d, i] * k[t, i, o] + b[o], where z is
    x with the zeros inserted and padded. The kernel is not flipped. Operands as of conv. With codes
    the zeros are the real number 0, that is x's zero point.

    Attributes:
        strides: Distance in z between neighbours of x, in each spatial dimension; left out, 1.
        padding: (before, after) of z for each spatial dimension, negative to crop; left out, as
            many as let each number of x meet every tap, which is the extent of the dilated window -
            1.
        dilation: Distance between taps; left out, 1.
        groups: Number of groups that channels and outputs are split into.
    """

    strides: tuple[int, ...] = ()
    padding: Pads = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1

    quant = Accumulate()

    def check(self) -> None:
        if any(value < 1 for value in (*self.strides, *self.dilation, self.groups)):
            raise self.error("expected strides, dilation and groups of at least 1")

    def geometry(self, window: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        """Returns strides, dilation and padding for each spatial dimension of the window."""
        dilation = per_dimension(self.dilation, len(window))
        full = tuple((extent - 1, extent - 1) for extent in dilated(window, dilation))
        return per_dimension(self.strides, len(window)), dilation, self.padding or full

    def result(
        self, x: TensorType, kernel: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        window = [known(size, "conv_transpose: kernel") for size in kernel.shape[:-2]]
        check_spatial(
            self, x, window, strides=self.strides, padding=self.padding, dilation=self.dilation
        )
        outputs = check_channels(self, x, kernel, self.groups)
        strides, dilation, padding = self.geometry(window)
        sizes = zip(x.shape[1:-1], dilated(window, dilation), strides, padding, strict=True)
        spatial = [
            self._size(size, extent, stride, sum(sides)) for size, extent, stride, sides in sizes
        ]
        shape: Shape = (x.shape[0], *spatial, outputs)
        element = accumulator(self, x, kernel, len(shape), outputs)
        check_bias(self, bias, element, outputs)
        return TensorType(shape, element)

    def _size(self, size: Size, extent: int, stride: int, padding: int) -> Size:
        more = padding - extent + 2 - stride
        if more == 0:
            return size * stride
        if isinstance(size, Dim):
            raise self.error(
                f"the result would have {stride}*{size} {more:+d} places, which is no size "
                "that QIR can name"
            )
        if size * stride + more < 1:
            raise self.error(
                f"padding {padding} leaves no room for a window of {extent} over a size of {size}"
            )
        return size * stride + more

    def interval(self, x: Interval, kernel: Interval, bias: Interval | None = None) -> Interval:
        padded: Pads = ((1, 1),)
        return Conv(padding=padded, groups=self.groups).interval(x, kernel, bias)

    def stretched(self, x: Array, window: Sequence[int]) -> Array:
        """Returns z: x with zeros inserted and padded, for a kernel with these spatial sizes."""
        strides, _, padding = self.geometry(window)
        sizes = [
            (size - 1) * stride + 1 for size, stride in zip(x.shape[1:-1], strides, strict=True)
        ]
        z = np.zeros((x.shape[0], *sizes, x.shape[-1]), x.dtype)
        z[(slice(None), *(slice(None, None, stride) for stride in strides))] = x
        z = pad_spatial(z, tuple((max(low, 0), max(high, 0)) for low, high in padding), 0)
        crops = [
            slice(max(-low, 0), size - max(-high, 0))
            for size, (low, high) in zip(z.shape[1:-1], padding, strict=True)
        ]
        return z[(slice(None), *crops)]

    def evaluate(self, x: Array, kernel: Array, bias: Array | None = None) -> Array:
        z = self.stretched(x, kernel.shape[:-2])
        return Conv(dilation=self.dilation, groups=self.groups).evaluate(z, kernel, bias)
