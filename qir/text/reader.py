"""Syntax trees to graphs: names and types resolved, every line checked by the op's own rules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, Field
from math import prod
from typing import Any, get_type_hints

import numpy as np

from qir.bench.machine import check_memory
from qir.errors import ParseError, QirError, counted, did_you_mean
from qir.ir import Graph, Node, Value, node_types
from qir.numbers.interval import Interval
from qir.ops.attributes import coerce
from qir.ops.core import Const
from qir.ops.op import Op, find_op, from_attributes
from qir.text.printer import flat_scale, format_attribute, product_of
from qir.text.syntax import (
    GraphSyntax,
    NodeSyntax,
    Reference,
    Scales,
    TypeSyntax,
    show_line,
)
from qir.types import (
    Affine,
    Array,
    Dim,
    DType,
    FrozenArray,
    Shape,
    Size,
    TensorType,
    code_kind,
    format_shape,
    multiplied,
    own_fields,
)


def element_type(name: str) -> DType:
    """Returns the plain type of a name; raises QirError where there is none."""
    try:
        return DType(name)
    except ValueError:
        names = [dtype.value for dtype in DType]
        raise QirError(f"type: expected one of {', '.join(names)}, got {name}") from None


_CODE_FIELDS: dict[str, Any] = {
    "kind": str,
    "scale": float | tuple[float, ...] | np.ndarray,
    "axis": int,
    "blocks": tuple[int | str, ...],
    "parts": tuple[tuple[int, ...], ...],
    "as": DType,
}
"""The fields that codes of all kinds are written with, beside those of the kind's class."""


class GraphReader:
    """Builds the graph of a syntax tree; its subclasses read what older versions of the text meant.

    Args:
        lines: The lines of the text, for messages.
        arrays: The arrays that the text refers to.
        around: For a region, the names of the values outside.
    """

    def __init__(
        self,
        lines: tuple[str, ...],
        arrays: Mapping[str, FrozenArray],
        around: frozenset[str] = frozenset(),
    ) -> None:
        self.lines = lines
        self.arrays = arrays
        self.around = around
        self.permuted: dict[tuple[str, tuple[int, ...]], FrozenArray] = {}
        self.types: dict[str, TensorType] = {}
        self.values: dict[str, Value] = {}
        self.filled = 0

    def build(self, syntax: GraphSyntax) -> Graph:
        """Returns the graph; raises ParseError with the line that breaks a rule."""
        graph = Graph(syntax.name)
        for param in syntax.params:
            with _Line(self.lines, param.line):
                self._declare(param.name)
                value = graph.add_input(param.name, self._type(param.type))
                self.values[param.name] = _with_facts(value, param.type)
        for line in syntax.nodes:
            with _Line(self.lines, line.line):
                self._node(graph, line)
        with _Line(self.lines, syntax.return_line):
            graph.set_outputs([self._value(name) for name in syntax.returns])
        return graph

    def _node(self, graph: Graph, line: NodeSyntax) -> None:
        for name in line.results:
            self._declare(name)
        types = [self._type(written) for written in line.types]
        if len(line.results) != len(types):
            raise QirError(
                f"{line.op}: expected a type for each of {counted(len(line.results), 'result')}, "
                f"got {len(types)}"
            )
        regions = [self._region(region) for region in line.regions]
        operands = [self._value(name) for name in line.operands]
        node = self.insert(graph, line, operands, types, regions)
        node.note = line.note
        for name, written, value in zip(line.results, line.types, node.outputs, strict=True):
            self.values[name] = _with_facts(value, written)

    def insert(
        self,
        graph: Graph,
        line: NodeSyntax,
        operands: Sequence[Value],
        types: Sequence[TensorType],
        regions: Sequence[Graph],
    ) -> Node:
        """Appends what a line says, and returns the node whose results the line names.

        Args:
            graph: The graph.
            line: The line.
            operands: Its operands.
            types: The types that it says its results have.
            regions: Its regions.

        Raises:
            QirError: The op does not exist, or its rules give other types.
        """
        if line.op == "const":
            op: Op = self._const(line, types[0])
        else:
            op = from_attributes(find_op(line.op), self.attributes(line), types)
        inferred = node_types(op, [value.type for value in operands], regions)
        check_written(op, line, types, inferred)
        node = Node(graph, op, operands, inferred, regions, line.loc)
        return graph.insert(node, name=line.results)

    def attributes(self, line: NodeSyntax) -> dict[str, Any]:
        """Returns the attributes of a line, arrays instead of their names."""
        given = _once(line.attributes, f"{line.op}: attribute")
        return {name: self._resolve(value) for name, value in given.items()}

    def _region(self, syntax: GraphSyntax) -> Graph:
        reader = type(self)(self.lines, self.arrays, self.around.union(self.values))
        reader.filled = self.filled
        graph = reader.build(syntax)
        self.filled = reader.filled
        return graph

    def _const(self, line: NodeSyntax, type: TensorType) -> Const:
        literal = Reference(line.results[0]) if line.literal is None else line.literal
        given = _once(line.attributes, "const: attribute")
        if given.keys() - {"permutation"} or (given and not isinstance(literal, Reference)):
            raise QirError(
                f"const: expected no attributes but the permutation of a named array, got "
                f"{', '.join(given)}"
            )
        if not isinstance(literal, Reference):
            # One number fills an array of any size: all of a text together have to fit.
            self.filled += prod(type.known_shape) * type.dtype.numpy.itemsize
            check_memory(self.filled, f"const: {type}")
            return Const(FrozenArray.by_reference(_numbers(literal, type)), type)
        frozen = self._array(literal)
        if "permutation" in given:
            frozen = self._permuted(frozen, literal, given["permutation"])
        array = frozen.array
        if tuple(array.shape) != type.shape or array.dtype != type.dtype.numpy:
            raise QirError(
                f"const: expected {literal} to be {type}, "
                f"got {array.dtype}{format_shape(array.shape)}"
            )
        if not _inside(array, type):
            raise QirError(f"const: expected the numbers of {literal} to be inside {type}")
        return Const(frozen, type)

    def _permuted(self, frozen: FrozenArray, name: Reference, written: Any) -> FrozenArray:
        """Returns an array beside the text with its axes in another order, without a copy."""
        order = coerce(written, tuple[int, ...], "const: permutation")
        if sorted(order) != list(range(frozen.array.ndim)):
            raise QirError(
                f"const: expected a permutation of the {counted(frozen.array.ndim, 'axis')} of "
                f"{name}, got {list(order)}"
            )
        key = name.name, order
        if key not in self.permuted:
            self.permuted[key] = FrozenArray.view(frozen.array.transpose(order))
        return self.permuted[key]

    def _resolve(self, value: Any) -> Any:
        return self._array(value) if isinstance(value, Reference) else value

    def given(self, value: Any) -> Any:
        """Returns what is written, the array where that is its name."""
        return self._array(value).array if isinstance(value, Reference) else value

    def _array(self, reference: Reference) -> FrozenArray:
        if reference.name not in self.arrays:
            raise QirError(
                f"parse: no array {reference}; give its numbers in the .npz or as an argument"
            )
        return self.arrays[reference.name]

    def _declare(self, name: str) -> None:
        if name in self.values:
            raise QirError(f"parse: %{name} is defined twice")

    def _value(self, name: str) -> Value:
        found = self.values.get(name)
        if found is None and name in self.around:
            raise QirError(f"parse: %{name} stands outside the region; hand it in as an operand")
        if found is None:
            raise QirError(
                f"parse: no value %{name} above this line{did_you_mean(name, self.values)}"
            )
        return found

    def _type(self, syntax: TypeSyntax) -> TensorType:
        if syntax.code is None:
            return TensorType(syntax.shape, element_type(syntax.dtype))
        if any(isinstance(value, Scales) for _, value in syntax.code):
            return self.coded_type(syntax, syntax.code)
        # Many values have the same code: spelled alike, it is read once.
        spelling = f"{syntax.dtype}{syntax.shape}{syntax.code}"
        if spelling not in self.types:
            self.types[spelling] = self.coded_type(syntax, syntax.code)
        return self.types[spelling]

    def coded_type(self, syntax: TypeSyntax, written: tuple[tuple[str, Any], ...]) -> TensorType:
        """Returns a type with a code.

        Args:
            syntax: The type.
            written: The fields of its code.

        Raises:
            QirError: The kind does not exist, or its fields are others.
        """
        dtype = element_type(syntax.dtype)
        given = _once(written, "code: field")
        kind = code_kind(coerce(given.get("kind", Affine.kind), str, "code: kind"))
        own = dict(own_fields(kind))
        for name in given:
            if name not in _CODE_FIELDS and name not in own:
                raise QirError(
                    f"code: kind {kind.kind} has no field '{name}'"
                    f"{did_you_mean(name, [*_CODE_FIELDS, *own])}"
                )
        if "scale" not in given:
            raise QirError("code: expected a scale")
        fields: dict[str, Any] = {
            name: value
            if name == "scale" and isinstance(value, Scales)
            else coerce(self.given(value), _CODE_FIELDS[name], f"code: {name}")
            for name, value in given.items()
            if name in _CODE_FIELDS
        }
        spread = _Spread(syntax.shape, fields.get("axis"), fields.get("blocks"))
        annotations = get_type_hints(kind)
        values: dict[str, Any] = {}
        for name, spec in own.items():
            if name not in given:
                if spec.default is MISSING:
                    raise QirError(f"code: expected field '{name}' of kind {kind.kind}")
                continue
            value = self.given(_unnamed(given[name], spec, name))
            value = coerce(value, annotations[spec.name], f"code: {name}")
            if spec.metadata.get("spread") and isinstance(value, FrozenArray):
                value = FrozenArray(spread(value.array, name))
            values[spec.name] = value
        code = kind(
            dtype,
            self._scale(fields["scale"], fields.get("parts"), spread),
            expressed=fields.get("as", DType.F32),
            **values,
        )
        return TensorType(syntax.shape, code)

    def _scale(
        self, written: Any, parts: tuple[tuple[int, ...], ...] | None, spread: _Spread
    ) -> FrozenArray:
        """Returns a scale: numbers, or a product, whose factors stay where their parts are said."""
        if not isinstance(written, Scales):
            if parts is not None:
                raise QirError("code: expected a product as the scale, which parts are written for")
            return FrozenArray(spread(np.asarray(written), "scale"))
        factors = [self._factor(factor) for factor in written.factors]
        if parts is None:
            flat = product_of(factors)
            return FrozenArray(spread(flat if flat.size != 1 else flat.reshape(()), "scale"))
        fits = all(len(part) == len(parts[0]) and min(part, default=0) > 0 for part in parts)
        if not fits or [prod(part) for part in parts] != [factor.size for factor in factors]:
            sizes = [factor.size for factor in factors]
            raise QirError(
                f"code: expected parts for factors of {sizes} scales, got "
                f"{[list(part) for part in parts]}"
            )
        return multiplied(*map(FrozenArray, map(np.reshape, factors, parts)))

    def _factor(self, written: Any) -> Array:
        """Returns a factor of a scale as a flat float64 array."""
        if isinstance(written, str):
            return flat_scale(self._value(written).type, written)
        numbers = coerce(self.given(written), tuple[float, ...] | np.ndarray, "code: scale")
        return np.asarray(numbers, np.float64).reshape(-1)


def check_written(
    op: Op, line: NodeSyntax, types: Sequence[TensorType], inferred: Sequence[TensorType]
) -> None:
    """Raises QirError where a line says other types than those that the op infers."""
    if len(inferred) != len(types):
        raise op.error(f"expected {counted(len(inferred), 'result')}, got {len(types)}")
    for name, written, right in zip(line.results, types, inferred, strict=True):
        if written != right:
            raise op.error(f"expected %{name} to be {right}, got {written}")


def _once(pairs: Iterable[tuple[str, Any]], subject: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise QirError(f"{subject} '{name}' stands twice")
        found[name] = value
    return found


def _unnamed(value: Any, spec: Field[Any], name: str) -> Any:
    """Returns what a word stands for in a field whose values have names."""
    names: Mapping[str, Any] = spec.metadata.get("names", {})
    if not names or not isinstance(value, str):
        return value
    if value not in names:
        raise QirError(
            f"code: expected {name} called {', '.join(names)}, or numbers, got '{value}'"
            f"{did_you_mean(value, names)}"
        )
    return names[value]


class _Spread:
    """Gives numbers that are written flat the place that `axis` or `blocks` says."""

    def __init__(
        self, shape: Shape, axis: int | None, blocks: tuple[int | str, ...] | None
    ) -> None:
        self.shape = shape
        if axis is not None and not 0 <= axis < len(shape):
            raise QirError(f"code: expected an axis below {len(shape)}, got {axis}")
        self.axis = axis
        self.counts: tuple[int, ...] | None = None
        if blocks is not None:
            if len(blocks) != len(shape):
                raise QirError(
                    f"code: expected {counted(len(shape), 'block size')}, got {len(blocks)}"
                )
            self.counts = tuple(map(_block_count, shape, blocks))

    def __call__(self, numbers: Array, what: str) -> Array:
        if numbers.ndim == 0:
            return numbers
        if self.counts is not None:
            if numbers.size != int(np.prod(self.counts)):
                raise QirError(
                    f"code: expected {counted(int(np.prod(self.counts)), 'number')} in {what}, "
                    f"got {numbers.size}"
                )
            return numbers.reshape(self.counts)
        if self.axis is None:
            raise QirError(f"code: expected an axis for the {numbers.size} numbers in {what}")
        size = self.shape[self.axis]
        if numbers.size not in (1, size):
            raise QirError(
                f"code: expected {counted(size, 'number')} in {what} for axis {self.axis}, "
                f"got {numbers.size}"
            )
        return numbers.reshape(
            [-1 if place == self.axis else 1 for place in range(len(self.shape))]
        )


def _block_count(size: Size, block: int | str) -> int:
    if str(size) == str(block):
        return 1
    if isinstance(size, Dim) or isinstance(block, str) or block < 1 or size % block:
        raise QirError(f"code: expected a block size that divides {size}, got {block}")
    return size // block


class _Line:
    """Adds the line of the text to an error that arises while it is read."""

    def __init__(self, lines: tuple[str, ...], line: int) -> None:
        self.lines, self.line = lines, line

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, QirError) and not isinstance(error, ParseError):
            raise ParseError(
                error.message, [*error.places, *show_line(self.lines, self.line)]
            ) from error


def _with_facts(value: Value, syntax: TypeSyntax) -> Value:
    if syntax.observed is not None:
        value.observed = Interval.of(*syntax.observed)
    if syntax.range is not None:
        value.range = Interval.of(*syntax.range)
    value.origins = {value.name: None} if syntax.origin is None else dict(syntax.origin)
    return value


def _numbers(literal: Any, type: TensorType) -> Array:
    """Returns what is written in a line as an array of a type; one number fills all of it."""
    shape = type.known_shape
    misfit = QirError(f"const: expected numbers of {type}, got {format_attribute(literal)}")
    try:
        wide = np.asarray(literal)
        if type.dtype is DType.BOOL:
            words = {"true": True, "false": False}
            wide = np.asarray(np.vectorize(words.__getitem__, otypes=[bool])(wide))
        with np.errstate(over="ignore", invalid="ignore"):
            narrow = wide.astype(type.dtype.numpy)
        filled = np.broadcast_to(narrow, shape) if narrow.ndim == 0 else narrow.reshape(shape)
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise misfit from error
    whole = wide.dtype.kind in "iub" or wide.size == 0
    exact = not type.dtype.is_integer or (whole and np.array_equal(narrow, wide))
    if not exact or not _inside(filled, type):
        raise misfit
    return np.array(filled)


def _inside(array: Array, type: TensorType) -> bool:
    if not type.dtype.is_integer or not array.size:
        return True
    low, high = type.dtype.bounds if type.quant is None else type.quant.range
    return bool(array.min() >= low and array.max() <= high)
