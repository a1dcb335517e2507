import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from tests.ops.programs import program

INPUTS = """
  %x: f32[B,4,6], %f: f32[4,6], %n: i32[4,6], %m: bool[4,6], %i: i32[3], %s: i32[],
  %q: i8[4,6]{scale=0.5, zp=3}, %c: i8[2,3]{scale=[0.5, 0.25, 1.0], axis=1},
  %a: i32[4,6]{scale=[0.5, 0.25], blocks=[2, 6]}
"""


@pytest.mark.parametrize(
    "line",
    [
        "slice(%x) {axes = [1, 2], start = [1, 0], limit = [3, 6], stride = [1, 4]} : f32[B,2,2]",
        "slice(%x) {axes = [1], start = [4], limit = [4]} : f32[B,0,6]",
        "slice(%q) {axes = [0], start = [1], limit = [2]} : i8[1,6]{scale=0.5, zp=3}",
        "slice(%c) {axes = [1], start = [0], limit = [3], stride = [2]}"
        " : i8[2,2]{scale=[0.5, 1.0], axis=1}",
        "slice(%c) {axes = [1], start = [1], limit = [2]} : i8[2,1]{scale=0.25}",
        "slice(%a) {axes = [0], start = [2], limit = [4]} : i32[2,6]{scale=0.25}",
        "gather(%x, %i) {axis = 1} : f32[B,3,6]",
        "gather(%x, %s) {axis = 2} : f32[B,4]",
        "gather(%c, %i) : i8[3,3]{scale=[0.5, 0.25, 1.0], axis=1}",
        "gather(%c, %s) : i8[3]{scale=[0.5, 0.25, 1.0], axis=0}",
        "pad(%x) {low = [0, 1, 0], high = [0, 0, 2]} : f32[B,5,8]",
        "pad(%m) {low = [1, 0], high = [0, 0], value = 1.0} : bool[5,6]",
        "pad(%c) {low = [1, 0], high = [0, 0]} : i8[3,3]{scale=[0.5, 0.25, 1.0], axis=1}",
        "reverse(%x) {axes = [0, 2]} : f32[B,4,6]",
        "reverse(%c) {axes = [1]} : i8[2,3]{scale=[1.0, 0.25, 0.5], axis=1}",
        "tile(%x) {repeats = [3, 1, 2]} : f32[3*B,4,12]",
        "tile(%c) {repeats = [2, 2]} : i8[4,6]{scale=[0.5, 0.25, 1.0, 0.5, 0.25, 1.0], axis=1}",
        "iota() {axis = 1} : i8[2,128]",
        "iota() : f32[4,B]",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


def test_split_cuts_the_code_too() -> None:
    program(INPUTS, "split(%x) {axis = 2, sizes = [2, 4]} : f32[B,4,2], f32[B,4,4]", 2)
    types = "i8[2,1]{scale=0.5}, i8[2,2]{scale=[0.25, 1.0], axis=1}"
    program(INPUTS, f"split(%c) {{axis = 1, sizes = [1, 2]}} : {types}", 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("slice(%x) {axes = [0], start = [0], limit = [1]} : f32[1,4,6]", "dimension B"),
        ("slice(%x) {axes = [1], start = [0], limit = [5]} : f32[B,5,6]", "at most 4 along axis 1"),
        ("slice(%x) {axes = [1], start = [3], limit = [2]} : f32[B,0,6]", "0 <= start <= limit"),
        ("slice(%x) {axes = [1], start = [], limit = [2]} : f32[B,2,6]", "for each of 1 axis"),
        ("slice(%f) {axes = [1, 0], start = [0, 0], limit = [1, 1]} : f32[1,1]", "increasing axes"),
        ("slice(%a) {axes = [0], start = [1], limit = [3]} : i32[2,6]", "blocks of 2 along axis 0"),
        ("split(%f) {axis = 1, sizes = [2, 3]} : f32[4,2]", r"sizes of sum 6, got \[2, 3\]"),
        ("gather(%x, %f) {axis = 1} : f32[B,4,6,6]", "plain integers as indices"),
        ("gather(%c, %i) {axis = 1} : i8[2,3]", "varies along axis 1"),
        ("gather(%x, %i) {axis = 3} : f32[3]", "axis below 3, got 3"),
        ("pad(%x) {low = [1, 0, 0], high = [0, 0, 0]} : f32[B,4,6]", "dimension B"),
        ("pad(%f) {low = [-1, 0], high = [0, 0]} : f32[3,6]", "slice crops"),
        ("pad(%f) {low = [1], high = [0]} : f32[5,6]", "for each of 2 axes"),
        ("pad(%n) {low = [1, 0], high = [0, 0], value = 0.5} : i32[5,6]", "an integer in"),
        ("pad(%c) {low = [0, 1], high = [0, 0]} : i8[2,4]", "varies along axis 1"),
        ("reverse(%f) {axes = [2]} : f32[4,6]", "axes below 2"),
        ("tile(%f) {repeats = [2]} : f32[8,6]", "for each of 2 axes"),
        ("tile(%f) {repeats = [0, 1]} : f32[0,6]", "at least 1"),
        ("iota() {axis = 1} : i8[2,129]", "numbers that hold 128, got i8"),
        ("iota() {axis = 1} : f32[4,B]", "dimension B"),
        ("iota() : bool[4]", "expected numbers, got bool"),
    ],
)
def test_errors(line: str, message: str) -> None:
    results = 2 if line.startswith("split") else 1
    with pytest.raises(QirError, match=message):
        program(INPUTS, line + ", f32[4,3]" * (results - 1), results)


X = np.arange(24, dtype=np.float32).reshape(4, 6)
INDICES = np.array([3, 0, 2], np.int32)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "slice(%f) {axes = [0, 1], start = [1, 0], limit = [4, 5], stride = [2, 3]} : f32[2,2]",
            lax.slice(X, (1, 0), (4, 5), (2, 3)),
        ),
        ("gather(%f, %i) {axis = 1} : f32[4,3]", jnp.take(X, INDICES, axis=1)),
        ("gather(%f, %i) : f32[3,6]", jnp.take(X, INDICES, axis=0)),
        (
            "pad(%f) {low = [0, 1], high = [2, 0], value = -inf} : f32[6,7]",
            lax.pad(X, np.float32(-np.inf), ((0, 2, 0), (1, 0, 0))),
        ),
        ("reverse(%f) {axes = [0]} : f32[4,6]", lax.rev(X, (0,))),
        ("tile(%f) {repeats = [2, 3]} : f32[8,18]", jnp.tile(X, (2, 3))),
        ("iota() {axis = 1} : u8[4,6]", lax.broadcasted_iota(np.uint8, (4, 6), 1)),
    ],
)
def test_equals_jax(line: str, expected: jnp.ndarray) -> None:
    (found,) = run(program("%f: f32[4,6], %i: i32[3]", line), X, INDICES)
    np.testing.assert_array_equal(found, np.asarray(expected), strict=True)


def test_split_equals_numpy() -> None:
    graph = program("%f: f32[4,6]", "split(%f) {axis = 1, sizes = [1, 5]} : f32[4,1], f32[4,5]", 2)
    for found, expected in zip(run(graph, X), np.split(X, [1], axis=1), strict=True):
        np.testing.assert_array_equal(found, expected, strict=True)


def test_gather_clamps_indices() -> None:
    (found,) = run(
        program("%f: f32[4,6], %i: i32[3]", "gather(%f, %i) : f32[3,6]"),
        X,
        np.array([-1, 4, 9], np.int32),
    )
    np.testing.assert_array_equal(found, X[[0, 3, 3]])


@pytest.mark.parametrize(("value", "stored"), [(0.0, 3), (1.3, 6), (-1000.0, -128), (np.inf, 127)])
def test_pad_encodes_its_value(value: float, stored: int) -> None:
    line = f"pad(%q) {{low = [1], high = [0], value = {value}}} : i8[3]{{scale=0.5, zp=3}}"
    (found,) = run(program("%q: i8[2]{scale=0.5, zp=3}", line), np.array([7, 8], np.int8))
    assert found.tolist() == [stored, 7, 8]


def test_pad_encodes_its_value_in_each_channel() -> None:
    code = "{scale=[0.5, 0.25], axis=1}"
    line = f"pad(%q) {{low = [0, 0], high = [1, 0], value = 1.0}} : i32[2,2]{code}"
    (found,) = run(program(f"%q: i32[1,2]{code}", line), np.array([[7, 8]], np.int32))
    assert found.tolist() == [[7, 8], [2, 4]]
