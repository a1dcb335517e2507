from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import Div, Maximum, Pow
from tests.ops.programs import program

CODE = "{scale=0.5, zp=3}"
INPUTS = f"""
  %x: f32[B,1,6], %r: f32[6], %n: i32[6],
  %q: i8[B,6]{CODE}, %p: i8[6]{CODE}, %o: i8[6]{{scale=0.25}},
  %c: i32[4,2]{{scale=[0.5, 0.25], axis=1}}, %d: i32[1,2]{{scale=[0.5, 0.25], axis=1}}
"""


@pytest.mark.parametrize(
    "line",
    [
        "div(%x, %r) : f32[B,1,6]",
        "pow(%r, %x) : f32[B,1,6]",
        "maximum(%n, %n) : i32[6]",
        f"maximum(%q, %p) : i8[B,6]{CODE}",
        "minimum(%c, %d) : i32[4,2]{scale=[0.5, 0.25], axis=1}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("div(%n, %n) : i32[6]", "floating-point numbers, got i32"),
        ("div(%q, %p) : i8[B,6]", "one plain element type"),
        ("pow(%r, %n) : f32[6]", "one plain element type"),
        ("maximum(%q, %o) : i8[B,6]", "operands of one element"),
        ("minimum(%r, %p) : f32[6]", "operands of one element"),
        ("minimum(%c, %o) : i32[4,2]", "don't broadcast"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


@pytest.mark.parametrize(
    ("op", "function"),
    [("div", lax.div), ("pow", lax.pow), ("maximum", jnp.maximum), ("minimum", jnp.minimum)],
)
def test_equals_jax(op: str, function: Callable[..., jax.Array]) -> None:
    special = np.array([0.0, -0.0, 1.0, -2.0, 0.5, 3.0, np.inf, -np.inf, np.nan], np.float32)
    x, y = np.meshgrid(special, special)
    (found,) = run(program("%x: f32[9,9], %y: f32[9,9]", f"{op}(%x, %y) : f32[9,9]"), x, y)
    np.testing.assert_allclose(found, np.asarray(function(x, y)), rtol=2**-22)


def test_extrema_compare_stored_numbers() -> None:
    code = "{scale=[0.5, 0.25], axis=1}"
    x, y = np.array([[3, -4], [-5, 6]], np.int32), np.array([[0, 0]], np.int32)
    (found,) = run(
        program(f"%x: i32[2,2]{code}, %y: i32[1,2]{code}", f"maximum(%x, %y) : i32[2,2]{code}"),
        x,
        y,
    )
    assert found.tolist() == [[3, 0], [0, 6]]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (Div().interval(Interval.of(-1, 4), Interval.of(-4, -2)), (-2, 0.5)),
        (Div().interval(Interval.of(1, 2), Interval.of(-1, 2)), (-np.inf, np.inf)),
        (Pow().interval(Interval.of(-2, 1), Interval.of(2, 2)), (0, 4)),
        (Pow().interval(Interval.of(-2, 1), Interval.of(3, 3)), (-8, 1)),
        (Pow().interval(Interval.of(-2, 9), Interval.of(0.5, 0.5)), (0, 3)),
        (Pow().interval(Interval.of(0.5, 2), Interval.of(-1, 2)), (0.25, 4)),
        (Pow().interval(Interval.of(-1, 2), Interval.of(-1, -1)), (-np.inf, np.inf)),
        (Maximum().interval(Interval.of(-1, 4), Interval.of(0, 2)), (0, 4)),
    ],
)
def test_intervals(found: Interval, expected: tuple[float, float]) -> None:
    assert found.bounds == expected
