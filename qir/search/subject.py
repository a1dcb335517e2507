"""What is searched: a float program, what pass quantize makes of it, and how both are measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.analysis.simulation import Simulation, simulate
from qir.analysis.sites import Site
from qir.ir import Graph, Value
from qir.pipeline import Executor
from qir.pipeline.recipes import RecipeRule
from qir.search.budget import is_real
from qir.search.units import Unit, UnitKind, find_units, known_weights
from qir.types import Array

IntegerMaker = Callable[[Sequence[RecipeRule]], Graph]
"""Makes the whole integer program with some rules."""


@dataclass(frozen=True)
class SearchedProgram:
    """A program whose codes are to be chosen.

    Args:
        reference: The float program.
        ranged: The same as it is before pass quantize.
        program: What the pass makes of it without a rule.
        make: Makes the integer program with some rules.
        executor: Runs the simulation.
        interpreter: Runs the integer program.
        rows: An array for each input, to choose by.
        held_out: Other rows, to judge what was chosen by; the same where there are no others.
        widening: What rules say of activations and of weights to give them 16 bits; without one of
            the two, none of that kind gets them.
    """

    reference: Graph
    ranged: Graph
    program: Graph
    make: IntegerMaker
    executor: Executor
    interpreter: Interpreter
    rows: Sequence[Array]
    held_out: Sequence[Array]
    widening: Mapping[UnitKind, Mapping[str, Any]]

    def prepared(self) -> Prepared:
        """Builds and compiles the simulation."""
        has_weights = "weights" in self.widening
        weights = known_weights(self.ranged, self.program) if has_weights else {}
        simulation = simulate(self.program, weights)
        units = find_units(self.ranged, self.program, simulation)
        return Prepared(self, simulation, [one for one in units if one.kind in self.widening])

    def exact(self, rows: Sequence[Array]) -> list[Array]:
        """Returns the outputs of the float program."""
        found = self.interpreter(self.reference, *rows)
        return [found[value] for value in self.reference.outputs]

    def integer(self, rules: Sequence[RecipeRule]) -> list[Array]:
        """Returns the outputs of the integer program with some rules, of the rows held out."""
        program = self.make(rules)
        pairs = zip(program.inputs, self.held_out, strict=True)
        found = self.interpreter(program, *(_stored(value, array) for value, array in pairs))
        return [_real(value, found[value]) for value in program.outputs]


class Prepared:
    """A subject with its simulation.

    Args:
        subject: The subject.
        simulation: Its simulation.
        units: What can get more bits.

    Attributes:
        subject: The same.
        units: The same.
        values: How many tensors of activations the integer program without a rule stores in codes.
        wide: How many of them have 16 bits anyway.
        numbers: How many numbers all of them hold for each sample.
    """

    def __init__(
        self, subject: SearchedProgram, simulation: Simulation, units: Sequence[Unit]
    ) -> None:
        self.subject = subject
        self.units = units
        self._simulation = simulation
        self._probe = subject.executor.probe(simulation.graph, simulation.graph.outputs)
        self._exact_activations: list[Array] | None = None
        stored = stored_activations(subject.make(()))
        self.values = len(stored)
        self.wide = sum(value.type.dtype.bits > 8 for value in stored)
        self.numbers = sum(unit.size for unit in units if unit.kind == "activations")

    def simulated(self, chosen: Collection[int]) -> list[Array]:
        """Returns the outputs where the units at some places have 16 bits."""
        codes: dict[Site, tuple[float, float, float] | None] = {}
        for index in chosen:
            codes |= self.units[index].widened()
        return self._run(self._simulation.codes(codes))

    def noise(self, index: int) -> list[float]:
        """Returns what one unit alone adds to each output: its mean square over that of the output.

        All others are as in floating point. Noises of roundings are next to independent, so that
        they add up.
        """
        floats = dict.fromkeys(self._simulation.sites)
        if self._exact_activations is None:
            self._exact_activations = self._run(self._simulation.codes(floats))
        for site in self.units[index].sites:
            del floats[site]
        found = self._run(self._simulation.codes(floats))
        return [
            _share_of_noise(right, got)
            for right, got in zip(self._exact_activations, found, strict=True)
        ]

    def _run(self, codes: Array) -> list[Array]:
        return [np.asarray(each) for each in self._probe(*self.subject.rows, codes)]

    def rules(self, chosen: Iterable[int], reasons: Iterable[str] = ()) -> list[RecipeRule]:
        """Returns the rules that give the units at some places 16 bits."""
        told = list(reasons)
        places = list(chosen)
        told += [""] * (len(places) - len(told))
        pairs = ((self.units[index], why) for index, why in zip(places, told, strict=True))
        return [unit.rule(self.subject.widening[unit.kind], why) for unit, why in pairs]


def stored_activations(program: Graph) -> list[Value]:
    """Returns the activations of an integer program that are stored in codes, sums left out."""
    values = [value for value in program.values_inside() if not value.is_constant]
    return [each for each in values if each.type.quant and each.type.quant.storage.bits <= 16]


def _share_of_noise(exact: Array, found: Array) -> float:
    if not is_real(exact):
        return 0.0
    exact, found = (each.astype(np.float64) for each in (exact, found))
    signal = float(np.mean(np.square(exact, dtype=np.float64)))
    noise = float(np.mean(np.square(found - exact, dtype=np.float64)))
    return noise / signal if signal > 0 else noise


def _stored(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.encode(array)


def _real(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.decode(array)
