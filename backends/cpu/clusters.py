"""Clusters of a graph as operations of an XLA program."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

import jax
import numpy as np

# Imported to register the patterns.
import qir.backends.native.patterns  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.backends.cpu import call, peak
from qir.backends.cpu.clock import StepClock
from qir.backends.cpu.table import call_table
from qir.backends.cpu.target import LlvmInstructionSet
from qir.backends.native.assignment import write
from qir.backends.native.computation import Computation, Group, Lowering, Parameter, always
from qir.backends.native.partition import Cluster, Partition, partition
from qir.backends.native.pattern import Match, Placement
from qir.backends.native.plan import Plan, named
from qir.bench.profile import Ceilings
from qir.errors import QirError
from qir.ir import Node, Value
from qir.ir.signature import Sizes
from qir.types import Dim, known

PARALLEL_WORK = 4_000_000
"""Least work of a call that is worth waking threads for: it takes one about 50 microseconds."""


def available_cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class GeneratedKernels:
    """Computes what it can of a program by generated kernels.

    Args:
        target: The instruction set.
        threads: Most threads that work on a call.
        timed: Whether calls are timed, step by step.
        refused: Why no kernel may compute a node; nothing where one may.

    Attributes:
        clocks: The clock of each call that was compiled, where they are timed.
    """

    target: LlvmInstructionSet
    threads: int = field(default_factory=available_cores)
    timed: bool = False
    refused: Callable[[Node], str] = field(default=lambda node: "", compare=False)
    clocks: list[StepClock] = field(default_factory=list, init=False, compare=False)

    def __str__(self) -> str:
        return f"generated for {self.target.name}"

    def divide(
        self, nodes: Sequence[Node], outputs: Iterable[Value]
    ) -> tuple[list[Node | Group], dict[Node, str]]:
        """Divides the nodes of a program into groups for kernels and nodes for XLA.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.

        Returns:
            The parts in an order of computation, and why nodes are left to XLA.
        """
        found = self._divided(nodes, outputs)
        parts = [
            part if isinstance(part, Node) else self._group(part, number)
            for number, part in enumerate(found.parts)
        ]
        return parts, dict(found.reasons)

    def computed(self, nodes: Sequence[Node], outputs: Iterable[Value]) -> set[Node]:
        """Returns the nodes that the groups of `divide` compute.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.
        """
        return set(nodes).difference(self._divided(nodes, outputs).reasons)

    def describe(self, nodes: Sequence[Node], outputs: Iterable[Value], sizes: Sizes) -> str:
        """Returns the calls and what each step of them does, and why nodes are left to XLA.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.
            sizes: The sizes of named dimensions.
        """
        found = self._divided(nodes, outputs)
        lines: list[str] = []
        calls = 0
        for part in found.parts:
            if isinstance(part, Node):
                lines.append(f"XLA: {named(part)}: {found.reasons[part]}")
                continue
            lines.append(f"call {calls}, {self}")
            for name, values in (("operand", part.inputs), ("result", part.outputs)):
                for index, value in enumerate(values):
                    lines.append(f"  {name}{index}: %{value.name}: {value.type}")
            plan = self.plan(part, sizes)
            lines.append(f"  {plan}")
            stepped = {step.nodes for step in plan.steps}
            lines += [
                f"      {', '.join(map(named, match.nodes))}: no step, the bytes lie there already"
                for match in part.matches
                if match.nodes not in stepped
            ]
            calls += 1
        return "\n".join(lines)

    def memory(self, nodes: Sequence[Node], outputs: Iterable[Value], sizes: Sizes) -> int:
        """Returns the bytes that the groups of `divide` keep: temporary tensors and scratch.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.
            sizes: The sizes of named dimensions.
        """
        parts = self._divided(nodes, outputs).parts
        plans = [self.plan(part, sizes) for part in parts if not isinstance(part, Node)]
        return sum(plan.arena() + plan.threads * plan.scratch for plan in plans)

    def without(self, refused: Callable[[Node], str]) -> GeneratedKernels:
        """Returns the same without kernels for some nodes.

        Args:
            refused: Why no kernel may compute a node; nothing where one may.
        """
        return replace(self, refused=refused)

    def peaks(self) -> dict[int, float]:
        """Returns 10^9 multiplications and additions a second, by the number of threads."""
        return {threads: peak.int8_peak(threads) for threads in sorted({1, self.threads})}

    def ceilings(self, threads: int) -> Ceilings:
        """Measures what this machine does at most, in about a second.

        Args:
            threads: Number of threads that work at once.
        """
        return peak.ceilings(threads)

    def check_process(self) -> None:
        """Raises QirError in a fork of the process that loaded the code."""
        call.check_process()

    def _divided(self, nodes: Sequence[Node], outputs: Iterable[Value]) -> Partition:
        return partition(nodes, outputs, self.target, self.refused)

    def _group(self, cluster: Cluster, number: int) -> Group:
        products = _products(cluster)
        first = self.plan(cluster, _sizes(products, [1] * len(products)))
        constants = first.constants()

        def run(packed: jax.Array, sizes: Sequence[Any], *operands: jax.Array) -> Any:
            if not all(isinstance(size, int) for size in sizes):
                raise QirError(
                    "kernels: expected sizes that are numbers; compile(graph, kernels=False) takes "
                    "symbolic ones, and so does export()"
                )
            actual = _sizes(products, sizes)
            struct: Callable[..., jax.ShapeDtypeStruct] = jax.ShapeDtypeStruct
            results = [
                struct(actual.shape(value.type.shape), value.type.dtype.numpy)
                for value in cluster.outputs
            ]
            plan = self.plan(cluster, actual) if products else first
            if plan is not first and not np.array_equal(own := plan.constants(), constants):
                packed = jax.numpy.asarray(own)
            addresses = call.addresses(list(plan.kernels()), self.target)
            clock = 0
            if self.timed:
                self.clocks.append(StepClock(cluster, plan, call.new_words(1 + len(plan.steps))))
                clock = self.clocks[-1].address
            words = call_table(plan, addresses, call.new_slot(cluster), clock)
            return call.call(jax.numpy.asarray(words), packed, operands, results)

        dimensions = tuple(Dim(1, names) for names in products)
        computation = Computation(
            run, (Parameter(f"kernels{number}", constants), dimensions, *cluster.inputs)
        )
        ways, paths = _ways(cluster.matches)
        return Group(cluster.outputs, computation, ways, paths)

    def plan(self, cluster: Cluster, sizes: Sizes) -> Plan:
        """Returns the steps of a cluster.

        Args:
            cluster: The cluster.
            sizes: The sizes of named dimensions.
        """
        threads = self.threads if _work(cluster, sizes) >= PARALLEL_WORK else 1
        plan = Plan(len(cluster.inputs), len(cluster.outputs), threads)
        views = {value: plan.operand(index) for index, value in enumerate(cluster.inputs)}
        views |= {value: plan.result(index) for index, value in enumerate(cluster.outputs)}
        placement = Placement(plan, views, sizes, self.target)
        write(cluster.matches, placement)
        return plan


def _ways(matches: Sequence[Match], path: str = "") -> tuple[dict[Node, Lowering], dict[Node, str]]:
    """Returns the way of each node, those of regions included, and the loops around it."""
    ways: dict[Node, Lowering] = {}
    paths: dict[Node, str] = {}
    for match in matches:
        if match.pattern is not None:
            way = Lowering(f"kernel_{match.pattern.__name__}", always, always, match.pattern)
            ways |= dict.fromkeys(match.nodes, way)
            paths |= dict.fromkeys(match.nodes, path)
        inside, further = _ways(match.inside, f"{path}{match.results[0].name}/")
        ways |= inside
        paths |= further
    return ways, paths


def _products(cluster: Cluster) -> list[tuple[str, ...]]:
    """Returns the products of names that stand in the sizes of a cluster, each once."""
    made = (v for c in cluster.matches for n in c.all_nodes() for v in (*n.inputs, *n.outputs))
    values = [*cluster.inputs, *made]
    sizes = [size for value in values for size in value.type.shape if isinstance(size, Dim)]
    return list(dict.fromkeys(size.names for size in sizes))


def _sizes(products: Sequence[tuple[str, ...]], sizes: Sequence[int]) -> Sizes:
    found = dict(zip(products, sizes, strict=True))
    return Sizes({names[0]: size for names, size in found.items() if len(names) == 1}, found)


def _work(cluster: Cluster, sizes: Sizes) -> int:
    """Returns about how much there is to do, in products; a number that is made counts as four."""
    total = 0
    for node in (node for match in cluster.matches for node in match.nodes):
        (*_, result) = node.outputs
        shapes = [
            replace(value.type, shape=sizes.shape(value.type.shape))
            for value in (*node.inputs, result)
        ]
        total += known(node.op.multiply_adds(shapes[:-1], shapes[-1]), "products")
        total += 4 * prod(known(size, "numbers") for size in shapes[-1].shape)
    return total
