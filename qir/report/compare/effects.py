"""What errors of single values do to the outputs of a float program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.ir import Builder, Graph, Node, Value, clone
from qir.ops import Select
from qir.report.decibels import squares
from qir.report.trips import Trips
from qir.report.work import work_of
from qir.types import Array, DType, TensorType
from qir.types.arrays import aligned


@dataclass(frozen=True)
class ErrorSite:
    """Where an error is added: some of the places that read a value of the float program.

    Args:
        value: The value.
        edges: Those that read it: node and operand.
    """

    value: Value
    edges: tuple[tuple[Node, int], ...]


@dataclass(frozen=True)
class WrongNumbers:
    """What a value has with an error, with the axes of the float program.

    Args:
        numbers: The numbers.
        error: What of them is the error, for a value in a region: in a loop it comes on top of
            what earlier trips have made of theirs.
    """

    numbers: Array
    error: Array | None = None


Errors: TypeAlias = Mapping[ErrorSite, Sequence[WrongNumbers]]
"""What sites have instead of their numbers: once, or for each trip of a region."""

LARGE = 1e6
"""Numbers of a mask are as large at the least: an error that is added to them is lost."""

INTERPRETED = 2**34
"""Up to so many products, interpreting all runs takes less time than compiling the program: 1 s."""


class Prober(Protocol):
    """Compiles float graphs, as `qir.pipeline.context.Executor` does."""

    def probe(
        self, graph: Graph, values: Sequence[Value], reduce: Callable[[Any, Any], Any] | None = None
    ) -> Callable[..., list[Any]]:
        """Returns a function from input arrays to values inside the graph."""
        ...


class Effects:
    """Adds errors to values of a float program and tells the noise at its outputs.

    Args:
        reference: The float program.
        inputs: An array for each of its inputs.
        outputs: The outputs to look at.
        exact: The numbers of the program.
        sites: Where errors may be added. In a region, all that read the value get the error.
        interpreter: Computes all values of a program.
        prober: Compiles the program once for all errors; None for the interpreter alone.
    """

    def __init__(
        self,
        reference: Graph,
        inputs: Sequence[Array],
        outputs: Sequence[Value],
        exact: Mapping[Value, Array],
        sites: Sequence[ErrorSite],
        interpreter: Interpreter,
        prober: Prober | None,
    ) -> None:
        self._reference = reference
        self._inputs = inputs
        self._outputs = list(outputs)
        self._exact = exact
        self._interpreter = interpreter
        self._outside = [site for site in sites if site.value in exact]
        self._graph, self._returned = with_errors(reference, self._outside, self._outputs)
        self._zeros = [_zeros(exact[site.value].shape) for site in self._outside]
        self._probe: Callable[..., list[Any]] | None = None
        work = work_of(reference, inputs) * len(sites)
        if prober is not None and self._outside and work > INTERPRETED:
            self._probe = prober.probe(self._graph, self._returned)
        self._unmoved = self._moved({})

    def noise(self, errors: Errors) -> dict[Value, float]:
        """Returns the sum of the squares of what errors make of each output."""
        if all(site.value in self._exact for site in errors):
            moved, unmoved = self._moved(errors), self._unmoved
        else:
            moved = self._moved_inside(errors)
            unmoved = [self._exact[value] for value in self._outputs]
        pairs = zip(self._outputs, moved, unmoved, strict=True)
        return {value: _noise(after, before) for value, after, before in pairs}

    def _moved(self, errors: Errors) -> list[Array]:
        given = list(self._inputs)
        for site, zeros in zip(self._outside, self._zeros, strict=True):
            wrong = zeros
            if (own := errors.get(site)) is not None:
                (only,) = own
                wrong = np.ascontiguousarray(only.numbers, np.float32)
            given += [np.asarray(own is not None), wrong]
        if self._probe is not None:
            return [np.asarray(each) for each in self._probe(*given)]
        found = self._interpreter(self._graph, *given)
        return [found[value] for value in self._returned]

    def _moved_inside(self, errors: Errors) -> list[Array]:
        counts = Trips()
        by_value = {site.value: each for site, each in errors.items()}

        def add(value: Value, array: Array) -> Array:
            if value not in by_value:
                return array
            trip = counts.counts.get(value, 0)
            counts.count(value, array)
            own = by_value[value]
            if trip >= len(own):
                return array
            numbers, error = own[trip].numbers, own[trip].error
            if error is None:
                return numbers.astype(array.dtype)
            moved = np.add(array, error, dtype=np.float64)
            return np.where(np.abs(array) < LARGE, moved, numbers).astype(array.dtype)

        found = self._interpreter(self._reference, *self._inputs, hook=add, inside=add)
        return [found[value] for value in self._outputs]


def _zeros(shape: tuple[int, ...]) -> Array:
    zeros = aligned(shape, np.float32)
    zeros[...] = 0
    return zeros


def with_errors(
    reference: Graph, sites: Sequence[ErrorSite], outputs: Sequence[Value]
) -> tuple[Graph, list[Value]]:
    """Copies a float program so that it takes other numbers for each of some sites, in float32.

    Args:
        reference: The program.
        sites: Where errors are added, outside of regions.
        outputs: Some of what it returns.

    Returns:
        The copy, whose inputs are those of the program and, for each site in order, whether it
        reads other numbers and these; and its outputs.
    """
    graph = clone(reference, retype=_not_narrow)
    twins = dict(zip(reference.nodes, graph.nodes, strict=True))
    for index, site in enumerate(sites):
        value = graph.value(site.value.name)
        is_wrong = graph.add_input(f"is_wrong.{index}", TensorType((), DType.BOOL))
        wrong = graph.add_input(f"wrong.{index}", value.type)
        for node, operand in site.edges:
            reader = twins[node]
            # What reads there may be another site's already.
            read = Builder(graph, reader).emit(Select(), is_wrong, wrong, reader.inputs[operand])
            reader.set_input(operand, read)
    return graph, [graph.outputs[reference.outputs.index(value)] for value in outputs]


def _not_narrow(type: TensorType) -> TensorType:
    """Returns a type in which a small error is not lost beside the number that it is added to."""
    return type.with_element(DType.F32) if type.element in (DType.F16, DType.BF16) else type


def _noise(after: Array, before: Array) -> float:
    """Returns the sum of squares; infinite where a number is finite no more."""
    _, noise = squares(before, after)
    return float(noise.sum())
