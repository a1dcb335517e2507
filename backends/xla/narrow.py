"""Integers of 64 bits that a program takes and moves, such as the ids of tokens, in 32.

Programs for XLA have 32 bits. Numbers that a program only looks up by, compares, picks or moves are
the same in 32 bits where they fit, which is checked at its door. Sums and products of them might
not fit, and are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from typing import Any

import jax
import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value, passing
from qir.ops import (
    Broadcast,
    Concat,
    Const,
    Gather,
    Maximum,
    Minimum,
    Reshape,
    Reverse,
    Select,
    Slice,
    Split,
    Tile,
    Transpose,
)
from qir.ops.op import infer
from qir.types import Array, DType, TensorType

_MOVES = (
    Broadcast,
    Concat,
    Gather,
    Maximum,
    Minimum,
    Reshape,
    Reverse,
    Select,
    Slice,
    Split,
    Tile,
    Transpose,
)
"""Ops that give no number that they did not get."""

_LEAST, _MOST = DType.I32.bounds


def narrow(graph: Graph) -> frozenset[int]:
    """Gives inputs of 64-bit integers 32 bits, and what is only moved of them and of constants.

    Outputs keep their types. What goes through a loop or branch has 32 bits on its whole way, or
    64.

    Args:
        graph: The graph to change.

    Returns:
        The positions of the inputs that were changed.
    """
    every = [value for value in (*graph.inputs, *graph.values_inside()) if _is_wide(value)]
    if not every:
        return frozenset()
    chosen = {value for value in dict.fromkeys(every) if value not in graph.outputs}
    nodes = list(graph.walk())
    while kept := {value for node in nodes for value in _kept(node, chosen)}:
        chosen -= kept
    changed = frozenset(value.index for value in graph.inputs if value in chosen)
    for node in nodes:
        if isinstance(node.op, Const) and node.output in chosen:
            _narrow_constant(node)
    for value in chosen:
        value.type = _narrowed(value)
    return changed


def _kept(node: Node, chosen: Collection[Value]) -> Iterator[Value]:
    """Yields the values among the chosen ones that a node needs in 64 bits."""
    if node.regions:
        for passing_ in passing(node):
            if not all(value in chosen for value in passing_.values):
                yield from (value for value in passing_.values if value in chosen)
        return
    results = [value for value in node.outputs if value in chosen]
    if not results:
        return
    if isinstance(node.op, Const):
        if not _fits(node.output.array):
            yield node.output
        return
    types = [_narrowed(value) if value in chosen else value.type for value in node.inputs]
    if not isinstance(node.op, _MOVES) or not _gives(node, types):
        yield from results


def _gives(node: Node, operands: Sequence[TensorType]) -> bool:
    """Whether a node gives 32 bits for operands."""
    try:
        types = infer(node.op, list(operands))
    except QirError:  # another operand keeps its 64 bits; the result is refused where it is lowered
        return False
    return all(type == _narrowed(value) for value, type in zip(node.outputs, types, strict=True))


def _narrowed(value: Value) -> TensorType:
    return replace(value.type, element=DType.I32)


def fit(narrowed: Collection[int], arrays: Sequence[Any], inputs: Sequence[Value]) -> list[Any]:
    """Gives arrays for changed inputs 32 bits.

    Args:
        narrowed: What `narrow` returned.
        arrays: The arrays of a call, of numpy or jax.
        inputs: The inputs of the graph.

    Raises:
        QirError: A number does not fit into 32 bits, or it is not known while jax traces whether
            all do.
    """
    return [
        _fitted(array, inputs[place]) if place in narrowed and array.dtype == np.int64 else array
        for place, array in enumerate(arrays)
    ]


def _fitted(array: Any, value: Value) -> Array:
    try:
        numbers = np.asarray(array)
    except jax.errors.TracerArrayConversionError:
        raise QirError(
            f"run: expected i32 for input %{value.name} inside a traced function, got i64; "
            "convert it by astype where all its numbers fit"
        ) from None
    if not _fits(numbers):
        worst = numbers.min() if numbers.min() < _LEAST else numbers.max()
        raise QirError(
            f"run: expected numbers of input %{value.name} in [{_LEAST}, {_MOST}], as XLA has "
            f"32 bits, got {worst}"
        )
    return numbers.astype(np.int32)


def _fits(array: Array) -> bool:
    return not array.size or bool(array.min() >= _LEAST and array.max() <= _MOST)


def _is_wide(value: Value) -> bool:
    return value.type.element is DType.I64


def _narrow_constant(node: Node) -> None:
    array = node.output.array
    if _fits(array):
        node.output.replace_with(node.graph.before(node).const(array.astype(np.int32)))
        node.graph.erase(node)
