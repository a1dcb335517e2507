"""Every declared op is complete: meaning, bounds, documentation, lowering, strategy, cases."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Iterator

import pytest

from qir.backends.xla.regions import RUNS
from qir.backends.xla.rules import LOWERINGS
from qir.ops import Const, Dequantize, Lookup, Quantize, Recode, Requantize, Return
from qir.ops.op import OPS, Op
from qir.ops.regions import RegionOp
from qir.ops.rules import KeepFloat
from tests.drawing import drawn
from tests.strategies import STRATEGIES

OPERATIONS = [cls for cls in OPS.values() if cls not in (Const, Return)]
FEW = 4


def parts_missing(cls: type[Op]) -> Iterator[str]:
    """Names what an op class lacks."""
    base: type[Op] = RegionOp if issubclass(cls, RegionOp) else Op
    rules = ("passages", "run") if base is RegionOp else ("result", "evaluate", "interval")
    for rule in rules:
        if getattr(cls, rule) is getattr(base, rule):
            yield f"{cls.name}: no {rule}"
    if not inspect.getdoc(cls) or inspect.getdoc(cls) == inspect.getdoc(Op):
        yield f"{cls.name}: no documentation"
    if not (LOWERINGS.get(cls) or cls in RUNS):
        yield f"{cls.name}: no lowering in backends/xla/rules"
    if cls not in STRATEGIES:
        yield f"{cls.name}: no strategy in tests/strategies"


def computes_on_codes(cls: type[Op]) -> bool:
    """Whether an op has an integer path: by its quantization rule, or as the casts by itself."""
    return not isinstance(cls.quant, KeepFloat) or cls.integer is not Op.integer


def count_paths(cls: type[Op]) -> Counter[bool]:
    """Counts the cases of the integer path (True) and of the float path among a few."""
    return Counter(case.coded for case in drawn(STRATEGIES[cls], 228))


def test_nothing_is_missing() -> None:
    assert [missing for cls in OPERATIONS for missing in parts_missing(cls)] == []


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_strategy_reaches_both_paths(cls: type[Op]) -> None:
    counts = count_paths(cls)
    if computes_on_codes(cls):
        assert counts[True] >= FEW
    if cls not in (Quantize, Dequantize, Requantize, Recode, Lookup):
        assert counts[False] >= FEW
