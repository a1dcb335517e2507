"""Compares two versions of a program value by value, with the inputs of each forced to agree."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from qir.errors import PassError
from qir.ir import Graph, Value, clone
from qir.types import Array, DType, TensorType

Hook = Callable[[Value, Array], Array]
"""Called with every value that is computed; what it returns is what the value's users read."""


class Interpreter(Protocol):
    """Computes every value of a graph, as `qir.backends.reference.interpreter.run_all` does."""

    def __call__(
        self,
        graph: Graph,
        *inputs: Any,
        precision: type[np.floating[Any]] | None = None,
        hook: Hook | None = None,
        inside: Hook | None = None,
    ) -> dict[Value, Array]:
        """Returns the array of every value."""
        ...


RELATIVE_BOUND = 1e-9
"""How far float64 evaluations of equal functions may differ, relative to the largest magnitude."""


def check_equivalent(
    before: Graph,
    after: Graph,
    inputs: Sequence[Array],
    interpreter: Interpreter,
    *,
    steps: int = 0,
) -> None:
    """Compares two versions of a program wherever a value of both stands for the same imported one.

    Floating-point values are computed in float64 and may differ by RELATIVE_BOUND; stored numbers
    may differ by `steps`. After each comparison the later program goes on with the earlier one's
    numbers, so that each difference is one node's own.

    Args:
        before: The earlier version.
        after: The later version.
        inputs: Arrays for the inputs, which both versions share.
        interpreter: The reference interpreter.
        steps: Allowed difference of stored numbers, 0 or 1.

    Raises:
        PassError: A value differs; the message shows the part of the later program that computes
            it.
    """
    expected: dict[tuple[str, ...], tuple[Value, Array]] = {}
    for value, array in interpreter(before, *inputs, precision=np.float64).items():
        if value.origin:
            expected[value.origin] = value, array

    def compare(value: Value, array: Array) -> Array:
        if value.origin not in expected:
            return array
        old, right = expected[value.origin]
        right = turned_like(right, old, value, value.origin[0])
        if old.type.element != value.type.element or right.shape != array.shape:
            return array
        _compare(value, array, right, steps)
        return right

    results = interpreter(after, *inputs, precision=np.float64, hook=compare)
    first = interpreter(before, *inputs, precision=np.float64)
    for old, new in zip(before.outputs, after.outputs, strict=True):
        if old.type == new.type:
            _compare(new, results[new], first[old], steps)


def turned_like(array: Array, old: Value, new: Value, name: str) -> Array:
    """Returns the numbers of a value with their axes as another one has them.

    Args:
        array: The numbers of the value.
        old: The value.
        new: The other one.
        name: An imported value that both stand for.

    Returns:
        The array itself where the ranks differ.
    """
    rank = array.ndim
    if old.type.rank != rank or new.type.rank != rank:
        return array
    before, after = old.origins[name], new.origins[name]
    if before == after:
        return array
    places = list(before or range(rank))
    return array.transpose([places.index(axis) for axis in after or range(rank)])


def _compare(value: Value, array: Array, right: Array, steps: int) -> None:
    if value.type.is_float:
        finite = np.abs(right[np.isfinite(right)])
        bound = RELATIVE_BOUND * max(float(np.max(finite, initial=0.0)), 1e-30)
        different = ~np.isclose(array, right, rtol=0, atol=bound, equal_nan=True)
    else:
        different = np.abs(array.astype(np.int64) - right.astype(np.int64)) > steps
    if not np.any(different):
        return
    place = tuple(int(index) for index in np.argwhere(different)[0])
    part = value.owner.extract(value.inputs, [value], "part") if value.node else ""
    raise PassError(
        f"check: %{value.name} changed at {list(place)}: expected {right[place]}, "
        f"got {array[place]} "
        f"({int(np.count_nonzero(different))} of {different.size} numbers differ)",
        [value.place(), *(f"|  {line}" for line in str(part).splitlines())],
    )


def in_float64(graph: Graph) -> Graph:
    """Copies a program with f64 in place of f32, so that folded constants are hardly rounded.

    Args:
        graph: A program without codes.
    """
    return clone(graph, retype=_wide)


def in_types_of(graph: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Converts arrays to the numpy types of a graph's inputs."""
    pairs = zip(graph.inputs, inputs, strict=True)
    return [np.asarray(array).astype(value.type.dtype.numpy) for value, array in pairs]


def _wide(type: TensorType) -> TensorType:
    return type.with_element(DType.F64) if type.element is DType.F32 else type
