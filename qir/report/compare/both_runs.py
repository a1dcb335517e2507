"""A float program and the integer one that was made of it, computed on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from qir.analysis.equivalence import Interpreter
from qir.ir import Graph, Value
from qir.ir.signature import Sizes, bind
from qir.observe.sample import batch_name, rows_between
from qir.report.compare.counterparts import Counterparts, decoded
from qir.report.compare.forcing import ForcedRun, ForcedValue
from qir.report.compare.own_errors import FloatOps, OwnParts
from qir.report.trips import Trips
from qir.types import Array

MOST_BYTES = 2**27
"""What the numbers of the float program may take at a time; those of other runs come on top."""


@dataclass(frozen=True)
class BothRuns:
    """What both programs compute of some rows.

    Args:
        counterparts: Which values stand for which.
        inputs: The arrays of the float program's inputs.
        sizes: The sizes of named dimensions.
        exact: The numbers of the float program.
        trips: Those inside of its regions.
        found: The stored numbers of the integer program.
        found_trips: Those inside of its regions.
    """

    counterparts: Counterparts
    inputs: Sequence[Array]
    sizes: Sizes
    exact: Mapping[Value, Array]
    trips: Trips
    found: Mapping[Value, Array]
    found_trips: Trips

    @staticmethod
    def compute(
        reference: Graph, program: Graph, inputs: Sequence[Array], interpreter: Interpreter
    ) -> BothRuns:
        """Computes both programs.

        Raises:
            QirError: An input does not fit, or a loop has no end.
        """
        trips, found_trips = Trips(), Trips()
        exact = interpreter(reference, *inputs, inside=trips.note)
        found = interpreter(program, *given_to(program, reference, inputs), inside=found_trips.note)
        sizes = bind(reference.inputs, inputs)
        counterparts = Counterparts(reference)
        return BothRuns(counterparts, inputs, sizes, exact, trips, found, found_trips)

    def found_of(self, met: ForcedValue) -> tuple[Array, Array] | None:
        """Returns what the integer program had where a value was met: stored and real numbers.

        None in a trip of which the numbers are not kept.
        """
        if met.trip is None:
            stored = self.found[met.value]
        else:
            numbers = self.found_trips.numbers.get(met.value, [])
            if met.trip >= len(numbers):
                return None
            stored = numbers[met.trip]
        return stored, decoded(met.value, stored)

    def meet(
        self,
        reference: Graph,
        program: Graph,
        interpreter: Interpreter,
        visit: Callable[[ForcedValue, OwnParts | None, ForcedRun, FloatOps], None],
    ) -> None:
        """Computes the integer program on exact operands and visits what it computes of them."""
        ops = FloatOps(self.counterparts, self.sizes)

        def met(one: ForcedValue) -> None:
            visit(one, ops.parts(one, run), run, ops)

        run = ForcedRun(self.counterparts, self.exact, self.trips, self.found_trips, met)
        run.run(program, given_to(program, reference, self.inputs), interpreter)


def given_to(program: Graph, reference: Graph, inputs: Sequence[Array]) -> list[Array]:
    """Returns arrays for an integer program, whose inputs may have codes, of the float one's."""
    pairs = zip(program.inputs, reference.inputs, inputs, strict=True)
    return [
        array
        if new.type.quant is None or old.type.quant is not None
        else new.type.quant.encode(array)
        for new, old, array in pairs
    ]


def few_at_a_time(
    graph: Graph, batches: Iterable[Sequence[Array]], samples: int
) -> Iterator[tuple[Sequence[Array], int]]:
    """Yields the rows of batches, so many at a time that their numbers can be kept.

    Args:
        graph: The float program.
        batches: An array for each input of each.
        samples: The most rows of all; batches where the program can't be cut into rows.

    Returns:
        An array for each input, and how many rows they have.
    """
    name, left = batch_name(graph), samples
    for arrays in batches:
        if left <= 0:
            return
        if name is None:
            left -= 1
            yield arrays, 1
            continue
        count = min(int(bind(graph.inputs, arrays).names[name]), left)
        if not count:
            continue
        step = max(1, MOST_BYTES // max(1, _bytes(graph, rows_between(graph, arrays, 0, 1))))
        for start in range(0, count, step):
            stop = min(start + step, count)
            yield rows_between(graph, arrays, start, stop), stop - start
        left -= count


def _bytes(graph: Graph, inputs: Sequence[Array]) -> int:
    sizes = bind(graph.inputs, inputs)
    return sum(
        prod(sizes.shape(value.type.shape)) * value.type.dtype.numpy.itemsize
        for value in graph.values()
        if not value.is_constant
    )
