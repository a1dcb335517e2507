"""What masks scores: numbers that leave nothing of a softmax's share."""

from __future__ import annotations

import numpy as np

from qir.ir import Value
from qir.ops import Broadcast, Reshape
from qir.passes.shared.matching import in_float64
from qir.types import Array

MASKED = -1e4
"""What is at most this has no share in a softmax of scores that anything else has one in."""


def masking_fill(value: Value) -> float | None:
    """Returns the greatest number of a constant all of which is masked; -inf where one is."""
    source = value
    while isinstance(source.op, Broadcast | Reshape):
        source = source.inputs[0]
    if not (source.is_constant and source.type.is_float and source.array.size):
        return None
    numbers = in_float64(source)
    if np.any(np.isnan(numbers)) or numbers.max() > MASKED:
        return None
    return float(numbers.min() if np.isneginf(numbers.min()) else numbers.max())


def keeps_some_of_every_row(mask: Value, x: Value, axes: tuple[int, ...]) -> bool:
    """Whether a mask is a constant that keeps a number of each row."""
    if not mask.is_constant:
        return False
    numbers: Array = mask.array
    numbers = numbers.reshape((1,) * (x.type.rank - numbers.ndim) + numbers.shape)
    return bool(np.all(numbers.any(axis=axes)))
