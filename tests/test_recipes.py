"""Two recipes of CONTRIBUTING.md, followed from outside with public names, in 30 lines at most."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import qir
from qir import Builder, Context, Graph, Interval, Node, Pass, Skip, TensorType, Value
from qir.backends.native.computation import Computation
from qir.backends.xla.lowering import lowering
from qir.ops import Reverse
from qir.ops.op import OPS, SameCode
from qir.ops.type_rules import check_axis, uncoded_axes
from qir.types import Array
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


def test_a_pass_is_added_from_outside() -> None:
    add_a_pass()
    graph, context = qir.parse(REVERSED), Context()
    joined = qir.optimize(graph, "join-reverses", check=True, context=context)
    assert [node.op.name for node in joined.nodes] == ["reverse", "return"]
    assert context.diagnostics == ["join_reverses: 1 times"]
    x = np.random.default_rng(0).integers(-128, 128, (4, 6)).astype(np.int8)
    for computed in (qir.evaluate(joined, x), qir.compile(joined)(x)):
        assert np.array_equal(computed[0], qir.evaluate(graph, x)[0])
    quiet = Context()
    qir.optimize(graph, "join-reverses(report=false)", context=quiet)
    assert quiet.diagnostics == []


@pytest.mark.parametrize("recipe", [add_an_op, add_a_pass])
def test_a_recipe_has_30_lines_at_most(recipe: Callable[[], None]) -> None:
    assert len(inspect.getsource(recipe).splitlines()) <= 30


def test_recipes_use_public_names_only() -> None:
    for node in ast.walk(ast.parse(Path(__file__).read_text())):
        if isinstance(node, ast.ImportFrom):
            names = [*(node.module or "").split("."), *(alias.name for alias in node.names)]
            assert [name for name in names if name.startswith("_") and name != "__future__"] == []
