"""Codes of weights: of which kind, how wide, and how much of a tensor has one scale."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TypeAlias

import numpy as np

from qir.errors import QirError, did_you_mean
from qir.passes.shared.codes import reach, sums_long, weight_scales
from qir.types import SMALLEST_SCALE, Affine, Array, Code, Codebook, DType
from qir.types.codes.parts import magnitudes

Make: TypeAlias = Callable[[DType, Array, Array | None], Code]
"""Builds a code from its width, its scale and the multipliers of a scale of two levels."""

MOST_FACTOR = 255
"""The greatest multiplier of a scale of two levels where sums are floats."""

SEARCHED = np.linspace(1.0, 0.7, 7)
"""Shares of the range of a part that a code of few bits may cover. To clip its largest numbers
makes all others finer: of Gaussian blocks of 32 numbers in 4 bits it gains 0.9 dB."""

SEARCHED_BITS = 4
"""The widest code whose range is searched; a wider one gains nothing by clipping."""


@dataclass(frozen=True)
class Scheme:
    """A way to give weights codes, as `scheme=` of pass quantize names it.

    Args:
        make: Builds a code.
        widths: The storage types that `weights=` may name with it.
        exact: Whether the scale multiplies integers, so that sums of products are exact.
        instead: What to write where integers are asked for and there are none.
    """

    make: Make
    widths: tuple[str, ...]
    exact: bool = True
    instead: str = ""


def _affine(storage: DType, scale: Array, multipliers: Array | None) -> Code:
    return Affine.of(storage, scale, multipliers=multipliers)


def _nf4(storage: DType, scale: Array, multipliers: Array | None) -> Code:
    code = Codebook.named("nf4", scale)
    return Codebook.of(code.storage, scale, code.table.array, multipliers=multipliers)


APOT_LEVELS = np.array([-10, -8, -6, -4, -3, -2, -1, 0, 1, 2, 3, 4, 6, 8, 10], np.int32)
"""Sums of two powers of two in 4 bits, {0, 8, 4, 1} + {0, 2}, and their opposites: "Additive
Powers-of-Two Quantization" (Li et al. 2020, arXiv:1909.13144), times 16."""


def _apot(storage: DType, scale: Array, multipliers: Array | None) -> Code:
    return Codebook.of(DType.I4, scale, APOT_LEVELS, multipliers=multipliers)


SCHEMES: dict[str, Scheme] = {
    "affine": Scheme(_affine, ("i8", "i4", "i2", "i16")),
    "apot": Scheme(_apot, ("i4",)),
    "nf4": Scheme(_nf4, ("i4",), exact=False, instead="scheme=apot, whose levels are integers"),
}
"""The schemes by name."""


@dataclass(frozen=True)
class WeightCoding:
    """The codes that weights get.

    Args:
        width: Their storage, such as i4.
        per: What has a scale of its own: `channel`, `tensor`, `row` or `block:32`.
        scheme: One of `SCHEMES`.
        subject: The pass, for errors.
    """

    width: str
    per: str = "channel"
    scheme: str = "affine"
    subject: str = "quantize"

    def check(self, *, exact: bool) -> None:
        """Raises QirError for options that have no meaning together.

        Args:
            exact: Whether products are summed in integers.
        """
        if self.scheme not in SCHEMES:
            raise QirError(
                f"{self.subject}: scheme: expected one of {', '.join(SCHEMES)}, got {self.scheme}"
                f"{did_you_mean(self.scheme, SCHEMES)}"
            )
        scheme = SCHEMES[self.scheme]
        if self.width not in scheme.widths:
            raise QirError(
                f"{self.subject}: scheme={self.scheme} has weights of "
                f"{' or '.join(scheme.widths)}, got weights={self.width}; write "
                f"weights={scheme.widths[0]}"
            )
        if self.per not in ("channel", "tensor", "row") and self.block is None:
            raise QirError(
                f"{self.subject}: per: expected channel, tensor, row or block:N with N of 2 or "
                f"more, such as block:32, got {self.per}"
            )
        if not exact:
            return
        if not scheme.exact:
            raise QirError(
                f"{self.subject}: scheme={self.scheme} has no integer steps for sums of integers; "
                f"write activations=float, which codes the weights alone, or {scheme.instead}"
            )
        if self.per == "row":
            raise QirError(
                f"{self.subject}: per=row gives each term of a sum a scale of its own, which no "
                "integer sum has; write per=block:N, whose scales have two levels, or "
                "activations=float"
            )

    @cached_property
    def block(self) -> int | None:
        """How many terms of a sum share a scale, at most; None where `per` says otherwise."""
        found = re.fullmatch(r"block:([1-9][0-9]*)", self.per)
        size = int(found[1]) if found else 0
        return size if size >= 2 else None

    def for_sums(
        self,
        kernel: Array,
        activations: Code,
        *,
        output_scale: float,
        bias: Array | None = None,
    ) -> Code:
        """Returns the code of a kernel whose products are summed in integers.

        Blocks have a scale of two levels, with multipliers as large as leave the steps in bytes.
        The scale of a channel, or of the tensor, is one of `weight_scales`.

        Args:
            kernel: The kernel [taps…, terms, outputs].
            activations: The code of what it is multiplied by.
            output_scale: Scale of the result.
            bias: The bias [outputs], or None.
        """
        parts = self._parts(kernel.shape)
        blocks = self.block is not None and prod(parts) > parts[-1]
        most = self._most_factor if blocks else 1
        scale = weight_scales(
            kernel,
            int(self._largest) * most,
            per_channel=self.per != "tensor",
            input_scale=float(activations.scale.array),
            output_scale=output_scale,
            bias=bias,
            reach=max(reach(activations), 255),
            long=sums_long(activations, self._make(np.ones(()), np.full((), most)), kernel),
        )
        return self._two_levels(kernel, parts, scale, most) if most > 1 else self._make(scale)

    def for_floats(self, weights: Array, *, channel: int = -1, summed: int = -2) -> Code:
        """Returns the code of weights that are dequantized before anything is computed with them.

        Args:
            weights: The weights, of rank 2 or more.
            channel: The axis of which each place has a scale of its own.
            summed: The axis that blocks divide, and whose places are rows.
        """
        parts = self._parts(weights.shape, channel, summed)
        peaks = magnitudes(weights, parts)
        if self.block is None or prod(parts) == parts[channel]:
            scale = np.maximum(peaks / self._largest, SMALLEST_SCALE)
            return self._make(self._searched(weights, scale))
        across = tuple(axis for axis in range(weights.ndim) if axis != channel % weights.ndim)
        top = peaks.max(axis=across, keepdims=True) / self._largest / MOST_FACTOR
        return self._two_levels(weights, parts, np.maximum(top, SMALLEST_SCALE), MOST_FACTOR)

    def for_rows(self, table: Array, *, factor: float, output_scale: float) -> Code:
        """Returns the code of a table whose rows are rounded to a code: each has one scale.

        A kernel that is the transposed table gets the same stored numbers, wherever neither scale
        has to be raised.

        Args:
            table: The table; rows along the first axis.
            factor: What rows are multiplied by.
            output_scale: Scale of the result.
        """
        columns = np.moveaxis(table, 0, -1)
        scale = weight_scales(
            columns,
            int(self._largest),
            per_channel=self.per != "tensor",
            input_scale=factor,
            output_scale=output_scale,
            bias=None,
        )
        code = self._make(scale)
        return code.map_arrays(lambda factors: np.moveaxis(factors, -1, 0))

    @cached_property
    def _most_factor(self) -> int:
        """The greatest multiplier that leaves steps in signed bytes: of 4 bits it is 16."""
        low, high = self._make(np.ones(())).step_bounds or (-1, 1)
        least, greatest = DType.I8.bounds
        return max(1, min(least // low, greatest // high))

    @cached_property
    def _largest(self) -> float:
        """The greatest magnitude that a stored number of either sign means, in scales."""
        return min(map(abs, self._make(np.ones(())).real_bounds))

    def _make(self, scale: Array, multipliers: Array | None = None) -> Code:
        return SCHEMES[self.scheme].make(DType(self.width), scale, multipliers)

    def _parts(
        self, shape: tuple[int, ...], channel: int = -1, summed: int = -2
    ) -> tuple[int, ...]:
        """Returns how many parts of an array have scales of their own, along each axis."""
        parts = [1] * len(shape)
        if self.per == "row":
            parts[summed] = shape[summed]
            return tuple(parts)
        if self.per != "tensor":
            parts[channel] = shape[channel]
        size = shape[summed]
        if self.block is not None and size > self.block:
            parts[summed] = next(
                n for n in range(-(-size // self.block), size + 1) if size % n == 0
            )
            for axis in range(len(shape)):
                if axis not in (channel % len(shape), summed % len(shape)):
                    parts[axis] = shape[axis]
        return tuple(parts)

    def _two_levels(self, weights: Array, parts: tuple[int, ...], scale: Array, most: int) -> Code:
        """Returns the code whose multipliers give each part the steps that fit it best."""
        wanted = magnitudes(weights, parts) / self._largest / scale
        best, least = np.ones(parts), np.full(parts, np.inf)
        for share in SEARCHED if DType(self.width).bits <= SEARCHED_BITS else (1.0,):
            factors = np.clip(np.rint(wanted * share), 1, most)
            error = _squared_error(weights, self._make(scale, factors), parts)
            better = error < least
            best, least = np.where(better, factors, best), np.where(better, error, least)
        return self._make(scale, best)

    def _searched(self, weights: Array, scale: Array) -> Array:
        """Returns the share of each scale that fits its part of the weights best."""
        if DType(self.width).bits > SEARCHED_BITS:
            return scale
        parts = np.broadcast_to(scale, scale.shape or (1,) * weights.ndim).shape
        best, least = scale.reshape(parts), np.full(parts, np.inf)
        for share in SEARCHED:
            some = np.maximum(scale * share, SMALLEST_SCALE).reshape(parts)
            error = _squared_error(weights, self._make(some), parts)
            better = error < least
            best, least = np.where(better, some, best), np.where(better, error, least)
        return np.asarray(best.reshape(scale.shape))


def _squared_error(weights: Array, code: Code, parts: tuple[int, ...]) -> Array:
    """Returns what coding the weights costs each part, as the sum of squares."""
    errors = np.subtract(weights, code.decode(code.encode(weights)), dtype=np.float32)
    split = [
        size
        for count, whole in zip(parts, weights.shape, strict=True)
        for size in (count, whole // count)
    ]
    squares = np.square(errors, out=errors).reshape(split)
    return np.asarray(squares.sum(axis=tuple(range(1, 2 * weights.ndim, 2)), dtype=np.float64))
