"""What errors of single values do to the outputs of a float program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.ir import Builder, Graph, Node, Value, clone
from qir.ops import Add
from qir.report.trips import Trips
from qir.report.work import work_of
from qir.types import Array, DType, TensorType
from qir.types.arrays import aligned

Errors: TypeAlias = Mapping[Value, Sequence[Array]]
"""Errors with the axes of the float program: one array, or one for each trip of a region."""

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
        exact: The numbers of the program, with those of the outputs.
        targets: The values that get errors; those in regions may be among them.
        interpreter: Computes all values of a program.
        prober: Compiles the program once for all errors; None for the interpreter alone.
    """

    def __init__(
        self,
        reference: Graph,
        inputs: Sequence[Array],
        outputs: Sequence[Value],
        exact: Mapping[Value, Array],
        targets: Sequence[Value],
        interpreter: Interpreter,
        prober: Prober | None,
    ) -> None:
        self._reference = reference
        self._inputs = inputs
        self._outputs = list(outputs)
        self._exact = exact
        self._interpreter = interpreter
        self._targets = set(targets)
        self._outside = [value for value in targets if value in exact]
        self._probe: Callable[..., list[Any]] | None = None
        work = work_of(reference, inputs) * len(targets)
        if prober is not None and self._outside and work > INTERPRETED:
            self._compile(prober)

    def _compile(self, prober: Prober) -> None:
        graph, outputs = with_errors(self._reference, self._outside, self._outputs)
        self._probe = prober.probe(graph, outputs)
        self._zeros: list[Array] = []
        for value in self._outside:
            zeros = aligned(self._exact[value].shape, np.float32)
            zeros[...] = 0
            self._zeros.append(zeros)
        self._unmoved = [np.asarray(each) for each in self._probe(*self._inputs, *self._zeros)]

    def takes(self, value: Value) -> bool:
        """Whether a value is one of the targets."""
        return value in self._targets

    def noise(self, errors: Errors) -> dict[Value, float]:
        """Returns the sum of the squares of what errors make of each output."""
        if self._probe is not None and all(value in self._exact for value in errors):
            given = dict(zip(self._outside, self._zeros, strict=True))
            for value, (error,) in errors.items():
                given[value] = np.ascontiguousarray(error, np.float32)
            moved = [np.asarray(each) for each in self._probe(*self._inputs, *given.values())]
            unmoved = self._unmoved
        else:
            moved = self._interpreted(errors)
            unmoved = [self._exact[value] for value in self._outputs]
        pairs = zip(self._outputs, moved, unmoved, strict=True)
        return {value: _noise(after, before) for value, after, before in pairs}

    def _interpreted(self, errors: Errors) -> list[Array]:
        counts = Trips()

        def add(value: Value, array: Array) -> Array:
            if value not in errors:
                return array
            trip = counts.counts.get(value, 0)
            counts.count(value, array)
            own = errors[value]
            return (array + own[trip]).astype(array.dtype) if trip < len(own) else array

        inputs = [
            add(value, array)
            for value, array in zip(self._reference.inputs, self._inputs, strict=True)
        ]
        found = self._interpreter(self._reference, *inputs, hook=add, inside=add)
        return [found[value] for value in self._outputs]


def with_errors(
    reference: Graph, targets: Sequence[Value], outputs: Sequence[Value]
) -> tuple[Graph, list[Value]]:
    """Copies a float program so that it takes an error for each of some values, in float32.

    Args:
        reference: The program.
        targets: Values of it outside of regions.
        outputs: Some of what it returns.

    Returns:
        The copy, whose inputs are those of the program and the errors in order; and its outputs.
    """
    graph = clone(reference, retype=_not_narrow)
    indices = [reference.outputs.index(value) for value in outputs]
    for target in targets:
        value = graph.value(target.name)
        error = graph.add_input(f"{target.name}.error", value.type)
        moved = Builder(graph, _behind(graph, value)).emit(Add(), value, error)
        _read_instead(value, moved)
    return graph, [graph.outputs[index] for index in indices]


def _behind(graph: Graph, value: Value) -> Node:
    """Returns the node behind that which computes a value."""
    nodes = iter(graph.nodes)
    if value.node is not None:
        next(node for node in nodes if node is value.node)
    return next(nodes)


def _read_instead(value: Value, moved: Value) -> None:
    value.replace_with(moved, where=lambda node: node is not moved.node)


def _not_narrow(type: TensorType) -> TensorType:
    """Returns a type in which a small error is not lost beside the number that it is added to."""
    return type.with_element(DType.F32) if type.element in (DType.F16, DType.BF16) else type


def _noise(after: Array, before: Array) -> float:
    with np.errstate(all="ignore"):
        difference = after.astype(np.float64) - before.astype(np.float64)
    known = np.isfinite(before)
    return float(np.where(known, difference, 0).ravel() @ np.where(known, difference, 0).ravel())
