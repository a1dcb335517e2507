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
from qir.search.budget import is_real
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
        per: What of weights has a scale of its own where they have 16 bits, otherwise than the
            pipeline says; None for the same.
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
    per: str | None = None

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

    def computed(self, program: Graph) -> list[Array]:
        """Returns the outputs of an integer program, of the rows held out."""
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
        self._stored: dict[frozenset[int], tuple[int, int]] = {}
        self.values, self.wide = self.stored(())
        self.numbers = sum(unit.size for unit in units if unit.kind == "activations")

    def stored(self, chosen: Collection[int]) -> tuple[int, int]:
        """Returns how many activations the integer program stores, and how many in 16 bits.

        Args:
            chosen: The places of the units that have 16 bits.
        """
        if (key := frozenset(chosen)) not in self._stored:
            per = self.subject.per
            self._make(key, [self.units[index].rule("", per) for index in chosen])
        return self._stored[key]

    def integer(self, chosen: Collection[int], rules: Sequence[RecipeRule]) -> list[Array]:
        """Returns the outputs of the integer program where the units at some places have 16 bits.

        They are those of the rows held out.

        Args:
            chosen: The places.
            rules: The rules that give them these.
        """
        return self.subject.computed(self._make(frozenset(chosen), rules))

    def _make(self, chosen: frozenset[int], rules: Sequence[RecipeRule]) -> Graph:
        program = self.subject.make(rules)
        stored = [value for value in program.values_inside() if _is_stored(value)]
        wide = sum(value.type.dtype.bits > 8 for value in stored)
        self._stored[chosen] = len(stored), wide
        return program

    def simulated(self, chosen: Collection[int]) -> list[Array]:
        """Returns the outputs where the units at some places have 16 bits."""
        codes: dict[Site, tuple[float, float, float] | None] = {}
        for index in chosen:
            codes |= self.units[index].widened()
        return self._staged.run(codes)

    def noise(self, index: int) -> list[float]:
        """Returns what one unit alone adds to each output: its mean square over that of the output.

        Where all outputs are integers it is the share of them that changes.

        All others are as in floating point. Noises of roundings are next to independent, so that
        they add up.
        """
        found = self._staged.run_alone(self.units[index].sites)
        return _shares_of_noise(self._staged.run_alone(()), found)

    def rest(self) -> list[float]:
        """Returns what is added to each output by all that is in no unit; see `noise`."""
        return _shares_of_noise(self.subject.exact, self._staged.run_alone(()))


def _is_stored(value: Value) -> bool:
    code = value.type.quant
    return code is not None and not value.is_constant and code.storage.bits <= 16


def _shares_of_noise(exact: Sequence[Array], found: Sequence[Array]) -> list[float]:
    pairs = list(zip(exact, found, strict=True))
    # What integers change by is no noise, and would be far more than that beside them.
    real = [pair for pair in pairs if is_real(pair[0])]
    return [_share_of_noise(right, got) for right, got in real or pairs]


def _share_of_noise(exact: Array, found: Array) -> float:
    if not is_real(exact):
        return float(np.mean(exact != found)) if exact.size else 0.0
    exact, found = (each.astype(np.float64) for each in (exact, found))
    signal = float(np.mean(np.square(exact, dtype=np.float64)))
    noise = float(np.mean(np.square(found - exact, dtype=np.float64)))
    return noise / signal if signal > 0 else noise


def _stored(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.encode(array)


def _real(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.decode(array)
