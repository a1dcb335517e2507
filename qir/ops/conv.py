"""Convolution and its transpose in 1, 2 and 3 spatial dimensions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from qir.errors import counted
from qir.numbers.interval import EVERYTHING, Interval
from qir.ops.attributes import all_ones, all_zeros, left_out
from qir.ops.op import op
from qir.ops.products import Products
from qir.ops.rules import Accumulate, holds_bytes
from qir.ops.traits import Carried
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
from qir.types import Affine, Array, Dim, Shape, Size, TensorType, known, product


@dataclass(frozen=True)
class Convolution(Products):
    """Base of conv and conv_transpose.

    Operands: x [batch, spatial…, channels], kernel [spatial…, channels / groups, outputs], bias
    [outputs]. With codes the padding and the zeros between numbers are the real number 0, which is
    x's zero point. Plain integers of 8 bits, signed or not, give sums in i32, which wrap; wider
    ones keep their type.

    Attributes:
        strides: Step in each spatial dimension; left out, 1.
        padding: Places before and after, in each spatial dimension.
        dilation: Distance between taps; left out, 1.
        groups: Number of groups that channels and outputs are split into; all channels make it
            depthwise.
    """

    strides: tuple[int, ...] = left_out((), all_ones)
    padding: Padding = left_out("valid", all_zeros)
    dilation: tuple[int, ...] = left_out((), all_ones)
    groups: int = 1

    def check(self) -> None:
        if any(value < 1 for value in (*self.strides, *self.dilation, self.groups)):
            raise self.error("expected strides, dilation and groups of at least 1")

    def geometry(
        self, sizes: Sequence[Size], window: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        """Returns strides, dilation and padding for each spatial dimension.

        Args:
            sizes: Spatial sizes of x.
            window: Spatial sizes of the kernel.
        """
        raise NotImplementedError

    def spatial(self, sizes: Sequence[Size], window: Sequence[int]) -> Sequence[Size]:
        """Returns the spatial sizes of the result; raises QirError where the window doesn't fit."""
        raise NotImplementedError

    def result(
        self, x: TensorType, kernel: TensorType, bias: TensorType | None = None
    ) -> TensorType:
        *window, channels, outputs = (known(size, f"{self.name}: kernel") for size in kernel.shape)
        check_spatial(
            self, x, window, strides=self.strides, padding=self.padding, dilation=self.dilation
        )
        if x.shape[-1] != channels * self.groups:
            groups = f" in {self.groups} groups" if self.groups > 1 else ""
            raise self.error(
                f"kernel has {counted(channels, 'input channel')}{groups}, x has {x.shape[-1]}"
            )
        if outputs % self.groups:
            raise self.error(f"expected a multiple of {self.groups} output channels, got {outputs}")
        shape: Shape = (x.shape[0], *self.spatial(x.shape[1:-1], window), outputs)
        element = accumulator(self, x, kernel, len(shape), outputs, rows=1)
        check_bias(self, bias, element, outputs)
        return TensorType(shape, element)

    def multiply_adds(self, operands: Sequence[TensorType], result: TensorType) -> Size:
        kernel = operands[1]
        # Each number is met by every tap of one kernel: of the result, or of x in a transpose.
        places = operands[0].shape[:-1] if isinstance(self, ConvTranspose) else result.shape[:-1]
        return product((*places, *kernel.shape))

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        x, kernel, *bias = operands
        last = x.rank - 1
        carried = [Carried(0, 0, 0), Carried(1, kernel.rank - 1, last)]
        return [*carried, *(Carried(2, 0, last) for _ in bias)]

    @property
    def channel_groups(self) -> int:
        return self.groups


@op("conv")
class Conv(Convolution):
    """Convolution of a channels-last tensor; see Convolution for operands and attributes.

    y[n, p, o] = sum over taps t and channels i of x[n, p*s + t*d, i] * k[t, i, o] + b[o], where the
    padding is `valid`, `same`, or (before, after) of at least 0 for each spatial dimension.
    """

    def check(self) -> None:
        super().check()
        if not isinstance(self.padding, str) and min(map(min, self.padding), default=0) < 0:
            raise self.error(f"expected padding of at least 0, got {self.padding}")

    def geometry(
        self, sizes: Sequence[Size], window: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        strides = per_dimension(self.strides, len(window))
        dilation = per_dimension(self.dilation, len(window))
        return strides, dilation, pads(sizes, dilated(window, dilation), strides, self.padding)

    def needs_zero(self, *operands: TensorType) -> bool:
        kernel = operands[1]
        # The integers of a table are as they are, 0 among them or not.
        if isinstance(kernel.quant, Affine) and not kernel.quant.holds_zero:
            return True
        if isinstance(self.padding, str):
            return self.padding == "same" and any(size != 1 for size in kernel.shape[:-2])
        return any(map(any, self.padding))

    def cannot_shift(self, operands: Sequence[TensorType]) -> str | None:
        x, kernel = operands[:2]
        window = [known(size, "conv: kernel") for size in kernel.shape[:-2]]
        _, _, padding = self.geometry(x.shape[1:-1], window)
        return "the padding would have to be shifted too" if any(map(any, padding)) else None

    def spatial(self, sizes: Sequence[Size], window: Sequence[int]) -> Sequence[Size]:
        strides, dilation, padding = self.geometry(sizes, window)
        return windowed(self, sizes, dilated(window, dilation), strides, padding)

    def interval(self, x: Interval, kernel: Interval, bias: Interval | None = None) -> Interval:
        if kernel.lo.ndim < 3:
            return EVERYTHING
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
        if holds_bytes(x):
            return Accumulate.exactly(self, x, kernel, *(() if bias is None else (bias,)))
        window, (channels, outputs) = kernel.shape[:-2], kernel.shape[-2:]
        strides, dilation, padding = self.geometry(x.shape[1:-1], window)
        patches = sliding(pad_spatial(x, padding, 0), window, strides, dilation)
        places = patches.shape[: len(window) + 1]
        if channels == 1 and outputs == self.groups:
            # Matrix products of one channel each would take ten times as long.
            result = np.zeros((*places, outputs), np.result_type(x, kernel))
            term = np.empty_like(result)
            for tap in np.ndindex(*window):
                result += np.multiply(patches[(..., *tap)], kernel[(*tap, 0)], out=term)
            return np.asarray(result if bias is None else np.add(result, bias, out=result))
        # (batch, places…, channels, taps…) -> (batch, places…, taps…, groups, channels / groups):
        # so the channels of a tap are copied in one piece, and nothing is for a window of 1.
        patches = np.moveaxis(patches, len(places), -1)
        patches = patches.reshape(prod(places), prod(window), self.groups, channels)
        terms = prod(window) * channels
        rows = np.moveaxis(patches, 2, 0).reshape(self.groups, prod(places), terms)
        taps = kernel.reshape(terms, self.groups, outputs // self.groups)
        result = np.matmul(rows, np.moveaxis(taps, 1, 0))
        result = np.moveaxis(result, 0, 1).reshape(*places, outputs)
        return np.asarray(result if bias is None else result + bias)


@op("conv_transpose")
class ConvTranspose(Convolution):
    """A convolution of step 1 over x with strides - 1 zeros between its numbers; see Convolution.

    y[n, p, o] = sum over taps t and channels i of z[n, p + t*d, i] * k[t, i, o] + b[o], where z is
    x with the zeros inserted and padded. The kernel is not flipped. The padding is (before, after)
    of z for each spatial dimension, negative to crop; left out, each number of x meets every tap.
    """

    padding: Pads = ()

    def geometry(
        self, sizes: Sequence[Size], window: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        dilation = per_dimension(self.dilation, len(window))
        full = tuple((extent - 1, extent - 1) for extent in dilated(window, dilation))
        return per_dimension(self.strides, len(window)), dilation, self.padding or full

    def cannot_shift(self, operands: Sequence[TensorType]) -> str:
        return "the zeros between the numbers would have to be shifted too"

    def spatial(self, sizes: Sequence[Size], window: Sequence[int]) -> Sequence[Size]:
        strides, dilation, padding = self.geometry(sizes, window)
        each = zip(sizes, dilated(window, dilation), strides, padding, strict=True)
        return [
            self._size(size, extent, stride, sum(sides)) for size, extent, stride, sides in each
        ]

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
        surrounded: Pads = ((1, 1),)
        return Conv(padding=surrounded, groups=self.groups).interval(x, kernel, bias)

    def stretched(self, x: Array, window: Sequence[int]) -> Array:
        """Returns z: x with zeros inserted and padded, for a kernel with these spatial sizes."""
        strides, _, padding = self.geometry(x.shape[1:-1], window)
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
