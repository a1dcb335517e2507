"""Loops and branches as ops with regions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from qir.errors import QirError
from qir.frontends.jaxpr.program import RegionEquation, Slot, Way
from qir.frontends.jaxpr.shapes import to_size
from qir.frontends.shared.emitter import Operand
from qir.frontends.shared.known import Known
from qir.frontends.shared.refusals import REFUSED, Incomplete
from qir.ir import Graph, Value
from qir.ops import Cond, Scan, While
from qir.ops.regions import RegionOp
from qir.types import Dim

if TYPE_CHECKING:
    from qir.frontends.jaxpr.importer import Importer


def import_regions(importer: Importer, equation: RegionEquation) -> list[Operand]:
    """Writes a loop or a branch.

    What is known and the same in every trip is known inside too, so that weights are constants of
    the region; what is known and carried, or stacked, is a constant outside. A branch that is known
    is written in place of the choice.

    Args:
        importer: Where to write.
        equation: The loop or branch.

    Raises:
        Incomplete: Some of what it reads or runs was refused.
        QirError: What goes through is no array of numbers.
    """
    read = {slot: importer.read(slot) for slot in equation.inputs}
    if any(found is REFUSED for found in read.values()):
        for body in equation.bodies:  # which may hold more that can't be imported
            with suppress(Incomplete):
                importer.body(body, dict.fromkeys(body.inputs, REFUSED))
        raise Incomplete
    if equation.primitive.name == "cond" and isinstance(read[equation.inputs[0]], Known):
        return _taken(importer, equation, int(read[equation.inputs[0]].full))
    given = _known_inside(equation, read)
    _count_by_name(equation, read)
    emitter = importer.emitter
    operands: list[Value] = []
    for slot in equation.inputs:
        found = read[slot]
        if not isinstance(found, Value | Known):
            raise QirError(f"type: expected an array of numbers, got {slot.aval.dtype}")
        operands.append(emitter.value(found))
    regions = list(_bodies(importer, equation, given))
    return list(emitter.emit_node(_op(equation), operands, regions).outputs)


def _bodies(
    importer: Importer, equation: RegionEquation, given: Mapping[Slot, Any]
) -> Iterator[Graph]:
    """Yields what an equation runs; where some of it was refused, the rest is read first."""
    complete = True
    for body in equation.bodies:
        try:
            yield importer.body(body, given)
        except Incomplete:
            complete = False
    if not complete:
        raise Incomplete


def _known_inside(equation: RegionEquation, read: Mapping[Slot, Any]) -> dict[Slot, Any]:
    """Takes what is known and invariant out of what goes through.

    Returns:
        What is known, by the variable inside. A value that goes in twice does so once: there, by
        the second variable, is the first.
    """
    given: dict[Slot, Any] = {}
    ways: list[Way] = []
    first: dict[Value, Way] = {}
    for way in equation.ways:
        found = None if way.operand is None else read[way.operand]
        if way.kind != "invariant" or found is None or not way.inputs:
            ways.append(way)
        elif not isinstance(found, Value):
            given.update({slot: found for _, slot in way.inputs})
        elif found in first:
            taken = dict(first[found].inputs)
            given.update({slot: taken[place] for place, slot in way.inputs})
        else:
            first[found] = way
            ways.append(way)
    equation.settle(ways)
    return given


def _count_by_name(equation: RegionEquation, read: dict[Slot, Any]) -> None:
    """Lets something be stacked where a named size says how many trips there are."""
    if equation.primitive.name != "scan" or _stacked(equation):
        return
    trips = to_size(equation.params["length"])
    if isinstance(trips, Dim):
        zeros = Known.of(np.zeros((), np.int32), (trips,))
        outer, inner = (Slot(jax.typeof(np.int32(0))) for _ in range(2))
        read[outer] = zeros
        at = len([way for way in equation.ways if way.operand is not None])
        way = Way("stacked", outer, ((0, inner),))
        equation.settle([*equation.ways[:at], way, *equation.ways[at:]])


def _op(equation: RegionEquation) -> RegionOp:
    carries = len([way for way in equation.ways if way.kind == "carried"])
    match equation.primitive.name:
        case "scan":
            stacked = _stacked(equation)
            trips = None if stacked else int(equation.params["length"])
            return Scan(carries, stacked, trips, bool(equation.params["reverse"]))
        case "while":
            return While(carries)
        case _:
            return Cond()


def _stacked(equation: RegionEquation) -> int:
    """Returns how many operands are stacked."""
    stacked = (way for way in equation.ways if way.kind == "stacked")
    return len([way for way in stacked if way.operand is not None])


def _taken(importer: Importer, equation: RegionEquation, index: int) -> list[Operand]:
    """Writes the branch that an index means, the nearest one where there is none."""
    place = min(max(index, 0), len(equation.bodies) - 1)
    body = equation.bodies[place]
    for way in equation.ways:
        for at, slot in way.inputs:
            if at == place and way.operand is not None:
                importer.found[slot] = importer.read(way.operand)
    importer.calls.extend(body.calls)
    importer.run(body.equations)
    returned = list(map(importer.read, body.outputs))
    if any(found is REFUSED for found in returned):
        raise Incomplete
    return returned
