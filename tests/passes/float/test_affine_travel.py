"""Affine maps before and behind every op that they may travel through, along every axis."""

from itertools import permutations, product

import numpy as np
import pytest

from qir.backends.reference.interpreter import run_all
from qir.ir import Graph, Value
from qir.ops import (
    Add,
    AvgPool,
    Clip,
    Concat,
    Conv,
    Dot,
    Gelu,
    LeakyRelu,
    MaxPool,
    Mean,
    Mul,
    Neg,
    Pad,
    Relu,
    Reshape,
    ResizeLinear,
    ResizeNearest,
    Reverse,
    Slice,
    Sub,
    Transpose,
)
from qir.passes.shared.affine import match_affine
from qir.pipeline import Context, PassManager, Pipeline
from qir.types import DType, TensorType

SHAPE = (2, 4, 4, 3)
RESHAPED = [(2, 16, 3), (2, 48), (8, 4, 3), (2, 4, 4, 3, 1), (4, 2, 4, 3), (2, 12, 4), (2, 3, 16)]
BETWEEN = [
    Relu(),
    LeakyRelu(0.1),
    Clip(-1.0, 1.5),
    Neg(),
    MaxPool((2, 2), (2, 2)),
    MaxPool((3, 3), padding="same"),
    AvgPool((2, 2), (2, 2)),
    AvgPool((3, 3), padding="same"),
    AvgPool((3, 3), padding="same", count_padding=True),
    *[Mean(axes, keep) for axes in [(1, 2), (0,), (1,)] for keep in (False, True)],
    *[Reshape(shape) for shape in RESHAPED],
    *[Transpose(order) for order in permutations(range(4))],
    Slice((1, 3), (1, 0), (3, 3)),
    Slice((3,), (1,), (3,)),
    Reverse((2,)),
    Reverse((3,)),
    Pad((0, 1, 0, 0), (0, 0, 2, 0)),
    Pad((0, 1, 0, 0), (0, 0, 2, 0), 1.5),
    Pad((0, 0, 0, 1), (0, 0, 0, 0)),
    ResizeNearest((6, 3)),
    ResizeLinear((6, 3)),
    Gelu(),
]
MAPS = list(product([(1.0, 0.0), (-1.0, 0.0), (1.0, 0.5)], [None, 0, 1, 2, 3]))


class Program:
    """A float64 program with an input of SHAPE."""

    def __init__(self) -> None:
        self.graph = Graph("travel")
        self.builder = self.graph.at_end()
        self.rng = np.random.default_rng(0)
        self.x = self.graph.add_input("x", TensorType(SHAPE, DType.F64))

    def const(self, *shape: int) -> Value:
        return self.builder.const(self.rng.normal(size=shape), "k")

    def weights(self, x: Value, outputs: int) -> Value:
        kernel = self.const(x.type.known_shape[-1], outputs)
        return self.builder.emit(Dot(), x, kernel, self.const(outputs))

    def map(self, x: Value, signs: tuple[float, float], axis: int | None) -> Value:
        """Adds a factor of a sign and an offset, 0 or not, along an axis or for the tensor."""
        sign, offset = signs
        sizes = x.type.known_shape
        shape = () if axis is None else (sizes[axis], *(1,) * (len(sizes) - 1 - axis))
        factor = self.builder.const(sign * self.rng.uniform(0.5, 2, shape), "factor")
        x = self.builder.emit(Mul(), x, factor)
        if not offset:
            return x
        return self.builder.emit(Add(), x, self.builder.const(self.rng.normal(size=shape)))

    def folded(self, y: Value) -> bool:
        """Runs fold-scales, checked, and returns whether no map is left."""
        self.graph.set_outputs([y])
        manager = PassManager(
            Pipeline.parse("fold-scales"), check_inputs=[self.rng.normal(size=SHAPE)]
        )
        after = manager.run(self.graph, Context(interpreter=run_all))
        values = [value for node in after.nodes for value in node.outputs]
        return all(match_affine(value) is None for value in values)


@pytest.mark.parametrize("op", BETWEEN, ids=str)
def test_back(op):
    for signs, axis in MAPS:
        program = Program()
        middle = program.builder.emit(op, program.weights(program.x, 3))
        if axis is not None and axis >= middle.type.rank:
            continue
        folded = program.folded(program.map(middle, signs, axis))
        if isinstance(op, Gelu):
            assert not folded, (signs, axis)
        elif signs == (1.0, 0.0) and axis is None:
            assert folded, (signs, axis)
        elif isinstance(op, Transpose):
            assert folded == (axis is None or op.permutation[axis] == 3), (signs, axis)
        elif isinstance(op, Relu | Clip | LeakyRelu) and signs[0] < 0:
            assert not folded, (signs, axis)


@pytest.mark.parametrize("op", BETWEEN, ids=str)
def test_forwards(op):
    for signs, axis in MAPS:
        program = Program()
        middle = program.builder.emit(op, program.map(program.x, signs, axis))
        folded = program.folded(program.weights(middle, 2))
        if isinstance(op, Transpose):
            assert folded == (axis is None or op.permutation.index(axis) == 3), (signs, axis)
        elif isinstance(op, Gelu):
            assert not folded, (signs, axis)
        elif signs == (1.0, 0.0) and axis is None:
            assert folded, (signs, axis)


@pytest.mark.parametrize("join", [Add(), Sub(), Mul(), Concat(3), Concat(1), Concat(0)], ids=str)
def test_back_through_branches(join):
    for signs, axis in MAPS:
        program = Program()
        branches = [program.weights(program.x, 3), program.weights(program.x, 3)]
        joined = program.builder.emit(join, *branches)
        folded = program.folded(program.map(joined, signs, axis))
        assert folded == (axis in (None, 3) and not (isinstance(join, Mul) and signs[1] != 0)), (
            signs,
            axis,
        )


@pytest.mark.parametrize("join", [Add(), Sub(), Mul()], ids=str)
@pytest.mark.parametrize("axes", [(1, 2), (3,)])
def test_back_through_a_broadcast(join, axes):
    for signs, axis in MAPS:
        program = Program()
        mean = program.builder.emit(Mean(axes, keep_axes=True), program.x)
        columns = program.weights(mean, mean.type.known_shape[-1])
        joined = program.builder.emit(join, program.weights(program.x, 3), columns)
        folded = program.folded(program.map(joined, signs, axis))
        if isinstance(join, Mul):
            assert folded == (axis in (None, 3) and signs[1] == 0), (signs, axis)
        else:
            assert folded == (axis is None or (axis == 3 and axes == (1, 2))), (signs, axis)


@pytest.mark.parametrize("join", [Add(), Concat(3), Concat(1)], ids=str)
@pytest.mark.parametrize("equal", [True, False])
def test_forwards_through_branches(join, equal):
    for signs, axis in MAPS:
        program = Program()
        first = program.map(program.x, signs, axis)
        factor = (first.inputs[0] if signs[1] else first).inputs[1]
        second = program.builder.emit(Neg(), program.x)
        second = program.builder.emit(Mul(), second, factor)
        if equal:
            second = program.builder.emit(Neg(), second)
        if signs[1]:
            second = program.builder.emit(Add(), second, program.builder.const(np.float64(2)))
        joined = program.builder.emit(join, first, second)
        folded = program.folded(program.weights(joined, 2))
        if isinstance(join, Concat) and join.axis == 3 and axis in (None, 3):
            assert folded, (signs, axis)
        if isinstance(join, Add):
            assert folded == (equal and axis in (None, 3)), (signs, axis)


@pytest.mark.parametrize("signs", [(1.0, 0.0), (1.0, 0.5)])
@pytest.mark.parametrize("padding", ["valid", "same", ((1, 0), (0, 0))])
@pytest.mark.parametrize("groups", [1, 3])
def test_into_convolutions(signs, padding, groups):
    program = Program()
    mapped = program.map(program.x, signs, 3)
    kernel = program.const(2, 2, 3 // groups, 6)
    folded = program.folded(program.builder.emit(Conv((), padding, groups=groups), mapped, kernel))
    assert folded == (padding == "valid" or signs[1] == 0)


@pytest.mark.parametrize("signs", [(1.0, 0.0), (1.0, 0.5)])
def test_into_a_batch_of_dots(signs):
    program = Program()
    mapped = program.map(program.x, signs, 3)
    y = program.builder.emit(Dot(batch=2), mapped, program.const(2, 4, 3, 2))
    assert program.folded(y) == (signs[1] == 0)
