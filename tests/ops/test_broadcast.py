import numpy as np
import pytest
from jax import lax

from qir.backends.reference.interpreter import run
from qir.backends.xla.compile import compile_graph
from qir.errors import QirError
from tests.ops.programs import program

INPUTS = "%x: f32[B,4], %s: f32[], %n: i32[2,1], %c: i32[2,3]{scale=[0.5, 0.25, 1.0], axis=1}"


@pytest.mark.parametrize(
    "line",
    [
        "broadcast(%x) : f32[5,B,4]",
        "broadcast(%x) {axes = [0, 2]} : f32[B,7,4]",
        "broadcast(%s) {axes = []} : f32[2,3]",
        "broadcast(%n) : i32[2,5]",
        "broadcast(%c) : i32[4,2,3]{scale=[0.5, 0.25, 1.0], axis=2}",
        "broadcast(%c) {axes = [0, 1]} : i32[2,3,4]{scale=[0.5, 0.25, 1.0], axis=1}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("broadcast(%x) : f32[4]", r"an axis of \[4\] for each of 2"),
        ("broadcast(%x) {axes = [0]} : f32[B,4]", "for each of 2"),
        ("broadcast(%x) {axes = [1, 0]} : f32[4,B]", "increasing axes"),
        ("broadcast(%x) {axes = [0, 2]} : f32[B,4]", "axes below 2"),
        ("broadcast(%n) {axes = [0, 1]} : i32[3,5]", r"does not broadcast to \[3,5\]"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


@pytest.mark.parametrize(("shape", "axes"), [((2, 3, 4), (0, 2)), ((3, 2, 1), (1, 2))])
def test_equals_jax(shape: tuple[int, ...], axes: tuple[int, ...]) -> None:
    x = np.arange(2 * shape[axes[1]], dtype=np.float32).reshape(2, -1)
    line = f"broadcast(%x) {{axes = {list(axes)}}} : f32[{','.join(map(str, shape))}]"
    (found,) = run(program(f"%x: f32[2,{x.shape[1]}]", line), x)
    np.testing.assert_array_equal(found, lax.broadcast_in_dim(x, shape, axes), strict=True)


def test_named_sizes_follow_from_the_operand() -> None:
    graph = program("%x: f32[B,1]", "broadcast(%x) {axes = [0, 2]} : f32[B,2,3]")
    (found,) = run(graph, np.ones((5, 1), np.float32))
    assert found.shape == (5, 2, 3)


@pytest.mark.parametrize("line", ["broadcast(%s) : f32[B,2]", "iota() {axis = 1} : f32[B,2]"])
def test_named_sizes_may_be_told_by_another_input(line: str) -> None:
    graph = program("%x: f32[B,1], %s: f32[]", line)
    inputs = np.ones((5, 1), np.float32), np.asarray(2, np.float32)
    assert run(graph, *inputs)[0].shape == (5, 2)
    assert compile_graph(graph)(*inputs)[0].shape == (5, 2)
