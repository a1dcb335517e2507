"""hoist-projections: what a loop multiplies of its stacked inputs alone, for all trips at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qir.analysis.properties import FLOAT_OPS
from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.names import Inheritance
from qir.ops import Dot, Reshape, Scan, Transpose
from qir.ops.op import Op, infer
from qir.ops.products import Products
from qir.passes.shared.identities import can_reshape_to
from qir.passes.shared.lanes import Lane, lanes_of, rebuild, resized, trip_count
from qir.pipeline import Context, Pass, register
from qir.types import Shape, Size, TensorType, product


@register
class HoistProjections(Pass):
    """Computes products of what is stacked before a scan, for all its trips at once.

    The input projection of a recurrent network, dot(x_t, W), waits for no trip before: one product
    of [T·B, features] takes its place, which is far faster than T of [B, features]. With it go the
    ops that the product reads, and elementwise ones that read it, as far as they depend on stacked
    inputs and on what does not vary. The numbers are the same.

    The results, which the loop takes stacked, are held for all trips.
    """

    name = "hoist-projections"
    requires = (FLOAT_OPS,)

    def run(self, graph: Graph, context: Context) -> None:
        names = Inheritance(graph)
        for node in list(graph.nodes):
            if isinstance(node.op, Scan):
                _hoist(node, node.op)
        names.settle()


@dataclass(frozen=True)
class _Form:
    """How an op computes all trips at once.

    Attributes:
        op: The op.
        before: For each operand the shape that it is brought to first; None where it keeps its own.
        after: The shape to which the result is brought; None where it has it.
    """

    op: Op
    before: tuple[Shape | None, ...]
    after: Shape | None = None

    def emit(self, operands: Sequence[Value], b: Builder, name: str) -> Value:
        """Emits the op on operands outside of the loop."""
        shaped = [
            x if shape is None else b.emit(Reshape(shape), x)
            for x, shape in zip(operands, self.before, strict=True)
        ]
        if self.after is None:
            return b.emit(self.op, *shaped, name=name)
        return b.emit(Reshape(self.after), b.emit(self.op, *shaped), name=name)


def _hoist(node: Node, op: Scan) -> None:
    (region,) = node.regions
    trips = trip_count(node)
    if trips is None or trips in (0, 1):
        return
    lanes = lanes_of(node)
    stacked = {value for lane in lanes if lane.kind == "stacked" for value in lane.inputs}
    fixed = {value for lane in lanes if lane.kind == "invariant" for value in lane.inputs}
    forms = _forms(region, stacked, fixed, trips)
    chosen = _chosen(region, forms)
    if not chosen:
        return
    b = node.graph.before(node)
    outside = {
        lane.inputs[0]: lane.operand for lane in lanes if lane.inputs and lane.kind != "carried"
    }
    for inner in chosen:
        operands = [_outside(value, outside, b) for value in inner.inputs]
        b.loc = inner.loc or node.loc
        outside[inner.output] = forms[inner].emit(operands, b, inner.output.name)
    b.loc = node.loc
    inside: dict[Value, Value] = {}
    for inner in chosen:
        value = inner.output
        if all(user in chosen for user in value.users):
            continue
        taken = region.add_input(value.name, value.type)
        value.replace_with(taken)
        inside[value] = taken
        lanes.append(Lane("stacked", outside[value], (taken,), (), None))
    unread = [lane for lane in lanes if lane.kind == "stacked" and _is_for(lane, chosen)]
    lanes = [lane for lane in lanes if lane not in unread]
    changed = resized(node, lanes)
    assert changed is not None, "what is hoisted is stacked"
    results = rebuild(node, changed, lanes, b, inside=inside)
    for value, taken in inside.items():
        region.name_after(taken, value.name)
    for old, new in zip(node.outputs, results, strict=True):
        old.replace_with(new)
    node.graph.erase(node)


def _is_for(lane: Lane, chosen: dict[Node, None]) -> bool:
    """Whether what a lane hands in is read by what is hoisted, and by nothing else."""
    readers = [user for value in lane.inputs for user in value.users]
    return bool(readers) and all(user in chosen for user in readers)


def _forms(region: Graph, stacked: set[Value], fixed: set[Value], trips: Size) -> dict[Node, _Form]:
    """Returns the nodes that can compute all trips at once, each with the way to do so."""
    varying, forms = set(stacked), dict[Node, _Form]()
    for node in region.nodes:
        if node.regions or len(node.outputs) != 1:
            continue
        along = [value in varying for value in node.inputs]
        known = [value in fixed or value.is_constant for value in node.inputs]
        if not any(along) or not all(a or k for a, k in zip(along, known, strict=True)):
            continue
        if (form := _form(node, along, trips)) is not None:
            forms[node] = form
            varying.add(node.output)
    return forms


def _form(node: Node, along: Sequence[bool], trips: Size) -> _Form | None:
    y = node.output.type
    types = [value.type for value in node.inputs]
    if any(type.quant is not None for type in (*types, y)):
        return None
    wanted = (trips, *y.shape)
    outside = [
        type.with_shape(trips, *type.shape) if each else type
        for type, each in zip(types, along, strict=True)
    ]
    nothing = (None,) * len(types)
    forms: list[_Form] = []
    if node.op.elementwise:
        padded = tuple(
            (trips, *(1,) * (y.rank - type.rank), *type.shape)
            if each and type.rank < y.rank
            else None
            for type, each in zip(types, along, strict=True)
        )
        forms.append(_Form(node.op, padded))
    match node.op:
        case Reshape():
            forms.append(_Form(Reshape(wanted), nothing))
        case Transpose(permutation=order):
            forms.append(_Form(Transpose((0, *(axis + 1 for axis in order))), nothing))
        case Dot(batch=0) if along[0] and not any(along[1:]):
            forms.append(_Form(node.op, nothing))
        case _:
            if (merged := _merged(node, along, trips)) is not None:
                forms.append(merged)
    return next((form for form in forms if _fits(form, outside, y.with_shape(*wanted))), None)


def _merged(node: Node, along: Sequence[bool], trips: Size) -> _Form | None:
    """Returns the form in which trips and the first axis, which the op carries, are one axis."""
    y = node.output.type
    types = [value.type for value in node.inputs]
    carried = node.op.carried(types, [y])
    first = [
        each.operand for each in carried if (each.axis, each.becomes, each.result) == (0, 0, 0)
    ]
    if sum(along) != 1 or along.index(True) not in first:
        return None
    place = along.index(True)
    shape = types[place].shape
    merged = (product((trips, shape[0])), *shape[1:])
    before = tuple(merged if index == place else None for index in range(len(types)))
    return _Form(node.op, before, (trips, *y.shape))


def _fits(form: _Form, operands: Sequence[TensorType], result: TensorType) -> bool:
    """Whether a form computes a type, and each of its reshapes can be computed."""
    shaped = [
        type if shape is None else type.with_shape(*shape)
        for type, shape in zip(operands, form.before, strict=True)
    ]
    moves = [type for type, shape in zip(shaped, form.before, strict=True) if shape is not None]
    if form.after is not None or isinstance(form.op, Reshape):
        moves.append(result)
    if not all(map(can_reshape_to, moves)):
        return False
    try:
        (found,) = infer(form.op, shaped)
    except QirError:
        return False
    if form.after is None:
        return found == result
    return found.element == result.element and found.size == result.size


def _chosen(region: Graph, forms: dict[Node, _Form]) -> dict[Node, None]:
    """Returns the products among some nodes, what they read, and elementwise ops of those."""
    products = [node for node in forms if isinstance(node.op, Products)]
    wanted = region.cone([node.output for node in products])
    chosen: dict[Node, None] = {}
    for node in forms:
        behind = node.op.elementwise and any(value.node in chosen for value in node.inputs)
        if node in wanted or behind:
            chosen[node] = None
    return chosen


def _outside(value: Value, outside: dict[Value, Value | None], b: Builder) -> Value:
    """Returns what stands outside for a value inside; builds constants anew."""
    known = outside.get(value)
    if known is None:
        known = outside[value] = b.const(value.array, value.name, value.type.element)
    return known
