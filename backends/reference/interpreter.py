"""The reference interpreter: walks the nodes and computes each by its op's numpy meaning."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from qir.analysis.equivalence import Hook
from qir.errors import QirError, counted
from qir.ir import Graph, Node, Value
from qir.ir.named_shapes import in_sizes
from qir.ir.signature import Sizes, bind, check_not_empty, ports, to_array
from qir.ops import Const, Return
from qir.ops.op import Op
from qir.ops.regions import Body, RegionOp
from qir.ops.rules import Coded, Results
from qir.types import Array, DType, TensorType, format_shape


def run(
    graph: Graph, *inputs: ArrayLike, precision: type[np.floating[Any]] | None = None
) -> tuple[Array, ...]:
    """Computes a graph's outputs.

    Args:
        graph: The program.
        inputs: One array for each input, of its type's shape and numpy type; a coded input takes
            stored numbers.
        precision: The type that floating-point ops compute and return in, such as numpy.float64 for
            comparing two float programs; None computes in float32 and rounds to each value's own
            type.

    Returns:
        One array for each output; stored numbers where the output has a code.

    Raises:
        QirError: An input does not fit its type, or a stored number leaves its type: the place is
            named.
    """
    values = run_all(graph, *inputs, precision=precision)
    return tuple(values[value] for value in graph.outputs)


def run_all(
    graph: Graph,
    *inputs: ArrayLike,
    precision: type[np.floating[Any]] | None = None,
    hook: Hook | None = None,
    inside: Hook | None = None,
) -> dict[Value, Array]:
    """Computes every value of a graph; see `run`.

    Args:
        graph: The program.
        inputs: As for `run`.
        precision: As for `run`.
        hook: Called with each value that a node computes; what it returns is what the users of the
            value read.
        inside: The same for what regions take and compute, in each trip.
    """
    bound, sizes = bind_inputs(graph, inputs)
    return _Run(sizes, precision, hook, inside).values(graph, list(bound.values()))


@dataclass(frozen=True)
class _Run:
    """One computation of a program.

    Args:
        sizes: The sizes of named dimensions.
        precision: As for `run`.
        hook: As for `run_all`.
        inside: As for `run_all`.
    """

    sizes: Sizes
    precision: type[np.floating[Any]] | None
    hook: Hook | None = None
    inside: Hook | None = None

    def values(self, graph: Graph, inputs: Sequence[Array]) -> dict[Value, Array]:
        """Computes every value of a graph or region from arrays that fit its inputs."""
        check_not_empty(graph.nodes, self.sizes)
        values: dict[Value, Array] = {}
        for value, array in zip(graph.inputs, inputs, strict=True):
            values[value] = _in_precision(array, value.type, self.precision)
        for node in graph.nodes:
            if isinstance(node.op, Return):
                continue
            operands = [values[value] for value in node.inputs]
            results = (
                self.run_regions(node, node.op, operands)
                if isinstance(node.op, RegionOp)
                else _compute(node, in_sizes(node.op, self.sizes), operands, self.precision)
            )
            _check_shapes(node, results, self.sizes)
            for value, result in zip(node.outputs, results, strict=True):
                values[value] = self.hook(value, result) if self.hook else result
        return values

    def run_regions(self, node: Node, op: RegionOp, operands: Sequence[Array]) -> list[Array]:
        """Computes a node with regions."""
        inside = replace(self, hook=self.inside)

        def body(region: Graph) -> Body:
            def compute(*arrays: Array) -> list[Array]:
                given = list(map(np.asarray, arrays))
                if hook := inside.hook:
                    given = list(map(hook, region.inputs, given))
                values = inside.values(region, given)
                return [values[value] for value in region.outputs]

            return compute

        shapes = [self.sizes.shape(value.type.shape) for value in node.outputs]
        try:
            found = op.run(list(map(body, node.regions)), operands, shapes)
        except QirError as error:
            raise error.at(node.place()) from error
        return [
            _in_precision(np.asarray(array), value.type, self.precision)
            for array, value in zip(found, node.outputs, strict=True)
        ]


class Interpreted:
    """A graph as a function of arrays, computed by the interpreter.

    Args:
        graph: The graph; later changes of it don't change the program.

    Attributes:
        inputs: Name, shape, type and code of each input.
        outputs: Name, shape, type and code of each output.
        report: How it is computed.
    """

    report = "the reference interpreter computes every op by its numpy meaning"

    def __init__(self, graph: Graph) -> None:
        self._graph = graph.copy()
        self.inputs = ports(graph.inputs)
        self.outputs = ports(graph.outputs)

    def __call__(self, *inputs: ArrayLike) -> tuple[Array, ...]:
        """Computes the outputs; see `run`."""
        return run(self._graph, *inputs)

    def __repr__(self) -> str:
        return f"<interpreted {repr(self._graph)[1:]}"


def bind_inputs(graph: Graph, inputs: Sequence[ArrayLike]) -> tuple[Mapping[Value, Array], Sizes]:
    """Checks arrays against a graph's inputs and tells the sizes of its named dimensions.

    Raises:
        QirError: The number of arrays, a shape, a type or a stored number is wrong, or two arrays
            disagree about a named dimension.
    """
    if len(inputs) != len(graph.inputs):
        raise QirError(f"run: expected {counted(len(graph.inputs), 'input')}, got {len(inputs)}")
    pairs = zip(graph.inputs, inputs, strict=True)
    arrays = [to_array(given, value, "run") for value, given in pairs]
    sizes = bind(graph.inputs, arrays)
    bound = dict(zip(graph.inputs, arrays, strict=True))
    for value, array in bound.items():
        _check_codes(array, value.type, f"input %{value.name}")
    return bound, sizes


def _check_codes(array: Array, type: TensorType, subject: str) -> None:
    if type.quant is None or not array.size:
        return
    low, high = type.quant.range
    least, greatest = array.min(), array.max()
    if least < low or greatest > high:
        found = least if least < low else greatest
        raise QirError(f"run: expected {subject} to be stored in [{low}, {high}], got {found}")


def compute_node(
    node: Node, operands: Sequence[Array], precision: type[np.floating[Any]] | None = None
) -> list[Array]:
    """Computes the results of one node without regions, whose op makes no size by name.

    Args:
        node: The node.
        operands: One array for each of its inputs.
        precision: As for `run`.

    Raises:
        QirError: A stored number leaves its type, or an operand is none that the op takes.
    """
    return _compute(node, node.op, operands, precision)


def _compute(
    node: Node, op: Op, operands: Sequence[Array], precision: type[np.floating[Any]] | None
) -> list[Array]:
    if isinstance(op, Const):
        return [_in_precision(op.array.array, node.output.type, precision)]
    types = [value.type for value in node.inputs]
    coded = any(value.type.quant is not None for value in (*node.inputs, *node.outputs))
    try:
        if coded:
            pairs = [Coded(array, type) for array, type in zip(operands, types, strict=True)]
            found = op.integer(pairs, node.outputs[0].type)
            stored = _arrays(node, "integer", found)
            return [
                _store(array, value.type, precision)
                for array, value in zip(stored, node.outputs, strict=True)
            ]
        wide = [_widen(array, type, precision) for array, type in zip(operands, types, strict=True)]
        with np.errstate(all="ignore"):
            found = op.evaluate(*wide)
        results = _arrays(node, "evaluate", found)
    except QirError as error:
        raise error.at(node.place()) from error
    return [
        _in_precision(array, value.type, precision)
        for array, value in zip(results, node.outputs, strict=True)
    ]


def _arrays(node: Node, method: str, found: Results) -> tuple[Array, ...]:
    """Returns what an op computes as one array for each of the node's results."""
    results = tuple(map(np.asarray, found if isinstance(found, tuple) else (found,)))
    if len(results) != len(node.outputs):
        raise node.op.error(
            f"expected {method} to return {len(node.outputs)} arrays, got {len(results)}"
        )
    return results


def _check_shapes(node: Node, results: Sequence[Array], sizes: Sizes) -> None:
    for value, array in zip(node.outputs, results, strict=True):
        if array.shape == value.type.shape:
            continue
        try:
            wanted = sizes.shape(value.type.shape)
        except QirError:
            continue  # Sizes that no input tells.
        if array.shape != wanted:
            problem = (
                f"expected numbers of shape {format_shape(wanted)}, as its type rule says of "
                f"%{value.name}, got {format_shape(array.shape)}"
            )
            raise node.op.error(problem).at(node.place())


def _widen(array: Array, type: TensorType, precision: type[np.floating[Any]] | None) -> Array:
    return array.astype(precision or np.float32, copy=False) if type.is_float else array


def _in_precision(
    array: Array, type: TensorType, precision: type[np.floating[Any]] | None
) -> Array:
    with np.errstate(over="ignore"):
        if type.is_float and precision is not None:
            return array.astype(precision, copy=False)
        return array.astype(type.dtype.numpy, copy=False)


def _store(array: Array, type: TensorType, precision: type[np.floating[Any]] | None) -> Array:
    if type.is_float:
        return _in_precision(np.asarray(array), type, precision)
    if type.dtype is DType.BOOL:
        return array
    if array.dtype.kind not in "biu":
        raise QirError(f"run: expected stored numbers of {type} to be integers, got {array.dtype}")
    low, high = type.quant.range if type.quant else type.dtype.bounds
    if array.size and (array.min() < low or array.max() > high):
        found = array.min() if array.min() < low else array.max()
        raise QirError(f"run: a stored number left {type}: expected [{low}, {high}], got {found}")
    return array.astype(type.dtype.numpy, copy=False)
