import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ops import ConvTranspose
from tests.ops.programs import program

INPUTS = """
  %x: f32[B,5,4], %k: f32[2,4,3], %n: f32[1,N,4], %b: f32[3], %g: f32[2,2,6], %f: f32[3,3,4,3],
  %q: i8[B,5,4]{scale=0.5, zp=3}, %w: i8[2,4,3]{scale=[0.5, 0.25, 1.0], axis=2}
"""


@pytest.mark.parametrize(
    "line",
    [
        "conv_transpose(%x, %k) : f32[B,6,3]",
        "conv_transpose(%x, %k, %b) {strides = [2]} : f32[B,10,3]",
        "conv_transpose(%x, %k) {strides = [3], padding = [[0, -1]]} : f32[B,11,3]",
        "conv_transpose(%x, %k) {dilation = [2]} : f32[B,7,3]",
        "conv_transpose(%n, %k) {strides = [2]} : f32[1,2*N,3]",
        "conv_transpose(%x, %g) {groups = 2} : f32[B,6,6]",
        "conv_transpose(%q, %w) {strides = [2]} : i32[B,10,3]{scale=%q*%w, axis=2}",
    ],
)
def test_types(line: str) -> None:
    program(INPUTS, line)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("conv_transpose(%x, %f) : f32[B,6,3]", "tensor of rank 4"),
        ("conv_transpose(%x, %k) {strides = [1, 2]} : f32[B,6,3]", "1 entry in strides, got 2"),
        ("conv_transpose(%x, %k) {strides = [0]} : f32[B,6,3]", "at least 1"),
        ("conv_transpose(%n, %k) {strides = [3]} : f32[1,3*N,3]", r"3\*N -1 places"),
        ("conv_transpose(%x, %k) {padding = [[-4, 0]]} : f32[B,0,3]", "leaves no room"),
        ("conv_transpose(%x, %g) : f32[B,6,6]", "kernel has 2 input channels, x has 4"),
        ("conv_transpose(%q, %k) : i32[B,6,3]", "both operands coded or neither"),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


@pytest.mark.parametrize(
    "op",
    [
        ConvTranspose(),
        ConvTranspose(strides=(2, 3)),
        ConvTranspose(strides=(2, 1), padding=((1, 0), (-1, 2)), dilation=(1, 2)),
        ConvTranspose(strides=(2, 2), groups=2),
    ],
)
def test_equals_a_dilated_convolution_of_jax(op: ConvTranspose) -> None:
    # Small integers, so that sums are exact in any order.
    rng = np.random.default_rng(0)
    x = rng.integers(-9, 10, (2, 5, 4, 4)).astype(np.float32)
    k = rng.integers(-9, 10, (3, 2, 4 // op.groups, 6)).astype(np.float32)
    strides, dilation, padding = op.geometry((5, 4), (3, 2))
    expected = lax.conv_general_dilated(
        jnp.asarray(x),
        jnp.asarray(k),
        (1, 1),
        padding,
        lhs_dilation=strides,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=op.groups,
    )
    np.testing.assert_array_equal(op.evaluate(x, k), np.asarray(expected))


@pytest.mark.parametrize("padding", ["VALID", "SAME"])
def test_equals_jax_conv_transpose(padding: str) -> None:
    x, k = np.arange(20, dtype=np.float32).reshape(1, 5, 4), np.ones((4, 4, 2), np.float32)
    expected = lax.conv_transpose(
        jnp.asarray(x), jnp.asarray(k), (2,), padding, dimension_numbers=("NHC", "HIO", "NHC")
    )
    sides = {"VALID": (), "SAME": ((2, 2),)}[padding]
    np.testing.assert_array_equal(ConvTranspose((2,), sides).evaluate(x, k), np.asarray(expected))


def test_zeros_between_codes_are_zero_points() -> None:
    inputs = "%q: i8[1,2,1]{scale=0.5, zp=3}, %w: i8[2,1,1]{scale=1.0}"
    line = "conv_transpose(%q, %w) {strides = [3]} : i32[1,5,1]{scale=%q*%w}"
    q, w = np.array([4, 5], np.int8).reshape(1, 2, 1), np.array([10, 1], np.int8).reshape(2, 1, 1)
    (found,) = run(program(inputs, line), q, w)
    assert found.reshape(-1).tolist() == [1, 10, 0, 2, 20]
