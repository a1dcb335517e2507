"""Graphs to text: deterministic, one line a node, and the same text that the parser reads."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.ir.held import HeldArrays
from qir.ir.names import Namespace
from qir.numbers.interval import Interval
from qir.ops.core import Const
from qir.ops.rules import Accumulate, ExactSum, SameCode
from qir.text.packing import compact_form
from qir.text.syntax import VERSION, Reference
from qir.types import (
    Affine,
    Array,
    Code,
    DType,
    FrozenArray,
    TensorType,
    format_number,
    format_numbers,
    format_shape,
    written_fields,
)

INLINE_LIMIT = 8
"""Arrays of at most this many numbers are printed where they are used; larger ones get a name."""

_BARE = re.compile(r"[A-Za-z_][\w\-]*")


@dataclass(frozen=True)
class Program:
    """A printed graph.

    Attributes:
        text: The text.
        arrays: The arrays that the text refers to, each content once and named after the first
            value that has it: constants and the larger scales and tables.
    """

    text: str
    arrays: dict[str, Array]


def to_text(graph: Graph, *, locations: bool = False) -> str:
    """Prints a graph for people: no header and no digests of its arrays.

    Args:
        graph: The graph.
        locations: Whether to show locations, origins and notes.
    """
    return _Printer(locations).graph(graph)


def to_program(graph: Graph) -> Program:
    """Prints a graph with everything that reading it back needs."""
    printer = _Printer(locations=True)
    text = printer.graph(graph)
    lines = [
        f"  @{name} : {dtype.value}{format_shape(frozen.array.shape)}{printer.form(dtype, frozen)} "
        f'"{frozen.digest}"'
        for name, (dtype, frozen) in printer.arrays.items()
    ]
    data = "\n".join(["data {", *lines, "}"]) + "\n" if lines else ""
    return Program(
        f"qir {VERSION}\n{text}\n{data}",
        {name: frozen.array for name, (_, frozen) in printer.arrays.items()},
    )


def format_attribute(value: Any) -> str:
    """Spells the value of an attribute or option as the parsers read it."""
    match value:
        case FrozenArray():
            return format_numbers(value.array)
        case Reference():
            return str(value)
        case DType():
            return value.value
        case None:
            return "none"
        case str():
            return (
                value
                if _BARE.fullmatch(value) and value not in ("inf", "nan")
                else json.dumps(value)
            )
        case tuple() | list():
            return "[" + ", ".join(map(format_attribute, value)) + "]"
        case _:
            return format_number(value)


def _all_alike(numbers: Array) -> bool:
    """Whether all numbers of a flat array have the same bits."""
    bits = numbers.view(np.uint8).reshape(numbers.size, -1)
    return np.array_equal(bits[0], bits[-1]) and bool(np.all(bits == bits[0]))


def _reads_back(numbers: Array) -> bool:
    """Whether the text of numbers has all of their bits: NaNs print alike, whatever theirs are."""
    if not DType.of(numbers.dtype).is_float:
        return True
    common = np.where(np.isnan(numbers), np.asarray(np.nan, numbers.dtype), numbers)
    return common.tobytes() == numbers.tobytes()


class _Printer:
    def __init__(self, locations: bool) -> None:
        self.locations = locations
        self.arrays: Namespace[tuple[DType, FrozenArray]] = Namespace()
        self.stored = HeldArrays()
        self.array_names: dict[tuple[DType, FrozenArray], str] = {}
        self.constants: set[tuple[DType, FrozenArray]] = set()
        self.products: dict[Value, tuple[str, ...]] = {}
        self.printed: set[Value] = set()
        self.with_origins: dict[Graph, bool] = {}

    def graph(self, graph: Graph) -> str:
        return f"graph @{graph.name}({self.params(graph)}) " + self.body(graph, "")

    def params(self, graph: Graph) -> str:
        self.printed.update(graph.inputs)
        return ", ".join(f"%{value.name}: {self.typed(value)}" for value in graph.inputs)

    def body(self, graph: Graph, indent: str) -> str:
        lines = [indent + "  " + self.node(node, indent + "  ") for node in graph.nodes]
        return "\n".join(["{", *lines, indent + "}"])

    def node(self, node: Node, indent: str) -> str:
        self.printed.update(node.outputs)
        operands = ", ".join(f"%{value.name}" for value in node.inputs)
        if not node.outputs:
            return f"{node.op.name} {operands}".rstrip()
        results = ", ".join(f"%{value.name}" for value in node.outputs)
        call = (
            self.const(node.op, node.outputs[0].name)
            if isinstance(node.op, Const)
            else f"{node.op.name}({operands})"
        )
        if not isinstance(node.op, Const):
            base = node.outputs[0].name
            attributes = [
                f"{name} = {self.attribute(value, f'{base}.{name}')}"
                for name, value in node.op.attributes().items()
            ]
            call += " {" + ", ".join(attributes) + "}" if attributes else ""
        for region in node.regions:
            call += f" with ({self.params(region)}) {self.body(region, indent)}"
        types = ", ".join(self.typed(value) for value in node.outputs)
        facts = (("loc", node.loc), ("why", node.note)) if self.locations else ()
        tail = "".join(f" {word}({json.dumps(fact)})" for word, fact in facts if fact)
        return f"{results} = {call} : {types}{tail}"

    def const(self, op: Const, name: str) -> str:
        array = op.array.array
        flat = array.reshape(-1)
        if flat.size > 1 and _all_alike(flat) and _reads_back(flat[:1]):
            return f"const {format_number(flat[0])}"
        if 0 < flat.size <= INLINE_LIMIT and _reads_back(flat):
            return f"const {format_numbers(array)}"
        stored = self.stored.find(op.type.dtype, op.array)
        reference = self.reference(stored.array, name, op.type.dtype)
        if stored.is_transposed:
            return f"const {reference} {{permutation = [1, 0]}}"
        return "const" if reference == f"@{name}" else f"const {reference}"

    def reference(self, array: FrozenArray, name: str, dtype: DType | None = None) -> str:
        """Refers to an array beside the text, which is named where it is first referred to."""
        entry = dtype or DType.of(array.array.dtype), array
        if dtype is not None:
            self.constants.add(entry)
        if entry not in self.array_names:
            self.array_names[entry] = self.arrays.add(name, entry)
        return f"@{self.array_names[entry]}"

    def form(self, dtype: DType, array: FrozenArray) -> str:
        """Says in which form an array takes fewer bytes; constants of floats have no form."""
        plain = dtype.is_float and (dtype, array) in self.constants
        form = "" if plain else compact_form(array.array)
        return f" as {form}" if form else ""

    def attribute(self, value: Any, name: str) -> str:
        if isinstance(value, FrozenArray) and (
            value.array.ndim > 1 or value.array.size > INLINE_LIMIT
        ):
            return self.reference(value, name)
        return format_attribute(value)

    def typed(self, value: Value) -> str:
        text = self.type(value.type, value)
        if value.observed is not None:
            text += f" seen {_format_range(value.observed)}"
        if value.range is not None and value.range != value.observed:
            text += f" in {_format_range(value.range)}"
        return text + self.origin(value) if self.locations else text

    def origin(self, value: Value) -> str:
        """Names what a value stands for, where that is not the imported value of its own name.

        In a graph of which no value has an origin each stands for itself. A constant has no
        statistics, which the origin is for.
        """
        origin = [
            json.dumps(name) + ("" if order is None else f" {list(order)}")
            for name, order in value.origins.items()
        ]
        if value.origins == {value.name: None}:
            return ""
        if not origin and (value.is_constant or not self.has_origins(value.owner)):
            return ""
        return f" of {origin[0]}" if len(origin) == 1 else f" of [{', '.join(origin)}]"

    def has_origins(self, graph: Graph) -> bool:
        if graph not in self.with_origins:
            self.with_origins[graph] = any(value.origin for value in graph.values())
        return self.with_origins[graph]

    def type(self, type: TensorType, value: Value) -> str:
        text = f"{type.dtype.value}{format_shape(type.shape)}"
        code = type.quant
        if code is None:
            return text
        shown = [] if code.kind == Affine.kind else [f"kind={code.kind}"]
        shown += self.scale(code, value)
        for name, spec, held in written_fields(code):
            named = f"{value.name}.{name}"
            if spec.metadata.get("spread") and isinstance(held, FrozenArray):
                shown.append(f"{name}={self.factors(held.array, named, code)}")
            elif isinstance(held, FrozenArray) and held.array.size <= INLINE_LIMIT:
                shown.append(f"{name}={format_numbers(held.array)}")
            else:
                shown.append(f"{name}={self.attribute(held, named)}")
        if code.expressed is not DType.F32:
            shown.append(f"as={code.expressed.value}")
        return text + "{" + ", ".join(shown) + "}"

    def scale(self, code: Code, value: Value) -> list[str]:
        one, factors = not code.scale.shape, code.scale.factors
        parts = [list(factor.shape) for factor in factors]
        along = [] if one else [f"axis={code.axis}"]
        along = along if len(factors) == 1 else [f"parts={format_attribute(parts)}"]
        if code.storage.bits >= 32 and (product := self.product(code, value)):
            self.products[value] = product
            return ["scale=" + "*".join(f"%{name}" for name in product), *along]
        if len(factors) > 1:
            flat = (factor.array.reshape(-1) for factor in factors)
            return ["scale=" + "*".join(self.numbers(each, value) for each in flat), *along]
        spelled = "scale=" + self.factors(code.scale.array, f"{value.name}.scale", code)
        if one:
            return [spelled]
        if self.per_channel(code, value.type):
            return [spelled, *along]
        blocks = [
            size // count if isinstance(size, int) else str(size)
            for size, count in zip(value.type.shape, code.scale.shape, strict=True)
        ]
        return [spelled, f"blocks={format_attribute(blocks)}"]

    def per_channel(self, code: Code, type: TensorType) -> bool:
        return code.axis is not None and code.scale.shape[code.axis] == type.shape[code.axis]

    def numbers(self, flat: Array, value: Value) -> str:
        """Spells a factor of a value's scale."""
        if flat.size <= INLINE_LIMIT:
            return format_numbers(flat)
        return self.reference(FrozenArray.by_reference(flat), f"{value.name}.scale")

    def factors(self, array: Array, name: str, code: Code) -> str:
        if array.ndim == 0:
            return format_number(array[()])
        flat = array.reshape(-1) if code.axis is not None else array
        if flat.ndim == 1 and flat.size <= INLINE_LIMIT:
            return format_numbers(flat)
        return self.reference(FrozenArray.by_reference(flat), name)

    def product(self, code: Code, value: Value) -> tuple[str, ...]:
        """Names the values whose scales multiply to this one's: an accumulator's code is theirs."""
        if code.scale.shape and code.axis is None and len(code.scale.factors) == 1:
            return ()
        node = value.node
        if (
            node is not None
            and isinstance(node.op.quant, SameCode)
            and node.inputs
            and node.inputs[0] in self.products
        ):
            names = self.products[node.inputs[0]]
            source = node.inputs[0].type.quant
            return names if source is not None and _alike(source.scale, code.scale) else ()
        consumers = [node] if node is not None else []
        consumers += [
            user
            for user, index in value.uses
            if isinstance(user.op.quant, Accumulate) and index == user.op.quant.bias
        ]
        for consumer in consumers:
            rule = consumer.op.quant
            factors = consumer.inputs
            if isinstance(rule, Accumulate):
                factors = factors[rule.left], factors[rule.right]
            elif not isinstance(rule, ExactSum) or len(factors) != 2:
                continue
            if self.printed.issuperset(factors) and _is_product(code, factors):
                return tuple(factor.name for factor in factors)
        return ()


def _alike(one: FrozenArray, other: FrozenArray) -> bool:
    """Whether the factors of two scales have the same numbers in the same order."""
    pairs = zip(one.factors, other.factors, strict=False)
    return len(one.factors) == len(other.factors) and all(
        np.array_equal(a.array.reshape(-1), b.array.reshape(-1)) for a, b in pairs
    )


def _is_product(code: Code, factors: Sequence[Value]) -> bool:
    if any(factor.type.quant is None for factor in factors):
        return False
    flat = [flat_scale(factor.type, factor.name) for factor in factors]
    kept = code.scale.factors
    wanted = flat if len(kept) > 1 else [product_of(flat)]
    return len(kept) == len(wanted) and all(
        np.array_equal(numbers, factor.array.reshape(-1))
        for numbers, factor in zip(wanted, kept, strict=True)
    )


def flat_scale(type: TensorType, name: str) -> Array:
    """Returns the scales of a value as a flat float64 array.

    Args:
        type: Its type.
        name: Its name, for the message.

    Raises:
        QirError: It has no code.
    """
    if type.quant is None:
        raise QirError(f"code: expected %{name} to have a scale, got {type}")
    return type.quant.scale.array.astype(np.float64).reshape(-1)


def product_of(factors: Sequence[Array]) -> Array:
    """Multiplies flat scales of which at most one varies."""
    return np.asarray(reduce(np.multiply, factors, np.ones(1)))


def _format_range(interval: Interval) -> str:
    low, high = (format_number(np.float32(bound)) for bound in interval.bounds)
    return f"[{low}, {high}]"


def line_of(node: Node) -> str:
    """Returns the line of text that a node prints as."""
    printer = _Printer(locations=False)
    printer.printed.update(node.inputs)
    return printer.node(node, "").split("\n")[0]
