"""The codes of what goes through a node with regions: one for all that it is on its way."""

from __future__ import annotations

from collections.abc import Iterator

from qir.ir import Graph, Node, Value
from qir.ir.passages import Passing, passing
from qir.numbers.interval import Interval
from qir.observe.statistics import Statistics
from qir.ops import Dequantize, Mul, Quantize
from qir.ops.elementwise import Sum
from qir.ops.regions import RegionOp
from qir.ops.rules import Quotient, SharedCode
from qir.passes.shared.accumulation import (
    LEAST_DECIBELS,
    accumulations,
    gathered,
    mean_square,
    ways_within,
)
from qir.passes.shared.code_options import Carries
from qir.passes.shared.forms import Forms
from qir.passes.shared.plan import expressed_type
from qir.passes.shared.wide import adds_to_taken, unmoved
from qir.types import Affine, DType

NEAR = 1.25
"""By how much coarser steps may be for one code of what is both carried and stacked: two cost a
second rounding."""


class PassageCodes:
    """What goes through a node with regions, and the code that each thing is to have.

    Args:
        node: The node, in a float program with ranges.
        forms: The forms of the values outside.
        statistics: What calibration observed.
        carries: The storage of what loops carry.

    Attributes:
        passing: What goes through.
        codes: The code of each, by its place in `passing`; those without one are floats, or plain.
    """

    def __init__(self, node: Node, forms: Forms, statistics: Statistics, carries: Carries) -> None:
        self.node = node
        self.passing = passing(node)
        self._forms = forms
        self._statistics = statistics
        self._carries = carries
        self._paths = self._accumulations()
        self._fine: set[int] = set()
        self.codes: dict[int, Affine] = {}
        for place, port in enumerate(self.passing):
            code = self._code(place, port)
            if code is not None:
                self.codes[place] = code

    def _accumulations(self) -> dict[int, set[Value]]:
        carried = [
            (place, port)
            for place, port in enumerate(self.passing)
            if port.passage.kind == "carried" and port.returned
        ]
        if not carried:
            return {}
        ((region, _),) = {port.passage.outputs[0] for _, port in carried[:1]}
        body = self.node.regions[region]
        taken = [next(value for value in port.inputs if value.owner is body) for _, port in carried]
        paths = accumulations(body, taken, [port.returned[0] for _, port in carried])
        return {place: path for (place, _), path in zip(carried, paths, strict=True) if path}

    def _code(self, place: int, port: Passing) -> Affine | None:
        inside = (*port.inputs, *port.returned)
        if not inside or not any(value.type.is_float for value in inside):
            return None
        if (given := _given(port)) is not None:
            return given
        ranges = [found for value in port.values if (found := self._range(value)) is not None]
        if not ranges:
            return None
        observed = ranges[0]
        for other in ranges[1:]:
            observed = observed.union(other)
        expressed = expressed_type(inside[0].type)
        plan = self._forms.plan
        if (storage := self._chosen_for(port)) is not None:
            code = plan.code_of(observed, expressed, storage)
            if port.passage.kind == "carried" and storage.bits > plan.storage.bits:
                self._fine.add(place)
            return code
        if port.passage.kind == "carried":
            return self._carried_code(place, port, observed, expressed)
        if self._enters_sums(port):
            code = plan.code_of(observed, expressed, DType.I16)
            if plan.accepts(code):
                self._fine.add(place)
                return code
        own = None if port.operand is None else self._forms.main.get(port.operand)
        if port.operand is not None and unmoved(port.operand) in plan.fine and own is not None:
            self._fine.add(place)
            return own
        if port.result is not None and port.result in plan.fine:
            self._fine.add(place)
            self._paths[place] = self._ways_to(port)
            return plan.code_of(observed, expressed, DType.I16)
        plain = own is not None and own.storage is plan.storage and own.bounds is None
        if own is not None and plain and own.per_tensor and own.holds_zero:
            return own
        code = plan.code_of(observed, expressed)
        return self._carried_too(port, code) or code

    def _chosen_for(self, port: Passing) -> DType | None:
        """Returns the widest storage that is chosen for something on its way through."""
        plan = self._forms.plan
        chosen = (plan.storage_of(value) for value in port.values if plan.is_chosen(value))
        return max(chosen, key=lambda storage: storage.bits, default=None)

    def _enters_sums(self, port: Passing) -> bool:
        """Whether a sum from outside is added to others inside, as the projection of an input is.

        8 bits would round what goes into a gate twice.
        """
        if self._forms.plan.one_width or port.operand is None or port.returned:
            return False
        if unmoved(port.operand) not in self._forms.sums:
            return False
        return any(
            adds_to_taken(total, port.inputs) for value in port.inputs for total in _moved_to(value)
        )

    def _carried_too(self, port: Passing, code: Affine) -> Affine | None:
        """Returns the code in which what is returned is carried too, if it is hardly coarser."""
        if port.operand is not None:
            return None
        for place in self.codes.keys() - self._fine:
            carried = self.codes[place]
            steps = float(carried.scale.array), float(code.scale.array)
            if self.passing[place].returned == port.returned and steps[0] <= NEAR * steps[1]:
                return carried
        return None

    def _carried_code(
        self, place: int, port: Passing, observed: Interval, expressed: DType
    ) -> Affine:
        plan = self._forms.plan
        code = plan.code_of(observed, expressed)
        wide = plan.code_of(observed, expressed, DType.I16)
        if plan.is_fine or self._carries == "i8" or not plan.accepts(wide):
            return code
        if self._carries == "auto":
            if place not in self._paths:
                return code
            power = mean_square((*port.returned, *port.inputs), observed, self._statistics)
            assert isinstance(self.node.op, RegionOp)
            trips = self.node.op.trip_count([value.type for value in self.node.inputs])
            goes_on = port.result is not None and port.result in plan.fine
            goes_on = goes_on or self._divides(self._paths[place])
            if not goes_on and gathered(power, code, trips) >= LEAST_DECIBELS:
                return code
        self._fine.add(place)
        return wide

    def _divides(self, path: set[Value]) -> bool:
        """Whether what is added up is a divisor, of which the least has to keep bits too."""
        return any(
            isinstance(user.op.quant, Quotient) and user.inputs[1] is value
            for value in path
            for user in value.users
        )

    def _ways_to(self, port: Passing) -> set[Value]:
        """Finds the values in branches between what has 16 bits and what they return for it."""
        found: set[Value] = set()
        for returned in port.returned:
            fine = (value for place in self._fine for value in self.passing[place].inputs)
            begins = [value for value in fine if value.owner is returned.owner]
            found |= ways_within(returned.owner, begins, returned)
        return found

    def added_up(self, region: Graph) -> dict[Value, Affine | None]:
        """Returns the values in a region that the loop adds up in 16 bits.

        Those that are chosen or cut off have the code that is carried, those that are multiplied
        once more one of 16 bits of their own; the others are exact sums until they are rounded.
        """
        found: dict[Value, Affine | None] = {}
        for place in self._fine & self.codes.keys():
            path = self._paths.get(place, set())
            for value in path:
                if value.owner is not region or value.node is None:
                    continue
                if isinstance(value.op, Sum | Mul):
                    again = any(
                        isinstance(user.op, Mul) and not path.isdisjoint(user.outputs)
                        for user in value.users
                    )
                    found[value] = self._fine_code(value) if again else None
                else:
                    chosen = isinstance(value.node.op.quant, SharedCode)
                    cut_off = value.node.op.clip_bounds() is not None
                    found[value] = self.codes[place] if chosen or cut_off else None
            found |= {value: None for value in self.passing[place].inputs if value.owner is region}
        return found

    def _fine_code(self, value: Value) -> Affine | None:
        observed = self._range(value)
        if observed is None:
            return None
        return self._forms.plan.code_of(observed, expressed_type(value.type), DType.I16)

    def _range(self, value: Value) -> Interval | None:
        if value.is_constant:
            array = value.real
            found = Interval.of(array.min(initial=0), array.max(initial=0))
            return found if found.is_finite else None
        return value.range if value.range is not None and value.range.is_finite else None


def _moved_to(value: Value) -> Iterator[Value]:
    """Yields what reads a value, perhaps moved."""
    for node in value.users:
        for result in node.outputs:
            if node.op.moves.by_place:
                yield from _moved_to(result)
            else:
                yield result


def _given(port: Passing) -> Affine | None:
    """Returns the code that the program rounds something to inside, where it has one already."""
    for value in (*port.inputs, *port.returned):
        if isinstance(value.op, Dequantize):
            code = value.inputs[0].type.quant
        else:
            code = next((user.op.to for user in value.users if isinstance(user.op, Quantize)), None)
        if isinstance(code, Affine) and code.per_tensor and code.storage.bits <= 16:
            return code
    return None
