"""Codebooks: codes whose levels are a table of their own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from qir.errors import QirError, did_you_mean
from qir.types.arrays import FrozenArray
from qir.types.codes.code import code, in_text
from qir.types.codes.level_code import MOST_STEP, LevelCode
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

TABLES: dict[str, FrozenArray] = {"nf4": NF4}
"""Levels by the names that texts call them."""


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
        if name not in TABLES:
            raise QirError(
                f"code: expected levels called {', '.join(TABLES)}, got '{name}'"
                f"{did_you_mean(name, TABLES)}"
            )
        few = len(TABLES[name].array) <= 16
        return Codebook.of(storage or (DType.U4 if few else DType.U8), scale, TABLES[name].array)

    def __post_init__(self) -> None:
        array = self.table.array
        whole = array.dtype.kind in "iu"
        wrong = array.ndim != 1 or not np.all(np.isfinite(array)) or not np.all(np.diff(array) > 0)
        if wrong or (whole and np.any(np.abs(array) > MOST_STEP)):
            raise QirError(
                "code: C10: expected finite increasing levels, integers within "
                f"{MOST_STEP} of 0, got {self.table!r}"
            )
        narrow = np.int32 if whole else np.float32
        if array.dtype != narrow:
            object.__setattr__(self, "table", FrozenArray(array, narrow))
        super().__post_init__()

    @property
    def levels(self) -> Array:
        """The levels as float64, in order of storage."""
        return self.table.array.astype(np.float64)
