"""What an integer op gets of an operand."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from qir.errors import QirError
from qir.types import Array, Quant, TensorType, expand


@dataclass(frozen=True, eq=False)
class Coded:
    """An operand of an integer op: the stored numbers with their type.

    Args:
        stored: The stored numbers, of any integer numpy type.
        type: The tensor's type, with a code or without one.
    """

    stored: Array
    type: TensorType

    @property
    def code(self) -> Quant:
        """The operand's code; raises QirError for plain numbers."""
        if self.type.quant is None:
            raise QirError(f"integer op: expected a coded operand, got {self.type}")
        return self.type.quant

    @property
    def steps(self) -> Array:
        """The integers that the scale multiplies, (levels[stored] - zero point), as int64."""
        return self._steps(np.int64)

    @property
    def carried(self) -> Array:
        """The same integers as floats, which matrix products of numpy are fast for."""
        return self._steps(np.float32 if self.stored.itemsize <= 2 else np.float64)

    def _steps(self, element: DTypeLike) -> Array:
        code = self.type.quant
        if code is not None and code.levels is not None:
            index = self.stored.astype(np.int64) - code.range[0]
            steps = code.levels.array.astype(element)[index]
        else:
            steps = self.stored.astype(element)
        if code is not None and code.zero_points.any():
            steps -= expand(code.zero_points.astype(element), steps.shape)
        return steps
