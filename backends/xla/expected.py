"""What a program should compute, by the reference, and where numbers that XLA computed differ.

Integers must be equal. A float may lie from its value in float64 as far as roundings carry it. How
far the roundings of one op do is bounded by `float_bounds`; how far those of all ops together carry
a value is seen by computing the program in float64 with each float moved by `LOOSE` times its
bound, up or down at random, and again the other way round: the greatest distance that was seen is
the room of the value. What the moves before it already put off is moved farther off, since moves of
one size in turn, as those of a chain of products are, would cancel by chance and leave no room. Two
floats that one op puts together are seen off to one side at each place, and to opposite ones: the
same chance would leave their difference no room, and what both are made of XLA may compute twice.

An integer that is computed from such floats may be any that its op makes of floats within their
room, see `cut_bounds`. What is computed from that integer starts from the one that XLA has, so that
it is exact again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import count

import jax
import numpy as np

from qir.backends.reference.interpreter import run_all
from qir.backends.xla.cut_bounds import Bounds, cut_bounds
from qir.backends.xla.float_bounds import bound_of
from qir.ir import Graph, Node, Value
from qir.ops import (
    Abs,
    Cast,
    Ceil,
    Conv,
    ConvTranspose,
    Dequantize,
    Dot,
    Floor,
    Iota,
    Lookup,
    Neg,
    QuantizeDynamic,
    Return,
    Round,
    Sign,
)
from qir.ops.rules import SameCode
from qir.types import Array, DType

EXACT = (Abs, Cast, Ceil, Dequantize, Floor, Iota, Lookup, Neg, Round, Sign)
"""Ops that round no more than their definition does, beside those that move or compare numbers."""

STEPS = (Ceil, Floor, Round, Sign)
"""Functions of floats that jump, so that what is small before them is not after."""

PRODUCTS = {"gpu": 2.0**-9, "tpu": 2.0**-7}
"""Relative error of a product on other platforms than CPU, which may round both factors first."""

LOOSE = 4
"""Times its bound by which a float is moved: signs at random, which the terms of a sum have, add up
to less than the worst."""

PAIRS = 2
"""How often the program is computed with floats moved one way and the other."""


@dataclass(frozen=True, eq=False)
class Difference:
    """Numbers that are not what they should be.

    Attributes:
        value: The value.
        place: Where in it the first of them is.
        found: That number.
        expected: What it should be, as text.
        count: How many there are.
        size: How many numbers the value has.
    """

    value: Value
    place: tuple[int, ...]
    found: object
    expected: str
    count: int
    size: int

    def __str__(self) -> str:
        return (
            f"expected {self.expected} in %{self.value.name} at {list(self.place)}, got "
            f"{self.found} ({self.count} of {self.size} numbers differ)"
        )


@dataclass(frozen=True, eq=False)
class Uncertain:
    """Where the numbers of a program depend on the order of float operations.

    Attributes:
        floats: Floats that do.
        cuts: Integers, booleans and results of jumping functions, computed from such floats.
        opaque: Results of loops and branches with such floats inside, which are cuts of any number:
            what a loop makes of a rounding is seen in its body alone.
    """

    floats: set[Value] = field(default_factory=set)
    cuts: set[Value] = field(default_factory=set)
    opaque: set[Value] = field(default_factory=set)

    @staticmethod
    def of(graph: Graph) -> Uncertain:
        """Looks through a program."""
        found = Uncertain()
        for node in graph.nodes:
            if isinstance(node.op, Return) or not node.outputs:
                continue
            reads = not found.floats.isdisjoint(node.inputs)
            if node.regions:
                if reads or any(map(Uncertain.inside, node.regions)):
                    found.opaque.update(node.outputs)
                continue
            # Quotients that are rounded once are exact, of what is exact.
            rounds = not (_exact(node) or isinstance(node.op, QuantizeDynamic))
            for value in node.outputs:
                if reads and (not value.type.is_float or isinstance(node.op, STEPS)):
                    found.cuts.add(value)
                elif value.type.is_float and node.inputs and (reads or rounds):
                    found.floats.add(value)
        found.cuts.update(found.opaque)
        return found

    @staticmethod
    def inside(region: Graph) -> bool:
        """Whether a region computes something that depends on the order of float operations."""
        found = Uncertain.of(region)
        return bool(found.floats or found.cuts)


def _exact(node: Node) -> bool:
    return isinstance(node.op, EXACT) or isinstance(node.op.quant, SameCode)


def difference(
    graph: Graph, inputs: Sequence[Array], found: Mapping[Value, Array], seed: int = 0
) -> Difference | None:
    """Compares values that XLA computed with the reference.

    Args:
        graph: The program.
        inputs: Its inputs.
        found: The arrays of some of its values. Where those of `Uncertain.cuts` are missing, what
            is computed from them is not compared right.
        seed: Seed of the directions in which floats are moved.

    Returns:
        The first difference in the program's order, or None.

    Raises:
        QirError: A stored number left its type.
    """
    uncertain = Uncertain.of(graph)
    plain = _Run({}, found, uncertain)
    native = run_all(graph, *inputs, hook=plain.hook)
    if uncertain.floats.isdisjoint(native) and not uncertain.cuts:
        return _first(graph, found, _exact_bounds(native, found))
    exact = _Run(native, found, uncertain)
    values = run_all(graph, *inputs, precision=np.float64, hook=exact.hook)
    generator = np.random.default_rng(seed)

    # In the program's order, so that a seed gives each float the same directions every time.
    floats = [value for value in values if value in uncertain.floats]
    bounds = {value: LOOSE * _bound(value, values) for value in floats}
    room = {value: _distance(plain.own[value], values[value]) for value in floats}

    def widen(sides: Mapping[Value, Array], held: bool) -> dict[Value, Array]:
        """Takes the distances of a computation with moved floats; returns where they lay."""
        run = _Run(native, found, uncertain, bounds, sides, held, values)
        run_all(graph, *inputs, precision=np.float64, hook=run.hook)
        for value in room:
            room[value] = np.fmax(room[value], _distance(run.own[value], values[value]))
        return run.sides

    sides: dict[Value, Array] = {}
    for _ in range(PAIRS):
        drawn = {value: generator.choice((-1.0, 1.0), bounds[value].shape) for value in floats}
        widen(_turned(drawn), held=False)
        sides = widen(drawn, held=False)
    # Each float keeps its sides, so that what all its places are off by stays common to them.
    colours = _colours(graph, floats)
    for bit in range(max(colours.values(), default=0).bit_length()):
        turned = _turned(sides, {value for value in floats if colours[value] >> bit & 1})
        widen(turned, held=True)
        widen(_turned(turned), held=True)
    limits = _exact_bounds(native, found)
    for value in uncertain.floats.intersection(found):
        limits[value] = _within(values[value], room[value])
    for value in uncertain.opaque.intersection(found):
        limits[value] = found[value], found[value]
    for node in graph.nodes:
        wanted = (uncertain.cuts - uncertain.opaque).intersection(node.outputs, found)
        if wanted:
            operands = {
                value: _within(values[value], room[value])
                if value in room
                else (values[value], values[value])
                for value in node.inputs
            }
            every = cut_bounds(node, operands, found, generator)
            limits.update({value: every[value] for value in wanted})
    return _first(graph, found, limits)


def _within(array: Array, room: Array) -> Bounds:
    """Returns the ends of the room around numbers; an endless one has no number that is none."""
    endless = np.isinf(room)
    with np.errstate(invalid="ignore"):
        low, high = array - room, array + room
    return np.where(endless, -np.inf, low), np.where(endless, np.inf, high)


def _turned(sides: Mapping[Value, Array], values: Set[Value] | None = None) -> dict[Value, Array]:
    """Returns sides with those of some floats turned round, without any named of all."""
    return {
        value: -side if values is None or value in values else side for value, side in sides.items()
    }


def _colours(graph: Graph, floats: Sequence[Value]) -> dict[Value, int]:
    """Gives each float a number that no float has with which an op puts it together.

    Two such numbers differ in a bit, so those that have a 1 there are turned round for each bit.
    """
    beside: dict[Value, set[Value]] = {value: set() for value in floats}
    for node in graph.nodes:
        joined = beside.keys() & set(node.inputs)
        for value in joined:
            beside[value] |= joined - {value}
    colours: dict[Value, int] = {}
    for value, others in beside.items():
        taken = {colours[other] for other in others if other in colours}
        colours[value] = next(colour for colour in count() if colour not in taken)
    return colours


class _Run:
    """One computation of a program by the reference.

    Args:
        native: What the values are that no rounding touches; none to compute them.
        found: What XLA computed: the values of cuts are taken from it.
        uncertain: Which values are which.
        sizes: How far each float is moved.
        sides: To which side, 1 or -1, where moves before it have not put it off.
        held: Whether those count elsewhere too, and what a float is off is turned to its side.
        values: What floats are without moves.

    Attributes:
        own: What the values are before cuts are replaced.
        sides: The side on which each float that was moved is.
    """

    def __init__(
        self,
        native: Mapping[Value, Array],
        found: Mapping[Value, Array],
        uncertain: Uncertain,
        sizes: Mapping[Value, Array] | None = None,
        sides: Mapping[Value, Array] | None = None,
        held: bool = False,
        values: Mapping[Value, Array] | None = None,
    ) -> None:
        self.own: dict[Value, Array] = {}
        self._native, self._found, self._uncertain = native, found, uncertain
        self._sizes, self._held, self._values = sizes or {}, held, values or {}
        self.sides = dict(sides or {})

    def hook(self, value: Value, array: Array) -> Array:
        """Returns what the readers of a value get, as `run_all` asks."""
        if value in self._uncertain.cuts:
            self.own[value] = array
            return self._found.get(value, array).astype(array.dtype)
        if value in self._uncertain.floats:
            moved = array
            if value in self._sizes:
                still, side = self._values[value], self.sides[value]
                if not self._held:
                    side = np.where(array == still, side, np.where(array < still, -1.0, 1.0))
                off = _distance(array, still)
                # What became infinite has no other side.
                away = still + side * (off + self._sizes[value])
                moved = np.where(np.isinf(off), array, away)
                self.sides[value] = side
            self.own[value] = moved
            return moved
        return self._native[value].astype(array.dtype) if self._native else array


def _bound(value: Value, values: Mapping[Value, Array]) -> Array:
    """Returns how far the roundings of the op that computes a float may carry it."""
    node, array = value.node, values[value]
    assert node is not None
    if _exact(node):
        return np.zeros(array.shape) if value.type.dtype is DType.F32 else 2.0**-7 * np.abs(array)
    operands = [_real(operand, values[operand]) for operand in node.inputs]
    bound = bound_of(node.op, value.type.dtype, operands, array)
    platform = jax.default_backend()
    if platform in PRODUCTS and isinstance(node.op, Conv | ConvTranspose | Dot):
        bound = bound + PRODUCTS[platform] * np.asarray(node.op.evaluate(*map(np.abs, operands)))
    return np.nan_to_num(bound, nan=0.0, posinf=0.0)


def _distance(array: Array, value: Array) -> Array:
    """Returns how far numbers lie apart; 0 where one is NaN, and for equal infinities."""
    with np.errstate(invalid="ignore"):
        apart: Array = np.nan_to_num(np.abs(array - value), nan=0.0, posinf=np.inf)
    return apart


def _real(value: Value, array: Array) -> Array:
    code = value.type.quant
    return array if code is None else code.decode(array).astype(np.float64)


def _exact_bounds(
    native: Mapping[Value, Array], found: Mapping[Value, Array]
) -> dict[Value, Bounds]:
    """Returns the least and greatest numbers allowed: the reference's, or 0 for subnormal ones."""
    limits: dict[Value, Bounds] = {}
    for value in found:
        array = native[value]
        limits[value] = array, array
        if value.type.is_float:
            wide, room = array.astype(np.float64), float(np.finfo(np.float32).tiny)
            limits[value] = wide - room, wide + room
    return limits


def _first(
    graph: Graph, found: Mapping[Value, Array], limits: Mapping[Value, Bounds]
) -> Difference | None:
    for value in graph.values():
        if value not in found:
            continue
        low, high = limits[value]
        array = found[value]
        with np.errstate(invalid="ignore"):
            right = (low <= array) & (array <= high) | (np.isnan(low) & (array != array))
        if not np.all(right):
            place = tuple(int(index) for index in np.argwhere(~right)[0])
            least, most = low[place], high[place]
            text = f"{most}" if least == most else f"{least} to {most}"
            wrong = int(np.count_nonzero(~right))
            return Difference(value, place, array[place], text, wrong, array.size)
    return None
