"""Loops whose bodies are kernels throughout: one step that repeats the steps of the body."""

from __future__ import annotations

from collections.abc import Sequence

from qir.backends.native.assignment import write
from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.loop import LoopKernel
from qir.backends.native.partition import Cluster, partition
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns.flat import lies, variables
from qir.backends.native.patterns.movement import MovedAxis, move
from qir.backends.native.plan import Plan, named
from qir.ir import Graph, Node, Value
from qir.ops import Const, Scan


@pattern(Scan)
def scan(op: Scan, node: Node, target: InstructionSet) -> Match | str:
    """The steps of the body, trip after trip."""
    (body,) = node.regions
    needed = body.cone(body.outputs)
    nodes = [each for each in body.nodes if each in needed and not isinstance(each.op, Const)]
    found = partition(nodes, body.outputs, target)
    for part in found.parts:
        if isinstance(part, Node):
            return f"{named(part)} in its body: {found.reasons[part]}"
    if not found.parts:
        return "a body that computes nothing"
    (cluster,) = found.parts
    assert isinstance(cluster, Cluster)
    matches = cluster.matches

    def write_loop(placement: Placement) -> None:
        _write(op, node, body, matches, placement)

    return Match((node,), variables(*node.inputs), write_loop, inside=matches)


def _write(
    op: Scan, node: Node, body: Graph, matches: Sequence[Match], placement: Placement
) -> None:
    """Adds the step of a loop."""
    plan = placement.plan
    inner = Plan(len(body.inputs), len(body.outputs), 1, plan)
    views = {value: inner.operand(index) for index, value in enumerate(body.inputs)}
    # Patterns of products read what is multiplied as the caller's, though it be a constant.
    read = (value for match in matches for value in match.inputs if value.is_constant)
    views |= {value: inner.constant(value.array) for value in read}
    computed = {value for match in matches for value in match.results}
    copied: list[tuple[int, Value]] = []
    for index, value in enumerate(body.outputs):
        if value in computed and value not in views:
            views[value] = inner.result(index)
        else:
            copied.append((index, value))
    inside = Placement(inner, views, placement.sizes, placement.target)
    write(matches, inside)
    for index, value in copied:
        # What several results are, or what goes through as it is.
        axis = MovedAxis(inside.bytes(value), 1, 1)
        move(inside, value.name, [axis], 1, lies(inside, value), inner.result(index))
    invariants = len(node.inputs) - op.carries - op.stacked
    kernel = LoopKernel(
        invariants, op.carries, op.stacked, len(node.outputs) - op.carries, op.reverse
    )
    sides = {
        "invariant": node.inputs[:invariants],
        "first": node.inputs[invariants : invariants + op.carries],
        "stacked": node.inputs[invariants + op.carries :],
    }
    tensors = {
        f"{name}{index}": lies(placement, value)
        for name, values in sides.items()
        for index, value in enumerate(values)
    }
    written = {"last": node.outputs[: op.carries], "result": node.outputs[op.carries :]}
    tensors |= {
        f"{name}{index}": placement.write(value)
        for name, values in written.items()
        for index, value in enumerate(values)
    }
    sizes = {"carried": body.outputs[: op.carries], "result": body.outputs[op.carries :]}
    sizes["stacked"] = body.inputs[invariants + op.carries :]
    parameters = {
        f"{name}_bytes{index}": inside.bytes(value)
        for name, values in sizes.items()
        for index, value in enumerate(values)
    }
    for index, value in enumerate(body.outputs[: op.carries]):
        for name in ("even", "odd"):
            tensors[f"{name}{index}"] = plan.temporary(inside.bytes(value))
    tensors["constants"] = plan.all_constants()
    tensors["temporary"] = plan.temporary(inner.arena())
    trips = op.trips if op.trips is not None else placement.shape(sides["stacked"][0])[0]
    plan.nodes = (node,)
    plan.step(
        node.outputs[0].name,
        kernel,
        {**parameters, "trips": trips, "steps": len(inner.steps)},
        tensors,
        scratch=inner.scratch,
        body=inner,
    )
