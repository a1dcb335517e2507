"""Checks of arrays of numbers, whose errors give the first wrong one with its place."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError


def positive(scale: ArrayLike) -> NDArray[np.float64]:
    """Returns scales as float64, all of them finite and positive."""
    array = np.asarray(scale, np.float64)
    if np.any(wrong := ~(np.isfinite(array) & (array > 0))):
        raise QirError(f"scale: expected finite and positive, got {first_wrong(array, wrong)}")
    return array


def first_wrong(values: NDArray[np.generic], wrong: NDArray[np.bool_]) -> str:
    """Prints the first wrong value, with its index where there is more than one value."""
    index = tuple(int(i) for i in np.unravel_index(int(np.argmax(wrong)), values.shape))
    value = values[index].item()
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return f"{text} at {list(index)}" if index else text
