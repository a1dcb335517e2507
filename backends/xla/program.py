"""Programs: the computations of values of a graph, and the parameters that they take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax

from qir.backends.native.computation import AllSizes, Argument, Computation, Group, Parameter
from qir.backends.xla.choice import Choice, Chooser, preferred
from qir.backends.xla.kernels import Kernels
from qir.backends.xla.materialize import stored
from qir.backends.xla.regions import (
    IN_REGIONS,
    Ran,
    first_endless,
    in_regions,
    renumbered,
    stopped,
)
from qir.backends.xla.words import Words
from qir.errors import QirError, UnsupportedError
from qir.ir import Graph, Node, Value
from qir.ir.names import Namespace
from qir.ir.signature import Sizes, check_not_empty
from qir.ops import (
    Broadcast,
    Concat,
    Const,
    Conv,
    ConvTranspose,
    Dequantize,
    Dot,
    Mul,
    ReduceMax,
    ReduceMin,
    Requantize,
    Reshape,
    Reverse,
    Slice,
    Split,
    Tile,
    Transpose,
)
from qir.ops.cast import is_long
from qir.ops.softmax import Exponentials
from qir.types import Array, DType

_READ_WORDS = (Conv, ConvTranspose, Dequantize, Dot, Requantize)
"""Ops whose lowerings take sums of two words."""

_MOVE_WORDS = (Reshape, Reverse, Slice, Split, Tile, Transpose, Concat, Broadcast)
"""Ops that treat each word as they treat a number."""


class _Placed(NamedTuple):
    """A computation, with the values that it returns, a label, and a place for errors.

    `whiles` counts the while loops before it.
    """

    outputs: tuple[Value, ...]
    label: str
    place: str
    computation: Computation
    whiles: int = 0


class XlaProgram:
    """The computations of some values of a graph from its inputs.

    Args:
        graph: The graph, to be left as it is while new input shapes may still come.
        outputs: The values to compute.
        choose: Chooses the way of each node.
        kernels: What computes some of the nodes by machine code of its own; None for XLA alone.
        long_outputs: Whether sums in i64 may be outputs, in two words.

    Attributes:
        inputs: The inputs of the graph.
        outputs: The values that are computed.
        arrays: The parameters by name, on the host; one that several constants share stands once.
        choices: How each value is computed and why, by the value's name and that of its op.
        endless: The errors of while loops that are stopped, by the number that `run` returns, less
            one.

    Raises:
        QirError: A value has 64 bits that is no sum of products which other ops round or move, or
            an op has no lowering; the place is named.
    """

    def __init__(
        self,
        graph: Graph,
        outputs: Sequence[Value],
        choose: Chooser = preferred,
        kernels: Kernels | None = None,
        *,
        long_outputs: bool = False,
    ) -> None:
        self.inputs = graph.inputs
        self.outputs = tuple(outputs)
        self.choices: dict[tuple[str, str], Choice] = {}
        self.endless: list[QirError] = []
        self._names: dict[Value | Parameter, str] = {}
        self._arrays: Namespace[Array] = Namespace()
        self._array_names: dict[int, str] = {}
        self._computations: list[_Placed] = []
        self._nested: dict[Node, Sequence[XlaProgram]] = {}
        for value in self.inputs:
            _check_width(value)
        needed = _needed(graph, outputs)
        for node in needed:
            for value in node.outputs:
                if not is_long(value.type) or (value in self.outputs and not long_outputs):
                    _check_width(value)
        self._computed = computed = nodes_of(graph, outputs)
        self._kernels = kernels
        parts: Sequence[Node | Group] = computed
        reasons: Mapping[Node, str] = {}
        if kernels is not None:
            parts, reasons = kernels.divide(computed, outputs)
        single = [part for part in parts if isinstance(part, Node)]
        self._stored = _read_often(single) | _products_of_maxima(single)
        for part in parts:
            if isinstance(part, Group):
                self._enter(part, kernels)
            elif part.regions:
                self._nest(part, choose, kernels)
            else:
                self._lower(part, choose(part), reasons.get(part, ""))
        self._computations = _read(self._computations, self.outputs)
        for placed in self._computations:
            for argument in placed.computation.arguments:
                if isinstance(argument, Value | Parameter):
                    self._register(argument)
        for value in self.outputs:
            self._register(value)
        self.arrays = dict(self._arrays)

    def __call__(
        self, parameters: Mapping[str, jax.Array], inputs: Sequence[jax.Array], sizes: Sizes
    ) -> tuple[jax.Array, ...]:
        """Computes the outputs; pure and traceable.

        Args:
            parameters: The arrays of `arrays`, or others of the same shapes and types.
            inputs: One array for each input.
            sizes: The sizes of named dimensions.
        """
        return self.run(parameters, inputs, sizes).results

    def run(
        self, parameters: Mapping[str, jax.Array], inputs: Sequence[jax.Array], sizes: Sizes
    ) -> Ran:
        """Computes the outputs, and which while loop was stopped; see `__call__`."""
        check_not_empty(self._computed, sizes)
        values = dict(zip(self.inputs, inputs, strict=True))

        def fetch(argument: Argument) -> Any:
            if isinstance(argument, Value | Parameter) and argument in self._names:
                return parameters[self._names[argument]]
            if isinstance(argument, Value):
                return values[argument]
            if isinstance(argument, AllSizes):
                return sizes
            return sizes.shape(argument) if isinstance(argument, tuple) else argument

        endless = None
        for outputs, label, place, computation, whiles in self._computations:
            try:
                # The caller's x64 flag must not widen Python numbers: programs have 32 bits.
                with jax.named_scope(label), jax.enable_x64(False):
                    found = computation.function(*map(fetch, computation.arguments))
            except QirError as error:
                raise error.at(place) from error
            if isinstance(found, Ran):
                endless = first_endless(endless, renumbered(found.endless, whiles))
                found = found.results
            one = isinstance(found, Words) or not isinstance(found, tuple)
            results: tuple[Any, ...] = (found,) if one else found
            for value, array in zip(outputs, results, strict=True):
                _check_result(value, array)
                values[value] = stored(array) if value in self._stored else array
        return Ran(tuple(fetch(value) for value in self.outputs), endless)

    def check_end(self, endless: Any) -> None:
        """Raises the error of the while loop that was stopped, where that is known.

        Args:
            endless: What `run` returned.
        """
        if endless is None:
            return
        try:
            number = int(endless)
        except jax.errors.ConcretizationTypeError:  # inside of what is traced
            return
        if number:
            raise self.endless[number - 1].with_traceback(None)

    def partition(self, sizes: Sizes) -> str:
        """Returns which nodes kernels compute and how, and why others are left to XLA.

        Args:
            sizes: The sizes of named dimensions.
        """
        if self._kernels is None:
            return "no kernels: XLA computes all of it"
        lines = [self._kernels.describe(self._computed, self.outputs, sizes)]
        for node, programs in self._nested.items():
            for number, program in enumerate(programs):
                part = f" {number}" if len(programs) > 1 else ""
                lines.append(f"in region{part} of {node.op.name} %{node.outputs[0].name}")
                lines += [f"  {line}" for line in program.partition(sizes).splitlines()]
        return "\n".join(lines)

    def kernel_memory(self, sizes: Sizes) -> int:
        """Returns the bytes that generated kernels keep for temporary tensors and scratch.

        Args:
            sizes: The sizes of named dimensions.
        """
        if self._kernels is None:
            return 0
        nested = (program for programs in self._nested.values() for program in programs)
        own = self._kernels.memory(self._computed, self.outputs, sizes)
        return own + sum(program.kernel_memory(sizes) for program in nested)

    def _enter(self, group: Group, kernels: Kernels | None) -> None:
        for node, way in group.nodes.items():
            path = group.paths.get(node, "")
            for value in node.outputs:
                self.choices[path + value.name, node.op.name] = Choice(way, str(kernels))
        first = group.outputs[0]
        label = f"kernels.{first.name}"
        self._computations.append(_Placed(group.outputs, label, first.place(), group.computation))

    def _nest(self, node: Node, choose: Chooser, kernels: Kernels | None) -> None:
        programs = [XlaProgram(region, region.outputs, choose, kernels) for region in node.regions]
        first = node.outputs[0]
        self.choices[first.name, node.op.name] = Choice(IN_REGIONS, "the only way")
        for program in programs:
            for (name, op), choice in program.choices.items():
                self.choices[f"{first.name}/{name}", op] = choice
        self._nested[node] = programs
        label = f"{node.op.name}.{first.name}"
        computation = in_regions(node, programs)
        placed = _Placed(node.outputs, label, node.place(), computation, len(self.endless))
        self._computations.append(placed)
        self.endless += stopped(node, programs)

    def _lower(self, node: Node, choice: Choice, reason: str) -> None:
        try:
            computation = choice.way.build(node.op, node)
            if any(is_long(value.type) for value in node.inputs):
                computation = _on_words(node, computation)
        except QirError as error:
            raise error.at(node.place()) from error
        if reason:
            choice = replace(choice, reason=f"{choice.reason}; no kernel: {reason}")
        for value in node.outputs:
            self.choices[value.name, node.op.name] = choice
        label = f"{node.op.name}.{node.outputs[0].name}" if node.outputs else node.op.name
        self._computations.append(_Placed(node.outputs, label, node.place(), computation))

    def _register(self, argument: Value | Parameter) -> None:
        if argument in self._names:
            return
        if isinstance(argument, Parameter) or isinstance(argument.op, Const):
            name, array = argument.name, argument.array
        else:
            return
        if id(array) not in self._array_names:
            self._array_names[id(array)] = self._arrays.add(name, array)
        self._names[argument] = self._array_names[id(array)]


def _read(computations: Sequence[_Placed], outputs: Sequence[Value]) -> list[_Placed]:
    """Returns the computations without those that no other reads, in order.

    A way may read what an operand is computed of in its place, as products do of coded weights.
    """
    needed: set[object] = set(outputs)
    kept = []
    for placed in reversed(computations):
        if needed.intersection(placed.outputs):
            needed.update(x for x in placed.computation.arguments if isinstance(x, Value))
            kept.append(placed)
    return kept[::-1]


def nodes_of(graph: Graph, outputs: Sequence[Value]) -> list[Node]:
    """Returns the nodes that some values need, constants left out, in an order of computation."""
    return [node for node in _needed(graph, outputs) if not isinstance(node.op, Const)]


def _needed(graph: Graph, outputs: Sequence[Value]) -> list[Node]:
    needed = graph.cone(outputs)
    return [node for node in graph.nodes if node in needed]


def _read_often(nodes: Sequence[Node]) -> set[Value]:
    """Returns the computed tensors of bytes, and sums in i32, that more than one node reads."""
    readers = Counter(value for node in nodes for value in set(node.inputs))
    return {
        value
        for value, count in readers.items()
        if count > 1 and value.type.quant is not None
        if value.type.dtype.bits <= 8 or value.type.quant.range != value.type.dtype.bounds
        if value.node is not None and not isinstance(value.op, Const)
    }


def _products_of_maxima(nodes: Iterable[Node]) -> set[Value]:
    """Returns the float products whose maximum is taken, as in softmax and logsumexp.

    XLA on CPU would contract such a product with the subtraction of its maximum: the difference at
    the greatest number then is not 0 but what rounding the product left, and its exponential is
    infinite or 0 where numbers are large.
    """
    found = set()
    for node in nodes:
        if not isinstance(node.op, Exponentials | ReduceMax | ReduceMin):
            continue
        value = node.inputs[0]
        while isinstance(value.op, Broadcast | Reshape | Transpose):
            value = value.inputs[0]
        if value.type.is_float and isinstance(value.op, Dequantize | Mul):
            found.add(value)
    return found


def _on_words(node: Node, computation: Computation) -> Computation:
    """Moves sums of two words as each word is moved.

    Raises:
        UnsupportedError: The op is none that adds to them, rounds them or moves them.
    """
    if isinstance(node.op, _READ_WORDS):
        return computation
    if not isinstance(node.op, _MOVE_WORDS):
        raise UnsupportedError(
            f"xla: {node.op.name}: expected operands of at most 32 bits, got "
            f"{node.inputs[0].type}; requantize them"
        )
    words = [isinstance(each, Value) and is_long(each.type) for each in computation.arguments]

    def run(*arrays: Any) -> Any:
        high, low = (
            computation.function(
                *(each[word] if long else each for each, long in zip(arrays, words, strict=True))
            )
            for word in (0, 1)
        )
        if isinstance(high, tuple):
            return tuple(map(Words, high, low))
        return Words(high, low)

    return replace(computation, function=run)


def _check_width(value: Value) -> None:
    if is_long(value.type):
        raise UnsupportedError(
            f"xla: expected numbers of at most 32 bits, got {value.type}; requantize them, or "
            "dequantize them",
            [value.place()],
        )
    if value.type.dtype in (DType.I64, DType.F64):
        narrow = "i32" if value.type.dtype is DType.I64 else "f32"
        raise UnsupportedError(
            f"xla: expected numbers of at most 32 bits, got {value.type}; cast to {narrow}",
            [value.place()],
        )


def _check_result(value: Value, array: jax.Array | Words) -> None:
    if isinstance(array, Words):
        if not is_long(value.type) or array.ndim != value.type.rank:
            raise QirError(
                f"xla: expected a lowering to return {value.type}, got two words of "
                f"{list(array.shape)}",
                [value.place()],
            )
        return
    if array.dtype != value.type.dtype.numpy or array.ndim != value.type.rank:
        raise QirError(
            f"xla: expected a lowering to return {value.type}, "
            f"got {array.dtype}{list(array.shape)}",
            [value.place()],
        )
