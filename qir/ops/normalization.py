"""Normalizations whose statistics are computed of the data: layer, group, rms and l2 norm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any, ClassVar, Literal, TypeAlias, cast

import numpy as np

from qir.numbers.affine_terms import affine_terms
from qir.numbers.int32 import INT32_MAX, Int64Array, rounding_shift
from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.inverse_root import inverse_root, normalized_root
from qir.numbers.reach import Reach
from qir.ops.attributes import by_type
from qir.ops.elementwise import result_code
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, fits_last_axis, keeps_ends, turned_axes
from qir.ops.rules import Coded, Normalize
from qir.ops.traits import Carried, Formed, carried_by_broadcasting
from qir.ops.type_rules import broadcast, check_axes, same_real, uncoded_axes
from qir.types import Affine, Array, DType, Shape, TensorType, expand, format_shape, known

Guard: TypeAlias = Literal["add", "max", "root"]
"""How epsilon keeps the divisor from 0: sqrt(s + epsilon), sqrt(max(s, epsilon)), or
sqrt(s) + sqrt(epsilon)."""

MOST_NUMBERS = 2**24
"""How many numbers may share a statistic, so that backends sum limbs of 8 bits in 32 bits."""


@dataclass(frozen=True)
class Standard:
    """The integers by which operands of one type are normalized.

    With the differences u = stored - offset, S1 = sum of u and S2 = sum of u² over D numbers:

        centred:  c = D * u - S1,  V = D * S2 - S1²
        else:     c = D * u,       V = D * S2        (l2: c = u, V = S2)

    c / sqrt(V) is the normalized number in whatever scale. W = V * 2^fraction + epsilon, or the
    greater of the two, at least 1; where the root of epsilon is added to that of V, twice their
    product comes to it. With R and e as `inverse_root(W)` gives them,

        t = (c * R + 2^(s-1)) >> s,  s = 61 - e - fraction / 2 - result_fraction

    is the normalized number in units of 2^-result_fraction, and |t| < 2^30.

    Attributes:
        offset: What is taken off the stored numbers: a scalar, or of the operand's rank.
        factor: What c is a multiple of u by: D, 1 for l2.
        centred: Whether the mean is taken off.
        fraction: Even; negative where epsilon is so large that V loses bits.
        epsilon: Epsilon in units of W: a scalar, or of the rank of the operand's view.
        guard: How epsilon is joined to V.
        root: The root of epsilon in units of 2^-root_fraction, at most 2^30; of epsilon's shape.
        root_fraction: How many bits of it are fractional.
        result_fraction: How many bits of t are fractional.
        largest: Greatest |u|.
    """

    offset: Int64Array
    factor: int
    centred: bool
    fraction: int
    epsilon: Int64Array
    guard: Guard
    root: Int64Array
    root_fraction: int
    result_fraction: int
    largest: int

    @property
    def first_shift(self) -> int:
        """The shift of a row whose e is 0."""
        return 61 - self.fraction // 2 - self.result_fraction


class Normalization(Op):
    """Base of the norms: (x - mean) / sqrt(variance + epsilon) * gamma + beta, or without the mean.

    On codes: exact sums of stored numbers, an exact integer square root of each statistic, and one
    rounding to the result's code; see `Standard` and `affine_terms`. With F = result_fraction, the
    result is within 1/2 + |gamma| / (2^(F+1) * scale) + (|y| + |beta| / scale) * 2^-28 steps of the
    real one, y counted in steps. A row of equal numbers, or of zeros where there is no mean, gives
    beta.

    Operands: x; then gamma and beta, which broadcast against x and may be left out. On codes they
    are floating-point constants.
    """

    quant = Normalize()
    centred: ClassVar[bool] = False
    is_mean: ClassVar[bool] = True
    """Whether the squares are averaged and not summed."""
    epsilon: float
    to: Affine | None

    guard: Guard = "add"
    """How epsilon is joined to the squares."""

    def view(self, shape: Shape) -> Shape:
        """Returns the shape in which `view_axes` are the axes of a statistic."""
        return shape

    def viewed(self, x: Array) -> Array:
        """Returns an array in its view."""
        return x.reshape(cast("tuple[int, ...]", self.view(x.shape)))

    def view_axes(self, rank: int) -> tuple[int, ...]:
        """Returns the axes of a statistic in the view of a tensor of this rank."""
        raise NotImplementedError

    def check_epsilon(self) -> None:
        """Raises QirError for an epsilon that is negative or not finite."""
        if not 0 <= self.epsilon < np.inf:
            raise self.error(f"expected a finite epsilon of at least 0, got {self.epsilon}")

    def result(
        self, x: TensorType, gamma: TensorType | None = None, beta: TensorType | None = None
    ) -> TensorType:
        if self.count(x) == 0:
            raise self.error(f"expected at least one number for each statistic, got {x}")
        parameters = [operand for operand in (gamma, beta) if operand is not None]
        if broadcast(self, x, *parameters) != x.shape:
            listed = " and ".join(map(str, parameters))
            raise self.error(f"expected gamma and beta that broadcast to {x}, got {listed}")
        if self.to is None:
            return TensorType(x.shape, same_real(self, x, *parameters))
        for operand in parameters:
            if not isinstance(operand.element, DType) or not operand.element.is_float:
                raise self.error(
                    f"expected gamma and beta in floating point, got {operand}; multipliers are "
                    "made of them at compile time"
                )
        if not self.to.per_tensor or self.to.storage.bits > 32:
            raise self.error(
                "expected a result coded per tensor in at most 32 bits, got "
                f"{TensorType(x.shape, self.to)}"
            )
        self.standard(x)
        return TensorType(x.shape, self.to)

    def count(self, x: TensorType) -> int:
        """Returns how many numbers share a statistic; raises QirError for a named dimension."""
        viewed = self.view(x.shape)
        return prod(
            known(viewed[axis], f"{self.name} over axis {min(axis, x.rank - 1)}")
            for axis in self.view_axes(x.rank)
        )

    def check_code(self, x: TensorType) -> None:
        """Raises QirError where the operand's code varies inside of a statistic."""
        uncoded_axes(self, x, self.view_axes(x.rank))

    def standard(self, x: TensorType) -> Standard:
        """Returns the integers that normalize a coded operand.

        Raises:
            QirError: The operand's code does not fit, or its numbers are too many or too wide.
        """
        code = x.quant
        if not isinstance(code, Affine) or code.multipliers is not None:
            raise self.error(
                f"expected a coded operand for a coded result, with an affine code, got {x}"
            )
        self.check_code(x)
        count = self.count(x)
        low, high = code.range
        if self.centred:
            # The mean takes any offset away with it: the middle keeps the squares small.
            offset = np.asarray((low + high + 1) // 2, np.int64)
        else:
            offset = code.zero_points.astype(np.int64)
        largest = max(high - int(offset.min()), int(offset.max()) - low)
        factor = count if self.is_mean else 1
        each = max(largest, high - low if self.centred else 0)
        # c and sums in 32 bits, squares in 62.
        most = min(MOST_NUMBERS, INT32_MAX // each if self.is_mean else 2**62 // each**2)
        if count > most or each > INT32_MAX:
            raise self.error(
                f"expected at most {most} numbers for each statistic of {x}, got {count}; keep it "
                "in floating point, or give its operand a code of fewer bits"
            )
        scale = code.scale.array.astype(np.float64)
        epsilon = float(factor) * float(factor) * self.epsilon / (scale * scale)
        if not np.all(np.isfinite(epsilon)):
            raise self.error(
                f"expected an epsilon less far from the squares of {x}, got {self.epsilon}"
            )
        most_squares = float(count * factor * largest**2) + np.max(epsilon)
        # The square of a sum of two roots is at most twice the sum of their squares.
        _, exponent = np.frexp(most_squares * (2 if self.guard == "root" else 1))
        fraction = min(30, 61 - int(exponent))
        fraction -= fraction % 2
        real = np.ldexp(epsilon, fraction)
        if real.ndim:
            # A view splits the last axis, along which the code of groups is one.
            real = real.reshape(real.shape + (1,) * (len(self.view(x.shape)) - x.rank))
        units, root = np.rint(real).astype(np.int64), np.sqrt(real)
        root_fraction = int(np.clip(30 - np.frexp(np.max(root))[1], 0, 32))
        # |c| / sqrt(W) is at most sqrt(D), 1 for l2; and the greatest |c| over epsilon's root.
        bound = Fraction(factor)
        if least := int(units.min()):
            bound = min(bound, Fraction((factor * each) ** 2) * Fraction(2) ** fraction / least)
        return Standard(
            factor=factor,
            offset=offset,
            centred=self.centred,
            fraction=fraction,
            epsilon=units,
            guard=self.guard,
            root=np.rint(np.ldexp(root, root_fraction)).astype(np.int64),
            root_fraction=root_fraction,
            result_fraction=29 - _half_exponent(bound),
            largest=largest,
        )

    def interval(
        self, x: Interval, gamma: Interval | None = None, beta: Interval | None = None
    ) -> Interval:
        return EVERYTHING  # the root of how many numbers there are, which bounds don't tell

    def evaluate(self, x: Array, gamma: Array | None = None, beta: Array | None = None) -> Array:
        with np.errstate(all="ignore"):
            result = (self._centred(x) / self.root(x)).reshape(x.shape)
        if gamma is not None:
            result = result * gamma
        return np.asarray(result if beta is None else result + beta)

    def root(self, x: Array) -> Array:
        """Returns what real numbers are divided by, in their view, whose axes are kept."""
        axes, viewed = self.view_axes(x.ndim), self._centred(x)
        combine = np.mean if self.is_mean else np.sum
        squares = np.asarray(combine(viewed * viewed, axis=axes, keepdims=True, dtype=x.dtype))
        if self.guard == "add":
            return np.asarray(np.sqrt(squares + np.asarray(self.epsilon, x.dtype)))
        # Epsilon itself may be too small for the type.
        least = np.asarray(np.sqrt(self.epsilon), x.dtype)
        roots = np.sqrt(squares)
        return np.asarray(roots + least if self.guard == "root" else np.maximum(roots, least))

    def _centred(self, x: Array) -> Array:
        viewed = self.viewed(x)
        if self.centred:
            axes = self.view_axes(x.ndim)
            viewed = viewed - viewed.mean(axis=axes, keepdims=True, dtype=x.dtype)
        return viewed

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
        x, *parameters = operands
        form = self.standard(x.type)
        axes = self.view_axes(x.stored.ndim)
        stored = x.stored.astype(np.int64)
        steps = self.viewed(stored - expand(form.offset, stored.shape))
        squares = (steps * steps).sum(axis=axes, keepdims=True) * form.factor
        centred = steps * form.factor
        if form.centred:
            total = steps.sum(axis=axes, keepdims=True)
            centred, squares = centred - total, squares - total * total
        places = form.fraction
        wide = squares << places if places >= 0 else squares >> min(62, -places)
        joined = np.maximum(wide, form.epsilon) if form.guard == "max" else wide + form.epsilon
        if form.guard == "root":
            root, half = normalized_root(np.maximum(wide, 1))
            joined = joined + ((2 * root * form.root) >> (half + form.root_fraction))
        significand, exponent = inverse_root(np.maximum(joined, 1))
        # Outside of these bounds c is 0.
        shift = np.clip(form.first_shift - exponent, 1, 62)
        normalized = rounding_shift(centred * significand, shift).reshape(stored.shape)
        code = result.affine
        arrays = [operand.stored for operand in parameters]
        multiplier, offset, places_of = affine_terms(arrays, code, form.result_fraction)
        rounded = (normalized * multiplier + offset) >> places_of
        return np.asarray(np.clip(rounded + code.zero_points, *code.range))

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
        form = self.standard(operands[0])
        low, high = steps[0]
        least, greatest = (low - high, high - low) if form.centred else (low, high)
        return Formed(form.factor * least, form.factor * greatest, operands[0].dtype is DType.I64)


def _half_exponent(bound: Fraction) -> int:
    """Returns the least k with bound <= 4^k."""
    k = (bound.numerator.bit_length() - bound.denominator.bit_length()) // 2 - 1
    while bound > Fraction(4) ** k:
        k += 1
    return k


class NormOverAxes(Normalization):
    """Base of the norms whose statistics are over whole axes, counted from 0, increasing."""

    axes: tuple[int, ...]

    def check(self) -> None:
        if not self.axes:
            raise self.error("expected at least one axis, got []")
        check_axes(self, self.axes)
        self.check_epsilon()

    def view_axes(self, rank: int) -> tuple[int, ...]:
        check_axes(self, self.axes, rank)
        return self.axes

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        # Parameters may vary along the axes of a statistic, which those of x don't survive.
        return [
            each
            for each in carried_by_broadcasting(operands, results)
            if each.operand or each.axis not in self.axes
        ]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if not fits_last_axis(operands[1:], order):
            return None
        changes: dict[str, Any] = {"axes": turned_axes(self.axes, order)}
        return Turned(replace(self, **changes), (0,), (order,))


@op("layer_norm")
class LayerNorm(NormOverAxes):
    """(x - mean) / sqrt(variance + epsilon) * gamma + beta, with statistics over axes.

    Over the last axes of each row this is layer norm (arXiv:1607.06450), over the spatial axes
    instance norm (arXiv:1607.08022), over all axes but the channels batch norm as in training.

    Operands: x, then gamma and beta, which broadcast against x and may be left out. On codes x has
    at most 32 bits and a code that does not vary along the axes; gamma and beta stay float
    constants.

    Attributes:
        axes: The axes of a statistic, counted from 0, increasing.
        epsilon: Added to the variance, which divides by the count of numbers.
        guard: How epsilon is joined to the variance.
    """

    axes: tuple[int, ...]
    epsilon: float = 1e-5
    guard: Guard = "add"
    to: Affine | None = by_type(result_code, None)

    centred = True


@op("group_norm")
class GroupNorm(Normalization):
    """Layer norm of each group of channels over all places of a sample (arXiv:1803.08494).

    Operands: x [batch, …, channels], then gamma and beta, as of layer_norm.

    Attributes:
        groups: How many groups of adjacent channels there are.
        epsilon: Added to the variance.
        guard: How epsilon is joined to the variance.
    """

    groups: int
    epsilon: float = 1e-5
    guard: Guard = "add"
    to: Affine | None = by_type(result_code, None)

    centred = True

    def check(self) -> None:
        if self.groups < 1:
            raise self.error(f"expected at least one group, got {self.groups}")
        self.check_epsilon()

    def view(self, shape: Shape) -> Shape:
        channels = known(shape[-1], self.name) if len(shape) > 1 else 0
        if len(shape) < 2 or channels % self.groups:
            raise self.error(
                f"expected a batch and channels that {self.groups} divides, got "
                f"{format_shape(shape)}"
            )
        return (*shape[:-1], self.groups, channels // self.groups)

    def view_axes(self, rank: int) -> tuple[int, ...]:
        return (*range(1, rank - 1), rank)

    def check_code(self, x: TensorType) -> None:
        uncoded_axes(self, x, range(1, x.rank))

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        carried = carried_by_broadcasting(operands, results)
        return [each for each in carried if each.operand or each.axis == 0]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if not (keeps_ends(order) and fits_last_axis(operands[1:], order)):
            return None
        return Turned(self, (0,), (order,))


@op("rms_norm")
class RmsNorm(NormOverAxes):
    """x / sqrt(mean of x² + epsilon) * gamma + beta (arXiv:1910.07467).

    Operands: x, then gamma and beta, as of layer_norm.

    Attributes:
        axes: The axes of a mean, counted from 0, increasing.
        epsilon: Added to the mean.
        guard: How epsilon is joined to the mean.
    """

    axes: tuple[int, ...]
    epsilon: float = 1e-6
    guard: Guard = "add"
    to: Affine | None = by_type(result_code, None)


@op("l2_norm")
class L2Norm(NormOverAxes):
    """x / sqrt(sum of x² + epsilon) * gamma + beta, or x / sqrt(max(sum of x², epsilon)).

    Operands: x, then gamma and beta, as of layer_norm.

    Attributes:
        axes: The axes of a sum, counted from 0, increasing.
        epsilon: What keeps the divisor from 0; of max(norm, e) and norm + e the square of e.
        guard: How epsilon is joined to the sum.
    """

    axes: tuple[int, ...]
    epsilon: float = 1e-12
    guard: Guard = "add"
    to: Affine | None = by_type(result_code, None)

    is_mean = False

    def interval(
        self, x: Interval, gamma: Interval | None = None, beta: Interval | None = None
    ) -> Interval:
        unit = Interval.of(-1, 1)
        scaled = unit if gamma is None else unit * gamma
        return scaled if beta is None else scaled + beta
