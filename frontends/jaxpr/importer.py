"""From a flat jaxpr to a graph: known equations are computed, the others written by rules."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from qir.errors import QirError, UnsupportedError
from qir.frontends.jaxpr.constants import Known, constant, fold
from qir.frontends.jaxpr.emitter import PRIMITIVES, Emitter, Operand, expect_type
from qir.frontends.jaxpr.equations import Equation, FlatProgram, Slot
from qir.frontends.jaxpr.shapes import depends_on_size, to_type
from qir.frontends.jaxpr.weights import identity
from qir.frontends.raising.named import NamedCall
from qir.interop.jax_internals import InconclusiveDimensionOperation
from qir.ir import Graph, Value
from qir.types import TensorType

_SHOWN = 5
_LOOPS = {"cond", "scan", "while"}
_REFUSED = object()
"""Stands for the result of a refused equation, so that the rest of the model is read too."""


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
        self.missing: dict[str, list[str]] = {}
        self.refused: list[QirError] = []
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
            try:
                results = self.results(equation)
            except (QirError, InconclusiveDimensionOperation) as error:
                refusal = error if isinstance(error, QirError) else depends_on_size(error)
                self.refused.append(refusal.at(f"at {equation.loc or equation.primitive.name}"))
                results = [_REFUSED] * len(equation.outputs)
            self.found.update(zip(equation.outputs, results, strict=True))
        self.raise_refused()
        self.emitter.loc = None
        self.graph.set_outputs(
            [self.emitter.value(self.operand(slot)) for slot in self.program.outputs]
        )
        return self.graph

    def results(self, equation: Equation) -> Sequence[Any]:
        """Computes an equation now if all its operands are known, and emits it otherwise."""
        read = [self.read(slot) for slot in equation.inputs]
        if not any(operand is _REFUSED or isinstance(operand, Value) for operand in read):
            folded = fold(equation, read)
            if folded is not None:
                return folded
        rule = PRIMITIVES.get(equation.primitive.name)
        if rule is None:
            place = equation.loc or "an unknown place"
            self.missing.setdefault(equation.primitive.name, []).append(place)
        if rule is None or any(operand is _REFUSED for operand in read):
            return [_REFUSED] * len(equation.outputs)
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

    def raise_refused(self) -> None:
        """Raises one error for everything that was refused."""
        if not self.missing:
            if self.refused:
                first = self.refused[0]
                rest = [
                    line for error in self.refused[1:] for line in (error.message, *error.places)
                ]
                raise type(first)(first.message, [*first.places, *rest])
            return
        lines = []
        for name, places in self.missing.items():
            shown = list(dict.fromkeys(places))
            more = f" and {len(shown) - _SHOWN} more places" if len(shown) > _SHOWN else ""
            lines.append(f"{name} at {', '.join(shown[:_SHOWN])}{more}")
        lines += [line for error in self.refused for line in (error.message, *error.places)]
        names = sorted(self.missing)
        if _LOOPS.intersection(names):
            lines.append("loops and branches on computed values: unroll them in Python")
        if others := [name for name in names if name not in _LOOPS]:
            lines.append(f'register a rule by @qir.frontends.jaxpr.primitive("{others[0]}")')
        raise UnsupportedError(
            f"from_jax: expected primitives that QIR has a rule for, got {', '.join(names)}", lines
        )

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
                    calls.append(NamedCall(call.name, x, y))
                case _:
                    continue
        return calls
