import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from tests.ops.programs import program

CODE = "{scale=0.5, zp=3}"
INPUTS = f"""
  %x: f32[B,6], %r: f32[6], %n: i32[6], %m: bool[B,1], %k: bool[6],
  %q: i8[B,6]{CODE}, %p: i8[6]{CODE}, %o: i8[6]{{scale=0.25}}
"""


@pytest.mark.parametrize(
    "line",
    [
        "less(%x, %r) : bool[B,6]",
        "less(%n, %n) : bool[6]",
        "equal(%k, %m) : bool[B,6]",
        "greater_equal(%q, %p) : bool[B,6]",
        "and(%k, %m) : bool[B,6]",
        "not(%m) : bool[B,1]",
        "is_finite(%x) : bool[B,6]",
        "select(%m, %x, %r) : f32[B,6]",
        "select(%k, %n, %n) : i32[6]",
        f"select(%m, %p, %p) : i8[B,6]{CODE}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("less(%x, %n) : bool[B,6]", "operands of one element, got"),
        ("less(%q, %o) : bool[B,6]", "operands of one element, got"),
        ("less(%x, %q) : bool[B,6]", "operands of one element, got"),
        ("or(%k, %n) : bool[6]", r"expected bool, got i32\[6\]"),
        ("not(%x) : f32[B,6]", "expected bool, got f32"),
        ("is_finite(%p) : bool[6]", "expected floating-point numbers"),
        ("select(%x, %x, %x) : f32[B,6]", "expected bool, got f32"),
        ("select(%m, %q, %o) : i8[B,6]", "operands of one element"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


@pytest.mark.parametrize("name", ["eq", "ne", "lt", "le", "gt", "ge"])
def test_comparisons_equal_jax(name: str) -> None:
    op = dict(zip(["eq", "ne", "lt", "le", "gt", "ge"], COMPARISONS, strict=True))[name]
    x = np.array([0.0, 1.0, np.nan, -np.inf, 2.0], np.float32)
    y = np.array([-0.0, 2.0, np.nan, np.inf, 1.0], np.float32)
    (found,) = run(program("%x: f32[5], %y: f32[5]", f"{op}(%x, %y) : bool[5]"), x, y)
    np.testing.assert_array_equal(found, np.asarray(getattr(lax, name)(x, y)), strict=True)


COMPARISONS = ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"]


@pytest.mark.parametrize("op", COMPARISONS)
def test_codes_compare_as_their_real_numbers(op: str) -> None:
    code = "{scale=0.5, zp=3}"
    q = np.array([[-128], [-1], [3], [127]], np.int8)
    coded = run(
        program(f"%q: i8[4,1]{code}, %p: i8[4]{code}", f"{op}(%q, %p) : bool[4,4]"), q, q[:, 0]
    )
    real = (q.astype(np.float32) - 3) * 0.5
    plain = run(program("%q: f32[4,1], %p: f32[4]", f"{op}(%q, %p) : bool[4,4]"), real, real[:, 0])
    np.testing.assert_array_equal(coded, plain)


def test_logic_equals_jax() -> None:
    x, y = np.array([[True], [False]]), np.array([True, False])
    for op, function in (("and", jnp.logical_and), ("or", jnp.logical_or)):
        (found,) = run(program("%x: bool[2,1], %y: bool[2]", f"{op}(%x, %y) : bool[2,2]"), x, y)
        np.testing.assert_array_equal(found, np.asarray(function(x, y)), strict=True)
    assert run(program("%y: bool[2]", "not(%y) : bool[2]"), y)[0].tolist() == [False, True]
    real = np.array([1.0, np.inf, -np.inf, np.nan], np.float32)
    (found,) = run(program("%x: f32[4]", "is_finite(%x) : bool[4]"), real)
    assert found.tolist() == [True, False, False, False]


def test_select_takes_stored_numbers() -> None:
    graph = program(f"%m: bool[2,1], %p: i8[2]{CODE}", f"select(%m, %p, %p) : i8[2,2]{CODE}")
    (found,) = run(graph, np.array([[True], [False]]), np.array([4, 5], np.int8))
    assert found.tolist() == [[4, 5], [4, 5]]
