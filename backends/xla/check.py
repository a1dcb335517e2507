"""Checking a program against the reference, and taking other ways where its numbers are wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import jax
import numpy as np

from qir.backends.xla.check_regions import region_samples
from qir.backends.xla.choice import Chooser
from qir.backends.xla.expected import Difference, Uncertain, difference
from qir.backends.xla.faults import Faults
from qir.backends.xla.kernels import Kernels
from qir.backends.xla.program import XlaProgram, nodes_of
from qir.backends.xla.regions import IN_REGIONS
from qir.backends.xla.words import Words
from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.ir.signature import bind
from qir.observe.batches import extreme_inputs, random_inputs
from qir.types import Array

Compute: TypeAlias = Callable[[Sequence[Array]], Mapping[Value, Array]]
"""Computes values of a program from its inputs."""

RANDOM_SIZES = (2, 3)
"""Sizes of named dimensions in random inputs, one sample for each, which also is its seed."""


def generated_samples(graph: Graph) -> list[tuple[Array, ...]]:
    """Returns inputs to compare on: random ones, and such as lie at the bounds of their types."""
    random = [random_inputs(graph, seed, size) for seed, size in enumerate(RANDOM_SIZES)]
    return [*random, *extreme_inputs(graph)]


class Checker:
    """Compares a program with the reference, and finds the op that is computed wrong.

    Args:
        graph: The program.
        choose: Chooses the way of each op.
        kernels: What computes parts of it by machine code of its own.
        faults: The ways that are known to be wrong; those that are found are added.
        samples: The inputs to compare on; generated ones when there are none.
    """

    def __init__(
        self,
        graph: Graph,
        choose: Chooser,
        kernels: Kernels | None,
        faults: Faults,
        samples: Sequence[Sequence[Array]] = (),
    ) -> None:
        self._graph, self._choose, self._kernels, self._faults = graph, choose, kernels, faults
        # A batch without a sample shows nothing, and is for no kernel.
        shown = [inputs for inputs in samples if not bind(graph.inputs, inputs, "check").empty]
        self._samples = shown or generated_samples(graph)
        self._nodes = nodes_of(graph, graph.outputs)
        uncertain = Uncertain.of(graph)
        self._cuts, self._opaque = uncertain.cuts, uncertain.opaque

    def settle(self) -> None:
        """Takes other ways until the program computes what the reference does.

        Raises:
            QirError: Every way to compute an op gives wrong numbers, or an input is found for which
                the reference has no result.
        """
        with jax.ensure_compile_time_eval():
            self._settle()
        self._faults.keep()

    def _settle(self) -> None:
        while (wrong := self._wrong_sample()) is not None:
            self._blame(*wrong)
        for node in self._nodes:
            if not self._opaque.isdisjoint(node.outputs):
                for inputs in self._samples:
                    self._settle_regions(node, inputs)

    def _settle_regions(self, node: Node, inputs: Sequence[Array]) -> bool:
        """Settles the regions of a node on what they get; returns whether a way was found wrong."""
        before = self._faults.count
        every = region_samples(self._graph, node, inputs)
        for region, samples in zip(node.regions, every, strict=True):
            if samples:
                checker = Checker(region, self._choose, self._kernels, self._faults, samples)
                try:
                    checker._settle()
                except QirError as error:
                    raise error.at(node.place()) from error
        return self._faults.count > before

    def _wrong_sample(self) -> tuple[Sequence[Array], Difference] | None:
        """Returns the first inputs on which the program is wrong, and where."""
        compute, _ = self._program(len(self._nodes) - 1)
        for inputs in self._samples:
            found = difference(self._graph, inputs, compute(inputs))
            if found is not None:
                return inputs, found
        return None

    def _program(self, last: int) -> tuple[Compute, XlaProgram]:
        """Compiles the first nodes: to what is read behind them, and where floats become integers.

        Args:
            last: Index of the last node.
        """
        nodes = self._nodes[: last + 1]
        made = [value for node in nodes for value in node.outputs]
        inside = set(nodes)
        outside = {value for node in self._nodes if node not in inside for value in node.inputs}
        outside |= {*self._graph.outputs, *self._cuts}
        watched = [value for value in made if value in outside]
        # What is returned though no node computes it is compared too: an input, a constant.
        if inside.issuperset(self._nodes):
            watched += [value for value in dict.fromkeys(self._graph.outputs) if value not in made]
        program = XlaProgram(self._graph, watched, self._choose, self._kernels, long_outputs=True)
        parameters: Any = jax.device_put(program.arrays)

        @jax.jit
        def jitted(parameters: Mapping[str, jax.Array], inputs: Sequence[jax.Array]) -> Any:
            return program(parameters, inputs, bind(program.inputs, inputs, "check"))

        def compute(inputs: Sequence[Array]) -> Mapping[Value, Array]:
            found = jitted(parameters, tuple(inputs))
            return dict(zip(watched, map(_on_host, found), strict=True))

        return compute, program

    def _blame(self, inputs: Sequence[Array], found: Difference) -> None:
        """Finds the first node with which the program is wrong, and marks the way that it takes.

        A program of the first nodes is right for none of them and wrong for all; halving finds a
        node without which it is right and with which it is wrong. That holds of faults of fused
        ops too, which no op shows on its own.
        """
        right, wrong = -1, len(self._nodes) - 1
        while wrong - right > 1:
            middle = (right + wrong) // 2
            compute, _ = self._program(middle)
            there = difference(self._graph, inputs, compute(inputs))
            right, wrong = (middle, wrong) if there is None else (right, middle)
            found = there or found
        node = self._nodes[wrong]
        _, program = self._program(wrong)
        way = program.choices[node.outputs[0].name, node.op.name].way.name
        if way == IN_REGIONS.name and self._settle_regions(node, inputs):
            return
        again = way in self._faults.of(node)
        if not again:
            self._faults.add(node, way)
        if again or not self._faults.left(node):
            raise QirError(
                f"check: {found}; no lowering of {node.op.name} is right, tried "
                f"{', '.join(self._faults.of(node))}",
                [node.place()],
            )


def _on_host(found: jax.Array | Words) -> Array:
    return found.numbers() if isinstance(found, Words) else np.asarray(found)
