"""Machine forms: rounding modes as data that every backend reads.

A mode gives one of the forms here for a multiplier, a zero point and bounds, or none. A backend
knows how it computes a form and nothing of modes, so that a new mode touches no backend, and one
without a form is refused by all of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from qir.numbers.int32 import INT32_MAX, IntegerArray

Int32Array: TypeAlias = NDArray[np.int32]

Ties: TypeAlias = Literal["up", "away"]
"""Where a half goes: toward +infinity, or away from zero."""


@dataclass(frozen=True, eq=False)
class Scaled:
    """An integer product that is shifted right with one rounding, or with two.

        h = sat32(floor((acc * value + 2^(shift-1)) / 2^shift))
        result = h where second = 0, or else h / 2^second to the nearest integer

    Attributes:
        value: The multiplier, in [0, 2^31): 0-d, or any shape that broadcasts.
        shift: The first shift, in [1, 62], of the same shape.
        second: The second shift, in [0, 31], of the same shape.
        ties: Where the second rounding takes a half; the first one takes it up.
    """

    value: Int32Array
    shift: Int32Array
    second: Int32Array = field(default_factory=lambda: np.zeros((), np.int32))
    ties: Ties = "up"

    @property
    def rounds_once(self) -> bool:
        """Whether no second rounding follows."""
        return not np.any(self.second)

    def high_word(self, zero_point: int | IntegerArray = 0) -> HighWord | None:
        """Returns the form on the high word of a product alone, for results of 8 bits.

        The high word H of (x << lift) * M decides where s + lift >= 33, since its low word has
        no say: with places = s + lift - 32,

            floor((x * M + 2^(s-1)) / 2^s) + z = (H + 2^(places-1) + z * 2^places) >> places

        A stored number is at a bound as soon as the quotient is 512 from 0, which an x of 2^(s-21)
        reaches, since M >= 2^30 once its leading zeros are shifted out. Held to that limit,
        (x << lift) stays in int32. For s < 21, any M and s give 512 or more to all but 0, so that
        M = 2^30 and s = 21 do.

        Args:
            zero_point: What is added in the same sum; a scalar, or an array that broadcasts.

        Returns:
            The form; None where there are two roundings, or int32 might not hold a sum.
        """
        if not self.rounds_once:
            return None
        value, shift, points = np.broadcast_arrays(
            self.value.astype(np.int64), self.shift.astype(np.int64), np.asarray(zero_point)
        )
        _, bits = np.frexp(value.astype(np.float64))
        zeros = np.where(value == 0, 0, 31 - bits)
        # A product below 2^62 of which more than 62 places are shifted out rounds to 0.
        value = np.where(shift + zeros > 62, 0, value << zeros)
        shift = np.where(value == 0, 33, shift + zeros)
        value = np.where(shift < 21, 2**30, value)
        shift = np.maximum(shift, 21)
        lift = np.maximum(33 - shift, 0)
        places = shift + lift - 32
        addend = (np.int64(1) << (places - 1)) + (points.astype(np.int64) << places)
        # -2^30 <= H < 2^30, since M < 2^31.
        if np.any(np.abs(addend) > 2**30):
            return None
        limit = np.where(lift > 0, np.int64(1) << np.minimum(shift - 21, 30), INT32_MAX)
        terms = (value, addend, places, lift, limit)
        return HighWord(*(np.asarray(term, np.int32) for term in terms))


@dataclass(frozen=True, eq=False)
class HighWord:
    """One rounding by the high word of a product; see `Scaled.high_word`.

        result = (high 32 bits of (clip(acc, -limit, limit) << lift) * value + addend) >> places

    Attributes:
        value: The multiplier, whole: int32, as are all.
        addend: What rounds, and the zero point.
        places: The shift, in [1, 30].
        lift: By how much accumulators are shifted left.
        limit: The largest magnitude of an accumulator; 2^31 - 1, where there is no lift, stands
            for none.
    """

    value: Int32Array
    addend: Int32Array
    places: Int32Array
    lift: Int32Array
    limit: Int32Array

    @property
    def lifted(self) -> bool:
        """Whether accumulators are held to a limit and shifted left."""
        return bool(np.any(self.lift))


@dataclass(frozen=True, eq=False)
class Float32:
    """One float32 multiplication, ties to even: `rne(float32(acc) * value)`, clamped in float.

    Attributes:
        value: The multiplier, float32: 0-d, or any shape that broadcasts.
    """

    value: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class Thresholds:
    """A monotone step function by the places of its steps; exact for any mode.

        result = base + number of edges below acc

    The result has the zero point and the clamp in it already.

    Attributes:
        base: int32 array of some shape that broadcasts: the result where no edge is below.
        edges: int32 array of that shape and one more axis, of at most 255 edges in rising order:
            each is the greatest accumulator before a step, or 2^31 - 1 where no step is left.
    """

    base: Int32Array
    edges: Int32Array


MachineForm: TypeAlias = Scaled | Float32 | Thresholds
"""Everything that a backend may be asked to compute."""
