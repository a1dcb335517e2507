import jax
import numpy as np
import pytest

from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import Cast
from qir.types import DType
from tests.ops.programs import program

FLOATS = np.array(
    [0.0, 0.5, -1.5, 2.7, 127.9, -129.0, 255.5, 3e9, -3e9, 1e20, np.inf, -np.inf, np.nan]
)
INTEGERS = np.array([0, 1, -1, 127, 128, 255, 256, -129, 65536, 2**31 - 1, -(2**31)])
PLAIN = ["bool", "i8", "u8", "i16", "u16", "i32", "u32", "f16", "bf16", "f32"]


def test_types_and_errors() -> None:
    program("%x: f32[B,2]", "cast(%x) : bool[B,2]")
    with pytest.raises(QirError, match=r"expected plain numbers, got i8.* dequantize it"):
        program("%q: i8[2]{scale=0.5}", "cast(%q) : f32[2]")
    with pytest.raises(
        QirError, match=r"expected a plain result type, got i8.* quantize makes codes"
    ):
        program("%x: f32[2]", "cast(%x) : i8[2]{scale=0.5}")


@pytest.mark.parametrize("to", PLAIN)
@pytest.mark.parametrize("of", ["f32", "i32", "bool"])
def test_equals_jax(of: str, to: str) -> None:
    x = {"f32": FLOATS, "i32": INTEGERS, "bool": np.array([True, False])}[of].astype(
        DType(of).numpy
    )
    (found,) = run(program(f"%x: {of}[{len(x)}]", f"cast(%x) : {to}[{len(x)}]"), x)
    expected = np.asarray(jax.jit(lambda x: x.astype(DType(to).numpy))(x))
    assert found.dtype == expected.dtype
    # In float64, because numpy knows no NaN in bfloat16.
    np.testing.assert_array_equal(found.astype(np.float64), expected.astype(np.float64))


@pytest.mark.parametrize(
    ("to", "expected"),
    [("i4", [-8, 7, 0, 1, -8, 7]), ("u4", [0, 15, 0, 1, 0, 15])],
)
def test_floats_saturate_below_8_bits(to: str, expected: list[int]) -> None:
    x = np.array([-np.inf, np.inf, np.nan, 1.9, -99.0, 99.0], np.float32)
    assert run(program("%x: f32[6]", f"cast(%x) : {to}[6]"), x)[0].tolist() == expected


def test_integers_wrap_below_8_bits() -> None:
    x = np.array([7, 8, -9, 17], np.int32)
    assert run(program("%x: i32[4]", "cast(%x) : i4[4]"), x)[0].tolist() == [7, -8, 7, 1]


def test_64_bit_integers_saturate() -> None:
    x = np.array([1e30, -1e30, 2.0**53 + 2], np.float64)
    (found,) = run(program("%x: f64[3]", "cast(%x) : i64[3]"), x, precision=np.float64)
    assert found.tolist() == [2**63 - 1, -(2**63), 2**53 + 2]


def test_intervals() -> None:
    assert Cast(DType.I8).interval(Interval.of(-1.5, 9.5)) == Interval.of(-1, 9)
    assert Cast(DType.I8).interval(Interval.of(-1.5, 300)) == Interval.of(-128, 127)
    assert Cast(DType.BOOL).interval(Interval.of(-1.5, 300)) == Interval.of(0, 1)
