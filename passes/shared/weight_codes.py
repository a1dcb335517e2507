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
from qir.types import (
    SMALLEST_SCALE,
    Affine,
    Array,
    Code,
    Codebook,
    DType,
    Float8,
    Float8E4M3,
    Float8E5M2,
    FrozenArray,
    LevelCode,
    PowerOfTwo,
    code_kind,
)
from qir.types.codes.parts import magnitudes

Make: TypeAlias = Callable[[DType, Array, Array | None], Code]
"""Builds a code from its width, its scale and the multipliers of a scale of two levels."""

MOST_FACTOR = 255
"""The greatest multiplier of a scale of two levels where sums are floats."""

LEAST_FACTOR = 8
"""The least range of multipliers for which steps are kept in bytes."""

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
        inexact: Why sums of products with such weights are no integers, with the nearest that is;
            empty where they are.
        kind: The kind of code that finds its own scales, for blocks of a size of its own.
        block: That size.
    """

    make: Make
    widths: tuple[str, ...]
    inexact: str = ""
    kind: str = ""
    block: int = 0


def _affine(storage: DType, scale: Array, multipliers: Array | None) -> Code:
    return Affine.of(storage, scale, multipliers=multipliers)


def _levels(name: str) -> Make:
    def make(storage: DType, scale: Array, multipliers: Array | None) -> Code:
        named = Codebook.named(name, 1.0)
        return Codebook.of(named.storage, scale, named.table.array, multipliers=multipliers)

    return make


def _powers(per_octave: int) -> Make:
    def make(storage: DType, scale: Array, multipliers: Array | None) -> Code:
        return PowerOfTwo.of(storage.bits, scale, per_octave, multipliers=multipliers)

    return make


def _float8(kind: type[Float8]) -> Make:
    def make(storage: DType, scale: Array, multipliers: Array | None) -> Code:
        factors = None if multipliers is None else FrozenArray(multipliers)
        return kind(DType.U8, FrozenArray(scale), multipliers=factors)

    return make


_FLOATS = "its numbers are no integers times a scale"
_BLOCKS = "its scales vary along what is summed"

SCHEMES: dict[str, Scheme] = {
    "affine": Scheme(_affine, ("i8", "i4", "i2", "i16")),
    "log2": Scheme(
        _powers(1), ("i4", "i8"), "of 8 bits its steps exceed 16 bits; write weights=i4"
    ),
    "log2_half": Scheme(_powers(2), ("i4", "i8"), f"{_FLOATS}; write scheme=log2"),
    "apot": Scheme(_levels("apot4"), ("i4",)),
    "nf4": Scheme(_levels("nf4"), ("i4",), f"{_FLOATS}; write scheme=apot"),
    "fp8": Scheme(_float8(Float8E4M3), ("i8",), f"{_FLOATS}; write scheme=affine"),
    "fp8_e5m2": Scheme(_float8(Float8E5M2), ("i8",), f"{_FLOATS}; write scheme=affine"),
    "mxfp4": Scheme(_affine, ("i4",), f"{_BLOCKS}; write scheme=affine", "mxfp4", 32),
    "nvfp4": Scheme(_affine, ("i4",), f"{_BLOCKS}; write scheme=affine", "nvfp4", 16),
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
        if scheme.block and self.block != scheme.block:
            raise QirError(
                f"{self.subject}: scheme={self.scheme} has blocks of {scheme.block}, got "
                f"per={self.per}; write per=block:{scheme.block}"
            )
        if not exact:
            return
        if self._unit.step_bounds is None or scheme.block:
            raise QirError(
                f"{self.subject}: scheme={self.scheme} has no exact sums of integers: "
                f"{scheme.inexact}, or {self._floats}, which codes the weights alone"
            )
        if self.block is not None and self._most_factor == 1:
            raise QirError(
                f"{self.subject}: per={self.per} needs multipliers, for which steps of "
                f"weights={self.width} have no room in 16 bits; write per=channel or weights=i8"
            )
        if self.per == "row":
            raise QirError(
                f"{self.subject}: per=row gives each term of a sum a scale of its own, which no "
                "integer sum has; write per=block:N, whose scales have two levels, or "
                f"{self._floats}"
            )

    @property
    def _floats(self) -> str:
        """What to write for weights that are dequantized; only pass quantize has that option."""
        own = "activations=float"
        return own if self.subject == "quantize" else f"{own} of pass quantize"

    @cached_property
    def block(self) -> int | None:
        """About how many terms of a sum share a scale; None where `per` says otherwise.

        See `_block_size` for what is done where blocks of this size do not divide the sum.
        """
        found = re.fullmatch(r"block:([1-9][0-9]*)", self.per)
        size = int(found[1]) if found else 0
        return size if size >= 2 else None

    @property
    def greatest_step(self) -> int:
        """The greatest integer that products in integers multiply, multipliers included."""
        return int(self._largest) * (1 if self.block is None else self._most_factor)

    def for_sums(
        self,
        kernel: Array,
        activations: Code,
        *,
        output_scale: float,
        bias: Array | None = None,
    ) -> Code:
        """Returns the code of a kernel whose products are summed in integers.

        Blocks have a scale of two levels, of multipliers that leave the steps in bytes if they can.
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
        if not kernel.size:
            return self._make(scale)
        if most > 1:
            return self._two_levels(kernel, parts, scale, most)
        # Where the accumulator asks for a greater scale, a lesser one is none.
        wanted = magnitudes(kernel, parts).reshape(scale.shape) / self._largest
        raised = scale > wanted * (1 + 1e-12)
        return self._make(np.where(raised, scale, self._searched(kernel, scale)))

    def for_floats(self, weights: Array, *, channel: int = -1, summed: int = -2) -> Code:
        """Returns the code of weights that are dequantized before anything is computed with them.

        Args:
            weights: The weights, of rank 2 or more.
            channel: The axis of which each place has a scale of its own.
            summed: The axis that blocks divide, and whose places are rows.
        """
        parts = self._parts(weights.shape, channel, summed)
        if kind := SCHEMES[self.scheme].kind:
            return code_kind(kind).fit(weights, parts)
        peaks = magnitudes(weights, parts)
        if self.block is None or prod(parts) == parts[channel]:
            scale = self._scales(peaks / self._largest)
            return self._make(self._searched(weights, scale))
        across = tuple(axis for axis in range(weights.ndim) if axis != channel % weights.ndim)
        top = peaks.max(axis=across, keepdims=True) / self._largest / MOST_FACTOR
        return self._two_levels(weights, parts, self._scales(top), MOST_FACTOR)

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
        """The greatest multiplier of blocks whose products are summed in integers.

        One that leaves steps in signed bytes, of 4 bits 16, as long as it has 3 bits; else one that
        leaves them in 16 bits, of which a product is two of bytes.
        """
        low, high = self._unit.step_bounds or (-1, 1)
        most = [
            min(ends[0] // low, ends[1] // high) for ends in (DType.I8.bounds, DType.I16.bounds)
        ]
        return most[0] if most[0] >= LEAST_FACTOR else max(1, min(most[1], MOST_FACTOR))

    @cached_property
    def _unit(self) -> Code:
        """The code with a scale of 1."""
        return self._make(np.ones(()))

    @cached_property
    def _largest(self) -> float:
        """The greatest magnitude that a stored number of either sign means, in scales."""
        unit = self._unit
        if isinstance(unit, LevelCode):
            levels = unit.levels[np.isfinite(unit.levels)]
            return float(min(-levels.min(), levels.max()))
        return min(map(abs, unit.real_bounds))

    def _scales(self, wanted: Array) -> Array:
        """Returns scales inside of what the code may have, float64 numbers that float32 holds."""
        unit = self._unit
        low, high = (
            unit.scale_bounds
            if isinstance(unit, LevelCode)
            else (SMALLEST_SCALE, 1 / SMALLEST_SCALE)
        )
        return np.asarray(np.clip(wanted, low, high).astype(np.float32), np.float64)

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
        if wanted := SCHEMES[self.scheme].block:
            if size % wanted:
                raise QirError(
                    f"{self.subject}: scheme={self.scheme} has a scale for each {wanted} numbers "
                    f"of a sum, which do not divide the {size} of these weights; write "
                    "scheme=affine or nf4, whose blocks have any size, or append zeros"
                )
            parts = list(shape)
            parts[summed] = size // wanted
            return tuple(parts)
        if self.block is not None and size > self.block:
            parts[summed] = size // _block_size(size, self.block)
            if parts[summed] == 1:
                return tuple(parts)
            for axis in range(len(shape)):
                if axis not in (channel % len(shape), summed % len(shape)):
                    parts[axis] = shape[axis]
        return tuple(parts)

    def _two_levels(self, weights: Array, parts: tuple[int, ...], scale: Array, most: int) -> Code:
        """Returns the code whose multipliers give each part the steps that fit it best."""
        wanted = magnitudes(weights, parts) / self._largest / scale
        best, least = np.ones(parts), np.full(parts, np.inf)
        few = DType(self.width).bits <= SEARCHED_BITS
        # Where nothing is searched, a factor that is rounded down would cut off the greatest.
        rounded = np.rint if few else np.ceil
        for share in SEARCHED if few else (1.0,):
            factors = np.clip(rounded(wanted * share), 1, most)
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
            some = self._scales(scale * share).reshape(parts)
            error = _squared_error(weights, self._make(some), parts)
            better = error < least
            best, least = np.where(better, some, best), np.where(better, error, least)
        return np.asarray(best.reshape(scale.shape))


def _block_size(size: int, wanted: int) -> int:
    """Returns how many of `size` numbers have a scale: a divisor of it that is near to `wanted`.

    The greatest one up to `wanted`, unless that is less than half of it: the 8 bits of a multiplier
    for each of few numbers of 4 bits would take more than the bits that blocks save. Then it is the
    least one above, which is all of a prime number of terms.

    Args:
        size: How many numbers there are, more than wanted.
        wanted: How many are to have one scale.
    """
    divisors = [n for n in range(1, size + 1) if size % n == 0]
    below = max(n for n in divisors if n <= wanted)
    return below if 2 * below >= wanted else min(n for n in divisors if n > wanted)


def _squared_error(weights: Array, code: Code, parts: tuple[int, ...]) -> Array:
    """Returns what coding the weights costs each part, as the sum of squares."""
    errors = np.subtract(weights, code.decode(code.encode(weights)), dtype=np.float32)
    split = [
        size
        for count, whole in zip(parts, weights.shape, strict=True)
        for size in (count, whole // count)
    ]
    # The square of a float32 may leave its range at either end.
    squares = np.square(errors, dtype=np.float64).reshape(split)
    return np.asarray(squares.sum(axis=tuple(range(1, 2 * weights.ndim, 2))))
