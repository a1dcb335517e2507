"""Exact sums of codes: their code, and the multiplier of the requantize that rounds them."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.rounding import ROUNDINGS
from qir.ops import AvgPool, Mean, Mul, ReduceSum, Requantize, ResizeLinear
from qir.ops.op import Op, infer
from qir.ops.sums import rounded
from qir.types import Affine, DType, TensorType
from tests.ops.programs import program
from tests.roundings import ANY_RATIO

INPUTS = "%x: i8[1,3,3,2]{scale=0.5, zp=3}, %y: u8[3,1]{scale=0.3, zp=7}"


@pytest.mark.parametrize(
    "line",
    [
        "mul(%x, %y) : i32[1,3,3,2]{scale=%x*%y}",
        "mul(%y, %y) : i32[3,1]{scale=%y*%y}",
        "avg_pool(%x) {window = [2, 2]} : i32[1,2,2,2]{scale=0.125}",
        "avg_pool(%x) {window = [3, 3], padding = same, count_padding = true} : "
        f"i32[1,3,3,2]{{scale={0.5 / 9!r}}}",
        "avg_pool(%x) {window = [3, 3], strides = [3, 3], padding = same} : "
        f"i32[1,1,1,2]{{scale={0.5 / 9!r}}}",
        "avg_pool(%x) {window = [2, 2], padding = same} : i8[1,3,3,2]{scale=0.7, zp=-4}",
        "avg_pool(%x) {window = [2, 2], padding = same, rounding = f32_rne} : "
        "u8[1,3,3,2]{scale=0.7, zp=4}",
    ],
)
def test_types(line: str) -> None:
    graph = program(INPUTS, line)
    assert line.replace(" ", "") in str(graph).replace(" ", "")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("mul(%x, %y) : i8[1,3,3,2]{scale=0.5}", r"expected %y0 to be i32\[1,3,3,2\]"),
        ("avg_pool(%x) {window = [2, 2]} : i8[1,2,2,2]{scale=1.0}", "requantize the i32 sums"),
        (
            "avg_pool(%x) {window = [2, 2], rounding = f32_rne} : i32[1,2,2,2]{scale=0.125}",
            "requantize the i32 sums",
        ),
        (
            "avg_pool(%x) {window = [2, 2], padding = same} : i32[1,3,3,2]{scale=0.125}",
            "varies from place to place",
        ),
        (
            "avg_pool(%x) {window = [2, 2], padding = same, rounding = fixed13} : "
            "i8[1,3,3,2]{scale=0.125}",
            "did you mean 'fixed31'",
        ),
    ],
)
def test_errors(line: str, message: str) -> None:
    with pytest.raises(QirError, match=message):
        program(INPUTS, line)


def test_a_pool_that_rounds_itself_takes_the_multiplier_of_each_count() -> None:
    line = "avg_pool(%x) {window = [2], padding = same} : i8[1,3,1]{scale=0.25, zp=-4}"
    graph = program("%x: i8[1,3,1]{scale=0.5, zp=3}", line)
    (found,) = run(graph, np.array([10, 21, -8], np.int8).reshape(1, 3, 1))
    # (7 + 18) / 2 * 2, (18 - 11) / 2 * 2 and -11 * 2, the last window having one tap
    assert found.reshape(-1).tolist() == [25 - 4, 7 - 4, -22 - 4]


SUMS: list[tuple[Op, tuple[int, ...], int]] = [
    (Mean((1, 2)), (1, 7, 7, 2), 49),
    (AvgPool((3, 3)), (1, 3, 3, 2), 9),
    (ResizeLinear((7,)), (1, 5, 2), 7),
    (ReduceSum((1,)), (1, 9, 2), 1),
]


@pytest.mark.parametrize("rounding", ANY_RATIO)
@pytest.mark.parametrize(("op", "shape", "divisor"), SUMS)
@given(x=st.floats(2.0**-20, 4, width=32), to=st.floats(2.0**-20, 4, width=32))
def test_the_multiplier_is_that_of_scales_and_divisor(
    op: Op, shape: tuple[int, ...], divisor: int, rounding: str, x: float, to: float
) -> None:
    operand, code = TensorType(shape, Affine.of(DType.I8, x, 3)), Affine.of(DType.I8, to, -5)
    (sums,) = infer(op, [operand])
    found = rounded(op, [operand], code, rounding)
    wanted = ROUNDINGS[rounding].multipliers(x, to * divisor)
    factors = found.factors(sums)
    assert (factors.value, factors.shift) == (wanted.value, wanted.shift)
    plain = Requantize(code, rounding).factors(sums)
    if (plain.value, plain.shift) == (wanted.value, wanted.shift):
        assert found.multiplier is None


def test_a_multiplier_is_written_out_where_the_scale_of_the_sum_would_make_another() -> None:
    x, to = np.float32(0.1), np.float32(0.3)
    written = []
    for divisor in range(2, 2000):
        operand = TensorType((divisor,), Affine.of(DType.I8, x))
        found = rounded(Mean((0,)), [operand], Affine.of(DType.I8, to), "f32_rne")
        written.append(found.multiplier is not None)
        (sums,) = infer(Mean((0,)), [operand])
        assert found.factors(sums).value == x / np.float32(float(to) * divisor)
    assert 0 < sum(written) < len(written)


@given(st.integers(-128, 127), st.integers(0, 255), st.integers(-128, 127), st.integers(0, 255))
def test_products_are_exact(x: int, y: int, x_point: int, y_point: int) -> None:
    types = f"%x: i8[1]{{scale=0.5, zp={x_point}}}, %y: u8[1]{{scale=0.25, zp={y_point}}}"
    graph = program(types, "mul(%x, %y) : i32[1]{scale=0.125}")
    (found,) = run(graph, np.array([x], np.int8), np.array([y], np.uint8))
    assert found.tolist() == [(x - x_point) * (y - y_point)]


def test_scales_of_products_are_exact() -> None:
    x, y = (TensorType((1,), Affine.of(DType.I8, scale)) for scale in (0.1, 0.3))
    (product,) = infer(Mul(), [x, y])
    assert product.quant is not None
    factors = [Fraction(float(np.float32(scale))) for scale in (0.1, 0.3)]
    assert Fraction(float(product.quant.scale.array)) == factors[0] * factors[1]
