"""Which values of an integer program stand for which of the float program that it was made of."""

from __future__ import annotations

from collections.abc import Container, Mapping

import numpy as np

from qir.analysis.equivalence import turned_like
from qir.ir import Graph, Value
from qir.report.causes import is_exact
from qir.types import Array


class Counterparts:
    """The values of a float program, by the names under which others stand for them.

    Args:
        reference: The float program, whose values have origins.
    """

    def __init__(self, reference: Graph) -> None:
        values = [value for value in reference.values_inside() if not value.is_constant]
        self._named = {name: value for value in values for name in value.origin}
        self._reference = reference
        self._order = {value: index for index, value in enumerate(values)}

    def is_outside(self, old: Value) -> bool:
        """Whether a value of the float program is in no region."""
        return old.owner is self._reference

    def references(self, value: Value) -> dict[Value, str]:
        """Returns what a value stands for in order, each with the name that both have."""
        if value.is_constant:
            return {}
        found = {old: name for name in value.origin if (old := self._named.get(name)) is not None}
        return dict(sorted(found.items(), key=lambda pair: self._order[pair[0]]))

    def known(self, value: Value, array: Array, exact: Mapping[Value, Array]) -> dict[Value, Array]:
        """Returns what a value's numbers are in the float program, for each that it stands for.

        Args:
            value: A value of the integer program.
            array: Its numbers, of which the shape counts.
            exact: The numbers of the float program.

        Returns:
            Arrays with the axes of `value`, in the order of the float program, the last of which is
            what the value is worth: of a relu that became the clamp of what it reads, the relu.
            Empty for what only exact sums hold: what these lack shows where they are rounded.
        """
        if value.type.quant is not None and is_exact(value.type.quant):
            return {}
        found: dict[Value, Array] = {}
        for old, name in self.references(value).items():
            if old in exact and old.type.is_float:
                numbers = turned_like(exact[old], old, value, name)
                if numbers.shape == array.shape:
                    found[old] = numbers
        return found

    def same(self, known: Mapping[Value, Array]) -> list[Value]:
        """Returns those of the float program whose numbers are those of the last one.

        Args:
            known: What `known` returned.
        """
        *others, last = known
        return [
            *(old for old in others if np.array_equal(known[old], known[last], equal_nan=True)),
            last,
        ]


def known_names(program: Graph) -> set[str]:
    """Returns the names of all that some value of an integer program stands for."""
    values = [value for value in program.values_inside() if not value.is_constant]
    return {name for value in values for name in value.origin}


def decoded(value: Value, array: Array) -> Array:
    """Returns the real numbers of a value, whose own may be stored ones."""
    return array if value.type.quant is None else value.type.quant.decode(array)


def turned_to(array: Array, source: Value, target: Value) -> Array:
    """Returns numbers with the axes of one value as another one has them.

    Args:
        array: The numbers, with the axes of `source`.
        source: A value.
        target: Another one, of the other program, that stands for the same imported value.
    """
    name = next(name for name in source.origin if name in target.origins)
    return turned_like(array, source, target, name)


def kind_of_value(value: Value, outside: Container[Value]) -> str:
    """Returns the name of the op that computes a value, or what else it is.

    Args:
        value: A value of a program.
        outside: The values that are in no region.
    """
    if value.op is not None:
        return value.op.name
    return "input" if value in outside else "region input"
