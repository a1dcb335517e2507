"""Sizes of tensors: numbers, and products of names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qir.errors import QirError
from qir.types.names import check_dimension


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that is not known yet: an integer times a product of names, such as `128*B`.

    Args:
        factor: The integer, at least 1.
        names: The names, sorted; a name that stands twice is squared.
    """

    factor: int
    names: tuple[str, ...]

    @staticmethod
    def named(name: str) -> Dim:
        """Returns the size called `name`; raises QirError for what can't be a name."""
        return Dim(1, (check_dimension(name),))

    def __mul__(self, other: Size) -> Size:
        factor, names = (other.factor, other.names) if isinstance(other, Dim) else (other, ())
        return _size(self.factor * factor, (*self.names, *names))

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        """Divides exactly, or raises QirError when the quotient is not a size."""
        factor, names = (other.factor, other.names) if isinstance(other, Dim) else (other, ())
        rest = list(self.names)
        for name in names:
            if name not in rest:
                raise QirError(f"dimension: {self} is not a multiple of {other}")
            rest.remove(name)
        if factor == 0 or self.factor % factor:
            raise QirError(f"dimension: {self} is not a multiple of {other}")
        return _size(self.factor // factor, tuple(rest))

    def __str__(self) -> str:
        return "*".join([*([str(self.factor)] if self.factor != 1 else []), *self.names])


Size: TypeAlias = int | Dim


Shape: TypeAlias = tuple[Size, ...]


def _size(factor: int, names: Sequence[str]) -> Size:
    return Dim(factor, tuple(sorted(names))) if names and factor else factor


def product(sizes: Sequence[Size]) -> Size:
    """Returns the number of elements of a shape; exact for named sizes too."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def divide(size: Size, by: Size) -> Size:
    """Divides two sizes exactly, or raises QirError when the quotient is not a size."""
    if isinstance(size, Dim):
        return size // by
    if isinstance(by, Dim) or by == 0 or size % by:
        raise QirError(f"dimension: {size} is not a multiple of {by}")
    return size // by


def known(size: Size, what: str) -> int:
    """Returns a size as an integer, or raises QirError where a name would be used as a value."""
    if isinstance(size, Dim):
        raise QirError(f"{what}: expected a known size, got the named dimension {size}")
    return size


def format_shape(shape: Shape) -> str:
    """Spells a shape as in the text: `[B,32,32,3]`."""
    return "[" + ",".join(map(str, shape)) + "]"
