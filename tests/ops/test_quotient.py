"""div of codes: one rounding, no infinity, scales that vary."""

from __future__ import annotations

import numpy as np
import pytest

from qir.errors import QirError
from qir.ops import Div
from qir.ops.op import infer
from qir.ops.rules import Coded
from qir.types import Affine, DType, TensorType

TO = Affine.of(DType.I8, 0.02, 5)


def divided(x: np.ndarray, x_code: Affine, y: np.ndarray, y_code: Affine, to: Affine) -> np.ndarray:
    op = Div(to)
    operands = [Coded(x, TensorType(x.shape, x_code)), Coded(y, TensorType(y.shape, y_code))]
    (result,) = infer(op, [operand.type for operand in operands])
    return op.integer(operands, result)


def test_quotients_of_bytes_are_rounded_once() -> None:
    x_code, y_code = Affine.of(DType.I8, 0.1, -3), Affine.of(DType.U8, 0.25, 7)
    x, y = np.arange(-128, 128, dtype=np.int8)[:, None], np.arange(8, 256, dtype=np.uint8)
    found = divided(x, x_code, y, y_code, TO)
    real = x_code.decode(x).astype(np.float64) / y_code.decode(y).astype(np.float64)
    wanted = np.clip(np.floor(real / float(TO.scale.array) + 0.5) + 5, -128, 127)
    # A product of float32 scales moves a tie: one step in a few places.
    assert np.abs(found - wanted).max() <= 1
    assert np.mean(found != wanted) < 1e-3


def test_no_step_divides_as_the_step_next_to_it() -> None:
    code = Affine.of(DType.I8, 1.0, 0)
    x = np.array([1, 1, -1], np.int8)
    to = Affine.of(DType.I8, 1.0, 0)
    positive = Affine.of(DType.I8, 1.0, -128)
    negative = Affine.of(DType.I8, 1.0, 127)
    found = divided(x, code, np.full(3, -128, np.int8), positive, to)
    assert found.tolist() == [1, 1, -1]
    assert divided(x, code, np.full(3, 127, np.int8), negative, to).tolist() == [-1, -1, 1]


def test_a_dividend_may_have_a_scale_for_each_channel() -> None:
    scales = np.array([[0.5, 2.0]])
    x_code, y_code = Affine.of(DType.I32, scales), Affine.of(DType.I32, 0.5)
    x, y = np.array([[100, 100], [-7, 3]], np.int32), np.array([[50], [2]], np.int32)
    found = divided(x, x_code, y, y_code, Affine.of(DType.I8, 0.25, 0))
    assert found.tolist() == [[8, 32], [-14, 24]]


def test_codes_that_do_not_divide_are_refused() -> None:
    byte = TensorType((2,), Affine.of(DType.I8, 0.5))
    varying = TensorType((2,), Affine.of(DType.I32, [0.5, 0.25]))
    with pytest.raises(QirError, match="expected a divisor coded per tensor"):
        infer(Div(TO), [byte, varying])
    with pytest.raises(QirError, match="expected a dividend coded per tensor"):
        infer(Div(TO), [TensorType((2,), DType.F32), byte])
    with pytest.raises(QirError, match=r"in i32 with bounds inside \[-2\^28, 2\^28\]"):
        infer(Div(Affine.of(DType.I32, 0.5)), [byte, byte])
