import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.types import Array
from tests.ops.programs import program

INPUTS = """
  %a: i8[B,3], %u: u8[B,3], %h: i16[B,3], %i: i32[B,3], %q: i8[B,3]{scale=0.5},
  %k: i8[3,2], %v: u8[3,2], %l: i16[3,2], %m: i32[3,2], %b: i32[2], %c: i8[2]
"""


@pytest.mark.parametrize(
    "line",
    [
        "dot(%a, %k) : i32[B,2]",
        "dot(%u, %k, %b) : i32[B,2]",
        "dot(%a, %v) : i32[B,2]",
        "dot(%u, %v) : i32[B,2]",
        "dot(%h, %l) : i16[B,2]",
        "dot(%i, %m, %b) : i32[B,2]",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("dot(%a, %k, %c) : i32[B,2]", r"expected a bias of i32, got i8\[2\]"),
        ("dot(%a, %l) : i32[B,2]", "one plain element type"),
        ("dot(%q, %k) : i32[B,2]", "both operands coded or neither"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


def bytes_of(dtype: type[np.integer], *shape: int) -> Array:
    info = np.iinfo(dtype)
    rng = np.random.default_rng(shape)
    anywhere = rng.integers(info.min, info.max, shape, endpoint=True)
    return np.where(rng.random(shape) < 0.3, info.min, anywhere).astype(dtype)


@pytest.mark.parametrize("left", [np.int8, np.uint8])
@pytest.mark.parametrize("right", [np.int8, np.uint8])
def test_bytes_give_exact_sums(left: type[np.integer], right: type[np.integer]) -> None:
    x, k = bytes_of(left, 4, 700), bytes_of(right, 700, 5)
    types = f"%x: {qir.DType.of(left).value}[4,700], %k: {qir.DType.of(right).value}[700,5]"
    graph = program(types, "dot(%x, %k) : i32[4,5]")
    expected = x.astype(np.int64) @ k.astype(np.int64)
    for (found,) in (run(graph, x, k), qir.compile(graph)(x, k)):
        assert found.dtype == np.int32
        assert np.array_equal(found, expected)


def test_sums_beyond_32_bits_wrap_alike() -> None:
    graph = program("%x: u8[1,40000], %k: u8[40000,1]", "dot(%x, %k) : i32[1,1]")
    x, k = np.full((1, 40000), 255, np.uint8), np.full((40000, 1), 255, np.uint8)
    wrapped = 255 * 255 * 40000 - 2**32
    assert run(graph, x, k)[0].item() == qir.compile(graph)(x, k)[0].item() == wrapped


@pytest.mark.parametrize("left", [np.int8, np.uint8])
@pytest.mark.parametrize("right", [np.int8, np.uint8])
@pytest.mark.parametrize(
    ("op", "strides", "spread", "padding"),
    [
        ("conv", (2, 1), (1, 1), ((1, 0), (1, 2))),
        ("conv_transpose", (1, 1), (2, 1), ((1, 1), (2, 2))),
    ],
)
def test_convolutions_of_bytes_pad_with_zeros(
    op: str,
    strides: tuple[int, int],
    spread: tuple[int, int],
    padding: tuple[tuple[int, int], ...],
    left: type[np.integer],
    right: type[np.integer],
) -> None:
    x, k = bytes_of(left, 2, 5, 6, 3), bytes_of(right, 2, 3, 3, 4)
    expected = lax.conv_general_dilated(
        jnp.asarray(x, jnp.int32),
        jnp.asarray(k, jnp.int32),
        strides,
        padding,
        lhs_dilation=spread,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    types = f"%x: {qir.DType.of(left).value}[2,5,6,3], %k: {qir.DType.of(right).value}[2,3,3,4]"
    pairs = [list(pair) for pair in padding]
    shape = ",".join(map(str, expected.shape))
    line = f"{op}(%x, %k) {{strides = [2, 1], padding = {pairs}}} : i32[{shape}]"
    graph = program(types, line)
    for (found,) in (run(graph, x, k), qir.compile(graph)(x, k)):
        assert np.array_equal(found, np.asarray(expected))
