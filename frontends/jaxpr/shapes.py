"""Types of traced arrays: sizes are integers, or products of `jax.export`'s symbolic ones."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.types import Dim, DType, Shape, Size, TensorType

_FACTOR = re.compile(r"(?P<count>\d+)|(?P<name>[^\W\d]\w*)(?:\^(?P<power>\d+))?")


def to_size(size: object) -> Size:
    """Returns a traced size as QIR names it.

    Raises:
        QirError: The size is a sum, difference or quotient of names.
    """
    if isinstance(size, int | np.integer):
        return int(size)
    result: Size = 1
    # The text is the one public form of a symbolic size.
    for part in str(size).split("*"):
        factor = _FACTOR.fullmatch(part)
        if factor is None:
            raise QirError(f"dimension: expected an integer times names, got {size}")
        if factor["count"]:
            result = result * int(factor["count"])
        else:
            for _ in range(int(factor["power"] or 1)):
                result = result * Dim.named(factor["name"])
    return result


def to_shape(sizes: Iterable[object]) -> Shape:
    """Returns a traced shape; see `to_size`."""
    return tuple(to_size(size) for size in sizes)


def to_type(aval: Any) -> TensorType:
    """Returns the type of a traced array.

    Raises:
        QirError: A size or the element type is none that QIR has.
    """
    try:
        element = DType.of(aval.dtype)
    except TypeError:
        raise QirError(f"type: expected an array of numbers, got {aval.dtype}") from None
    return TensorType(to_shape(aval.shape), element)


def depends_on_size(error: Exception) -> QirError:
    """Says in a sentence that jax needs to know a named size, as an error of its own says."""
    reason = str(error).strip().splitlines()[0].rstrip(".")
    return QirError(f"from_jax: the function depends on the size of a named dimension: {reason}")
