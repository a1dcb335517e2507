"""Targets whose rules say nothing: refused when they are made, so that none is left unheeded."""

from typing import Any

import numpy as np
import pytest

import qir
from qir import DType
from qir.targets import Target
from qir.types import Affine

X = np.random.default_rng(0).standard_normal((64, 32)).astype(np.float32)
W = np.random.default_rng(1).standard_normal((32, 8)).astype(np.float32)
DENSE = qir.parse(
    "graph @g(%x: f32[64,32], %w: f32[32,8]) { %y = dot(%x, %w) : f32[64,8] return %y }"
)

MISSPELLED = [
    ({"activations": ("i8",)}, "activations: expected a qir.DType, got 'i8'; did you mean 'I8'?"),
    ({"activations": DType.I8}, r"activations: expected some, such as \(DType.I8,\), or None"),
    ({"weights": (DType.F32,)}, "weights: expected storage of codes, got f32"),
    ({"kinds": ("afine",)}, "kinds: expected .*, got 'afine'; did you mean 'affine'?"),
    ({"weight_scales": ("chanel",)}, "weight_scales: .*got 'chanel'; did you mean 'channel'?"),
    ({"weight_scales": "channel"}, r"weight_scales: expected some, such as \('tensor',\)"),
    ({"roundings": ("fixed32",)}, "roundings: expected .*, got 'fixed32'; did you mean 'fixed31'?"),
    ({"quantize_modes": ("divid",)}, "quantize_modes: .*, got 'divid'; did you mean 'divide'?"),
    ({"dynamic_modes": ("onx",)}, "dynamic_modes: .*, got 'onx'; did you mean 'onnx'?"),
    ({"integer_ops": {"conw"}}, "integer_ops: no op 'conw'; did you mean 'conv'?"),
    ({"float_ops": {5}}, "float_ops: no op 5; declare an op of your own before its target"),
    ({"equal_codes": {"rleu"}}, "equal_codes: no op 'rleu'; did you mean 'relu'?"),
    ({"fixed_codes": {"softmax"}}, "fixed_codes: expected a dict by the names of ops, got a set"),
    ({"fixed_codes": {"softmax": DType.U8}}, "fixed_codes: softmax: expected a qir.Affine, got a"),
    ({"fixed_codes": {"softmx": Affine.of(DType.I8, 1)}}, "fixed_codes: no op 'softmx'; did you"),
    ({"weight_scales_by_op": {"dot": ("all",)}}, "weight_scales_by_op: dot: expected tensor or"),
    ({"reasons": {"conv": 3}}, "reasons: conv: expected a text, got 3"),
    ({"lookup": "no"}, "lookup: expected True or False, got 'no'"),
    ({"opset": "21"}, "opset: expected a number, got '21'"),
]


@pytest.mark.parametrize(
    ("fields", "sentence"), MISSPELLED, ids=[str(case[0]) for case in MISSPELLED]
)
def test_a_rule_that_no_program_can_meet_is_refused_with_the_nearest_name(fields, sentence):
    with pytest.raises(qir.QirError, match=f"target chip: {sentence}"):
        Target(name="chip", runtime="a test", **fields)


def test_a_code_that_is_fixed_against_another_rule_is_refused():
    code = {"softmax": Affine.of(DType.U8, 1 / 256)}
    with pytest.raises(qir.QirError, match=r"softmax: expected .*, as symmetric_activ"):
        Target(name="chip", runtime="a test", fixed_codes=code, symmetric_activations=True)


def test_lists_and_sets_are_kept_as_tuples_and_sets_of_ops():
    lists: dict[str, Any] = {"weights": [DType.I8], "integer_ops": ["dot"]}
    target = Target(name="chip", runtime="a test", **lists)
    assert target.weights == (DType.I8,)
    assert target.integer_ops == frozenset({"dot"})


@pytest.mark.parametrize("fields", [{"activations": ()}, {"weights": ()}, {"roundings": ()}])
def test_a_target_that_accepts_nothing_of_a_kind_is_told_so(fields):
    target = Target(name="chip", runtime="a test", **fields)
    with pytest.raises(qir.QirError, match="what target chip accepts, which is none, got"):
        qir.quantize(DENSE, [(X, W)], target=target)


@pytest.mark.parametrize("scales", [("tensor",), ("channel",), ("row",), ("block",), ()])
def test_weights_get_the_scales_that_a_target_accepts(scales):
    constant = qir.from_jax(lambda x: x @ W, X)
    target = Target(name="chip", runtime="a test", weight_scales=scales)
    refused = {(): "per: expected what target chip accepts, which is", ("row",): "per=row gives"}
    if scales in refused:
        with pytest.raises(qir.QirError, match=refused[scales]):
            qir.quantize(constant, [X], target=target)
        return
    integer = qir.quantize(constant, [X], target=target, accuracy_check=False)
    assert target.obstacles(integer) == ()


def test_the_first_storage_that_quantize_makes_is_taken():
    first = Target(name="chip", runtime="a test", activations=(DType.I4, DType.U8))
    integer = qir.quantize(DENSE, [(X, W)], target=first)
    assert next(iter(integer.nodes)).output.type.dtype is DType.U8
    none = Target(name="chip", runtime="a test", activations=(DType.U16,))
    with pytest.raises(qir.QirError, match="activations: expected a target that accepts i8 or u8"):
        qir.quantize(DENSE, [(X, W)], target=none)
