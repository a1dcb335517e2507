"""Runs the matches of a program as one plan, and holds the results to the reference interpreter."""

import os
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

# Imported to register the rules.
import qir.backends.native.patterns  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.backends.cpu import call
from qir.backends.cpu.table import call_table
from qir.backends.cpu.target import LlvmInstructionSet, host_target
from qir.backends.native.assignment import write
from qir.backends.native.fusion import fused
from qir.backends.native.pattern import Match, Placement, match
from qir.backends.native.plan import Plan
from qir.backends.reference.interpreter import bind_inputs, run
from qir.ir import Graph, Node
from qir.ir.signature import Sizes
from qir.ops import Const, Return
from qir.types import Array

GUARDED = "QIR_TEST_GUARDED"


def matches_of(graph: Graph, target: LlvmInstructionSet) -> list[Match]:
    """Returns the matches of all nodes, fused as in a cluster; every one must have a kernel."""
    matched: set[Node] = set()
    found: list[Match] = []
    for node in graph.nodes:
        if node in matched or isinstance(node.op, Const | Return):
            continue
        one = match(node, target)
        assert isinstance(one, Match), f"{node.op.name}: {one}"
        matched.update(one.nodes)
        found.append(one)
    order = {node: index for index, node in enumerate(graph.nodes)}
    found.sort(key=lambda one: order[one.nodes[-1]])
    return fused(found, set(graph.outputs))


def planned(
    graph: Graph, sizes: Sizes, threads: int = 4, target: LlvmInstructionSet | None = None
) -> Placement:
    """Returns a placement that holds the plan of a program."""
    target = target or host_target()
    assert target is not None
    plan = Plan(len(graph.inputs), len(graph.outputs), threads)
    views = {value: plan.operand(index) for index, value in enumerate(graph.inputs)}
    views |= {value: plan.result(index) for index, value in enumerate(graph.outputs)}
    placement = Placement(plan, views, sizes, target)
    write(matches_of(graph, target), placement)
    return placement


def compute(
    graph: Graph, *inputs: ArrayLike, threads: int = 4, target: LlvmInstructionSet | None = None
) -> list[Array]:
    """Computes a program by kernels alone, in one call."""
    bound, sizes = bind_inputs(graph, inputs)
    target = target or host_target()
    assert target is not None
    placement = planned(graph, sizes, threads, target)
    plan = placement.plan
    addresses = call.addresses(list(plan.kernels()), target)
    table = call_table(plan, addresses, call.new_slot())
    results = [
        jax.ShapeDtypeStruct(placement.shape(value), value.type.dtype.numpy)
        for value in graph.outputs
    ]
    operands = [jnp.asarray(array) for array in bound.values()]
    found = call.call(jnp.asarray(table), jnp.asarray(plan.constants()), operands, results)
    return [np.asarray(array) for array in found]


def check(
    graph: Graph, *inputs: ArrayLike, threads: int = 4, target: LlvmInstructionSet | None = None
) -> Sequence[Array]:
    """Asserts that kernels give the integers of the reference interpreter; returns them.

    With `$QIR_TEST_GUARDED` they run in guarded memory.
    """
    if os.environ.get(GUARDED):
        from tests.backends.cpu import guarded

        return guarded.check(graph, *inputs, target=target)
    found = compute(graph, *inputs, threads=threads, target=target)
    for value, mine, wanted in zip(graph.outputs, found, run(graph, *inputs), strict=True):
        assert mine.dtype == wanted.dtype, value.name
        assert np.array_equal(mine, wanted, equal_nan=mine.dtype.kind == "f"), value.name
    return found
