"""What is searched: a float program, what pass quantize makes of it, and how both are measured."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np

from qir.analysis.equivalence import Interpreter
from qir.analysis.simulation import Simulation, simulate
from qir.analysis.sites import Site
from qir.ir import Graph, Value
from qir.pipeline import Executor
from qir.pipeline.recipes import RecipeRule
from qir.search.staged import StagedSimulation
from qir.search.units import Unit, find_units, known_weights
from qir.types import Array

IntegerMaker = Callable[[Sequence[RecipeRule]], Graph]
"""Makes the whole integer program with some rules."""


@dataclass(frozen=True)
class SearchedProgram:
    """A program whose codes are to be chosen.

    Args:
        reference: The float program.
        ranged: The same as it is before pass quantize.
        program: What the pass makes of it without a rule, of as many samples as `rows` have.
        make: Makes the integer program with some rules.
        executor: Runs the simulation.
        interpreter: Runs the integer program.
        rows: An array for each input, to choose by.
        exact: What the float program returns for them.
        held_out: Other rows, to judge what was chosen by; the same where there are no others.
        with_weights: Whether weights get more bits too.
    """

    reference: Graph
    ranged: Graph
    program: Graph
    make: IntegerMaker
    executor: Executor
    interpreter: Interpreter
    rows: Sequence[Array]
    exact: Sequence[Array]
    held_out: Sequence[Array]
    with_weights: bool

    def prepared(self) -> Prepared:
        """Builds and compiles the simulation."""
        weights = known_weights(self.ranged, self.program) if self.with_weights else {}
        simulation = simulate(self.program, weights)
        return Prepared(self, simulation, find_units(self.ranged, self.program, simulation))

    def exact_held_out(self) -> list[Array]:
        """Returns the outputs of the float program, of the rows held out."""
        if self.rows is self.held_out:
            return list(self.exact)
        found = self.interpreter(self.reference, *self.held_out)
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
        self._staged = StagedSimulation(simulation, subject.executor, subject.rows)
        stored = [value for value in subject.make(()).values_inside() if _is_stored(value)]
        self.values = len(stored)
        self.wide = sum(value.type.dtype.bits > 8 for value in stored)
        self.numbers = sum(unit.size for unit in units if unit.kind == "activations")

    def simulated(self, chosen: Collection[int]) -> list[Array]:
        """Returns the outputs where the units at some places have 16 bits."""
        codes: dict[Site, tuple[float, float, float] | None] = {}
        for index in chosen:
            codes |= self.units[index].widened()
        return self._staged.run(codes)

    def noise(self, index: int) -> list[float]:
        """Returns what one unit alone adds to each output: its mean square over that of the output.

        All others are as in floating point. Noises of roundings are next to independent, so that
        they add up.
        """
        found = self._staged.run_alone(self.units[index].sites)
        return list(map(_share_of_noise, self._staged.run_alone(()), found))

    def rest(self) -> list[float]:
        """Returns what is added to each output by all that is in no unit."""
        return list(map(_share_of_noise, self.subject.exact, self._staged.run_alone(())))


def _is_stored(value: Value) -> bool:
    code = value.type.quant
    return code is not None and not value.is_constant and code.storage.bits <= 16


def _share_of_noise(exact: Array, found: Array) -> float:
    if exact.dtype.kind != "f":
        return 0.0
    signal = float(np.mean(np.square(exact, dtype=np.float64)))
    noise = float(np.mean(np.square(found - exact, dtype=np.float64)))
    return noise / signal if signal > 0 else noise


def _stored(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.encode(array)


def _real(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.decode(array)
