"""Ops that random programs with regions add to what they have: one value or two become another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Value
from qir.ops import (
    Add,
    And,
    Broadcast,
    Clip,
    Dot,
    Gelu,
    Less,
    Lookup,
    Maximum,
    Minimum,
    Mul,
    Neg,
    Relu,
    Requantize,
    Reverse,
    Select,
    Sub,
    Tanh,
)
from qir.ops.cast import is_long
from qir.ops.op import Op
from qir.types import Affine, DType, Element, Size, TensorType
from tests.roundings import ANY_RATIO
from tests.strategies.base import LONG_ROUNDINGS

T = TypeVar("T")

WHOLE = DType.I32
STORAGES = (DType.I8, DType.I8, DType.U8, DType.I16)


def of_code(rng: np.random.Generator, storage: DType | None = None) -> Affine:
    """Draws a code of numbers of about -3 to 3."""
    storage = storage or STORAGES[int(rng.integers(len(STORAGES)))]
    low, high = storage.bounds
    scale = 6 / (high - low) * float(rng.choice([0.5, 0.77, 1.0]))
    return Affine.of(storage, scale, int(rng.integers(low // 4, high // 4 + 1)))


class Steps:
    """A graph under construction.

    Args:
        rng: What is drawn comes from it.
        graph: The graph.
        numbers: What the data are; see `Numbers`.
        channels: The size of the last axis of data.
    """

    def __init__(self, rng: np.random.Generator, graph: Graph, numbers: str, channels: int) -> None:
        self.rng = rng
        self.graph = graph
        self.numbers = numbers
        self.channels = channels
        self.kernel = (channels, channels)
        self.builder = graph.at_end()
        self.values: list[Value] = list(graph.inputs)

    def any(self, items: Sequence[T]) -> T:
        """Draws one of some."""
        return items[int(self.rng.integers(len(items)))]

    def up_to(self, most: int, least: int = 0) -> int:
        """Draws a number."""
        return int(self.rng.integers(least, max(most, least) + 1))

    def of(self, element: DType) -> list[Value]:
        """Returns the single numbers of a plain type; one at least of integers."""
        type = TensorType((), element)
        found = [value for value in self.values if value.type == type]
        if not found and element is WHOLE:
            return [self.const(np.int32(self.up_to(5) - 1))]
        return found

    def data(self) -> list[Value]:
        """Returns the rows of data, and the stacks of them."""
        return [
            value
            for value in self.values
            if value.type.rank >= 2
            and value.type.shape[-2:] != self.kernel
            and _is_data(value.type)
        ]

    def emit(self, op: Op, *operands: Value) -> Value:
        """Adds an op."""
        return self.builder.emit(op, *operands)

    def emit_all(self, op: Op, operands: Sequence[Value], regions: Sequence[Graph]) -> list[Value]:
        """Adds an op with regions, and returns its results."""
        return list(self.builder.emit_node(op, operands, regions).outputs)

    def const(self, array: object, element: Element | None = None) -> Value:
        """Adds a constant."""
        return self.builder.const(np.asarray(array), "k", element)

    def step(self, add: Step) -> None:
        """Adds what a step makes, where it can."""
        try:
            made = add(self)
        except QirError:
            return  # Operands that a rule refuses, as codes of very different scales.
        if made is not None:
            self.values.append(made)

    def like(self, value: Value) -> Value:
        """Returns another value of the same type where there is one, most often."""
        others = [
            other
            for other in self.values
            if other is not value and other.type.shape == value.type.shape
        ]
        same = [other for other in others if other.type == value.type]
        computed = [other for other in same if other.node is not None]
        if self.rng.random() < 0.1:
            return value
        if computed and self.rng.random() < 0.8:
            return self.any(computed)
        code = value.type.quant
        coded = [other for other in others if other.type.quant is not None and other.node]
        if isinstance(code, Affine) and coded:
            try:
                return self.requantized(self.any(coded), code)
            except QirError:
                return value
        return self.any(same) if same else value

    def requantized(self, value: Value, code: Affine | None = None) -> Value:
        """Adds a rounding to a code, or any."""
        modes = LONG_ROUNDINGS if is_long(value.type) else ANY_RATIO
        to = code or of_code(self.rng)
        modes = [mode for mode in modes if to.storage.bits <= 8 or mode != "dbl_away"]
        return self.emit(Requantize(to, self.any(modes)), value)

    def repeated(self, value: Value, count: Size) -> Value:
        """Repeats a value along a new axis 0."""
        return self.emit(Broadcast((count, *value.type.shape)), value)

    def less(self, value: Value, other: Value) -> Value:
        """Compares two numbers."""
        return self.emit(Less(), value, other)

    def both(self, mask: Value, other: Value) -> Value:
        """Joins two masks."""
        return self.emit(And(), mask, other)

    def added(self, value: Value, number: int) -> Value:
        """Adds an integer to a plain one."""
        return self.emit(Add(), value, self.const(np.int32(number)))

    def at_least_0(self, value: Value) -> Value:
        """Replaces a plain integer below 0 by 0."""
        return self.emit(Maximum(), value, self.const(np.int32(0)))


Step: TypeAlias = Callable[[Steps], Value | None]


def _is_data(type: TensorType) -> bool:
    if type.quant is None:
        return type.is_float
    return isinstance(type.quant, Affine) and type.quant.storage.bits <= 16


def one(block: Steps) -> Value:
    """Draws a value of the data."""
    found = block.data()
    if not found:
        raise QirError("the block has no data")
    late = found[-3:]
    return block.any(late if block.rng.random() < 0.6 else found)


def whole(block: Steps) -> Value | None:
    """An integer of two."""
    op = block.any([Add(), Sub(), Minimum(), Maximum()])
    return block.emit(op, block.any(block.of(WHOLE)), block.any(block.of(WHOLE)))


def compare(block: Steps) -> Value | None:
    """A mask of two integers."""
    return block.less(block.any(block.of(WHOLE)), block.any(block.of(WHOLE)))


def select(block: Steps) -> Value | None:
    """One of two values."""
    masks, first = block.of(DType.BOOL), one(block)
    same = [value for value in block.data() if value.type == first.type]
    return block.emit(Select(), block.any(masks), first, block.any(same)) if masks else None


def reverse(block: Steps) -> Value | None:
    """The channels in the other order."""
    value = one(block)
    return block.emit(Reverse((value.type.rank - 1,)), value)


def unary(block: Steps) -> Value | None:
    """What is exact of one operand."""
    ops: list[Op] = [Relu(), Clip(-1.0, 2.0)]
    if block.numbers != "codes":
        ops.append(Neg())
    return block.emit(block.any(ops), one(block))


def add_codes(block: Steps) -> Value | None:
    """A sum, rounded once."""
    return block.emit(block.any([Add, Sub])(of_code(block.rng)), one(block), one(block))


def mul_codes(block: Steps) -> Value | None:
    """A product, rounded."""
    return block.requantized(block.emit(Mul(), one(block), one(block)))


def dot_codes(block: Steps) -> Value | None:
    """A product of matrices; now and then with its exact sums to be returned."""
    value = one(block)
    kernels = [other for other in block.values if other.type.shape == block.kernel]
    if kernels and block.rng.random() < 0.7:
        kernel = block.any(kernels)
    else:
        code = Affine.of(DType.I8, block.rng.uniform(0.01, 0.03, (1, block.channels)))
        kernel = block.const(block.rng.integers(-127, 128, block.kernel).astype(np.int8), code)
    sums = block.emit(Dot(), value, kernel)
    if not is_long(sums.type) and block.rng.random() < 0.3:
        block.values.append(sums)
    return block.requantized(sums)


def lookup(block: Steps) -> Value | None:
    """A table of 8 bits."""
    value = one(block)
    if value.type.dtype.bits > 8:
        return None
    code = of_code(block.rng)
    table = block.rng.integers(*code.range, 256, endpoint=True).astype(code.storage.numpy)
    return block.emit(Lookup(), value, block.const(table, code))


def requantize(block: Steps) -> Value | None:
    """The same numbers under another code."""
    return block.requantized(one(block))


def clipped(block: Steps) -> Value | None:
    """Small integers, held by floats, of two others."""
    op = block.any([Add(), Sub(), Maximum(), Minimum()])
    return block.emit(Clip(-64.0, 64.0), block.emit(op, one(block), one(block)))


def scaled(block: Steps) -> Value | None:
    """Small integers, held by floats, by a factor."""
    value = one(block)
    factor = block.any([-1.0, 2.0, 3.0])
    scalar = block.const(np.asarray(factor, value.type.dtype.numpy))
    return block.emit(Clip(-64.0, 64.0), block.emit(Mul(), value, scalar))


def half(block: Steps) -> Value | None:
    """The mean of two values, or half their difference."""
    op = block.any([Add(), Sub()])
    value = block.emit(op, one(block), one(block))
    return block.emit(Mul(), value, block.const(np.asarray(0.5, value.type.dtype.numpy)))


def dense(block: Steps) -> Value | None:
    """A layer whose weights add up to less than 1 in each column, perhaps with a bias."""
    value = one(block)
    kernel = block.rng.uniform(-1, 1, block.kernel)
    kernel /= np.abs(kernel).sum(axis=0)
    operands = [block.const(kernel.astype(value.type.dtype.numpy))]
    if block.rng.random() < 0.5:
        bias = block.rng.normal(0, 0.3, block.channels)
        operands.append(block.const(bias.astype(value.type.dtype.numpy)))
    return block.emit(Dot(), value, *operands)


def gate(block: Steps) -> Value | None:
    """A function that saturates."""
    return block.emit(block.any([Tanh(), Gelu()]), one(block))


def extremum(block: Steps) -> Value | None:
    """The greater or the smaller one."""
    return block.emit(block.any([Maximum(), Minimum()]), one(block), one(block))


_ANY: list[Step] = [whole, compare, select, reverse, unary]

STEPS: Mapping[str, list[Step]] = {
    "codes": [*_ANY, add_codes, add_codes, mul_codes, dot_codes, dot_codes, lookup, requantize],
    "exact": [*_ANY, clipped, clipped, clipped, scaled, scaled],
    "floats": [*_ANY, half, half, dense, dense, dense, gate, gate, extremum],
}
"""What can be added, by what the data are; what is written twice comes as often."""
