"""Every op on a batch without a sample: nothing comes out, or an error says why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ir import Graph
from qir.ops import Broadcast, Const, Iota, Reshape, Return
from qir.ops.cast import is_long
from qir.ops.op import OPS, Op
from qir.ops.regions import RegionOp
from qir.types import Array, Dim, Size, TensorType
from tests.drawing import drawn
from tests.strategies import STRATEGIES, Case

OPERATIONS = [
    cls for cls in OPS.values() if cls not in (Const, Return) and not issubclass(cls, RegionOp)
]
"""Batches without a sample and loops without a trip are among the programs with regions."""

Program = tuple[Graph, list[Array]]


def emptied(case: Case, size: Size) -> Program | None:
    """Returns the program of a case with a first size of 0; None where none is legal.

    Weights, indices and tables are no batches: what stays is tried in turns.
    """
    arrays = dict(zip(case.graph.inputs, case.inputs, strict=True))
    op, operands = case.node.op, case.node.inputs
    if isinstance(op, Reshape | Broadcast | Iota) and op.shape:
        op = replace(op, shape=(size, *op.shape[1:]))
    count = len(operands)
    for chosen in (range(count), range(count - 1), range(1), range(1, 2)):
        graph, inputs, values = Graph("empty"), [], []
        at = graph.at_end()
        try:
            for index, value in enumerate(operands):
                if value.is_constant:
                    values.append(at.const(value.array, value.name, value.type.element))
                    continue
                shape, array = value.type.shape, arrays[value]
                if shape and index in chosen:
                    shape, array = (size, *shape[1:]), array[:0]
                values.append(graph.add_input(value.name, TensorType(shape, value.type.element)))
                inputs.append(array)
            graph.set_outputs(at.emit_node(op, values, name="y").outputs)
        except QirError:
            continue
        if any(array.size == 0 for array in inputs) or not operands:
            return graph, inputs
    return None


def programs(cls: type[Op], size: Size) -> list[Program]:
    """Returns a few programs of an op."""
    cases = drawn(STRATEGIES[cls], 40)
    alone = [case for case in cases if all(v.is_constant or not v.node for v in case.node.inputs)]
    made = filter(None, (emptied(case, size) for case in reversed(alone)))
    # XLA gives out no sums of 64 bits.
    whole = (pair for pair in made if not any(is_long(value.type) for value in pair[0].outputs))
    return list(islice(whole, len(cases) // 10))


def computed(graph: Graph, inputs: list[Array]) -> Iterator[tuple[Array, ...] | None]:
    """Computes a program in every way; None for an error of the user's."""
    for compute in (
        lambda: run(graph, *inputs),
        lambda: qir.compile(graph, kernels=False)(*inputs),
        lambda: qir.compile(graph)(*inputs),
    ):
        try:
            yield tuple(map(np.asarray, compute()))
        except QirError:
            yield None


@pytest.mark.hypothesis
@pytest.mark.parametrize(
    "size", [pytest.param(0, id="0", marks=pytest.mark.slow), pytest.param(Dim.named("B"), id="B")]
)
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_every_op(cls: type[Op], size: Size) -> None:
    found = programs(cls, size)
    assert found
    for graph, inputs in found:
        expected, *others = computed(graph, inputs)
        for outputs in others:
            if expected is None or outputs is None:
                assert outputs is expected, str(graph)
                continue
            for mine, wanted in zip(outputs, expected, strict=True):
                assert (mine.dtype, mine.shape) == (wanted.dtype, wanted.shape), str(graph)
                assert np.array_equal(mine, wanted, equal_nan=wanted.dtype.kind == "f"), str(graph)


@pytest.mark.parametrize("op", ["reduce_max(%x) {axes = [0]}", "argmax(%x) {axis = 0}"])
def test_the_error_of_what_needs_a_number(op: str) -> None:
    element = "f32" if "max(%x) {axes" in op else "i32"
    graph = qir.parse(f"graph @g(%x: f32[B,3]) {{\n  %y = {op} : {element}[3]\n  return %y\n}}")
    empty = np.zeros((0, 3), np.float32)
    for compute in (lambda: qir.evaluate(graph, empty), lambda: qir.compile(graph)(empty)):
        with pytest.raises(QirError, match=r"at least one number along axis 0, got none in f32\[B"):
            compute()


def test_kernels_of_a_program_that_returns_numbers_all_the_same() -> None:
    graph = qir.parse(
        """
graph @beside(%x: i8[B,4]{scale=0.5}, %y: i8[2,4]{scale=0.5}) {
  %r = relu(%x) : i8[B,4]{scale=0.5}
  %c = clip(%y) {low = -1, high = 1} : i8[2,4]{scale=0.5}
  return %r, %c
}
"""
    )
    inputs = np.zeros((0, 4), np.int8), np.arange(8, dtype=np.int8).reshape(2, 4)
    compiled = qir.compile(graph)
    for mine, wanted in zip(compiled(*inputs), run(graph, *inputs), strict=True):
        assert np.array_equal(mine, wanted)


def test_a_check_on_a_batch_without_a_sample() -> None:
    graph = qir.parse(
        """
graph @dense(%x: i8[B,16]{scale=0.5}) {
  %w = const 3 : i8[16,16]{scale=0.5}
  %d = dot(%x, %w) : i32[B,16]{scale=%x*%w}
  %r = requantize(%d) : i8[B,16]{scale=4.0}
  return %r
}
"""
    )
    empty = np.zeros((0, 16), np.int8)
    assert qir.compile(graph, check=empty)(empty)[0].shape == (0, 16)
