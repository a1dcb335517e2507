from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import ReduceProd, ReduceSum
from tests.ops.programs import program

INPUTS = """
  %x: f32[B,4,6], %e: f32[2,0], %m: bool[4,6], %n: i32[4,6], %big: i8[2,16777216]{scale=0.5},
  %q: i8[B,4,6]{scale=0.5, zp=3}, %c: i32[2,3]{scale=[0.5, 0.25, 1.0], axis=1}
"""


@pytest.mark.parametrize(
    "line",
    [
        "reduce_sum(%x) {axes = [0, 2]} : f32[4]",
        "reduce_sum(%x) {axes = [1], keep_axes = true} : f32[B,1,6]",
        "reduce_sum(%q) {axes = [1, 2]} : i32[B]{scale=0.5}",
        "mean(%q) {axes = [1]} : i32[B,6]{scale=0.125}",
        "reduce_sum(%e) {axes = [1]} : f32[2]",
        "reduce_prod(%n) {axes = [0]} : i32[6]",
        "reduce_max(%m) {axes = [0]} : bool[6]",
        "reduce_max(%q) {axes = [0, 2]} : i8[4]{scale=0.5, zp=3}",
        "reduce_min(%c) {axes = [0]} : i32[3]{scale=[0.5, 0.25, 1.0], axis=0}",
        "reduce_min(%c) {axes = [0], keep_axes = true} : i32[1,3]{scale=[0.5, 0.25, 1.0], axis=1}",
        "argmax(%q) {axis = 0} : i32[4,6]",
        "argmax(%c) {axis = 0, keep_axes = true} : i32[1,3]",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("reduce_sum(%x) {axes = []} : f32[B,4,6]", "at least one axis"),
        ("reduce_sum(%x) {axes = [2, 1]} : f32[B]", "increasing axes"),
        ("reduce_sum(%x) {axes = [3]} : f32[B,4,6]", "axes below 3"),
        ("reduce_sum(%m) {axes = [0]} : bool[6]", "cast them first, or use reduce_max"),
        ("reduce_sum(%q) {axes = [0]} : i8[4,6]{scale=4.0}", "reduce_sum over axis 0.*dimension B"),
        ("reduce_sum(%c) {axes = [0]} : i32[3]", "coded per tensor in at most 16 bits"),
        ("reduce_sum(%big) {axes = [1]} : i32[2]{scale=0.5}", "16777215 is the greatest weight"),
        ("mean(%x) {axes = [0]} : f32[4,6]", "mean over axis 0.*dimension B"),
        ("reduce_prod(%q) {axes = [1]} : i8[B,6]", "one plain element type"),
        ("reduce_max(%e) {axes = [1]} : f32[2]", r"at least one number along axes \[1\]"),
        ("reduce_max(%c) {axes = [1]} : i32[2]", "varies along axis 1"),
        ("argmax(%c) {axis = 1} : i32[2]", "varies along axis 1"),
        ("argmax(%e) {axis = 1} : i32[2]", "at least one number along axis 1"),
        ("argmax(%x) {axis = 3} : i32[B]", "axis below 3"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("reduce_sum", jnp.sum),
        ("reduce_prod", jnp.prod),
        ("reduce_max", jnp.max),
        ("reduce_min", jnp.min),
    ],
)
def test_equals_jax(op: str, function: Callable[..., jax.Array]) -> None:
    # Small integers, so that float sums and products are exact in any order.
    x = np.random.default_rng(0).integers(-4, 5, (3, 4, 2)).astype(np.float32)
    for axes, keep in (((0, 2), False), ((1,), True)):
        expected = np.asarray(function(x, axis=axes, keepdims=keep))
        shape = ",".join(map(str, expected.shape))
        line = f"{op}(%x) {{axes = {list(axes)}, keep_axes = {str(keep).lower()}}} : f32[{shape}]"
        (found,) = run(program("%x: f32[3,4,2]", line), x)
        np.testing.assert_array_equal(found, expected, strict=True)


def test_integer_sums_wrap() -> None:
    x = np.array([2**31 - 1, 1], np.int32)
    assert run(program("%x: i32[2]", "reduce_sum(%x) {axes = [0]} : i32[]"), x)[0] == -(2**31)


@pytest.mark.parametrize("keep", ["true", "false"])
def test_argmax_takes_the_first_of_ties(keep: str) -> None:
    shape = "2,1" if keep == "true" else "2"
    x = np.array([[5, 7, 7], [-1, -1, -2]], np.int8)
    code = "{scale=0.5, zp=3}"
    line = f"argmax(%x) {{axis = 1, keep_axes = {keep}}} : i32[{shape}]"
    (found,) = run(program(f"%x: i8[2,3]{code}", line), x)
    assert found.reshape(-1).tolist() == [1, 0]
    np.testing.assert_array_equal(found, jnp.argmax(x, 1, keepdims=keep == "true"), strict=True)


@pytest.mark.parametrize(("name", "scale"), [("reduce_sum", 0.5), ("mean", 0.0625)])
def test_sums_of_codes_are_exact(name: str, scale: float) -> None:
    x = np.random.default_rng(0).integers(-128, 128, (50, 8)).astype(np.int8)
    line = f"{name}(%x) {{axes = [1]}} : i32[50]{{scale={scale}}}"
    (found,) = run(program("%x: i8[50,8]{scale=0.5, zp=3}", line), x)
    assert found.tolist() == [sum(row) - 8 * 3 for row in x.tolist()]


def test_intervals() -> None:
    axes = (0,)
    assert ReduceSum(axes).interval(Interval.of(1, 2)) == Interval.of(0, np.inf)
    assert ReduceSum(axes).interval(Interval.point([1.0, 2.0])) == Interval.of(3, 3)
    assert ReduceProd(axes).interval(Interval.of(-1, 0.5)) == Interval.of(-1, 1)
    assert ReduceProd(axes).interval(Interval.of(0, 2)) == Interval.of(-np.inf, np.inf)
