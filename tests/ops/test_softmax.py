"""Softmax and its exponentials: axes, masks, codes, and how near the integers come."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from qir.errors import QirError
from qir.ops import ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow, Softmax
from qir.ops.op import infer
from qir.ops.rules import Coded
from qir.ops.softmax import EXPONENTIAL_CODE, LOW_CODE, SOFTMAX_CODE, softmax_table
from qir.types import Affine, Array, DType, TensorType
from tests.ops.programs import program

F = TensorType((2, 3), DType.F32)


def exact(x: Array, mask: Array | None = None, axis: Any = -1) -> Array:
    powers = np.exp(x - x.max(axis=axis, keepdims=True))
    powers = powers if mask is None else np.where(mask, powers, 0)
    return np.asarray(powers / powers.sum(axis=axis, keepdims=True))


def row_sqnr(wanted: Array, found: Array) -> Array:
    noise = np.square(wanted - found).sum(-1)
    return np.asarray(10 * np.log10(np.square(wanted).sum(-1) / np.maximum(noise, 1e-300)))


def on_codes(x: Array, scale: float, to: Affine, mask: Array | None = None) -> Array:
    code = Affine.of(DType.I8, scale, 0)
    operands = [Coded(code.encode(x), TensorType(x.shape, code))]
    if mask is not None:
        operands.append(Coded(mask, TensorType(mask.shape, DType.BOOL)))
    table = softmax_table(float(code.scale.array), x.shape[-1])
    operands.append(Coded(table, TensorType((256,), DType.I32)))
    op = Softmax(x.ndim - 1, to=to)
    (result,) = infer(op, [operand.type for operand in operands])
    return to.decode(op.integer(operands, result).astype(to.storage.numpy))


def test_one_axis_has_one_form() -> None:
    assert Softmax((1,)) == Softmax(1)
    assert Softmax((0, 1)).axes == (0, 1)


@pytest.mark.parametrize("axis", ["1", "[1]", "[0, 1]"])
def test_texts_with_one_axis_and_with_several_are_read(axis: str) -> None:
    graph = program("%x: f32[2,3]", f"softmax(%x) {{axis = {axis}}} : f32[2,3]")
    assert [node.op.name for node in graph.nodes] == ["softmax", "return"]


@pytest.mark.parametrize("axis", [2, -1, (1, 2)])
def test_axes_outside_of_the_operand_are_refused(axis: int | tuple[int, ...]) -> None:
    with pytest.raises(QirError, match=r"expected an axis below 2"):
        infer(Softmax(axis), [F])


def test_a_mask_is_of_bools_that_broadcast() -> None:
    with pytest.raises(QirError, match="a table goes with coded operands only"):
        infer(Softmax(1), [F, F])
    with pytest.raises(QirError, match="expected a mask that broadcasts against"):
        infer(Softmax(1), [F, TensorType((4, 2, 3), DType.BOOL)])
    with pytest.raises(QirError, match="expected masked_rows with a mask only"):
        infer(Softmax(1, "unmasked"), [F])


@pytest.mark.parametrize("axis", [0, 2, (0, 2), (0, 1, 2)])
def test_a_mask_leaves_numbers_out(axis: int | tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x, mask = rng.normal(0, 3, (3, 4, 5)), rng.random((4, 5)) < 0.7
    mask[:, 0] = True
    whole = np.broadcast_to(mask, x.shape)
    found = Softmax(axis).evaluate(x, mask)
    np.testing.assert_allclose(found, exact(np.where(whole, x, -1e9), axis=axis), atol=1e-12)
    powers = ExpBelowMax(axis).evaluate(x, mask)
    np.testing.assert_allclose(powers / powers.sum(axis, keepdims=True), found, atol=1e-12)


def test_a_row_that_is_masked_whole_is_uniform_or_as_without_a_mask() -> None:
    x, mask = np.array([[1.0, 2.0, 9.0]]), np.zeros((1, 3), bool)
    np.testing.assert_allclose(Softmax(1).evaluate(x, mask), 1 / 3)
    np.testing.assert_allclose(Softmax(1, "unmasked").evaluate(x, mask), exact(x))
    code = Affine.of(DType.I8, 1 / 256, -128)
    np.testing.assert_allclose(on_codes(x, 0.1, code, mask), 1 / 3, atol=1 / 256)


def test_a_row_that_infinity_masks_whole_is_no_number_but_on_codes() -> None:
    x, mask = np.array([[1.0, 2.0, 9.0], [1.0, 2.0, 9.0]]), np.array([[False], [True]])
    for op in (Softmax(1, "nan"), ExpBelowMax(1, "nan"), ExpBelowMaxLow(1, "nan")):
        found = np.isnan(op.evaluate(x, mask))
        assert found[0].all()
        assert not found[1].any()
    operands = [Coded(np.array([[1, 2, 9]]), TensorType((1, 3), Affine.of(DType.I8, 0.1, 0)))]
    operands.append(Coded(np.zeros((1, 3), bool), TensorType((1, 3), DType.BOOL)))
    exponentials = ExpBelowMax(1, "nan", to=EXPONENTIAL_CODE)
    table = exponentials.integer_tables([operands[0].type])["table"]
    operands.append(Coded(table, TensorType((256,), DType.U8)))
    assert exponentials.integer(operands, operands[0].type).tolist() == [[255, 255, 255]]


def test_what_is_masked_is_0_though_it_is_the_greatest() -> None:
    x, mask = np.array([[1.0, 2.0, 9.0]]), np.array([True, True, False])
    found = on_codes(x, 0.1, SOFTMAX_CODE, mask)
    np.testing.assert_allclose(found, exact(np.where(mask, x, -1e9)), atol=1 / 256)


def test_256ths_are_divided_as_ever() -> None:
    # Golden integers of the first release: (256 E + S // 2) // S - 128.
    table = softmax_table(1.0, 2)
    powers = table[[0, 1]].astype(np.int64)
    total = int(powers.sum())
    wanted = np.minimum((powers * 256 + total // 2) // total - 128, 127)
    found = on_codes(np.array([[1.0, 0.0]]), 1.0, SOFTMAX_CODE)
    np.testing.assert_array_equal(SOFTMAX_CODE.encode(found)[0], wanted)


@pytest.mark.parametrize("classes", [1000, 10_000])
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_many_classes_keep_their_greatest_and_their_bits(classes: int, size: float) -> None:
    rng = np.random.default_rng(classes)
    x = np.clip(rng.normal(0, size, (32, classes)), -4 * size, 4 * size)
    scale = float(np.abs(x).max()) / 127
    wanted = exact(x)
    to = Affine.of(DType.U8, wanted.max() / 255, 0)
    found = on_codes(x, scale, to)
    whole = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - found).sum())
    code = Affine.of(DType.I8, scale, 0)
    steps = code.encode(x)
    # The greatest share belongs to one of the scores that are the greatest in 8 bits.
    tops = np.take_along_axis(steps, found.argmax(-1)[:, None], -1)[:, 0]
    assert np.all(tops == steps.max(-1))
    assert whole >= 25


def test_exponentials_have_one_code() -> None:
    table = TensorType((256,), DType.U8)
    x = TensorType((2, 3), Affine.of(DType.I8, 0.1, 0))
    assert infer(ExpBelowMax(1, to=EXPONENTIAL_CODE), [x, table])[0].quant == EXPONENTIAL_CODE
    with pytest.raises(
        QirError, match=r"expected the result u8\[2,3\]\{scale=0.003921569\}, got i8"
    ):
        infer(ExpBelowMax(1, to=SOFTMAX_CODE), [x, table])


def test_the_greatest_of_each_row_is_255() -> None:
    code = Affine.of(DType.I8, 0.05, 3)
    stored = np.random.default_rng(2).integers(-128, 128, (5, 7)).astype(np.int8)
    x = Coded(stored, TensorType(stored.shape, code))
    op = ExpBelowMax(1, to=EXPONENTIAL_CODE)
    table = op.integer_tables([x.type])["table"]
    found = op.integer([x, Coded(table, TensorType((256,), DType.U8))], x.type)
    assert found.max(-1).tolist() == [255] * 5
    np.testing.assert_allclose(
        found / 255, ExpBelowMax(1).evaluate(code.decode(stored)), atol=0.51 / 255
    )


def test_the_parts_of_an_exponential_have_16_bits_together() -> None:
    code = Affine.of(DType.I16, 0.01, 0, bounds=(-2048, 2047))
    stored = np.arange(-2048, 2048).reshape(1, -1)
    x = Coded(stored, TensorType(stored.shape, code))
    total = np.zeros(stored.shape)
    for op, code_of_part in ((ExpBelowMaxHigh, EXPONENTIAL_CODE), (ExpBelowMaxLow, LOW_CODE)):
        part = op(1, to=code_of_part)
        table = part.integer_tables([x.type])["table"]
        (result,) = infer(part, [x.type, TensorType(table.shape, part.table_type)])
        found = part.integer([x, Coded(table, TensorType(table.shape, part.table_type))], result)
        assert code_of_part.range[0] <= found.min() <= found.max() <= code_of_part.range[1]
        total += code_of_part.decode(found)
    wanted = np.exp(0.01 * (stored - 2047.0))
    # Half a step of the low part, and what float32 rounds off the two scales.
    np.testing.assert_allclose(total, wanted, atol=0.5 / (255 * 254) + 2.0**-23)


def test_the_parts_of_an_exponential_sum_to_it_in_float() -> None:
    x = np.random.default_rng(3).normal(0, 4, (5, 70))
    high, low = ExpBelowMaxHigh(1).evaluate(x), ExpBelowMaxLow(1).evaluate(x)
    np.testing.assert_allclose(high + low, ExpBelowMax(1).evaluate(x), atol=1e-15)
    assert np.abs(low).max() <= 0.5 / 255 + 1e-15
