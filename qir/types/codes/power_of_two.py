"""Logarithmic codes: a sign and an exponent."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError
from qir.types.arrays import FrozenArray
from qir.types.codes.code import code
from qir.types.codes.level_code import LevelCode
from qir.types.codes.parts import magnitudes, scales_of, storage_of, sums
from qir.types.dtype import Array, DType

BASES = (1, 2, 4)
"""How many exponents an octave may have; see constraint C11 of PowerOfTwo."""

USUAL_BITS = 4


@code("power_of_two")
@dataclass(frozen=True)
class PowerOfTwo(LevelCode):
    """A sign and an exponent: real = ±base^exponent * scale, or 0; base = 2^(1 / per_octave).

    The highest of `bits` bits is the sign, those below are 0 for the number 0 (of either sign) and
    exponent + 1 otherwise, so that exponents run from 0 to 2^(bits - 1) - 2. A power is rounded to
    float32. Powers of two multiply by shifts.

    Numbers are rounded in the logarithmic domain, to the exponent nearest to log(|x|), as LogNet
    does ("Convolutional Neural Networks using Logarithmic Data Representation", Miyashita, Lee and
    Murmann 2016, arXiv:1603.01025; other bases in "Efficient Hardware Acceleration of CNNs using
    Logarithmic Data Representation with Arbitrary log-base", Vogel et al. 2018): the border between
    two powers is their geometric mean. What would round to exponent -1 or less is 0, what lies
    beyond the greatest power is that power. A sign stays where a number becomes 0.

    With base 2 the powers are integers that the scale multiplies as long as they fit 15 bits: up to
    4 bits they are signed bytes, with 5 they need 16. Other bases have none.

    Its own constraint, beside those of all codes and of those that are a table:

    - C11: storage is unsigned, it has no fewer bits than the code, which has 2 to 8, and an octave
      has 1, 2 or 4 exponents.

    Args:
        storage: u4 or u8.
        scale: The power with exponent 0, the least that is not 0.
        bits: The width, of the storage unless given.
        per_octave: How many exponents there are from a number to its double.
        expressed: The floating-point type that the code stands for.
        multipliers: The second level of the scale.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    bits: int | None = None
    per_octave: int = 1

    @staticmethod
    def of(
        bits: int,
        scale: ArrayLike,
        per_octave: int = 1,
        *,
        expressed: DType = DType.F32,
        multipliers: ArrayLike | None = None,
    ) -> PowerOfTwo:
        """Builds a code from its width and a number or an array, in the least storage."""
        return PowerOfTwo(
            storage_of(bits, signed=False, most=8),
            FrozenArray(scale),
            bits,
            per_octave,
            expressed=expressed,
            multipliers=None if multipliers is None else FrozenArray(multipliers),
        )

    @classmethod
    def fit(
        cls,
        array: ArrayLike,
        parts: tuple[int, ...] = (),
        bits: int | None = None,
        *,
        per_octave: int = 1,
    ) -> PowerOfTwo:
        """Returns the code with the least squared error whose scales are powers of the base.

        The greatest power is the one nearest to the greatest magnitude, in the logarithmic domain,
        or one of those up to two octaves below, in each part.

        Args:
            array: The numbers, of the tensor's shape.
            parts: Shape of the scales; () for one.
            bits: The width, 4 unless given.
            per_octave: How many exponents there are from a number to its double.

        Raises:
            QirError: The parts do not divide the tensor, a number is not finite, or there is no
                such width or base.
        """
        width = USUAL_BITS if bits is None else bits
        one, greatest = cls.of(width, 1.0, per_octave), magnitudes(array, parts)
        borders = _powers(np.arange(-2000, 2000) * 2 + 1, 2 * per_octave)
        top = np.searchsorted(borders, greatest, side="right") - 2000
        least = top - (2 ** (width - 1) - 2)
        candidates = [
            scales_of(
                np.where(greatest > 0, _powers(least - fewer, per_octave), 0.0), *one.scale_bounds
            )
            for fewer in range(2 * per_octave + 1)
        ]
        errors = []
        for scale in candidates:
            code = replace(one, scale=scale)
            error = code.decode(code.encode(array)) - np.asarray(array, np.float64)
            errors.append(sums(np.square(error), parts))
        best = np.argmin(errors, axis=0)
        return replace(
            one, scale=FrozenArray(np.choose(best, [scale.array for scale in candidates]))
        )

    def __post_init__(self) -> None:
        width = self.width
        unsigned = self.storage.is_integer and self.storage.bounds[0] == 0
        if not (unsigned and 2 <= width <= 8 and width <= self.storage.bits):
            raise QirError(
                "code: C11: expected a code of 2 to 8 bits in unsigned storage of no fewer, got "
                f"{width} in {self.storage.value}"
            )
        if self.per_octave not in BASES:
            raise QirError(
                f"code: C11: expected 1, 2 or 4 exponents an octave, got {self.per_octave}"
            )
        if self.bits == self.storage.bits:
            object.__setattr__(self, "bits", None)
        super().__post_init__()

    @property
    def width(self) -> int:
        """How many bits a stored number has: its sign and its exponent."""
        return self.storage.bits if self.bits is None else self.bits

    @property
    def levels(self) -> Array:
        """The powers in order of storage: 0, those from 1 on, -0 and the negative ones."""
        exponents = np.arange(2 ** (self.width - 1) - 1)
        powers = _powers(exponents, self.per_octave).astype(np.float32).astype(np.float64)
        positive = np.concatenate([[0.0], powers])
        return np.concatenate([positive, -positive])

    @property
    def borders(self) -> Array:
        """The geometric means of neighbouring powers."""
        exponents = np.arange(2 ** (self.width - 1) - 1)
        positive = _powers(2 * exponents - 1, 2 * self.per_octave)
        return np.concatenate([-positive[::-1], [0.0], positive])

    @property
    def ties_up(self) -> Array:
        """Borders belong to the greater magnitude, and 0 to the positive side."""
        positive: Array = ~np.signbit(self.levels[self.order[1:]])
        return positive


def _powers(numerators: Array, denominator: int) -> NDArray[np.float64]:
    """Returns 2^(numerator / denominator) for a denominator of 1, 2, 4 or 8, in float64.

    Square roots are rounded alike on every machine; exp2 is not.
    """
    whole, rest = np.divmod(numerators, denominator)
    root = np.exp2(np.arange(denominator, dtype=np.float64))
    while denominator > 1:
        root, denominator = np.sqrt(root), denominator // 2
    with np.errstate(over="ignore"):
        powers: NDArray[np.float64] = np.ldexp(root[rest], np.clip(whole, -1100, 1100))
    return powers
