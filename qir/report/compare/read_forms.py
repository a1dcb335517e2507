"""In which forms ops read a value: in one code, in another, or in two that share its channels."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TypeAlias

import numpy as np

from qir.ir import Graph, Node, Value, reachable
from qir.ir.passages import passing
from qir.ops import Dequantize
from qir.report.causes import is_exact
from qir.report.compare.counterparts import Counterparts
from qir.types import Array

ReadForm: TypeAlias = tuple[Value, ...]
"""Values of the integer program that an op reads together for one of the float program.

Mostly it is one. Where a few channels are far larger than the others, there may be a code for these
and one for the others, and the op reads of each value the channels that it is for.
"""


class ReadForms:
    """How values of an integer program are read, by its structure alone.

    Args:
        program: The integer program.
        counterparts: Which values stand for which.
    """

    def __init__(self, program: Graph, counterparts: Counterparts) -> None:
        self._counterparts = counterparts
        self._program = program
        self._worth = {
            value: last
            for value in program.values_inside()
            if (last := self._last(value)) is not None
        }
        self._sources = {value: self._read_by(value) for value in self._worth}
        self._of: dict[Value, list[ReadForm]] = {}
        leaving = [*program.outputs]
        for node in program.walk():
            leaving += [port.operand for port in passing(node) if port.operand is not None]
            leaving += [value for region in node.regions for value in region.outputs]
        readers = [*self._sources.values(), *map(self.returned, leaving)]
        for sources in readers:
            for form in sources.values():
                for value in form:
                    known = self._of.setdefault(value, [])
                    if form not in known:
                        known.append(form)

    def sources(self, value: Value) -> dict[Value, ReadForm]:
        """Returns in which form an op reads values of the float program."""
        return self._sources.get(value, {})

    def worth(self, value: Value) -> Value:
        """Returns the value of the float program that one stands for."""
        return self._worth[value]

    def returned(self, output: Value) -> dict[Value, ReadForm]:
        """Returns in which form a value leaves, as an output or into a region."""
        if output in self._worth:
            return {self._worth[output]: self._base(output)}
        return self._read_by(output)

    def containing(self, value: Value) -> Sequence[ReadForm]:
        """Returns the forms in which others read a value; itself where nothing reads it."""
        return self._of.get(value, [(value,)])

    def into_regions(
        self, reference: Graph, program: Graph
    ) -> Iterator[tuple[Node, int, ReadForm]]:
        """Yields where the float program's loops and branches read a form: node and operand."""
        places = {
            value: (node, port.passage.operand)
            for node in reference.walk()
            for port in passing(node)
            for value in port.inputs
            if port.passage.operand is not None
        }
        for node in program.walk():
            for port in passing(node):
                for value in port.inputs if port.operand is not None else ():
                    for old in self._counterparts.references(value):
                        if old in places and port.operand is not None:
                            reader, operand = places[old]
                            form = self.returned(port.operand).get(reader.inputs[operand])
                            if form is not None:
                                yield reader, operand, form

    def is_cast(self, value: Value) -> bool:
        """Whether a value has the numbers that its operand has, for the same one."""
        return not rounds(value) and self._worth.get(value) in self._direct(value)

    def _last(self, value: Value) -> Value | None:
        if value.type.quant is not None and is_exact(value.type.quant):
            return None
        # What stood in a loop that was unrolled has no numbers of one trip outside of it.
        is_outside = value.owner is self._program
        known = [
            old
            for old in self._counterparts.references(value)
            if old.type.is_float and self._counterparts.is_outside(old) == is_outside
        ]
        return known[-1] if known else None

    def _direct(self, value: Value) -> dict[Value, list[Value]]:
        found: dict[Value, list[Value]] = {}
        for source in sources_of(value, self._worth):
            found.setdefault(self._worth[source], []).append(source)
        return found

    def _read_by(self, value: Value) -> dict[Value, ReadForm]:
        return {
            old: tuple(dict.fromkeys(base for each in sources for base in self._base(each)))
            for old, sources in self._direct(value).items()
        }

    def _base(self, value: Value) -> ReadForm:
        """Returns what a cast is a cast of."""
        if not self.is_cast(value):
            return (value,)
        sources = self._direct(value)[self._worth[value]]
        return tuple(dict.fromkeys(base for each in sources for base in self._base(each)))


def sources_of(value: Value, given: Container[Value]) -> Iterator[Value]:
    """Yields the nearest of some values that a value is computed from."""
    return (each for each in _computed_of(value, given) if each in given and each is not value)


def computed_between(value: Value, given: Container[Value]) -> Iterator[Value]:
    """Yields a value and what it is computed from, up to the nearest of some values."""
    return (each for each in _computed_of(value, given) if each not in given or each is value)


def _computed_of(value: Value, given: Container[Value]) -> Iterable[Value]:
    def operands(each: Value) -> Iterable[Value]:
        if each in given and each is not value:
            return ()
        return (operand for operand in each.inputs if not operand.is_constant)

    return reachable([value], operands)


def rounds(value: Value) -> bool:
    """Whether an op gives its result a code of its own, and so rounds."""
    code = value.type.quant
    if value.node is None or isinstance(value.op, Dequantize) or code is None or is_exact(code):
        return False
    return all(operand.type.quant != code for operand in value.inputs)


def nearest(found: Sequence[Array], exact: Array, axis: int = -1) -> Array:
    """Returns for each channel which of some arrays is the nearest to the exact numbers.

    Args:
        found: The arrays.
        exact: The exact numbers, of the same shape.
        axis: The axis of channels.

    Returns:
        The index of an array for each channel, in a shape that broadcasts.
    """
    if exact.ndim == 0:
        others: tuple[int, ...] = ()
    else:
        others = tuple(each for each in range(exact.ndim) if each != axis % exact.ndim)
    with np.errstate(all="ignore"):
        errors = [
            np.sum(np.nan_to_num((each - exact.astype(np.float64)) ** 2), others, keepdims=True)
            for each in found
        ]
    return np.asarray(np.argmin(np.stack(errors), axis=0))


def picked(arrays: Sequence[Array], choice: Array) -> Array:
    """Returns of each channel the array that was chosen by `nearest`."""
    if len(arrays) == 1:
        return arrays[0]
    index = np.broadcast_to(choice, arrays[0].shape)[None]
    (chosen,) = np.take_along_axis(np.stack(arrays), index, axis=0)
    return np.asarray(chosen)
