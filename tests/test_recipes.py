"""Recipes of CONTRIBUTING.md, followed from outside with public names, in 30 to 50 lines."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import qir
from qir import Affine, Builder, Context, Graph, Interval, Node, Pass, Skip, TensorType, Value
from qir.backends.native.computation import Computation
from qir.backends.xla.codes import steps
from qir.backends.xla.lowering import floating, lowering
from qir.backends.xla.requantize import rescaling
from qir.numbers.reach import Reach, corners, with_zero
from qir.numbers.rounding import Multiplier, requantize, rounding_mode
from qir.ops import Reverse
from qir.ops.attributes import by_type
from qir.ops.elementwise import result_code
from qir.ops.op import OPS
from qir.ops.rules import Coded, Rescale, SameCode
from qir.ops.traits import Formed
from qir.ops.type_rules import broadcast, check_axis, rescaled, same_float, uncoded_axes
from qir.types import Array, Code
from tests.exact.test_reference_vs_xla import check_integers
from tests.ops.test_complete import count_paths, parts_missing
from tests.registries import restored
from tests.strategies.base import STRATEGIES, Case, Draw, cases_of, program, shapes
from tests.strategies.moves import any_operand

ROLLED = """
graph @rolled(%x: f32[B,6,4]) {
  %k = const [[1.0, 0.5, -2.0], [0.3, 1.0, 0.7], [1.5, 0.2, 0.1], [0.0, 1.0, 2.0]] : f32[4,3]
  %l = const [[1.0], [-0.5], [2.0]] : f32[3,1]
  %a = dot(%x, %k) : f32[B,6,3]
  %y = roll(%a) {axis = 1, by = 2} : f32[B,6,3]
  %z = dot(%y, %l) : f32[B,6,1]
  return %z
}
"""
GATED = """
graph @gated(%x: f32[B,8], %y: f32[B,8]) {
  %k = const [1.0, -0.5, 0.25, 2.0, 0.5, 1.0, -1.0, 0.1] : f32[8]
  %s = add(%x, %k) : f32[B,8]
  %z = gated(%s, %y) : f32[B,8]
  return %z
}
"""
REVERSED = """
graph @reversed(%x: i8[B,6]{scale=0.02, zp=3}) {
  %a = reverse(%x) {axes = [1]} : i8[B,6]{scale=0.02, zp=3}
  %b = reverse(%a) {axes = [1]} : i8[B,6]{scale=0.02, zp=3}
  %c = reverse(%b) {axes = [0]} : i8[B,6]{scale=0.02, zp=3}
  return %c
}
"""


@pytest.fixture(autouse=True)
def _registries_as_they_were() -> Iterator[None]:
    with restored():
        yield


def add_an_op() -> None:
    @qir.op("roll")
    class Roll(qir.Op):
        """Moves numbers along an axis; what leaves it at one end enters it at the other."""

        axis: int
        by: int = 1

        quant = SameCode()

        def result(self, x: TensorType) -> TensorType:
            check_axis(self, self.axis, x.rank)
            uncoded_axes(self, x, [self.axis])
            return x

        def interval(self, x: Interval) -> Interval:
            return x.hull()

        def evaluate(self, x: Array) -> Array:
            return np.roll(x, self.by, self.axis)

    @lowering(Roll)
    def roll(op: Roll, node: Node) -> Computation:
        return Computation(lambda x: jnp.roll(x, op.by, op.axis), node.inputs)

    @cases_of(Roll)
    def rolls(draw: Draw, cls: type[Roll]) -> Case:
        shape = draw(shapes((2, 4)))
        return program(cls(axis=0, by=len(shape) - 4), any_operand(draw, shape, 1))


def add_an_op_that_rescales() -> None:
    @qir.op("gated")
    class Gated(qir.Op):
        """x * max(y, 0), with broadcasting; on codes rounded once, by fixed31."""

        to: Affine | None = by_type(result_code, None)

        quant = Rescale()

        def result(self, x: TensorType, y: TensorType) -> TensorType:
            shape = broadcast(self, x, y)
            if self.to is None:
                return TensorType(shape, same_float(self, x, y))
            return TensorType(shape, rescaled(self, self.to, x, y))

        def interval(self, x: Interval, y: Interval) -> Interval:
            return x * Interval.of(np.maximum(y.lo, 0), np.maximum(y.hi, 0))

        def evaluate(self, x: Array, y: Array) -> Array:
            return x * np.maximum(y, 0)

        def factor(self, x: Code, y: Code, to: Code) -> Multiplier:
            product = x.scale.array.astype(np.float64) * y.scale.array
            return rounding_mode("fixed31").multipliers(product, to.scale.array)

        def integer(self, operands: Sequence[Coded], result: TensorType) -> Array:
            (x, y), to = operands, result.affine
            products = x.steps * np.maximum(y.steps, 0)
            return requantize(products, self.factor(x.code, y.code, to), to.zero_points, *to.range)

        def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed:
            return Formed(*corners(steps[0], with_zero(steps[1])))

    @lowering(Gated)
    def gated(op: Gated, node: Node) -> Computation:
        (x, y), to = (value.type.quant for value in node.inputs), op.to
        if x is None or y is None or to is None:
            return floating(node, lambda a, b: a * jnp.maximum(b, 0))
        rescale, terms = rescaling(node.output.name, op.factor(x, y, to), to)
        return Computation(
            lambda a, b, *terms: rescale(steps(a, x) * jnp.maximum(steps(b, y), 0), *terms),
            (*node.inputs, *terms),
        )


def add_a_pass() -> None:
    @qir.rule(Reverse)
    def join_reverses(y: Value, b: Builder) -> Value | Skip | None:
        match y:
            case Value(Reverse(outer), [Value(Reverse(inner), [x]) as between]):
                if inner != outer:
                    return Skip("the other one reverses other axes", between)
                return x
            case _:
                return None

    @qir.register
    class JoinReverses(Pass):
        """Drops pairs of reverses along the same axes.

        Attributes:
            report: Whether to leave a sentence for the user.
        """

        report: bool = True

        name = "join-reverses"

        def run(self, graph: Graph, context: Context) -> None:
            found = qir.rewrite(graph, [join_reverses])
            if self.report:
                context.diagnostics.append(str(found))


def test_an_op_is_added_from_outside() -> None:
    add_an_op()
    cls = OPS["roll"]
    assert list(parts_missing(cls)) == []
    assert min(count_paths(cls).values()) > 0

    @settings(max_examples=2, phases=[Phase.generate])
    @given(st.lists(STRATEGIES[cls], min_size=6, max_size=6))
    def agrees(cases: list[Case]) -> None:
        for case in cases:
            outputs = qir.compile(case.graph)(*case.inputs)
            check_integers(case, [np.asarray(output) for output in outputs])

    agrees()


def test_an_added_op_becomes_integer_and_is_exact_in_a_program(tmp_path: Path) -> None:
    add_an_op()
    x = np.random.default_rng(0).normal(size=(5, 6, 4)).astype(np.float32)
    integer = qir.quantize(qir.parse(ROLLED), [x], check=True)
    assert qir.explain(integer).floats == ()
    qir.save(integer, tmp_path / "rolled.qir")
    again = qir.load(tmp_path / "rolled.qir")
    assert again == integer
    assert np.array_equal(qir.compile(again, check=True)(x)[0], qir.evaluate(integer, x)[0])


def test_an_op_that_rescales_is_added_and_is_exact_in_a_program() -> None:
    add_an_op_that_rescales()
    graph = qir.parse(GATED)
    x, y = np.random.default_rng(0).normal(size=(2, 64, 8)).astype(np.float32)
    integer = qir.quantize(graph, [(x, y)], check=True)
    assert qir.explain(integer).floats == ()
    assert qir.parse(str(integer), qir.to_program(integer).arrays) == integer
    (found,) = qir.evaluate(integer, x, y)
    assert np.array_equal(qir.compile(integer)(x, y)[0], found)
    assert np.array_equal(qir.compile(graph)(x, y)[0], qir.evaluate(graph, x, y)[0])
    (exact,) = qir.evaluate(graph, x, y)
    assert np.sum((found - exact) ** 2) < np.sum(exact**2) / 1000  # 30 dB


def test_a_pass_is_added_from_outside() -> None:
    add_a_pass()
    graph, context = qir.parse(REVERSED), Context()
    joined = qir.optimize(graph, "join-reverses", check=True, context=context)
    assert [node.op.name for node in joined.nodes] == ["reverse", "return"]
    assert context.diagnostics == ["join_reverses: 1 time"]
    x = np.random.default_rng(0).integers(-128, 128, (4, 6)).astype(np.int8)
    for computed in (qir.evaluate(joined, x), qir.compile(joined)(x)):
        assert np.array_equal(computed[0], qir.evaluate(graph, x)[0])
    quiet = Context()
    qir.optimize(graph, "join-reverses(report=false)", context=quiet)
    assert quiet.diagnostics == []


@pytest.mark.parametrize(
    ("recipe", "most"), [(add_an_op, 30), (add_an_op_that_rescales, 50), (add_a_pass, 30)]
)
def test_a_recipe_is_short(recipe: Callable[[], None], most: int) -> None:
    assert len(inspect.getsource(recipe).splitlines()) <= most


def test_recipes_use_public_names_only() -> None:
    for node in ast.walk(ast.parse(Path(__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert [name for name in names if name.startswith("_") and name != "__future__"] == []
