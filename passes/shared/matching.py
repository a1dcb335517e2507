"""What the raising rules look for: scalars, reciprocals, and the factors of products."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from qir.ir import Value
from qir.ops import Add, Div, Mul, Neg, Square, Sub
from qir.types import Array

_DEPTH = 6
"""Products in a row that a composite has at most; deeper ones would cost more than they tell."""


def scalar(value: Value) -> float | None:
    """Returns the number of a floating-point constant that has only one, or None."""
    if value.is_constant and value.type.is_float and value.array.size == 1:
        return float(value.array.reshape(())[()])
    return None


def near(found: float | None, wanted: float, like: Value) -> bool:
    """Whether a constant is the wanted one, but for its rounding and that of one product."""
    return found is not None and abs(found - wanted) <= 2 * like.type.dtype.epsilon * abs(wanted)


def is_scalar(value: Value, wanted: float) -> bool:
    """Whether a value is a constant near a number."""
    return near(scalar(value), wanted, value)


def commuted(inputs: Sequence[Value]) -> Iterator[tuple[Value, Value]]:
    """Yields two operands in both orders."""
    x, y = inputs
    yield x, y
    yield y, x


def factors(
    value: Value, stop: Value | None = None, depth: int = _DEPTH
) -> tuple[float, list[Value]]:
    """Multiplies a product out.

    Args:
        value: The product.
        stop: A value that is taken as a whole, though it may be a product itself.
        depth: How many products in a row are looked into.

    Returns:
        The product of all scalar constants, and the other factors.
    """
    if value is stop or not depth:
        return 1.0, [value]
    depth -= 1
    match value:
        case Value(Mul(), (x, y)):
            (a, left), (b, right) = factors(x, stop, depth), factors(y, stop, depth)
            return a * b, left + right
        case Value(Div(), (x, y)) if number := scalar(y):
            a, left = factors(x, stop, depth)
            return a / number, left
        case Value(Neg(), (x,)):
            a, left = factors(x, stop, depth)
            return -a, left
        case Value(Square(), (x,)):
            a, left = factors(x, stop, depth)
            return a * a, left * 2
        case _ if (number := scalar(value)) is not None:
            return number, []
        case _:
            return 1.0, [value]


def factor_candidates(value: Value, depth: int = _DEPTH) -> Iterator[Value]:
    """Yields every value that may be taken as a whole factor of a product."""
    match value:
        case Value(Mul() | Div(), (x, y)) if depth:
            for operand in (x, y):
                if scalar(operand) is None:
                    yield operand
                    yield from factor_candidates(operand, depth - 1)
        case _:
            return


def gated(value: Value) -> Iterator[tuple[float, Value, Value]]:
    """Yields (scalar, x, gate) for each way to read a product as scalar * x * gate."""
    seen = set()
    for x in factor_candidates(value):
        if x in seen:
            continue
        seen.add(x)
        number, rest = factors(value, x)
        if len(rest) == 2 and x in rest:
            rest.remove(x)
            yield number, x, rest[0]


def multiple_of(value: Value, x: Value) -> float | None:
    """Returns c where a value is c * x, or None."""
    number, rest = factors(value, x)
    return number if rest == [x] else None


def plus(value: Value, number: float) -> Value | None:
    """Returns x where a value is x + number, or None."""
    match value:
        case Value(Add(), (x, y)):
            return next((a for a, b in commuted((x, y)) if is_scalar(b, number)), None)
        case Value(Sub(), (x, y)) if is_scalar(y, -number):
            return x
        case _:
            return None


def single_use(value: Value) -> bool:
    """Whether one operand reads the value."""
    return len(value.uses) == 1


def computed_alike(x: Value, y: Value, depth: int = 4) -> bool:
    """Whether two values are one, or the same ops make them of the same values."""
    if x is y:
        return True
    if not depth or x.op is None or x.op != y.op or x.index != y.index or x.is_constant:
        return False
    pairs = zip(x.inputs, y.inputs, strict=True)
    return len(x.inputs) == len(y.inputs) and all(
        computed_alike(one, other, depth - 1) for one, other in pairs
    )


def in_float64(value: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """Returns the numbers of a constant as float64."""
    return value.array.astype(np.float64)


def without_leading(numbers: Array) -> Array:
    """Drops leading axes of size 1, which broadcasting gives back."""
    leading = next((axis for axis, size in enumerate(numbers.shape) if size > 1), numbers.ndim)
    return numbers.reshape(numbers.shape[leading:])
