"""unroll-loops: a scan whose trips have weights of their own, as stacked layers, becomes these."""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from functools import partial
from itertools import chain, count

from qir.errors import QirError, counted
from qir.ir import Builder, Graph, Node, Value
from qir.ir.cloner import clone, copy_node
from qir.ir.names import Inheritance
from qir.ir.passages import Passing, passing
from qir.ir.weight_names import layer_of
from qir.ops import Cast, Concat, Const, Dequantize, Dot, Gather, Reshape, Return, Scan, Slice
from qir.ops.op import Op
from qir.ops.rules import Accumulate
from qir.ops.traits import Moves
from qir.passes.shared.constant_folding import constant_folding
from qir.passes.shared.identities import kernel_second
from qir.passes.shared.inlining import inline
from qir.pipeline import Context, Pass, register
from qir.pipeline.rewrite import rewrite, rule
from qir.types import known


@register
class UnrollLoops(Pass):
    """Writes out the trips of a scan where that is shorter, or gives each trip constant weights.

    A loop over layers reads a place of stacked weights in each trip, which are one constant with
    one code. Unrolled, each layer has its own: its weights are packed and its scales folded before
    the program runs, and its activations have a range of their own. A loop over time steps, whose
    trips read the same weights, stays one: its body is compiled once. What is unrolled is never
    rolled again. The diagnostics tell of each scan what became of it, and why.

    Attributes:
        limit: How many ops all trips of a loop may have together. The default lets the deepest
            stacks through that are trained, a hundred layers of forty ops; XLA takes about 5 ms to
            compile an op.
    """

    limit: int = 4096

    name = "unroll-loops"
    whole_program = True

    def check(self) -> None:
        if self.limit < 0:
            raise QirError(f"unroll-loops: limit: expected at least 0, got {self.limit}")

    def run(self, graph: Graph, context: Context) -> None:
        # Outer ones first: an inner loop over layers has its weights when the outer one has.
        pending = _scans(graph.nodes)
        names: dict[Graph, Inheritance] = {}
        while pending:
            node = pending.pop(0)
            unrolls, why = self._decide(node)
            # Imported programs get their names later, but have places.
            place = node.loc or f"%{node.outputs[0].name}"
            sentence = f"unroll-loops: the loop at {place} {why}"
            if sentence not in (*graph.diagnostics, *context.diagnostics):
                context.diagnostics.append(sentence)
            around = node.graph
            names.setdefault(around, Inheritance(around))
            inner = _unroll(node, _names(graph)) if unrolls else list(node.regions[0].nodes)
            if unrolls:
                rewrite(around, [move_constant, kernel_second, constant_folding(0)], nested=False)
                names[around].settle()
            # What nothing reads went when constants were folded.
            pending = [scan for scan in (*_scans(inner), *pending) if not scan.erased]

    def _decide(self, node: Node) -> tuple[bool, str]:
        """Returns whether to unroll a scan, and what to tell of it."""
        assert isinstance(node.op, Scan)
        trips = node.op.trip_count([value.type for value in node.inputs])
        (body,) = node.regions
        if not isinstance(trips, int):
            return False, f"stays one: it has {trips} trips, which the program does not know"
        if trips == 0:
            return False, "is left to canonicalize: it has no trips"
        ops = sum(not isinstance(inner.op, Const | Return) for inner in body.walk())
        if trips * ops <= ops:
            return True, f"is unrolled: it has {counted(trips, 'trip')}"
        weights = _own_weights(node)
        if weights is None:
            return False, f"stays one: its {trips} trips read the same weights"
        if trips * ops > self.limit:
            return False, (
                f"stays one, though each trip has its own part of %{weights.name}: {trips} trips "
                f"of {counted(ops, 'op')} are more than the limit of {self.limit}"
            )
        return True, (f"is unrolled: each of its {trips} trips has its own part of %{weights.name}")


@rule()
def move_constant(y: Value, b: Builder) -> Value | None:
    """Gives a constant whose numbers stand in another order the name of the one that it is."""
    match y:
        case Value(Op(moves=Moves.ORDER) as op, (x,)) if x.is_constant and x.type.quant is None:
            moved = b.const(op.evaluate(x.array), x.name, x.type.element)
            moved.origins = dict.fromkeys(x.origin)
            return moved
        case _:
            return None


def _scans(nodes: Iterable[Node]) -> list[Node]:
    """Lists the scans among some nodes, and those that other loops and branches among them run."""
    found = []
    for node in nodes:
        if isinstance(node.op, Scan):
            found.append(node)
        else:
            for region in node.regions:
                found += _scans(region.nodes)
    return found


def _own_weights(node: Node) -> Value | None:
    """Returns a constant of which each trip multiplies by another part; None where there is none.

    It is stacked, or the trips read a place of it that is computed.
    """
    for way in passing(node):
        weights = way.operand if way.passage.kind == "stacked" else None
        if weights is not None and weights.is_constant and any(map(_is_multiplied, way.inputs)):
            return weights
    for inner in node.regions[0].nodes:
        match inner:
            case Node(op=Gather(), inputs=(weights, at)) if weights.is_constant:
                if not at.is_constant and _is_multiplied(inner.output):
                    return weights
            case _:
                continue
    return None


def _is_multiplied(value: Value) -> bool:
    """Whether a product or convolution has a value, moved or cast, as its weights.

    Those of a dot may stand first: once they are constant, `kernel_second` puts them second.
    """
    for user, place in value.uses:
        rule = user.op.quant
        if isinstance(rule, Accumulate) and place == rule.right:
            return True
        if isinstance(user.op, Dot) and place == 0:
            return True
        moves = user.op.moves.by_place or isinstance(user.op, Cast | Dequantize)
        if place == 0 and moves and any(map(_is_multiplied, user.outputs)):
            return True
        for way in passing(user):
            if way.passage.operand == place and any(map(_is_multiplied, way.inputs)):
                return True
    return False


def _names(graph: Graph) -> set[str]:
    """Returns what values of a program are called, and what the imported ones were."""
    return {name for value in graph.values_inside() for name in (value.name, *value.origin)}


def _unroll(node: Node, taken: Set[str]) -> list[Node]:
    """Puts the trips of a scan in its place, and returns their nodes.

    Args:
        node: The scan.
        taken: Names that no trip may have: what is known of a value goes by the name that it was
            imported with.
    """
    assert isinstance(node.op, Scan)
    (body,) = node.regions
    builder = node.graph.before(node)
    ways = passing(node)
    trips = range(_trips(node))
    body, constants = _without_constants(body, builder)
    carried = [way.operand for way in ways if way.passage.kind == "carried"]
    parts: list[list[Value]] = []
    for trip in reversed(trips) if node.op.reverse else trips:
        state = iter(carried)
        given = [
            next(state)
            if way.passage.kind == "carried"
            else _place(way, trip, builder, taken)
            if way.passage.kind == "stacked"
            else way.operand
            for way in ways
            if way.operand is not None
        ]
        inputs = [value for value in given if value is not None]
        name = partial(_of_trip, taken, trip) if len(trips) > 1 else None
        returned = inline(body, [*inputs, *constants], builder, name)
        carried = list(returned[: len(carried)])
        parts.append(returned[len(carried) :])
    if node.op.reverse:
        parts.reverse()
    results = [way for way in ways if way.result is not None]
    stacks = [
        _stack(way, column, builder)
        for way, column in zip(results[len(carried) :], zip(*parts, strict=True), strict=True)
    ]
    for way, new in zip(results, [*carried, *stacks], strict=True):
        assert way.result is not None
        assert new is not None
        way.result.replace_with(new)
    node.graph.erase(node)
    return builder.emitted


def _trips(node: Node) -> int:
    assert isinstance(node.op, Scan)
    return known(node.op.trip_count([value.type for value in node.inputs]), "unroll-loops")


def _of_trip(taken: Set[str], trip: int, name: str) -> str:
    return _free(f"{name}.{trip}", taken)


def _free(name: str, taken: Set[str]) -> str:
    """Returns a name, with a number behind it where it is taken."""
    others = (f"{name}_{number}" for number in count(1))
    return next(other for other in chain([name], others) if other not in taken)


def _without_constants(body: Graph, builder: Builder) -> tuple[Graph, list[Value]]:
    """Puts the constants of a body around it, so that all trips read one.

    Returns:
        A copy of the body that takes them behind its own inputs, and the constants outside.
    """
    inner = [node for node in body.nodes if isinstance(node.op, Const)]
    others = {node for node in body.nodes if not isinstance(node.op, Const)}
    outside = [
        copy_node(node, builder.graph, [], names=[node.output.name], before=builder.anchor).output
        for node in inner
    ]
    inputs = [*body.inputs, *(node.output for node in inner)]
    return clone(body, inputs=inputs, nodes=others), outside


def _place(way: Passing, trip: int, builder: Builder, taken: Set[str]) -> Value:
    """Returns one place of what is stacked: of constants a constant, named after their layer."""
    whole, (inner,) = way.operand, way.inputs
    assert whole is not None
    if whole.is_constant:
        name = _part_name(taken, whole.name, trip)
        part = builder.const(whole.array[trip], name, inner.type.element)
        part.origin = [_part_name(taken, origin, trip) for origin in whole.origin]
        return part
    cut = builder.emit(Slice((0,), (trip,), (trip + 1,)), whole)
    return builder.emit(Reshape(inner.type.shape), cut, name=_of_trip(taken, trip, inner.name))


def _part_name(taken: Set[str], name: str, trip: int) -> str:
    layer = layer_of(name)
    if layer is None or name.rpartition(".")[2].isdigit():
        return _of_trip(taken, trip, name)
    head = name[: name.index(layer) + len(layer)]
    return _free(f"{head}.{trip}{name[len(head) :]}", taken)


def _stack(way: Passing, parts: Sequence[Value], builder: Builder) -> Value:
    """Returns what the trips give, along an axis 0."""
    assert way.result is not None
    rows = [builder.emit(Reshape((1, *part.type.shape)), part) for part in parts]
    name = way.result.name
    return rows[0] if len(rows) == 1 else builder.emit(Concat(0), *rows, name=name)
