"""What the strategies share: cases, the table of strategies, shapes, codes and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
from hypothesis import strategies as st

from qir.ir import Graph, Node
from qir.numbers.rounding import rounding_mode
from qir.ops import Requantize
from qir.ops.cast import is_long
from qir.ops.op import Op
from qir.types import (
    Affine,
    Array,
    Code,
    Codebook,
    Dim,
    DType,
    Element,
    FrozenArray,
    Size,
    TensorType,
    expand,
    multiplied,
)
from tests.roundings import ANY_RATIO, COMPUTED

Draw: TypeAlias = st.DrawFn

BYTES = (DType.I8, DType.U8)
NARROW = (DType.I8, DType.U8, DType.I4, DType.U4)
WIDE = (DType.I16, DType.U16)
SUMMED = (*NARROW, *WIDE)
"""Storage of what exact sums and products take."""
LONG_ROUNDINGS = [name for name in ANY_RATIO if rounding_mode(name).takes_long]
FLOATS = (DType.F32, DType.F32, DType.F32, DType.F16, DType.BF16)


@dataclass(frozen=True, eq=False)
class Operand:
    """An operand to build a program with.

    Args:
        array: Its numbers, stored ones where it has a code.
        element: Its plain type or code.
        constant: Whether it is a constant of the graph rather than an input.
        named: Whether its type calls its first dimension B; not where the code varies along it.
    """

    array: Array
    element: Element
    constant: bool = False
    named: bool = False

    @property
    def type(self) -> TensorType:
        """The operand's type."""
        sizes: tuple[Size, ...] = self.array.shape
        quant = self.element if isinstance(self.element, Code) else None
        uniform = quant is None or quant.per_tensor or quant.grid[0] == 1
        if self.named and sizes and uniform:
            sizes = (Dim.named("B"), *sizes[1:])
        return TensorType(sizes, self.element)


class Case:
    """A program, and arrays to run it on.

    Args:
        graph: The program.
        inputs: An array for each input.
    """

    def __init__(self, graph: Graph, inputs: tuple[Array, ...]) -> None:
        self.graph = graph
        self.inputs = inputs

    @cached_property
    def node(self) -> Node:
        """The op that the case is of: the last one, but for what rounds sums in i64."""
        last = [node for node in self.graph.nodes if node.outputs][-1]
        makers = [value.node for value in last.inputs if is_long(value.type)]
        return makers[0] if makers and makers[0] is not None else last

    @property
    def coded(self) -> bool:
        """Whether the op works on stored numbers: the integer path."""
        values = (*self.node.inputs, *self.node.outputs)
        return any(value.type.quant is not None for value in values)

    def shown(self) -> str:
        """Returns the program with all its numbers, for the message of a failure."""
        numbers = {value: value.array for value in self.graph.values() if value.is_constant}
        numbers |= zip(self.graph.inputs, self.inputs, strict=True)
        lines = [f"{value.name} = {array.tolist()}" for value, array in numbers.items()]
        return "\n".join(["", str(self.graph), *lines])

    def __repr__(self) -> str:
        return f"<{self.node.op}: {', '.join(str(value.type) for value in self.node.inputs)}>"


CaseFunction: TypeAlias = Callable[[Draw, Any], Case]

STRATEGIES: dict[type[Op], st.SearchStrategy[Case]] = {}
"""A strategy for each op: programs of that op alone, on the integer and the float path."""


def cases_of(*classes: type[Op]) -> Callable[[CaseFunction], CaseFunction]:
    """Registers a function of hypothesis's `draw` and an op class as a strategy."""

    def register(function: CaseFunction) -> CaseFunction:
        strategy = st.composite(function)
        for cls in classes:
            STRATEGIES[cls] = strategy(cls)
        return function

    return register


def program(op: Op, *operands: Operand) -> Case:
    """Builds the program of one op."""
    graph = Graph("case")
    builder = graph.at_end()
    values = []
    for index, operand in enumerate(operands):
        if operand.constant:
            values.append(builder.const(operand.array, f"c{index}", operand.element))
        else:
            values.append(graph.add_input(f"x{index}", operand.type))
    node = builder.emit_node(op, values, name="y")
    graph.set_outputs(node.outputs)
    inputs = tuple(operand.array for operand in operands if not operand.constant)
    return Case(graph, inputs)


def rounded(draw: Draw, case: Case) -> Case:
    """Ends a case by a requantize where its result is in i64, which no program returns."""
    (value,) = case.graph.outputs
    if not is_long(value.type):
        return case
    assert value.type.quant is not None
    storage = draw(st.sampled_from([*BYTES, DType.I16, DType.U16]))
    step = value.type.quant.greatest_scale * 2.0 ** draw(st.integers(4, 30))
    code = Affine.of(storage, step * draw(st.floats(0.5, 1)), draw(st.sampled_from([0, 3, 100])))
    rounding = draw(st.sampled_from(LONG_ROUNDINGS))
    case.graph.set_outputs([case.graph.at_end().emit(Requantize(code, rounding), value, name="z")])
    return case


def in_float(draw: Draw) -> bool:
    """Draws whether a case is one of the float path; the integer path comes twice as often."""
    return draw(st.sampled_from([False, False, True]))


def generator(draw: Draw) -> np.random.Generator:
    """Draws a generator of numbers; arrays drawn number by number would take most of the time."""
    return np.random.default_rng(draw(st.integers(0, 2**32 - 1)))


def shapes(
    rank: tuple[int, int] = (1, 4), size: tuple[int, int] = (1, 5)
) -> st.SearchStrategy[Any]:
    """Draws small shapes."""
    sizes = st.integers(*size)
    return st.lists(sizes, min_size=rank[0], max_size=rank[1]).map(tuple)


def scales() -> st.SearchStrategy[float]:
    """Draws scales: powers of two and 1/400, which make ties, and any others."""
    powers = st.integers(-8, 2).map(lambda exponent: 2.0**exponent)
    anything = st.floats(1e-4, 4.0, allow_nan=False)
    return st.one_of(powers, st.just(1 / 400), anything)


@st.composite
def codes(
    draw: Draw,
    storages: Sequence[DType] = NARROW,
    *,
    shape: tuple[int, ...] | None = None,
    axis: int | None = None,
    symmetric: bool = False,
    far: bool = False,
) -> Affine:
    """Draws codes.

    Args:
        draw: Given by hypothesis.
        storages: The storage types to choose from.
        shape: Shape of the tensor, for a code per channel of `axis`.
        axis: The axis along which scales may vary.
        symmetric: Whether the zero point is always 0.
        far: Whether zero points may lie outside of the bounds, now and then.
    """
    storage = draw(st.sampled_from(storages))
    low, high = storage.bounds
    bounds = None
    if storage.bits in (4, 8) and draw(st.booleans()):
        bounds = (low + draw(st.integers(0, 2)), high - draw(st.integers(0, 2)))
        low, high = bounds
    wide = storage.bits >= 32
    points = st.just(0) if wide or symmetric else st.sampled_from([low, high, low + 1, 0, 3, -3, 5])
    point: Any = min(max(draw(points), low), high)
    if far and not (wide or symmetric) and draw(st.integers(0, 3)) == 0:
        point = draw(st.sampled_from([low - 1, high + 1, -2000, 2000, -(2**15), 2**15]))
    scale: Any = draw(scales())
    if axis is not None and shape is not None and draw(st.booleans()):
        varying = tuple(size if place == axis else 1 for place, size in enumerate(shape))
        rng = generator(draw)
        scale = scale * np.exp2(rng.integers(-3, 4, varying)) * rng.uniform(0.5, 1.0, varying)
        if not (wide or symmetric) and draw(st.booleans()):
            point = rng.integers(low, high, np.shape(scale), endpoint=True)
        else:
            point = np.full(np.shape(scale), point)
    return Affine.of(storage, scale, point, bounds=None if wide else bounds)


def factored(draw: Draw, shape: tuple[int, ...]) -> Affine:
    """Draws a code of sums in i32 that has a scale for each place of two axes, kept as factors.

    Args:
        draw: Given by hypothesis.
        shape: Shape of the tensor, of rank 2 or more; an axis of size 1 leaves one factor.
    """
    rng = generator(draw)
    axes = rng.choice(len(shape), 2, replace=False)
    varying = (
        tuple(size if place == axis else 1 for place, size in enumerate(shape)) for axis in axes
    )
    # As operands have them: float32 numbers. Sums that are large come with small scales.
    drawn = (np.exp2(-rng.integers(0, 16)) * rng.uniform(0.1, 1.0, each) for each in varying)
    rows, columns = (FrozenArray(each.astype(np.float32), np.float64) for each in drawn)
    return Affine(DType.I32, multiplied(rows, columns))


def codebooks(
    draw: Draw, shape: tuple[int, ...] | None = None, axis: int | None = None, *, whole: bool = True
) -> Codebook:
    """Draws codebooks.

    Args:
        draw: Given by hypothesis.
        shape: Shape of the tensor, for scales that may vary along `axis`.
        axis: The axis.
        whole: Whether levels are integers of 8 bits rather than any numbers. One is 0.
    """
    rng = generator(draw)
    storage = draw(st.sampled_from([DType.I2, DType.I4, DType.U4, DType.I8, DType.U8]))
    count = draw(st.integers(2, min(2**storage.bits, 40)))
    others = rng.choice(np.setdiff1d(np.arange(-128, 128), 0), count - 1, replace=False)
    levels = np.sort([0, *others])
    scale: Any = draw(scales())
    if axis is not None and shape is not None and draw(st.booleans()):
        varying = tuple(size if place == axis else 1 for place, size in enumerate(shape))
        scale = scale * rng.uniform(0.25, 1.0, varying)
    return Codebook.of(storage, scale, levels if whole else levels / np.float32(7))


def computed_roundings(code: Affine, *, any_ratio: bool = False) -> st.SearchStrategy[str]:
    """Draws rounding modes that backends compute.

    Args:
        code: The code of the result: some modes have a machine form for 8 bits only.
        any_ratio: Whether to draw only modes that accept any ratio of scales.
    """
    names = ANY_RATIO if any_ratio else COMPUTED
    if code.storage.bits > 8:
        names = tuple(name for name in names if name not in ("dbl_away", "half_away"))
    return st.sampled_from(names)


def stored(draw: Draw, code: Code, shape: tuple[int, ...], reach: int = 2**31 - 1) -> Array:
    """Draws stored numbers: anywhere, at the bounds and around the zero point.

    Args:
        draw: Given by hypothesis.
        code: The code.
        shape: The shape.
        reach: Largest magnitude where the storage has 32 bits.
    """
    rng = generator(draw)
    low, high = (max(code.range[0], -reach), min(code.range[1], reach))
    anywhere = rng.integers(low, high, shape, endpoint=True)
    if code.storage.bits >= 32:
        small = anywhere >> rng.integers(0, 31, shape)
        anywhere = np.where(rng.random(shape) < 0.5, small, anywhere)
    points = code.zero_points if isinstance(code, Affine) else np.zeros((), int)
    near = np.clip(expand(points.astype(np.int64), shape) + rng.integers(-1, 2, shape), low, high)
    ends = np.where(rng.random(shape) < 0.5, low, high)
    kind = rng.choice(3, shape, p=[0.7, 0.15, 0.15])
    return np.asarray(np.choose(kind, [anywhere, near, ends])).astype(code.storage.numpy)


def floats(
    draw: Draw, shape: tuple[int, ...], dtype: DType = DType.F32, scale: float = 3.0
) -> Array:
    """Draws normally distributed numbers with zeros among them."""
    rng = generator(draw)
    values = rng.normal(0, scale, shape)
    return np.where(rng.random(shape) < 0.05, 0.0, values).astype(dtype.numpy)


def coded_operand(draw: Draw, code: Code, shape: tuple[int, ...], **options: Any) -> Operand:
    """Draws an operand of a code."""
    return Operand(stored(draw, code, shape), code, **options)


def float_operand(
    draw: Draw, shape: tuple[int, ...], dtype: DType = DType.F32, **options: Any
) -> Operand:
    """Draws an operand of plain floats."""
    return Operand(floats(draw, shape, dtype), dtype, **options)
