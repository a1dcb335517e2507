"""From a flat jaxpr to a graph: known equations are computed, the others written by rules."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Any

from qir.errors import QirError
from qir.frontends.jaxpr.constants import constant, fold
from qir.frontends.jaxpr.equations import Equation, FlatProgram, Slot
from qir.frontends.jaxpr.named import NamedCall
from qir.frontends.jaxpr.primitives import PRIMITIVES
from qir.frontends.jaxpr.shapes import depends_on_size, to_type
from qir.frontends.jaxpr.weights import identity
from qir.frontends.shared.emitter import Emitter, Operand, expect_type
from qir.frontends.shared.known import Known
from qir.frontends.shared.refusals import REFUSED, Refusals
from qir.interop.jax_internals import InconclusiveDimensionOperation
from qir.ir import Graph, Value
from qir.types import TensorType

_LOOPS = {"cond", "scan", "while"}
_CALLED = {
    "swish": "silu",
    "hard_silu": "hard_swish",
    "sigmoid": "logistic",
    "logaddexp": "softplus",
    "_resize": "resize",
}
"""What functions of jax and of libraries of layers compute, where their own names don't say it."""


class Importer:
    """Builds the graph of a flat program.

    Args:
        program: The program.
        name: The graph's name.
        inputs: Name and type of each of the program's inputs that becomes one of the graph.
        weights: What the other inputs are, by position: see `constants.constant`.
        names: The names of arrays that are constants of the program, by `weights.identity`.
    """

    def __init__(
        self,
        program: FlatProgram,
        name: str,
        inputs: Mapping[int, tuple[str, TensorType]],
        weights: Mapping[int, Any],
        names: Mapping[Hashable, str],
    ) -> None:
        self.program = program
        self.graph = Graph(name)
        self.emitter = Emitter(self.graph)
        self.names = names
        self.found: dict[Slot, Any] = {}
        self.refusals = Refusals("from_jax", "primitives")
        for place, slot in enumerate(program.inputs):
            self.found[slot] = (
                weights[place] if place in weights else self.graph.add_input(*inputs[place])
            )

    def build(self) -> Graph:
        """Returns the graph.

        Raises:
            UnsupportedError: There are primitives without a rule, or uses that a rule does not
                cover; all are listed with their places.
        """
        for equation in self.program.equations:
            self.emitter.loc = equation.loc
            results = self.refusals.attempt(
                equation.loc or equation.primitive.name,
                len(equation.outputs),
                partial(self.results, equation),
            )
            self.found.update(zip(equation.outputs, results, strict=True))
        self.refusals.check(_advice)
        self.emitter.loc = None
        self.graph.set_outputs(
            [self.emitter.value(self.operand(slot)) for slot in self.program.outputs]
        )
        return self.graph

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

    def named_calls(self) -> list[NamedCall]:
        """Returns the functions whose names tell what they compute, outer before inner."""
        calls = []
        for call in self.program.calls:
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
        return calls


def _advice(names: Sequence[str]) -> list[str]:
    lines = []
    if _LOOPS.intersection(names):
        lines.append("loops and branches on computed values: unroll them in Python")
    if others := [name for name in names if name not in _LOOPS]:
        lines.append(f'register a rule by @qir.frontends.jaxpr.primitive("{others[0]}")')
    return lines
