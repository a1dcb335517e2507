"""quantize_dynamic: its types, its shapes, what it refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qir.errors import QirError
from qir.ops import QuantizeDynamic
from qir.ops.op import infer
from qir.ops.quantize_dynamic import steps_code
from qir.ops.rules import Coded
from qir.types import Affine, Array, Dim, DType, Element, TensorType

BYTES = steps_code(127)


def computed(op: QuantizeDynamic, x: Array) -> tuple[Array, Array]:
    type = TensorType(x.shape, DType.F32)
    result, *_ = infer(op, [type])
    steps, scale = op.integer([Coded(x, type)], result)
    return steps, scale


def test_one_scale_for_each_row_token_sample_or_tensor() -> None:
    x = np.random.default_rng(0).normal(size=(2, 3, 8)).astype(np.float32)
    for axes, shape in {
        (2,): (2, 3, 1),
        (1,): (2, 1, 8),
        (1, 2): (2, 1, 1),
        (0, 1, 2): (1, 1, 1),
    }.items():
        steps, scale = computed(QuantizeDynamic(axes, BYTES), x)
        assert scale.shape == shape
        assert steps.dtype == np.int8
        assert np.array_equal(np.abs(steps).max(axis=axes, keepdims=True), np.full(shape, 127))
        # Half a step, and what the products round.
        assert np.all(np.abs(steps * scale - x) <= scale * (0.5 + 127 * 2.0**-22))


def test_blocks_are_the_rows_of_a_reshaped_tensor() -> None:
    x = np.random.default_rng(0).normal(size=(5, 24)).astype(np.float32)
    steps, scale = computed(QuantizeDynamic((1,), BYTES, block=8), x)
    by_row, row_scale = computed(QuantizeDynamic((2,), BYTES), x.reshape(5, 3, 8))
    assert np.array_equal(steps, by_row.reshape(5, 24))
    assert np.array_equal(scale, row_scale[..., 0])


@pytest.mark.parametrize(
    "code",
    [steps_code(7), steps_code(7, DType.I4), steps_code(1, DType.I2), steps_code(32767, DType.I16)],
)
def test_a_code_of_any_width_has_all_its_steps(code: Affine) -> None:
    x = np.linspace(-3, 3, 100_001, dtype=np.float32)
    steps, _ = computed(QuantizeDynamic((0,), code), x)
    low, high = code.range
    assert np.array_equal(np.unique(steps).astype(int), np.arange(low, high + 1))


def test_types() -> None:
    x = TensorType((Dim.named("B"), 4, 32), DType.F32)
    assert infer(QuantizeDynamic((2,), BYTES), [x]) == (
        x.with_element(BYTES),
        TensorType((Dim.named("B"), 4, 1), DType.F32),
    )
    assert infer(QuantizeDynamic((1, 2), BYTES, block=16), [x])[1].shape == (Dim.named("B"), 1, 2)
    assert [
        str(type) for type in infer(QuantizeDynamic((0, 1, 2), DType.U8, mode="onnx"), [x])
    ] == [
        "u8[B,4,32]",
        "f32[]",
        "u8[]",
    ]


@pytest.mark.parametrize(
    ("to", "options", "problem"),
    [
        (Affine.of(DType.I8, 0.5, bounds=(-127, 127)), {}, "expected a code of scale 1"),
        (Affine.of(DType.I8, 1.0), {}, "bounds \\[-n, n\\]"),
        (Affine.of(DType.U8, 1.0, 128), {}, "zero point 0"),
        (DType.I8, {}, "expected a code of scale 1"),
        (BYTES, {"mode": "onnx"}, "expected plain u8 and no blocks"),
        (DType.U8, {"mode": "onnx", "block": 2}, "expected plain u8 and no blocks"),
        (BYTES, {"block": 0}, "a block of at least 1"),
        (BYTES, {"mode": "asymmetric"}, "expected one of symmetric, onnx"),
    ],
)
def test_what_is_no_code_of_steps_is_refused(
    to: Element, options: dict[str, Any], problem: str
) -> None:
    with pytest.raises(QirError, match=problem):
        QuantizeDynamic((0,), to, **options)


@pytest.mark.parametrize(
    ("op", "x", "problem"),
    [
        (QuantizeDynamic((1,), BYTES), TensorType((4,), DType.F32), "expected axes below 1"),
        (QuantizeDynamic((0,), BYTES), TensorType((4,), DType.F16), "cast it first"),
        (QuantizeDynamic((0,), BYTES, block=3), TensorType((4,), DType.F32), "blocks of 3 divide"),
        (QuantizeDynamic((0,), BYTES, block=2), TensorType((4, 4), DType.F32), "one of the axes"),
        (QuantizeDynamic((0,), BYTES, block=2), TensorType((Dim.named("B"),), DType.F32), "divide"),
        (
            QuantizeDynamic((0,), DType.U8, mode="onnx"),
            TensorType((4, 4), DType.F32),
            "expected all axes",
        ),
    ],
)
def test_operands_that_do_not_fit_are_refused(
    op: QuantizeDynamic, x: TensorType, problem: str
) -> None:
    with pytest.raises(QirError, match=problem):
        infer(op, [x])
