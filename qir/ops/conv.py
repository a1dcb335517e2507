"""Convolution in 1, 2 and 3 spatial dimensions."""

from __future__ import annotations

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
from qir.types import Array, Size, TensorType, known


@op("conv")
class Conv(Op):
    """Convolution of a channels-last tensor: y[n, p, o] = sum over taps t and channels i of x[n, p*s + t*d, i] * k[t, i, o] + b[o].

    Operands: x [batch, spatial…, channels], kernel [spatial…, channels / groups, outputs], bias [outputs]. With codes the
    padding is the real number 0, that is x's zero point.

    Attributes:
        strides: Step of the window in each spatial dimension; left out, 1.
        padding: `valid`, `same`, or (before, after) for each spatial dimension.
        dilation: Distance between taps; left out, 1.
        groups: Number of groups that channels and outputs are split into; all channels make it depthwise.
    """

    strides: tuple[int, ...] = ()
    padding: Padding = "valid"
    dilation: tuple[int, ...] = ()
    groups: int = 1

    quant = Accumulate()

    def check(self) -> None:
        if any(value < 1 for value in (*self.strides, *self.dilation, self.groups)):
            raise self.error("expected strides, dilation and groups of at least 1")
        if not isinstance(self.padding, str) and any(side < 0 for pair in self.padding for side in pair):
            raise self.error(f"expected padding of at least 0, got {self.padding}")

    def geometry(self, x: TensorType, kernel: TensorType) -> tuple[tuple[int, ...], tuple[int, ...], Pads]:
        """Returns strides, dilation and padding, one entry for each spatial dimension."""
        window = [known(size, "conv: kernel") for size in kernel.shape[:-2]]
        strides = per_dimension(self.strides, len(window))
        dilation = per_dimension(self.dilation, len(window))
        return strides, dilation, pads(x.shape[1:-1], dilated(window, dilation), strides, self.padding)

    def result(self, x: TensorType, kernel: TensorType, bias: TensorType | None = None) -> TensorType:
        window = [known(size, "conv: kernel") for size in kernel.shape[:-2]]
        check_spatial(self, x, window, strides=self.strides, padding=self.padding, dilation=self.dilation)
        channels, outputs = known(kernel.shape[-2], "conv: kernel"), known(kernel.shape[-1], "conv: kernel")
        if x.shape[-1] != channels * self.groups:
            groups = f" in {self.groups} groups" if self.groups > 1 else ""
            raise self.error(f"kernel has {channels} input channels{groups}, x has {x.shape[-1]}")
        if outputs % self.groups:
            raise self.error(f"expected a multiple of {self.groups} output channels, got {outputs}")
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
                values.lo.min(axis=tuple(range(values.lo.ndim - 1))), values.hi.max(axis=tuple(range(values.lo.ndim - 1)))
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
        # (batch, places…, channels, taps…) -> (batch, places…, groups, channels of the group, taps…)
        patches = patches.reshape(*places, self.groups, channels, *window)
        taps = np.moveaxis(kernel, -2, 0).reshape(-1, self.groups, outputs // self.groups)
        rows = np.moveaxis(patches, len(places), 0).reshape(self.groups, -1, channels * int(np.prod(window)))
        result = np.matmul(rows, np.moveaxis(taps, 1, 0))
        result = np.moveaxis(result, 0, 1).reshape(*places, outputs)
        return result if bias is None else result + bias
