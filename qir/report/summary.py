"""What a program costs: parameters, bytes, multiply-accumulates by width, and activation memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Hashable, Iterable, Mapping
from dataclasses import dataclass, fields

from qir.ir import Graph, Node, Value, expect_graph
from qir.ir.held import HeldArrays
from qir.ir.passages import passing
from qir.ir.places import placed_name, regions_placed
from qir.ir.signature import check_sizes
from qir.ops import Cond, Dequantize, Dot, Embedding
from qir.ops.core import Const, Return
from qir.ops.regions import RegionOp
from qir.report.tables import table
from qir.text import packing
from qir.text.printer import INLINE_LIMIT
from qir.types import Array, Dim, DType, FrozenArray, Size, TensorType


@dataclass(frozen=True)
class OpSummary:
    """The costs of one op.

    Attributes:
        op: Name of the op.
        value: Name of its first result; behind that of the loop or branch that it stands in.
        type: Type of its first result.
        parameters: Elements of its constant operands.
        parameter_bytes: Their size, packed.
        output_bytes: Size of its results, packed.
        multiply_adds: Multiply-accumulates, of all trips of the loops that it stands in.
        width: Types of the two factors, such as `i8*i8`; empty where nothing is multiplied and
            summed.
        trips: How often it is computed.
    """

    op: str
    value: str
    type: str
    parameters: int
    parameter_bytes: int
    output_bytes: int
    multiply_adds: int
    width: str
    trips: int = 1


@dataclass(frozen=True, repr=False)
class Summary:
    """The costs of a program, printable as a table.

    Attributes:
        name: Name of the program.
        ops: One entry an op, in order.
        parameters: Elements of all constants. One that several ops read counts once, and so do
            equal matrices and those that are each other's transposes, as a file holds them.
        parameter_bytes: Their size, packed, and that of the scales of their codes and what else of
            these is an array in a file.
        multiply_adds: Multiply-accumulates by the types of the factors. Of branches those count
            that have the most.
        peak_bytes: Greatest size of the activations that are alive at once, in the order of the
            program: each from the op that computes it to its last reader. Matrices of coded
            weights of which a product or an embedding decodes a part at a time are none.
        peak_at: Name of the value that is computed at that moment.
        endless: Names of the loops whose trips only a run tells: they are counted as one.
    """

    name: str
    ops: tuple[OpSummary, ...]
    parameters: int
    parameter_bytes: int
    multiply_adds: Mapping[str, int]
    peak_bytes: int
    peak_at: str
    endless: tuple[str, ...] = ()

    def __str__(self) -> str:
        header = ("op", "value", "type", "parameters", "bytes", "output bytes", "MACs", "width")
        looping = any(line.trips != 1 for line in self.ops)
        rows: list[tuple[str, ...]] = [(*header, "trips") if looping else header]
        for line in self.ops:
            parameters, size = (
                f"{number:,}" if line.parameters else ""
                for number in (line.parameters, line.parameter_bytes)
            )
            macs = f"{line.multiply_adds:,}" if line.width else ""
            output = f"{line.output_bytes:,}"
            value = f"%{line.value}"
            row = line.op, value, line.type, parameters, size, output, macs, line.width
            rows.append((*row, f"{line.trips:,}") if looping else row)
        total = (
            ", ".join(f"{count:,} {width}" for width, count in self.multiply_adds.items()) or "none"
        )
        return "\n".join(
            [
                *table(rows, right=(3, 4, 5, 6, 8) if looping else range(3, 7)),
                f"parameters: {self.parameters:,} in {self.parameter_bytes:,} bytes",
                f"multiply-accumulates: {total}",
                f"peak activation memory: {self.peak_bytes:,} bytes, at %{self.peak_at}",
                *(
                    f"loop %{name}: only a run tells how many trips; counted as one"
                    for name in self.endless
                ),
            ]
        )

    def __repr__(self) -> str:
        """Returns the table: it is what a notebook shows of the last expression of a cell."""
        return str(self)


def summary(graph: Graph, sizes: Mapping[str, int] | None = None) -> Summary:
    """Estimates what a program costs, from its types alone.

    Args:
        graph: The program.
        sizes: Sizes of named dimensions; 1 where left out.

    Raises:
        QirError: No input has a dimension of a name in `sizes`, or a size is negative.
    """
    expect_graph(graph, "summary")
    known = dict(sizes or {})
    check_sizes(graph.inputs, known)
    ops, macs, endless = _lines(graph, known, "", 1)
    stored = HeldArrays()
    constants = {
        _held(node.op, stored): node.op for node in graph.walk() if isinstance(node.op, Const)
    }
    peak, at = _peak(graph, known)
    return Summary(
        graph.name,
        tuple(ops),
        sum(count(op.type.size, known) for op in constants.values()),
        sum(_constant_bytes(op.type, op.array.array) for op in constants.values())
        + _code_bytes(value.type for node in graph.walk() for value in node.outputs),
        dict(macs),
        peak,
        at,
        tuple(endless),
    )


def _lines(
    graph: Graph, sizes: Mapping[str, int], around: str, trips: int
) -> tuple[list[OpSummary], Counter[str], list[str]]:
    """Returns the costs of ops, their sums of products by width, and loops of unknown trips.

    Args:
        graph: A program or region.
        sizes: Sizes of named dimensions.
        around: What stands around it, for names.
        trips: How often it is computed.
    """
    lines: list[OpSummary] = []
    macs, endless = Counter[str](), list[str]()
    for node in graph.nodes:
        if isinstance(node.op, Const | Return) or not node.outputs:
            continue
        name = placed_name(node.outputs[0], around)
        line = _op_summary(node, sizes, name, trips)
        lines.append(line)
        if line.width:
            macs[line.width] += line.multiply_adds
        if isinstance(node.op, RegionOp) and node.op.conditions:
            endless.append(name)
        inner = trips * _trips(node, sizes)
        parts = [
            _lines(region, sizes, place, inner) for region, place in regions_placed(node, around)
        ]
        for inside, _, loops in parts:
            lines += inside
            endless += loops
        runs = [products for _, products, _ in parts]
        if isinstance(node.op, Cond):
            runs = [max(runs, key=Counter.total)]
        for products in runs:
            macs += products
    return lines, macs, endless


def _trips(node: Node, sizes: Mapping[str, int]) -> int:
    """Returns how often the regions of a node run; 1 where only a run tells."""
    op = node.op
    found = op.trip_count([x.type for x in node.inputs]) if isinstance(op, RegionOp) else None
    return 1 if found is None else count(found, sizes)


def multiply_adds(node: Node, sizes: Mapping[str, int]) -> int:
    """Returns the multiply-accumulates of an op, of all trips of its regions too.

    Args:
        node: The op; of branches the one with the most counts.
        sizes: Sizes of named dimensions; 1 where left out.
    """
    if not node.outputs:
        return 0
    types = [value.type for value in node.inputs]
    own = count(node.op.multiply_adds(types, node.outputs[0].type), sizes)
    inside = [sum(multiply_adds(each, sizes) for each in part.nodes) for part in node.regions]
    if isinstance(node.op, Cond):
        inside = [max(inside)]
    return own + _trips(node, sizes) * sum(inside)


def count(size: Size, sizes: Mapping[str, int]) -> int:
    """Returns a size as an integer, with 1 for names that have none."""
    if not isinstance(size, Dim):
        return size
    total = size.factor
    for name in size.names:
        total *= sizes.get(name, 1)
    return total


def packed_bytes(type: TensorType, sizes: Mapping[str, int]) -> int:
    """Returns the bytes of a tensor, elements of less than 8 bits packed."""
    return -(-count(type.size, sizes) * type.dtype.bits // 8)


def _constant_bytes(type: TensorType, array: Array) -> int:
    """Returns the bytes of a constant in the form that files hold it in."""
    form = "" if type.dtype.is_float else packing.compact_form(array)
    return packing.packed_bytes(type.dtype, array.shape, form) if form else packed_bytes(type, {})


def _code_bytes(types: Iterable[TensorType]) -> int:
    """Returns the bytes of the arrays in codes that files hold beside the text, each content once.

    Those of accumulators follow from their operands.
    """
    arrays = {}
    for type in types:
        code = type.quant
        if code is None or code.storage.bits > 16:
            continue
        for spec in fields(code):
            value = getattr(code, spec.name)
            if not isinstance(value, FrozenArray) or value.array.size <= INLINE_LIMIT:
                continue
            if value not in spec.metadata.get("names", {}).values():
                dtype, form = DType.of(value.array.dtype), packing.compact_form(value.array)
                arrays[value.digest] = packing.packed_bytes(dtype, value.array.shape, form)
    return sum(arrays.values())


def _held(op: Const, stored: HeldArrays) -> Hashable:
    """Returns what is the same of constants that count once.

    Biases that are still all zero are parameters of their own; matrices that are equal are tied.
    """
    if op.type.rank < 2:
        return id(op.array), op.type
    return stored.find(op.type.dtype, op.array)[:2]


def _op_summary(node: Node, sizes: Mapping[str, int], name: str, trips: int) -> OpSummary:
    constants = {value for value in node.inputs if value.is_constant}
    output = node.outputs[0]
    types = [value.type for value in node.inputs]
    macs = node.op.multiply_adds(types, output.type)
    return OpSummary(
        node.op.name,
        name,
        str(output.type.with_element(output.type.dtype)),
        sum(count(value.type.size, sizes) for value in constants),
        sum(_constant_bytes(value.type, value.array) for value in constants),
        sum(packed_bytes(value.type, sizes) for value in node.outputs),
        trips * count(macs, sizes),
        "*".join(type.dtype.value for type in types[:2]) if macs else "",
        trips,
    )


def _peak(
    graph: Graph, sizes: Mapping[str, int], around: str = "", held: Container[Value] = ()
) -> tuple[int, str]:
    """Returns the greatest size of what is alive at once, and what is computed then.

    Args:
        graph: A program or region.
        sizes: Sizes of named dimensions.
        around: What stands around it, for names.
        held: Inputs that are alive outside.
    """
    left = {
        value: len(value.uses)
        for value in graph.values()
        if not value.is_constant and not _is_decoded_weight(value)
    }
    alive = {value for value in graph.inputs if left[value] and value not in held}
    for value in graph.inputs:
        if value in held:
            del left[value]
    total = sum(packed_bytes(value.type, sizes) for value in alive)
    peak, at = total, graph.inputs[0].name if graph.inputs else ""
    for node in graph.nodes:
        if isinstance(node.op, Const | Return):
            continue
        total += sum(packed_bytes(value.type, sizes) for value in node.outputs if value in left)
        inside, name = _peak_inside(node, sizes, around)
        if total + inside > peak:
            peak, at = total + inside, name
        for value in dict.fromkeys((*node.inputs, *node.outputs)):
            total -= _freed(value, node, left, sizes)
    return peak, at


def _peak_inside(node: Node, sizes: Mapping[str, int], around: str) -> tuple[int, str]:
    """Returns what the regions of a node hold beside what is alive around it; 0 without any."""
    peak, at = 0, placed_name(node.outputs[0], around)
    invariants = {
        value for each in passing(node) if each.passage.kind == "invariant" for value in each.inputs
    }
    for region, place in regions_placed(node, around):
        size, name = _peak(region, sizes, place, invariants)
        if size > peak:
            peak, at = size, name
    return peak, at


def _is_decoded_weight(value: Value) -> bool:
    """Whether a value is a matrix of coded weights that is decoded where it is read.

    A product decodes a tile at a time, an embedding its rows; any other op has them all.
    """
    return (
        isinstance(value.op, Dequantize)
        and value.node is not None
        and value.node.inputs[0].is_constant
        and value.type.rank == 2
        and all(
            isinstance(node.op, Embedding) or (isinstance(node.op, Dot) and index == 1)
            for node, index in value.uses
        )
    )


def _freed(value: Value, node: Node, left: dict[Value, int], sizes: Mapping[str, int]) -> int:
    if value not in left:
        return 0
    left[value] -= sum(1 for operand in node.inputs if operand is value)
    return packed_bytes(value.type, sizes) if left[value] == 0 else 0
