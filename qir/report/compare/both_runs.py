"""A float program and the integer one that was made of it, computed on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from math import prod

from qir.analysis.equivalence import Interpreter
from qir.ir import Graph, Value
from qir.ir.signature import Sizes, bind
from qir.observe.sample import batch_name, rows_between
from qir.report.compare.counterparts import Counterparts, decoded
from qir.report.compare.forcing import ForcedRun, ForcedValue
from qir.report.compare.own_errors import FloatOps, OwnParts
from qir.report.compare.read_forms import ReadForm, ReadForms, nearest, picked
from qir.report.trips import Trips
from qir.types import Array

MOST_BYTES = 2**27
"""What the numbers of the float program may take at a time; those of other runs come on top."""


@dataclass(frozen=True)
class MetForm:
    """A form that ops read, as it was met on exact operands.

    Args:
        form: The values of the integer program.
        met: What was met of them, by the first one's name.
        parts: The own error; None where another value tells it.
        stored: What the integer program had there; None where that is not kept.
        run: The run that met them.
        ops: Computes ops of the float program.
        together: The real numbers of several values in place of the stored ones of one.
    """

    form: ReadForm
    met: ForcedValue
    parts: OwnParts | None
    stored: Array | None
    run: ForcedRun
    ops: FloatOps
    together: Array | None = None

    @property
    def real(self) -> Array | None:
        """The real numbers that the integer program had; None where they are not kept."""
        if self.stored is None:
            return self.together
        return decoded(self.met.value, self.stored)


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

    def meet(
        self,
        reference: Graph,
        program: Graph,
        interpreter: Interpreter,
        visit: Callable[[MetForm], None],
    ) -> FloatOps:
        """Computes the integer program on exact operands and visits each form that others read.

        Returns:
            What has seen where the float program reads these forms.

        Raises:
            EndlessError: Of exact numbers a loop has no end.
        """
        forms = ReadForms(program, self.counterparts)
        ops = FloatOps(self.counterparts, forms, self.sizes)
        waiting: dict[Value, MetForm] = {}

        def met(one: ForcedValue) -> None:
            if forms.is_cast(one.value):
                return
            found = self._found(one)
            alone = MetForm((one.value,), one, ops.parts(one, run), found, run, ops)
            for form in forms.containing(one.value):
                if len(form) == 1:
                    visit(alone)
                    continue
                waiting[one.value] = alone
                members = [waiting[each] for each in form if each in waiting]
                if len(members) == len(form) and len({each.met.trip for each in members}) == 1:
                    for each in _together(form, members):
                        visit(each)

        run = ForcedRun(self.counterparts, self.exact, self.trips, self.found_trips, met)
        run.run(program, given_to(program, reference, self.inputs), interpreter)
        for old, new in zip(reference.outputs, program.outputs, strict=True):
            if (form := forms.returned(new).get(old)) is not None:
                ops.edges[reference.returns, reference.outputs.index(old)] = form
        for node, operand, form in forms.into_regions(reference, program):
            ops.edges[node, operand] = form
        return ops

    def _found(self, met: ForcedValue) -> Array | None:
        """Returns the stored numbers that the integer program had where a value was met."""
        if met.trip is None:
            return self.found[met.value]
        numbers = self.found_trips.numbers.get(met.value, [])
        return numbers[met.trip] if met.trip < len(numbers) else None


def _together(form: ReadForm, members: Sequence[MetForm]) -> Sequence[MetForm]:
    """Returns what an op reads of several values as one, of each channel the nearest."""
    first = members[0]
    shapes = {each.met.computed.shape for each in members}
    parts = [each.parts for each in members if each.parts is not None]
    real = [each.real for each in members if each.real is not None]
    if len(shapes) > 1 or len(parts) < len(members) or len(real) < len(members):
        return members
    choice = nearest([each.met.rounded for each in members], first.met.exact)

    def chosen(arrays: Iterable[Array]) -> Array:
        return picked(list(arrays), choice)

    met = replace(
        first.met,
        computed=chosen(each.met.computed for each in members),
        rounded=chosen(each.met.rounded for each in members),
    )
    own = OwnParts(
        **{
            part.name: chosen(getattr(each, part.name) for each in parts)
            for part in fields(OwnParts)
        }
    )
    return [replace(first, form=form, met=met, parts=own, stored=None, together=chosen(real))]


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
