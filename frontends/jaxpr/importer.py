"""From a flat jaxpr to a graph: known equations are computed, the others written by rules."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from qir.errors import QirError
from qir.frontends.jaxpr.constants import constant, fold
from qir.frontends.jaxpr.named import NamedCall
from qir.frontends.jaxpr.primitives import PRIMITIVES
from qir.frontends.jaxpr.program import Equation, FlatProgram, RegionEquation, Slot
from qir.frontends.jaxpr.regions import import_regions
from qir.frontends.jaxpr.shapes import depends_on_size, to_type
from qir.frontends.jaxpr.weights import identity
from qir.frontends.shared.emitter import Emitter, Operand, expect_type
from qir.frontends.shared.known import Known
from qir.frontends.shared.refusals import REFUSED, Incomplete, Refusals
from qir.interop.jax_internals import InconclusiveDimensionOperation
from qir.ir import Graph, Value

_CALLED = {
    "swish": "silu",
    "hard_silu": "hard_swish",
    "sigmoid": "logistic",
    "logaddexp": "softplus",
    "_resize": "resize",
}
"""What functions of jax and of libraries of layers compute, where their own names don't say it."""


class Importer:
    """Writes a flat program into a graph.

    Args:
        program: The program.
        graph: The graph, which has its inputs.
        given: What the program's inputs are: values of the graph, or see `constants.constant`.
        names: The names of arrays that are constants of the program, by `weights.identity`.
        refusals: Where to note what can't be imported.

    Attributes:
        bodies: The importers of what loops and branches run.
    """

    def __init__(
        self,
        program: FlatProgram,
        graph: Graph,
        given: Mapping[Slot, Any],
        names: Mapping[Hashable, str],
        refusals: Refusals | None = None,
    ) -> None:
        self.program = program
        self.graph = graph
        self.emitter = Emitter(graph)
        self.names = names
        self.found: dict[Slot, Any] = dict(given)
        self.calls = list(program.calls)
        self.refusals = Refusals("from_jax", "primitives") if refusals is None else refusals
        self.bodies: list[Importer] = []

    def build(self) -> None:
        """Writes the program.

        Raises:
            UnsupportedError: There are primitives without a rule, or uses that a rule does not
                cover; all are listed with their places.
        """
        self.run(self.program.equations)
        self.refusals.check(_advice)
        self.finish()

    def run(self, equations: Sequence[Equation]) -> None:
        """Computes or writes equations; what can't be imported is noted."""
        for equation in equations:
            self.emitter.loc = equation.loc
            results = self.refusals.attempt(
                equation.loc or equation.primitive.name,
                len(equation.outputs),
                partial(self.results, equation),
            )
            self.found.update(zip(equation.outputs, results, strict=True))

    def finish(self) -> None:
        """Lets the graph return what the program does.

        Raises:
            Incomplete: Some of that was refused.
        """
        returned = list(map(self.read, self.program.outputs))
        if any(found is REFUSED for found in returned):
            raise Incomplete
        self.emitter.loc = None
        self.graph.set_outputs(
            [self.emitter.value(self.operand(slot)) for slot in self.program.outputs]
        )

    def body(self, program: FlatProgram, given: Mapping[Slot, Any]) -> Graph:
        """Returns what a loop or branch runs as a graph.

        Args:
            program: What it runs.
            given: What those of its inputs are that are known, or which input is the same; the
                others become the graph's.

        Raises:
            Incomplete: Some of it was refused.
            QirError: It takes or returns what is no array of numbers.
        """
        graph = Graph("")
        inputs = {
            slot: graph.add_input("x", to_type(slot.aval))
            for slot in program.inputs
            if slot not in given
        }
        found = dict(given) | inputs
        for slot, known in given.items():
            if isinstance(known, Slot):
                found[slot] = inputs.get(known)
        inner = Importer(program, graph, found, self.names, self.refusals)
        inner.run(program.equations)
        inner.finish()
        self.bodies.append(inner)
        return graph

    def results(self, equation: Equation) -> Sequence[Any]:
        """Computes an equation now if all its operands are known, and emits it otherwise."""
        try:
            return self._results(equation)
        except InconclusiveDimensionOperation as error:
            raise depends_on_size(error) from error

    def _results(self, equation: Equation) -> Sequence[Any]:
        read = [self.read(slot) for slot in equation.inputs]
        if not any(operand is REFUSED or isinstance(operand, Value) for operand in read):
            folded = fold(equation, read)
            if folded is not None:
                return folded
        if isinstance(equation, RegionEquation):
            return import_regions(self, equation)
        rule = PRIMITIVES.get(equation.primitive.name)
        if rule is None:
            self.refusals.without_rule(equation.primitive.name, equation.loc)
        if rule is None or any(operand is REFUSED for operand in read):
            return [REFUSED] * len(equation.outputs)
        outcome = rule(self.emitter, *map(self.operand, equation.inputs), **equation.params)
        results = [outcome] if isinstance(outcome, Value | Known) else list(outcome)
        for result, slot in zip(results, equation.outputs, strict=True):
            expect_type(result, to_type(slot.aval), equation.primitive.name)
        return results

    def read(self, slot: Slot) -> Any:
        """Returns what a variable stands for: a Value, a Known, or what only jax computes with."""
        if slot not in self.found:
            self.found[slot] = constant(slot, self.names.get(identity(slot.constant)))
        return self.found[slot]

    def operand(self, slot: Slot) -> Operand:
        """Returns a variable as rules get it; raises QirError for what is no array of numbers."""
        found = self.read(slot)
        if not isinstance(found, Value | Known):
            raise QirError(f"type: expected an array of numbers, got {slot.aval.dtype}")
        return found

    def named_calls(self) -> Iterator[tuple[Graph, list[NamedCall]]]:
        """Yields the functions whose names tell what they compute, outer before inner.

        By graph: this one and those of bodies.
        """
        calls = []
        for call in self.calls:
            operands = [self.found.get(slot) for slot in call.inputs]
            inputs = list(
                dict.fromkeys(operand for operand in operands if isinstance(operand, Value))
            )
            outputs = [self.found.get(slot) for slot in call.outputs]
            match inputs, outputs:
                case [x], [Value() as y] if x is not y:
                    calls.append(NamedCall(_CALLED.get(call.name, call.name), x, y))
                case _:
                    continue
        yield self.graph, calls
        for body in self.bodies:
            yield from body.named_calls()


def _advice(names: Sequence[str]) -> list[str]:
    return [f'register a rule by @qir.frontends.jaxpr.primitive("{names[0]}")'] if names else []
