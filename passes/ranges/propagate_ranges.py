"""propagate-ranges: what the ops of a program say about the ranges that were observed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from math import inf

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value, reachable
from qir.ir.passages import Passing, passing
from qir.numbers.interval import EVERYTHING, Interval
from qir.ops import Const, Return
from qir.ops.rules import Accumulate, FixedCode, SameCode, SharedCode, Table
from qir.passes.shared.chosen_codes import fine_values
from qir.passes.shared.wide import summed_parts
from qir.pipeline import Context, Pass, register

_LARGEST = float(np.finfo(np.float32).max)
_ROUNDING = 2.0**-20
"""How far apart the float32 of observations and float64 may be, relatively to operands and result:
16 units in the last place."""

_ROUNDS = 3
"""How often bounds of what a loop carries are narrowed."""

_UNSEEN = 1 / 8
"""What part of a step of its code a result may be off by where its operand is clipped."""

_WORTH = 0.75
"""To what part of the observed range a clip must narrow it: a bit of its code is two of those."""


@register
class PropagateRanges(Pass):
    """Narrows ranges to what can occur and to what is read, and lets values of one code have one.

    Forward, each range is intersected with what its op can give for the ranges of its operands, and
    a value that has none takes that. Sums of products are left as observed: their bounds are 10 to
    100 times wider than what occurs.

    Backward, a value that only relu, clip and the like read needs only the part that they let
    through, also where ops that move or compare numbers stand between: the saturation of its code
    does their work.

    Then the values that an op moves without changing them, which have one code, get the hull of
    their ranges; those of an op whose result has a fixed code get the range of that op. Operands of
    concat, maximum and the like keep their own: each is requantized to the code of the result,
    which is exact.

    What goes through a loop or a branch has one range outside and inside, and on its way from trip
    to trip; but for what a loop begins with, which is brought into the code of what it carries.

    Attributes:
        share: Whether the operands of such ops get one range with the result instead, so that
            nothing need be requantized.
        saturate: Whether what only sigmoids and the like read is narrowed to the part in which
            the codes of their results tell numbers apart.
        bits: The width of those codes, 16 before `quantize(activations=i16)`.
    """

    share: bool = False
    saturate: bool = True
    bits: int = 8

    name = "propagate-ranges"
    whole_program = True

    def check(self) -> None:
        if not 2 <= self.bits <= 16:
            raise QirError(
                f"propagate-ranges: bits: expected the 2 to 16 bits of a code, got {self.bits}; "
                "write bits=16 before quantize(activations=i16), else leave it out"
            )

    def run(self, graph: Graph, context: Context) -> None:
        bounds = _Bounds(graph, context, bits=self.bits if self.saturate else None)
        ranges = _Needs(graph, bounds).read
        for group in _groups(graph, share=self.share):
            fixed = next((value for value in group if _is_fixed(value)), None)
            known = [value for value in group if ranges[value].is_finite]
            if fixed is not None and _serves(ranges[fixed], group, ranges):
                ranges.update(dict.fromkeys(group, ranges[fixed]))
            elif known:
                hull = _hull(ranges[value] for value in known)
                ranges.update({value: hull for value in known if not _is_fixed(value)})
        for value, found in ranges.items():
            if _is_ranged(value) and found.is_finite:
                value.range = found


def _is_ranged(value: Value) -> bool:
    return value.type.is_float and not value.is_constant


def _is_fixed(value: Value) -> bool:
    """Whether a value has a code that no range decides; what was observed may ask for another."""
    rule = value.op.quant if value.op is not None else None
    return isinstance(rule, FixedCode) and rule.serves(value.range)


def _serves(fixed: Interval, group: Iterable[Value], ranges: Mapping[Value, Interval]) -> bool:
    """Whether a fixed code holds what comes together with its value in a loop or branch."""
    met = (value for value in group if value.node is None or not _passes(value.node))
    known = (ranges[value] for value in met if not _is_fixed(value))
    return all(fixed.contains(one.bounds, _ROUNDING) for one in known if one.is_finite)


def _passes(node: Node) -> bool:
    """Whether an op moves or compares the numbers of one operand, or clips them."""
    return isinstance(node.op.quant, SameCode) and not isinstance(node.op.quant, SharedCode)


def _without_rounding(narrowed: Interval, observed: Interval) -> Interval:
    """Returns the observed bound where the narrowed one differs by rounding alone."""
    pairs = zip(narrowed.bounds, observed.bounds, strict=True)
    return Interval.of(
        *(seen if abs(seen - bound) <= _ROUNDING * abs(seen) else bound for bound, seen in pairs)
    )


def _hull(intervals: Iterable[Interval]) -> Interval:
    return reduce(Interval.union, intervals)


class _Bounds:
    """What bounds the values of a graph, in its order, and of its regions.

    Attributes:
        possible: What the op of each value can give for the ranges of its operands.
        range: The part of it that was observed.
        bits: The width of codes that saturating ops are narrowed for; None where none is.
        fine: The values for which a recipe chooses 16 bits instead.
        passing: What goes through each node with regions.
    """

    def __init__(self, graph: Graph, context: Context, *, bits: int | None) -> None:
        self.bits = bits
        self.fine = fine_values(graph, context)
        self.possible: dict[Value, Interval] = {}
        self.range: dict[Value, Interval] = {}
        self.passing: dict[Node, list[Passing]] = {}
        self._contradictions: dict[Value, str] = {}
        self._follow(graph, {})
        context.diagnostics += self._contradictions.values()

    def _follow(self, graph: Graph, given: Mapping[Value, Interval]) -> None:
        """Goes through a graph whose inputs can be what is given of them, everything else."""
        for value in graph.inputs:
            self._bound(value, given.get(value, EVERYTHING))
        for node in graph.nodes:
            if isinstance(node.op, Const | Return):
                continue
            if node.regions:
                self._follow_regions(node)
                continue
            possible = self._interval(node)
            for value in node.outputs:
                self._bound(value, possible)

    def _bound(self, value: Value, possible: Interval) -> None:
        self.possible[value] = self.range[value] = possible
        self._contradictions.pop(value, None)
        if value.range is not None and not _is_fixed(value):
            self.range[value] = self._common(value, value.range)

    def _follow_regions(self, node: Node) -> None:
        """Bounds what the regions of a node compute.

        What is carried is at first anything; each round through the regions can only narrow it, so
        that the bounds hold after any number of rounds.
        """
        ports = self.passing[node] = passing(node)
        given: dict[Value, Interval] = {}
        carried = [port for port in ports if port.passage.kind == "carried"]
        for port in ports:
            if port.operand is not None:
                for value in port.inputs:
                    whole = port in carried
                    given[value] = EVERYTHING if whole else self._joined(value, [port.operand])
        for _ in range(_ROUNDS):
            for region in node.regions:
                self._follow(region, given)
            before = dict(given)
            for port in carried:
                operand = (port.operand,) if port.operand is not None else ()
                for value in port.inputs:
                    given[value] = self._joined(value, [*operand, *port.returned])
            if given == before:
                break
        ends = dict.fromkeys(node.outputs, EVERYTHING)
        for port in ports:
            if port.result is not None:
                begins = (port.operand,) if port in carried and port.operand is not None else ()
                ends[port.result] = self._joined(port.result, [*begins, *port.returned])
        for value, possible in ends.items():
            self._bound(value, possible)

    def _joined(self, value: Value, others: Sequence[Value]) -> Interval:
        """Returns what a value can be that is one of others, outside of a region and inside."""
        # As of numbers that are moved.
        bounds = self.range if value.range is None else self.possible
        return _hull(
            Interval.point(other.real).hull() if other.is_constant else bounds[other].hull()
            for other in others
        )

    def _interval(self, node: Node) -> Interval:
        op = node.op
        several = len(node.outputs) != 1 and not isinstance(op.quant, SameCode)
        if isinstance(op.quant, Accumulate) or several:
            return EVERYTHING
        # What was observed of numbers that are moved or clipped says more than what a solver left
        # of them before.
        observed = _passes(node) and all(value.range is not None for value in node.outputs)
        bounds = self.possible if observed else self.range
        possible = op.interval(
            *(
                Interval.point(value.real) if value.is_constant else bounds[value]
                for value in node.inputs
            )
        )
        if possible.is_point:
            return possible
        low, high = possible.bounds
        if not low <= high:
            return EVERYTHING
        # Rules stand 1e300 in for infinity; no range reaches beyond float32.
        return Interval.of(low if low >= -_LARGEST else -inf, high if high <= _LARGEST else inf)

    def _common(self, value: Value, observed: Interval) -> Interval:
        """Intersects what is possible with what was observed; reports where nothing is in both."""
        possible = self.possible[value]
        (low, high), (least, greatest) = observed.bounds, possible.bounds
        gap = max(least - high, low - greatest)
        if gap <= 0:
            return _without_rounding(observed.intersect(possible), observed)
        operands = [self.range[operand] for operand in value.inputs if operand in self.range]
        reach = [abs(bound) for known in (observed, *operands) for bound in known.bounds]
        if gap > _ROUNDING * max(reach):
            maker = "what goes in" if value.op is None else value.op.name
            self._contradictions[value] = (
                f"propagate-ranges: %{value.name} was observed in {observed}, "
                f"but {maker} can only give {possible}"
            )
        return possible.intersect(observed)


class _Needs:
    """What is read of each value of a graph and of its regions.

    Args:
        graph: The graph.
        bounds: What bounds its values.

    Attributes:
        read: The range of each value, narrowed to what its users read of it.
    """

    def __init__(self, graph: Graph, bounds: _Bounds) -> None:
        self._bounds = bounds
        # What is read of what regions return, at each of their places; all of it where none stands.
        self._asked: dict[tuple[Graph, int], Interval] = {}
        self.read: dict[Value, Interval] = {}
        self._follow(graph)

    def _follow(self, graph: Graph) -> None:
        for node in reversed(list(graph.nodes)):
            for value in node.outputs:
                if not value.is_constant:
                    self.read[value] = self._of(value)
            if node.regions:
                self._follow_regions(node)
        for value in graph.inputs:
            self.read[value] = self._of(value)

    def _follow_regions(self, node: Node) -> None:
        """Narrows what regions compute; of what is carried all is read at first."""
        ports = self._bounds.passing[node]
        is_loop = any(port.passage.kind == "carried" for port in ports)
        for rounds in range(_ROUNDS if is_loop else 1):
            before = dict(self._asked)
            for port in ports:
                parts = self._of_used([port.result] if port.result else [])
                if port.passage.kind == "carried":
                    if not rounds:
                        continue
                    parts += self._of_used(port.inputs)
                for place, index in port.passage.outputs if parts else ():
                    self._asked[node.regions[place], index] = _hull(parts)
            if rounds and self._asked == before:
                break
            for region in node.regions:
                self._follow(region)
        for port in ports:
            # What nobody reads has the range of what it is elsewhere.
            ends = [port.result] if port.passage.kind == "carried" and port.result else []
            read = self._of_used(port.inputs)
            for value in (*port.inputs, *ends):
                if read and not value.uses:
                    self.read[value] = self._bounds.range[value].intersect(_hull(read))

    def _of_used(self, values: Iterable[Value]) -> list[Interval]:
        """Returns what is read of each of some values that is read at all."""
        return [self.read[value] for value in values if value.uses]

    def _of(self, value: Value) -> Interval:
        whole = self._bounds.range[value]
        if not (_is_ranged(value) and value.uses) or _is_fixed(value):
            return whole
        parts = [self._by(node, index, value) for node, index in value.uses]
        known = [part for part in parts if part is not None]
        return _hull(known) if len(known) == len(parts) else whole

    def _by(self, node: Node, index: int, value: Value) -> Interval | None:
        """Returns the part of a value that a user lets through; None where that is all.

        The user's result tells what that is: clipping an operand to it commutes with moving,
        comparing and clipping numbers.
        """
        bounds = self._bounds
        if isinstance(node.op, Return):
            asked = self._asked.get((node.graph, index))
            return None if asked is None else self._passed(value, asked, bounds.range)
        if node.regions:
            return self._by_regions(node, index, value)
        if bounds.bits is not None and node.op.saturates:
            bits = 16 if bounds.fine.intersection(node.outputs) else bounds.bits
            return _unsaturated(node, bounds.range[value], bits)
        if not isinstance(node.op.quant, SameCode):
            told = node.op.told_apart()
            return None if told is EVERYTHING else bounds.range[value].intersect(told)
        results = [self.read[result] for result in node.outputs if result.type.is_float]
        if len(results) != len(node.outputs) or not results:
            return None
        # The result of a shared code is that of other operands too.
        whole = bounds.possible if _passes(node) else bounds.range
        return self._passed(value, _hull(results), whole)

    def _by_regions(self, node: Node, index: int, value: Value) -> Interval | None:
        parts: list[Interval] = []
        for port in self._bounds.passing[node]:
            if port.passage.operand == index:
                # The result is what went in where a loop makes no trip.
                parts += self._of_used([*port.inputs, *([port.result] if port.result else [])])
        return self._passed(value, _hull(parts), self._bounds.range) if parts else None

    def _passed(
        self, value: Value, passed: Interval, whole: Mapping[Value, Interval]
    ) -> Interval | None:
        return whole[value].intersect(passed) if passed.is_finite else None


def _unsaturated(node: Node, seen: Interval, bits: int) -> Interval | None:
    """Returns the part of an operand in which codes of a saturating op tell numbers apart.

    None where that is hardly less than what was seen of it, or where the result goes into another
    lookup: the two are one, so that what is behind them decides what can be told apart.
    """
    (result,) = node.outputs
    if not seen.is_finite or any(isinstance(user.op.quant, Table) for user in result.users):
        return None
    numbers = np.linspace(*seen.bounds, 4097)
    images = np.asarray(node.op.evaluate(numbers))
    rule = node.op.quant
    span = float(images[-1] - images[0])
    if isinstance(rule, FixedCode) and _is_fixed(result):
        span = min(span, 255 * float(rule.code.scale.array))
    unseen = _UNSEEN * span / (2**bits - 1)
    low = numbers[images <= images[0] + unseen][-1]
    high = numbers[images >= images[-1] - unseen][0]
    if not low < high or high - low > _WORTH * (numbers[-1] - numbers[0]):
        return None
    return Interval.of(low, high)


def _groups(graph: Graph, *, share: bool) -> list[list[Value]]:
    """Finds the values that have one code: those that ops which keep it join, in their order."""
    joined: list[list[Value]] = []
    sharing: list[list[Value]] = []
    inside = {node.graph for node in graph.walk()}
    parts = {node for one in inside for node in summed_parts(one)}
    for node in graph.walk():
        for port in passing(node):
            # What a loop begins with is brought into the code of what it carries.
            begins = () if port.passage.kind == "carried" else (port.operand,)
            values = [*begins, *port.inputs, *port.returned, port.result]
            joined.append([value for value in values if value is not None and _is_ranged(value)])
        # Relu and clip are merged into the rounding of a sum, at a code of their own, and parts of
        # a sum are rounded each to its own.
        if node in parts:
            continue
        if not isinstance(node.op.quant, SameCode) or node.op.clip_bounds():
            continue
        values = [value for value in (*node.inputs, *node.outputs) if _is_ranged(value)]
        if not any(value.type.is_float for value in node.outputs):
            continue
        if isinstance(node.op.quant, SharedCode):
            sharing.append(values)
        else:
            joined.append(values)
    if share:
        joined += [[value] for value in graph.values_inside() if _is_fixed(value)]
        # A fixed code would clip the other operands.
        groups = _connected(joined)
        fixed = {value for group in groups if any(map(_is_fixed, group)) for value in group}
        joined += [[value for value in values if value not in fixed] for values in sharing]
    return _connected(joined)


def _connected(joined: Iterable[Sequence[Value]]) -> list[list[Value]]:
    """Unites lists that have values in common: networkx would take 0.1 s to load for that."""
    beside: dict[Value, list[Value]] = {}
    for values in joined:
        for value in values:
            beside.setdefault(value, []).append(values[0])
            beside[values[0]].append(value)
    order = {value: place for place, value in enumerate(beside)}
    groups: list[list[Value]] = []
    seen: set[Value] = set()
    for value in beside:
        if value not in seen:
            group = reachable([value], beside.__getitem__)
            seen.update(group)
            groups.append(sorted(group, key=order.__getitem__))
    return groups
