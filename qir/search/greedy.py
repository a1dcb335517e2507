"""Choosing the units that get 16 bits: by the noise that each adds, then confirmed and pruned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from math import log10

from qir.pipeline.recipes import RecipeRule
from qir.report.progress import watched
from qir.search.budget import Budget, signal_to_noise
from qir.search.measurements import OutOfTime, SearchedFigures
from qir.search.subject import Prepared

MOST_WIDE = 0.15
"""The greatest share of the stored activations to which `auto` gives 16 bits, of tensors with those
that have as many anyway, and of numbers."""

LEAST_GAIN = 0.005
"""The share of all noise below which a unit is not worth its bits: 0.02 dB."""

FEW = 12
"""Units among which all sets are looked at."""

NEAR = 0.5
"""How far below the bound a simulated figure in dB may lie for a set to be tried."""

NEAR_ONE = 0.1
"""The same where one unit is left out of those that meet the budget."""

NOT_MANY = 2 * FEW
"""Units of which each is left out in the end, whatever the simulation says of that."""

MOST_ONES = 8
"""Units of least noise of which each is left out by itself in the end."""

MOST_TRIED = 48
"""Integer programs that are made to do with fewer units."""


LEAST = 1e-30
"""Noise is at least such a share of the signal: what is less has no figure."""


@dataclass(frozen=True)
class Found:
    """What a search found.

    Attributes:
        chosen: The places of the units that get 16 bits, those that matter most first.
        figure: What was measured of the integer program; None where there was no time to.
        finished: Whether the search came to its end.
    """

    chosen: tuple[int, ...]
    figure: float | None
    finished: bool = True


class Greedy:
    """One search.

    Args:
        prepared: What is searched.
        budget: How outputs are measured, and the bound.
        measurements: What is known and how much time is left.
    """

    def __init__(self, prepared: Prepared, budget: Budget, measurements: SearchedFigures) -> None:
        self.prepared = prepared
        self.budget = budget
        self.measurements = measurements
        self._exact = prepared.subject.exact
        self._exact_held_out = prepared.subject.exact_held_out()
        self.tried: list[Found] = []
        self._noises: dict[int, Sequence[float]] = {}
        self._rest: Sequence[float] = ()

    def simulated(self, chosen: Collection[int]) -> float:
        """Returns the measure of the simulation where some units have 16 bits."""
        return self.measurements.get("simulated", chosen, lambda: [self.measured(chosen)])[0]

    def measured(self, chosen: Collection[int]) -> float:
        """Returns the same, measured anew."""
        return self.budget.measure(self._exact, self.prepared.simulated(chosen))

    def real(self, chosen: Sequence[int]) -> float:
        """Returns the measure of the integer program where some units have 16 bits."""

        def measure() -> Sequence[float]:
            found = self.prepared.integer(chosen, self.rules(chosen))
            return [self.budget.measure(self._exact_held_out, found)]

        figure = self.measurements.get("real", chosen, measure)[0]
        self.tried.append(Found(tuple(chosen), figure))
        return figure

    def rules(self, chosen: Collection[int]) -> list[RecipeRule]:
        """Returns the rules that give some units 16 bits, each with its reason.

        The reason is what it brings behind those before it where noises add up: a single run of
        the program may tell otherwise, as roundings that follow another one fall otherwise.
        """
        units, rules = self.prepared.units, list[RecipeRule]()
        left = self._all_noise()
        whole = sum(left)
        for index in chosen:
            told = f"{units[index].key}: 16 bits"
            if left:
                own = self._noises[index]
                after = [max(0.0, all_ - one) for all_, one in zip(left, own, strict=True)]
                told += f": {self._gain(left, after, whole)}"
                left = after
            rules.append(units[index].rule(told, self.prepared.subject.per))
        return rules

    def _all_noise(self) -> list[float]:
        """Returns the sum of all noises in each output; nothing before all of them are known."""
        if len(self._noises) < len(self.prepared.units):
            return []
        return list(map(sum, zip(self._rest, *self._noises.values(), strict=True)))

    def _gain(self, before: Sequence[float], after: Sequence[float], whole: float) -> str:
        if not self._adds_up:
            return f"{(sum(before) - sum(after)) / (whole or 1):.1%} of the noise in the outputs"
        first, second = (-10 * log10(max(*noises, LEAST)) for noises in (before, after))
        figure = self.budget.figure
        return f"{self.budget.name} {figure(first)} → {figure(second)} by the sum of noises"

    def noises(self) -> dict[int, float]:
        """Returns the noise of each unit, of as many as there is time for."""
        prepared, found = self.prepared, dict[int, Sequence[float]]()
        with suppress(OutOfTime):
            self._rest = self.measurements.get("rest", (), prepared.rest)
            for index in watched(range(len(prepared.units)), "search"):
                measure = partial(prepared.noise, index)
                found[index] = self.measurements.get("noise", [index], measure)
        self._noises = found
        return {index: sum(noises) for index, noises in found.items()}

    def order(self, noises: dict[int, float]) -> list[int]:
        """Returns the units, those first that take away the most noise for each tensor."""
        units = self.prepared.units

        def gain(index: int) -> float:
            return noises[index] / max(units[index].values, 1)

        return sorted(noises, key=lambda index: (-gain(index), index))

    def cost(self, chosen: Iterable[int]) -> int:
        """Returns how many tensors get 16 bits."""
        return sum(self.prepared.units[index].values for index in chosen)

    @property
    def room(self) -> int:
        """How many tensors of activations `spend` may give 16 bits."""
        return int(MOST_WIDE * self.prepared.values) - self.prepared.wide

    def spend(self) -> Found:
        """Gives 16 bits to at most a small share of the activations, where they gain the most."""
        noises = self.noises()
        prepared, total = self.prepared, sum(noises.values())
        values = self.room
        numbers = int(MOST_WIDE * prepared.numbers)
        chosen: list[int] = []
        for index in self.order(noises):
            unit = prepared.units[index]
            if noises[index] < LEAST_GAIN * total:
                continue
            if unit.values <= values and unit.size <= numbers:
                chosen.append(index)
                values, numbers = values - unit.values, numbers - unit.size
        complete = len(noises) == len(prepared.units)
        after: float | None = None
        try:
            after = self.real(chosen)
            # What is clearly better than a simulation of the program without need not be compared.
            if chosen and after < self.simulated([]) + NEAR and after <= (before := self.real([])):
                return Found((), before, complete)
        except OutOfTime:
            return Found(tuple(chosen), after, finished=False)
        return Found(tuple(chosen), after, complete)

    def meet(self) -> Found | None:
        """Finds few units whose 16 bits meet the budget.

        Returns:
            None where not even all of them do.

        Raises:
            OutOfTime: There was no time to find some that do.
        """
        found: Found | None = None
        try:
            # A simulation that is far below need not be confirmed.
            is_near = not self._adds_up or self.simulated([]) >= self.budget.bound - 2 * NEAR
            if is_near and (figure := self.real([])) >= self.budget.bound:
                return Found((), figure)
            noises = self.noises()
            if len(noises) < len(self.prepared.units):
                raise OutOfTime
            order = self.order(noises)
            if not order:
                self.real([])
                return None
            found = self._reach(order)
            if found is None:
                return None
            while (fewer := self._fewer(found, noises)) is not None:
                found = fewer
        except OutOfTime:
            good = [each for each in self.tried if (each.figure or 0) >= self.budget.bound]
            if not good:
                raise
            best = min(good, key=lambda each: self.cost(each.chosen))
            return Found(best.chosen, best.figure, finished=False)
        return Found(tuple(each for each in order if each in found.chosen), found.figure)

    @property
    def best(self) -> Found | None:
        """The best of what was made, the one of the fewest tensors of several."""
        return max(
            self.tried, key=lambda each: (each.figure or 0, -self.cost(each.chosen)), default=None
        )

    def _reach(self, order: Sequence[int]) -> Found | None:
        """Takes units in order until the integer program meets the budget."""
        wanted, least = self.budget.bound, 1
        while True:
            count = self._first(order, wanted, least)
            figure = self.real(order[:count])
            if figure >= self.budget.bound:
                return Found(tuple(order[:count]), figure)
            if count == len(order):
                return None
            # As much more as the program is worse than its simulation.
            wanted = max(wanted, self.simulated(order[:count])) + (self.budget.bound - figure)
            least = count + 1

    def _first(self, order: Sequence[int], wanted: float, least: int) -> int:
        """Returns the least number of units in order whose simulation has a figure, or all."""
        low, high = least, len(order)
        while low < high:
            middle = (low + high) // 2
            if self.simulated(order[:middle]) >= wanted:
                high = middle
            else:
                low = middle + 1
        return low

    def _fewer(self, found: Found, noises: dict[int, float]) -> Found | None:
        """Returns a set that meets the budget with fewer tensors in 16 bits, if one is found."""
        if len(noises) <= FEW and (fewer := self._of_all_sets(found, noises)) is not None:
            return fewer
        sets = self._lighter(found, noises) if len(noises) > FEW and self._adds_up else iter(())
        for chosen in chain(sets, self._without_one(found, noises)):
            if (figure := self.real(chosen)) >= self.budget.bound:
                return Found(chosen, figure)
        return None

    def _of_all_sets(self, found: Found, noises: dict[int, float]) -> Found | None:
        """Returns the set of the fewest tensors that meets the budget, if one of fewer does."""
        assert found.figure is not None
        cost = self.cost(found.chosen)
        offset = self.simulated(found.chosen) - found.figure
        bound = self.budget.bound + offset - (NEAR if self._adds_up else 0)
        places = self.order(noises)
        sets = [each for count in range(len(places)) for each in combinations(places, count)]
        sets = [each for each in sets if self.cost(each) < cost]
        # Of as many tensors those first that leave the least noise.
        left = {each: -sum(noises[index] for index in each) for each in sets}
        tried = 0
        for chosen in sorted(sets, key=lambda each: (self.cost(each), left[each], each)):
            if tried >= MOST_TRIED:
                return None
            if not self.measurements.known("real", chosen):
                if self.simulated(chosen) < bound:
                    continue
                tried += 1
            figure = self.real(chosen)
            if figure >= self.budget.bound:
                return Found(chosen, figure)
        return None

    def _without_one(self, found: Found, noises: dict[int, float]) -> Iterator[tuple[int, ...]]:
        """Yields sets without one unit, of those of least noise, that may meet the budget."""
        assert found.figure is not None
        bound = self.budget.bound + self.simulated(found.chosen) - found.figure - NEAR_ONE
        # Simulated figures that don't add up say little of those of the program near the bound.
        is_sifted = self._adds_up and len(noises) > NOT_MANY
        for index in sorted(found.chosen, key=noises.__getitem__)[:MOST_ONES]:
            chosen = tuple(each for each in found.chosen if each != index)
            if not is_sifted or self.simulated(chosen) >= bound:
                yield chosen

    @property
    def _adds_up(self) -> bool:
        """Whether what is measured tells the sum of the noises."""
        return self.budget.metric is signal_to_noise

    def _lighter(self, found: Found, noises: dict[int, float]) -> Iterator[tuple[int, ...]]:
        """Yields sets without those of least noise, as many as the budget has room for."""
        assert found.figure is not None
        lightest = sorted(found.chosen, key=noises.__getitem__)
        room = 10 ** (-self.budget.bound / 10) - 10 ** (-found.figure / 10)
        for share in (1.0, 0.5):
            dropped, left = [], share * room
            # Those of several tensors first: they bring the most.
            for index in sorted(lightest, key=lambda each: -self.cost([each])):
                if noises[index] < left:
                    dropped.append(index)
                    left -= noises[index]
            if not dropped:
                return
            yield tuple(each for each in found.chosen if each not in dropped)
