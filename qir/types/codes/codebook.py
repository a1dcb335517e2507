"""Codebooks: codes whose levels are a table of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError, did_you_mean
from qir.types.arrays import FrozenArray
from qir.types.codes.apot import apot
from qir.types.codes.code import code, in_text
from qir.types.codes.level_code import MOST_STEP, LevelCode
from qir.types.codes.lloyd import nearest_levels
from qir.types.codes.parts import magnitudes, per_part, scales_of, storage_of
from qir.types.dtype import Array, DType

NF4 = FrozenArray(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""Quantiles of a normal distribution in [-1, 1], 0 among them: NormalFloat of 4 bits, appendix E of
"QLoRA" (Dettmers et al. 2023, arXiv:2305.14314)."""

TABLES: dict[str, FrozenArray] = {
    "nf4": NF4,
    **{f"apot{bits}": apot(bits) for bits in range(3, 8)},
}
"""Levels by the names that texts call them."""


def named_levels(name: str) -> FrozenArray:
    """Returns published levels; raises QirError where none have that name."""
    if name not in TABLES:
        raise QirError(
            f"code: expected levels called {', '.join(TABLES)}, got '{name}'"
            f"{did_you_mean(name, TABLES)}"
        )
    return TABLES[name]


@code("codebook")
@dataclass(frozen=True)
class Codebook(LevelCode):
    """A table of levels, integers or floats: real = levels[stored] * scale.

    The least stored number of the storage type has the least level. Its own constraint, beside
    those of all codes and of those that are a table:

    - C10: the levels are finite and increase; integers lie within 2^15 - 1 of 0.

    Args:
        storage: The integer type of the stored numbers, of at most 8 bits.
        scale: What the levels are multiplied by.
        table: The levels in order, int32 or float32.
        expressed: The floating-point type that the code stands for.
        multipliers: The second level of the scale.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    table: FrozenArray = in_text("levels", names=TABLES)

    @staticmethod
    def of(
        storage: DType,
        scale: ArrayLike,
        levels: ArrayLike,
        *,
        expressed: DType = DType.F32,
        multipliers: ArrayLike | None = None,
    ) -> Codebook:
        """Builds a code from numbers or arrays; levels are integers where their type is."""
        return Codebook(
            storage,
            FrozenArray(scale),
            FrozenArray(levels),
            expressed=expressed,
            multipliers=None if multipliers is None else FrozenArray(multipliers),
        )

    @staticmethod
    def named(name: str, scale: ArrayLike, storage: DType | None = None) -> Codebook:
        """Builds a code of published levels, stored in unsigned numbers of as few bits as do.

        Args:
            name: One of `TABLES`, such as nf4.
            scale: What the levels are multiplied by; of nf4 the greatest magnitude.
            storage: The integer type of the stored numbers.

        Raises:
            QirError: No levels have that name.
        """
        levels = named_levels(name).array
        few = len(levels) <= 16
        return Codebook.of(storage or (DType.U4 if few else DType.U8), scale, levels)

    @classmethod
    def fit(
        cls,
        array: ArrayLike,
        parts: tuple[int, ...] = (),
        bits: int | None = None,
        *,
        levels: str | ArrayLike | None = None,
    ) -> Codebook:
        """Returns the code of given levels or of those that fit the numbers best.

        The greatest of given levels is the greatest magnitude of a part. Without levels, they are
        those with the least squared error for the numbers, each divided by the greatest magnitude
        of its part: k-means in one dimension, see `nearest_levels`.

        Args:
            array: The numbers, of the tensor's shape.
            parts: Shape of the scales; () for one.
            bits: The width, 4 unless given: 2^bits levels; with levels, the width of the storage.
            levels: A name of `TABLES`, or increasing numbers.

        Raises:
            QirError: The parts do not divide the tensor, a number is not finite, the width is none
                of 1 to 8 or has not that many levels, or no levels have that name.
        """
        table = None
        width = 4 if bits is None else bits
        if levels is not None:
            table = named_levels(levels).array if isinstance(levels, str) else _in_order(levels)
            width = (max(2, len(table)) - 1).bit_length() if bits is None else bits
        storage = storage_of(width, signed=False, least=1, most=8)
        greatest = magnitudes(array, parts)
        largest = 1.0 if table is None else float(np.abs(table).max(initial=0))
        if table is None:
            table = nearest_levels(per_part(array, greatest), 2**width)
        one = cls.of(storage, 1.0, table)
        scale = scales_of(greatest / largest, *one.scale_bounds)
        return replace(one, scale=scale)

    def in_integers(self, greatest: int = 127) -> Codebook:
        """Returns the code with levels rounded to integers, whose sums of products are exact.

        Levels that become equal are one.

        Args:
            greatest: The magnitude of the greatest level.
        """
        largest = np.abs(self.levels).max()
        table = np.unique(np.rint(self.levels / largest * greatest).astype(np.int32))
        scale = self.scale.array.astype(np.float64) * (largest / greatest)
        return replace(self, scale=FrozenArray(scale, np.float32), table=FrozenArray(table))

    def __post_init__(self) -> None:
        table = _in_order(self.table.array)
        if table.dtype != self.table.array.dtype:
            object.__setattr__(self, "table", FrozenArray(table))
        super().__post_init__()

    @property
    def levels(self) -> Array:
        """The levels as float64, in order of storage."""
        return self.table.array.astype(np.float64)


def _in_order(levels: ArrayLike) -> Array:
    """Returns levels as int32 or float32; raises QirError where C10 does not hold."""
    try:
        array = np.asarray(levels)
    except ValueError:
        raise QirError("code: C10: expected levels, got lists of different lengths") from None
    whole = array.dtype.kind in "iu"
    fits = array.ndim == 1 and array.dtype.kind in "iuf"
    if fits and not (whole and np.any((array < -MOST_STEP) | (array > MOST_STEP))):
        with np.errstate(over="ignore"):
            numbers: Array = array.astype(np.int32 if whole else np.float32)
        if np.all(np.isfinite(numbers)) and np.all(np.diff(numbers) > 0):
            return numbers
    found = repr(FrozenArray(array)) if array.dtype.kind in "biuf" else str(levels)
    raise QirError(
        f"code: C10: expected finite increasing levels, integers within {MOST_STEP} of 0, got "
        f"{found}"
    )
