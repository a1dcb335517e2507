"""Whole programs whose ops have regions, nested in one another: scans, while loops and branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from hypothesis import strategies as st

from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ops import Cond, Scan, While
from qir.ops.op import Op
from qir.ops.regions import Passage
from qir.types import Affine, Array, Code, Dim, DType, Element, Size, TensorType
from tests.strategies.base import Case, Draw, generator
from tests.strategies.steps import STEPS, WHOLE, Steps, of_code

Numbers: TypeAlias = Literal["codes", "exact", "floats"]
"""What the data are: integers with codes, floats that hold small integers, and so are the same in
every order of computation, or any floats, by ops that never make a difference larger."""

MOST = 3
"""Trips of a loop, which another around it repeats."""


@dataclass(frozen=True)
class Setting:
    """What programs are drawn.

    Args:
        numbers: What the data are.
        dtype: The type of floats.
        depth: How deep regions stand in one another.
        steps: The most ops of a block that have no regions.
        nests: The most ops of a block that have some.
        alone: Whether the program is one op with regions, of inputs and constants.
    """

    numbers: Numbers
    dtype: DType = DType.F32
    depth: int = 2
    steps: int = 3
    nests: int = 2
    alone: bool = False


class Nest:
    """A program under construction.

    Args:
        rng: What is drawn comes from it.
        setting: What programs are drawn.
    """

    def __init__(self, rng: np.random.Generator, setting: Setting) -> None:
        self.rng = rng
        self.setting = setting
        self.sizes = {"B": int(rng.choice([0, 1, 1, 2, 2])), "T": int(rng.choice([0, 1, 2, 3, 3]))}
        # One vector of numbers and less, and several that leave a rest.
        self.channels = int(rng.choice([3, 3, 3, 16, 37]))
        self.rows: Size = Dim.named("B") if rng.random() < 0.5 else 2
        named = rng.random() < 0.4
        self.trips: Size = Dim.named("T") if named else int(rng.integers(0, MOST + 1))
        self.graph = Graph("nest")
        self.inputs: list[Array] = []

    def input(self, name: str, shape: Sequence[Size], element: Element) -> Value:
        """Adds an input, and numbers for it."""
        sizes = [self.sizes[size.names[0]] if isinstance(size, Dim) else size for size in shape]
        array: Array
        if isinstance(element, Code):
            low, high = element.range
            array = self.rng.integers(low, high, sizes, endpoint=True)
        elif element is DType.BOOL:
            array = self.rng.integers(0, 2, sizes)
        elif element.is_integer or self.setting.numbers == "exact":
            array = self.rng.integers(-3, 5, sizes)
        else:
            array = self.rng.normal(0, 1, sizes)
        type = TensorType(tuple(shape), element)
        self.inputs.append(np.asarray(array).astype(type.dtype.numpy))
        return self.graph.add_input(name, type)

    def element(self) -> Element:
        """Draws an element of data."""
        coded = self.setting.numbers == "codes"
        return of_code(self.rng) if coded else self.setting.dtype

    def build(self, cls: type[Op] | None = None) -> Case:
        """Draws a program.

        Args:
            cls: The op with regions of a program of one; None draws any.
        """
        row = (self.rows, self.channels)
        for name in ("x", "y"):
            self.input(name, row, self.element())
        for name in ("xs", "ys"):
            self.input(name, (self.trips, *row), self.element())
        self.input("n", (), WHOLE)
        self.input("flag", (), DType.BOOL)
        if self.setting.numbers == "codes":
            scale = self.rng.uniform(0.01, 0.03, (1, 1, self.channels))
            shape = (self.trips, self.channels, self.channels)
            self.input("kernels", shape, Affine.of(DType.I8, scale))
        block = Block(self, self.graph, self.setting.depth)
        if self.setting.alone:
            made = block.nest(cls)
            self.graph.set_outputs(made)
            self._drop_unused()
        else:
            block.fill()
            while not any(value.node and value.node.regions for value in block.values):
                block.nest()
            results = [value for value in block.values if value.node is not None]
            chosen = self.rng.permutation(len(results))[:2]
            ends = [value for value in results if not value.uses]
            self.graph.set_outputs(list(dict.fromkeys([*ends, *(results[at] for at in chosen)])))
        return NestedCase(self.graph, tuple(self.inputs))

    def _drop_unused(self) -> None:
        """Drops the inputs that no op reads, but for those that tell the size of a name."""
        pairs = zip(self.graph.inputs, self.inputs, strict=True)
        kept = [
            (value, array)
            for value, array in pairs
            if value.uses or any(isinstance(size, Dim) for size in value.type.shape)
        ]
        self.inputs = [array for _, array in kept]
        self.graph.inputs = tuple(value for value, _ in kept)


class Block(Steps):
    """The program or a region of it, under construction.

    Args:
        nest: The program.
        graph: The graph or region.
        depth: How deep regions stand in one another inside of it.
    """

    def __init__(self, nest: Nest, graph: Graph, depth: int) -> None:
        super().__init__(nest.rng, graph, nest.setting.numbers, nest.channels)
        self.nested_in = nest
        self.depth = depth
        self.setting = nest.setting
        self.alone = nest.setting.alone and graph is nest.graph

    def fill(self) -> None:
        """Adds ops."""
        if not self.data() or self.rng.random() < 0.1:
            self.values.append(self.numbers_of(self.nested_in.element()))
        kinds = [False] * self.up_to(self.setting.steps, least=1)
        kinds += [True] * (self.up_to(self.setting.nests) if self.depth else 0)
        for nests in self.rng.permutation(kinds):
            if nests:
                self.nest()
            else:
                self.step(self.any(STEPS[self.setting.numbers]))

    def nest(self, cls: type[Op] | None = None) -> list[Value]:
        """Adds an op with regions, and returns its results; none where nothing came of it."""
        cls = cls or self.any([Scan, Scan, While, Cond])
        added = {Scan: self.scan, While: self.repeat, Cond: self.branch}[cls]()
        self.values += added
        return added

    def region(self, types: Sequence[TensorType]) -> Block:
        """Begins a region that takes values of some types."""
        graph = Graph("")
        for place, type in enumerate(types):
            graph.add_input(f"p{place}", type)
        return Block(self.nested_in, graph, self.depth - 1)

    def numbers_of(self, element: Element) -> Value:
        """Adds constants of an element of data."""
        shape = (2, self.channels)
        if isinstance(element, Code):
            array = self.rng.integers(*element.range, shape, endpoint=True)
            return self.const(array.astype(element.storage.numpy), element)
        return self.const(self.rng.integers(-2, 3, shape).astype(element.numpy))

    def chosen(self, most: int, least: int = 0) -> list[Value]:
        """Draws values, the same one twice now and then; none where there is none."""
        if not self.values:
            return []
        return [self.any(self.values) for _ in range(self.up_to(most, least))]

    def scan(self) -> list[Value]:
        invariants, carried = self.chosen(2), self.chosen(3)
        stacked = [self.stack() for _ in range(self.up_to(2))]
        trips = None if stacked else self.up_to(MOST)
        one = Passage("stacked", 0)
        body = self.region(
            [
                *(value.type for value in (*invariants, *carried)),
                *(one.inner(value.type) for value in stacked),
            ]
        )
        body.fill()
        returned = [
            body.like(body.graph.inputs[len(invariants) + at]) for at in range(len(carried))
        ]
        parts = [value for value in body.values if _stacks(value)]
        if parts:
            returned += [body.any(parts) for _ in range(self.up_to(2, least=not carried))]
        if not returned:
            return []
        body.graph.set_outputs(returned)
        reverse = bool(self.rng.random() < 0.3)
        op = Scan(len(carried), len(stacked), trips, reverse)
        return self.emit_all(op, [*invariants, *carried, *stacked], [body.graph])

    def stack(self) -> Value:
        """Returns a value with an axis for the trips."""
        trips = self.nested_in.trips
        found = [
            value
            for value in self.values
            if value.type.rank and value.type.shape[0] == trips and _varies_not_along_0(value)
        ]
        if self.alone or (found and self.rng.random() < 0.7):
            return self.any(found)
        return self.repeated(self.any(self.values), trips)

    def repeat(self) -> list[Value]:
        invariants, carried = self.chosen(2), self.chosen(2)
        count = self.const(np.int32(self.up_to(2)))
        if not self.alone and self.rng.random() < 0.5:
            count = self.at_least_0(self.any(self.of(WHOLE)))
        carried.insert(self.up_to(len(carried)), count)
        at = carried.index(count) + len(invariants)
        condition, body = (
            self.region([value.type for value in (*invariants, *carried)]) for _ in range(2)
        )
        limit = condition.const(np.int32(self.up_to(MOST)))
        goes_on = condition.less(condition.graph.inputs[at], limit)
        flags = condition.of(DType.BOOL)
        if flags and self.rng.random() < 0.3:
            goes_on = condition.both(goes_on, self.any(flags))
        condition.graph.set_outputs([goes_on])
        body.fill()
        more = body.added(body.graph.inputs[at], 1)
        places = range(len(invariants), len(invariants) + len(carried))
        returned = [
            more if place == at else body.like(body.graph.inputs[place]) for place in places
        ]
        body.graph.set_outputs(returned)
        op = While(len(carried), max_trips=100)
        return self.emit_all(op, [*invariants, *carried], [condition.graph, body.graph])

    def branch(self) -> list[Value]:
        index, others = self.any(self.of(WHOLE)), self.chosen(3, least=1)
        if self.rng.random() < 0.1:
            index = self.const(np.int32(self.up_to(2)))
        if not others:
            return []
        types = [value.type for value in others]
        places = [self.up_to(len(types) - 1) for _ in range(self.up_to(2, least=1))]
        regions = []
        for _ in range(self.up_to(3, least=1)):
            body = self.region(types)
            body.fill()
            body.graph.set_outputs([body.like(body.graph.inputs[place]) for place in places])
            regions.append(body.graph)
        return self.emit_all(Cond(), [index, *others], regions)


def _varies_not_along_0(value: Value) -> bool:
    try:
        Passage("stacked", 0).inner(value.type)
    except QirError:
        return False
    return True


def _stacks(value: Value) -> bool:
    """Whether a value is small enough to be one of several."""
    return value.type.rank <= 3


class NestedCase(Case):
    """A program with regions, shown whole where a test fails."""

    def __repr__(self) -> str:
        return self.shown()


def nested_programs(setting: Setting, cls: type[Op] | None = None) -> st.SearchStrategy[Case]:
    """Draws programs whose ops have regions.

    Args:
        setting: What programs are drawn.
        cls: The op with regions of a program of one; None draws any.
    """

    @st.composite
    def build(draw: Draw) -> Case:
        return Nest(generator(draw), setting).build(cls)

    return build()
