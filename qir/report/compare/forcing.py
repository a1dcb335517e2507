"""An integer program on exact operands: each value replaced by the float program's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from qir.analysis.equivalence import Interpreter
from qir.ir import Graph, Value
from qir.report.causes import code_of
from qir.report.compare.counterparts import Counterparts, decoded, turned_to
from qir.report.trips import Trips
from qir.types import Array


@dataclass(frozen=True)
class ForcedValue:
    """A value that was computed of exact operands and is read as what it should have been.

    Args:
        value: The value of the integer program.
        reference: That of the float program.
        exact: The numbers of the float program, with the axes of `value`.
        computed: The real numbers that the integer program computed, of operands that are exact but
            for their codes.
        rounded: The exact numbers in the code of `value`.
        trip: Which trip it is of, None outside of regions.
    """

    value: Value
    reference: Value
    exact: Array
    computed: Array
    rounded: Array
    trip: int | None


class ForcedRun:
    """Computes an integer program whose values go on with the numbers of the float program.

    Args:
        counterparts: Which values stand for which.
        exact: The numbers of the float program.
        trips: Those inside of its regions.
        taken: How often values inside of the integer program's regions were computed.
        visit: Called with each value that stands for one of the float program, before others read
            it; in a region once for each trip.

    Attributes:
        arrays: What the values of the integer program are read as, those of regions in this trip.
        given: What they are read as of the float program: real numbers with the axes of that, for
            each value whose numbers they are.
    """

    def __init__(
        self,
        counterparts: Counterparts,
        exact: Mapping[Value, Array],
        trips: Trips,
        taken: Trips,
        visit: Callable[[ForcedValue], None],
    ) -> None:
        self.counterparts = counterparts
        self.arrays: dict[Value, Array] = {}
        self.given: dict[Value, dict[Value, Array]] = {}
        self._exact = exact
        self._trips = trips
        self._taken = taken
        self._visit = visit
        self._met: dict[Value, int] = {}

    def run(self, program: Graph, inputs: Sequence[Array], interpreter: Interpreter) -> None:
        """Computes the program.

        Raises:
            EndlessError: Of exact numbers a loop takes trips without an end.
        """
        for value, array in zip(program.inputs, inputs, strict=True):
            self._force(value, array)
        interpreter(program, *inputs, hook=self._force, inside=self._force_inside)

    def exact(self, old: Value, trip: int | None) -> Array | None:
        """Returns the numbers of a value of the float program; None where they are not known."""
        if old in self._exact:
            return self._exact[old]
        numbers = self._trips.numbers.get(old, [])
        return numbers[trip] if trip is not None and trip < len(numbers) else None

    def _force(self, value: Value, array: Array) -> Array:
        return self._forced(value, array, self._exact, None)

    def _force_inside(self, value: Value, array: Array) -> Array:
        trip = self._met[value] = self._met.get(value, -1) + 1
        # A loop that was unrolled, or one that comes to its end at another trip, has others.
        known: dict[Value, Array] = {}
        for old in self.counterparts.references(value):
            numbers = self._trips.numbers.get(old, [])
            same = self._trips.counts.get(old) == self._taken.counts.get(value)
            if same and trip < len(numbers):
                known[old] = numbers[trip]
        return self._forced(value, array, known, trip)

    def _forced(
        self, value: Value, array: Array, exact: Mapping[Value, Array], trip: int | None
    ) -> Array:
        known = self.counterparts.known(value, array, exact)
        self.arrays[value] = array
        if not known:
            return array
        reference, right = list(known.items())[-1]
        kept, code = code_of(value), value.type.quant
        rounded = right if kept is None else kept.decode(kept.encode(right))
        computed = decoded(value, array)
        self._visit(ForcedValue(value, reference, right, computed, rounded, trip))
        read = right if code is None else rounded
        self.given[value] = {
            old: turned_to(read, value, old) for old in self.counterparts.same(known)
        }
        forced = right.astype(array.dtype) if code is None else code.encode(right)
        self.arrays[value] = forced
        return forced
