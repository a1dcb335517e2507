"""The conversion of programs with regions: what goes through a loop or a branch has one code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from qir.analysis.properties import QUANTIZED
from qir.ir import Builder, Graph, Node, Value, reachable
from qir.ir.cloner import clone
from qir.ops import Const, Dequantize, Quantize, Return
from qir.ops.regions import RegionOp
from qir.passes.shared.boundary import Boundary
from qir.passes.shared.code_options import CodeOptions
from qir.passes.shared.coded_ways import is_computed_from, is_computed_with, origin
from qir.passes.shared.conditions import coarse_condition
from qir.passes.shared.conversion import Conversion
from qir.passes.shared.forms import Forms
from qir.passes.shared.given_codes import GivenCodes
from qir.passes.shared.passage_codes import PassageCodes
from qir.passes.shared.plan import CodePlan
from qir.pipeline import Context
from qir.types import Affine, DType

_STAYS = "nothing in its regions computes on codes"

_UNSEEN = "no calibration data went through it"


@dataclass(frozen=True, eq=False)
class _Body:
    """A copy of a region that is converted.

    Attributes:
        graph: The copy.
        tabled: Its nodes of floating point that stand for tables.
        diagnostics: What there is to say of it.
    """

    graph: Graph
    tabled: set[Node]
    diagnostics: list[str]


class Quantization:
    """Gives a program codes, and all regions inside of it, by one set of options.

    Args:
        options: What is wanted of codes.
        context: What the pass was given.
    """

    def __init__(self, options: CodeOptions, context: Context) -> None:
        self.options = options
        self.context = context

    def convert(
        self,
        graph: Graph,
        boundary: Boundary,
        wanted: Mapping[Value, Affine] | None = None,
        added_up: Mapping[Value, Affine | None] | None = None,
    ) -> Conversion:
        """Converts a graph with ranges, in place.

        Args:
            graph: The graph.
            boundary: What it takes and returns.
            wanted: The codes that values are to have where they have none already.
            added_up: The values that a loop adds up in 16 bits, with the code of those that have
                one of their own.
        """
        fine = {value: code for value, code in (added_up or {}).items() if code is not None}
        options = self.options
        given = GivenCodes(graph)
        plan = CodePlan(
            graph,
            options.chosen.kept,
            self.context.statistics,
            storage=options.storage,
            chosen=options.chosen.storages,
            symmetric=options.symmetric,
            boundary=boundary,
            given={**(wanted or {}), **given.results, **fine},
            fine=added_up or (),
            target=options.target,
        )
        conversion = Conversion(
            graph,
            self.context,
            plan,
            options.weights,
            chosen=options.chosen.codings,
            boundary=boundary,
            convert_regions=self._convert_regions,
            rounding=options.rounding,
            correct_bias=options.correct_bias,
            stored=given.constants,
        )
        conversion.run()
        given.restore()
        self._tell_unfollowed(conversion)
        return conversion

    def _tell_unfollowed(self, conversion: Conversion) -> None:
        """Says for which values a rule chooses what they do not get."""
        inside, codes = conversion.plan.inside, conversion.forms.main
        found: dict[tuple[DType, str], list[str]] = {}
        for value, storage in self.options.chosen.asked.items():
            own = codes.get(value)
            if value in inside:
                reason = "inside of a function that is one lookup, only its result has a code"
            elif own is not None and own.storage.bits < min(storage.bits, 16):
                reason = (
                    f"what fixes the code, as an op, a loop or inputs=, has {own.storage.value}"
                )
            else:
                continue
            found.setdefault((storage, reason), []).append(f"%{value.name}")
        for (storage, reason), names in found.items():
            few = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            self.context.diagnostics.append(
                f"quantize: activations={storage.value} of {few} is not followed: {reason}"
            )

    def _convert_regions(self, node: Node, forms: Forms, builder: Builder) -> None:
        """Converts what is in the regions of a node, and gives what goes through it codes."""
        if (reason := forms.plan.why_float(node)) is not None:
            _leave_float(node, reason, forms, builder)
            return
        if (reason := coarse_condition(node, forms.plan.code_for)) is not None:
            _leave_float(node, reason, forms, builder)
            self.context.diagnostics.append(
                f"quantize: the loop of %{node.outputs[0].name} stays in floating point: {reason}"
            )
            return
        ports = PassageCodes(node, forms, self.context.statistics, self.options.carries)
        while True:
            bodies = [self._body(region, index, ports) for index, region in enumerate(node.regions)]
            idle = ports.codes.keys() - _serving(ports, bodies)
            if not idle:
                break
            for place in idle:
                del ports.codes[place]
        self._commit(node, ports, bodies, forms, builder)

    def _body(self, region: Graph, index: int, ports: PassageCodes) -> _Body:
        """Converts a copy of a region, with the codes that go through it as they are now."""
        twin = clone(region)
        self.options.chosen.copy_to(region, twin)
        copies = dict(zip(region.values(), twin.values(), strict=True))
        taken: dict[Value, Affine] = {}
        returned: list[Affine | None] = [None] * len(twin.outputs)
        # What is returned gets the code that it has then, and is not rounded to another before.
        wanted: dict[Value, Affine] = {}
        for place, code in ports.codes.items():
            port = ports.passing[place]
            for at, position in port.passage.inputs:
                if at == index:
                    taken[twin.inputs[position]] = code
            for at, position in port.passage.outputs:
                if at == index:
                    returned[position] = code
                    if code.storage is self.options.storage:
                        wanted.setdefault(twin.outputs[position], code)
        unseen = [node for node in twin.nodes if _is_unseen(node)]
        self.options.chosen.kept.update(unseen)
        added_up = {copies[value]: code for value, code in ports.added_up(region).items()}
        told = len(self.context.diagnostics)
        conversion = self.convert(twin, Boundary(taken, returned), wanted | taken, added_up)
        diagnostics = self.context.diagnostics[told:]
        for node in unseen:
            node.note = _UNSEEN
        del self.context.diagnostics[told:]
        return _Body(twin, conversion.tabled, diagnostics)

    def _commit(
        self, node: Node, ports: PassageCodes, bodies: list[_Body], forms: Forms, builder: Builder
    ) -> None:
        """Puts the converted regions into a node, and lets it take and return their codes."""
        for body in bodies:
            self.context.diagnostics += body.diagnostics
        node.regions = tuple(body.graph for body in bodies)
        codes = {
            port.passage.operand: ports.codes[place]
            for place, port in enumerate(ports.passing)
            if place in ports.codes and port.passage.operand is not None
        }
        for index, value in enumerate(node.inputs):
            code = codes.get(index)
            if code is None:
                node.set_input(index, forms.real(value, builder))
                continue
            # A sum that has been moved goes in with all of its bits.
            total = None if value.is_constant else forms.from_sum(value, code, builder)
            node.set_input(index, total or forms.code(value, builder, code))
        for place, code in ports.codes.items():
            result = ports.passing[place].result
            if result is not None:
                forms.take(result, code)
        self._note(node, ports)
        self._tell_of_trips(node, bodies)

    def _tell_of_trips(self, node: Node, bodies: list[_Body]) -> None:
        """Says where codes decide how often a loop runs."""
        assert isinstance(node.op, RegionOp)
        for index in node.op.conditions:
            region = bodies[index].graph
            deciding = region.cone(region.outputs)
            read = [
                value.name
                for value in region.inputs
                if value.type.quant is not None and deciding.keys() & set(value.users)
            ]
            if read:
                self.context.diagnostics.append(
                    f"quantize: %{node.outputs[0].name} may run another number of trips than in "
                    f"floating point, as codes of {', '.join(f'%{name}' for name in read)} decide "
                    "when it ends; keep_float names what must not be rounded"
                )

    def _note(self, node: Node, ports: PassageCodes) -> None:
        """Says what of a node stays in floating point, and what codes may change of its course."""
        floats = [
            port.values[0].name
            for place, port in enumerate(ports.passing)
            if place not in ports.codes
            and any(value.type.is_float for value in (*port.inputs, *port.returned))
        ]
        if not floats:
            return
        if not ports.codes and all(QUANTIZED.missing(region) for region in node.regions):
            node.note = _STAYS
            return
        names = ", ".join(f"%{name}" for name in floats)
        node.note = f"nothing in its regions computes on codes of {names}"


def _leave_float(node: Node, reason: str, forms: Forms, builder: Builder) -> None:
    for inner in (node, *(inner for region in node.regions for inner in region.walk())):
        if not isinstance(inner.op, Const | Return):
            inner.note = reason
    forms.leave_float(node, builder)


def _is_unseen(node: Node) -> bool:
    """Whether a node computes with floats of which no range is known: no data went through it."""
    if node.regions or isinstance(node.op, Const | Return | Dequantize | Quantize):
        return False
    return any(
        value.type.is_float
        and value.range is None
        and not isinstance(value.op, Const | Dequantize)
        and not (value.uses and all(isinstance(user.op, Quantize) for user in value.users))
        for value in (*node.inputs, *node.outputs)
    )


def _serving(ports: PassageCodes, bodies: list[_Body]) -> set[int]:
    """Returns the places of what something inside computes on the codes of.

    What is handed from one to another, as in a row of delays, serves where any of them does.
    """
    within = {
        bodies[at].graph.inputs[position]: place
        for place in ports.codes
        for at, position in ports.passing[place].passage.inputs
    }
    joined: dict[int, set[int]] = {place: {place} for place in ports.codes}
    serving: set[int] = set()
    for place in ports.codes:
        passage = ports.passing[place].passage
        for at, position in passage.inputs:
            if is_computed_with(bodies[at].graph.inputs[position], bodies[at].tabled):
                serving.add(place)
        for at, position in passage.outputs:
            returned = bodies[at].graph.outputs[position]
            if is_computed_from(returned, bodies[at].tabled):
                serving.add(place)
            elif (other := within.get(origin(returned))) is not None:
                joined[place].add(other)
                joined[other].add(place)
    return set(reachable(serving, lambda place: joined[place]))
