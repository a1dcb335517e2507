"""Which ops take 16 bits: every one that computes on codes is drawn with them, or refuses them."""

from __future__ import annotations

import numpy as np
import pytest

from qir.errors import QirError
from qir.ops import (
    ExpBelowMax,
    ExpBelowMaxHigh,
    ExpBelowMaxLow,
    Lookup,
    Lookup2,
    Quantize,
    QuantizeDynamic,
)
from qir.ops.op import OPS, Op, infer
from qir.ops.rules import Table
from qir.types import Affine, DType, TensorType
from tests.drawing import drawn
from tests.ops.test_complete import computes_on_codes
from tests.strategies import STRATEGIES
from tests.strategies.base import WIDE

ON_CODES = [
    cls
    for cls in OPS.values()
    if cls in STRATEGIES and computes_on_codes(cls)
    # A function of one tensor is a lookup on codes.
    if not isinstance(cls.quant, Table) or cls in (Lookup, Lookup2)
]

NO_OPERAND: dict[type[Op], str] = {
    Quantize: "it takes floats",
    QuantizeDynamic: "it takes floats",
    Lookup2: "expected integers of 8 bits, got i16",
}
"""The ops that take no 16 bits, and why."""

NO_RESULT: dict[type[Op], str] = {
    Lookup2: "a table of pairs has one byte for each",
    ExpBelowMax: "expected the result u8",
    ExpBelowMaxHigh: "expected the result u8",
    ExpBelowMaxLow: "expected the result i8",
}
"""The ops that give neither 16 bits nor an exact sum of their code; and why."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", ON_CODES, ids=lambda cls: cls.name)
def test_strategies_draw_16_bits(cls: type[Op]) -> None:
    # What is drawn is compared bit for bit in tests/exact/test_reference_vs_xla.py.
    cases = [case for case in drawn(STRATEGIES[cls], 360) if case.coded]
    operands = {value.type.dtype for case in cases for value in case.node.inputs}
    outputs = [value for case in cases for value in case.node.outputs]
    results = {value.type.dtype for value in outputs if value.type.quant is not None}
    assert operands.isdisjoint(WIDE) == (cls in NO_OPERAND)
    wide = {*WIDE, DType.I32, DType.I64}
    assert not results or results.isdisjoint(wide) == (cls in NO_RESULT)


def test_what_is_refused_names_what_is_taken() -> None:
    x = TensorType((4,), Affine.of(DType.I16, 0.1))
    table = TensorType((256, 256), DType.I8)
    with pytest.raises(QirError, match=NO_OPERAND[Lookup2]):
        infer(Lookup2(), [x, x, table])
    for cls in (ExpBelowMax, ExpBelowMaxHigh, ExpBelowMaxLow):
        op = cls(0, to=Affine.of(DType.U16, np.float32(1 / 65535)))
        powers = TensorType((2**16,), cls.table_type)
        with pytest.raises(QirError, match=NO_RESULT[cls]):
            infer(op, [x, powers])
