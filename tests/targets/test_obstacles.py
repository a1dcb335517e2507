"""Which rule of a target a program breaks, one test a rule."""

from typing import Any

import numpy as np
import pytest

import qir
from qir.ops.op import OPS
from qir.targets import Target, find_target
from qir.types import Affine, DType

CHIP: dict[str, Any] = {"name": "chip", "runtime": "a test"}


def program(body: str, inputs: str = "%x: i8[2,4]{scale=0.5}", result: str = "%y") -> qir.Graph:
    return qir.parse(f"graph @g({inputs}) {{\n{body}\n  return {result}\n}}")


DOT = program(
    "  %k = const [[1, -128], [3, 4], [5, 6], [7, 8]] : i8[4,2]{scale=[0.5, 0.25], axis=1}\n"
    "  %acc = dot(%x, %k) : i32[2,2]{scale=%x*%k, axis=1}\n"
    "  %y = requantize(%acc) : i8[2,2]{scale=0.5, zp=3}"
)
ADD = program("  %y = add(%x, %x) : i8[2,4]{scale=1.0}")
POOL = program(
    "  %acc = mean(%x) {axes = [1]} : i32[2]{scale=0.125}\n"
    "  %y = requantize(%acc) : i8[2]{scale=0.25}"
)
LOOKUP = qir.optimize(
    program(
        "  %r = dequantize(%x) : f32[2,4]\n  %t = tanh(%r) : f32[2,4]\n"
        "  %y = quantize(%t) : i8[2,4]{scale=0.0078125}"
    ),
    "lookup-tables",
)
FAR = program("  %y = reshape(%x) : i8[8]{scale=0.5, zp=200}", "%x: i8[2,4]{scale=0.5, zp=200}")
WIDE = program(
    "  %y = requantize(%x) : i32[2,4]{scale=0.25, bounds=[-1024, 1024]}\n"
    "  %z = dequantize(%y) : f32[2,4]",
    result="%z",
)
QUANTIZE = program("  %y = quantize(%x) : i8[2]{scale=0.5}", "%x: f32[2]")

CASES = [
    (DOT, {"activations": (DType.U8,)}, "activations", "expected activations of u8, got i8[2,2]"),
    (DOT, {"weights": (DType.I4,)}, "weights", "expected weights of i4, got %k: i8[4,2]"),
    (DOT, {"weight_scales": ("tensor",)}, "weight_scales", "weights with a scale per tensor"),
    (DOT, {"weight_scales_by_op": {"dot": ("row",)}}, "weight_scales", "a scale per row"),
    (DOT, {"narrow_weights": True}, "narrow_weights", "weights above -128, got one of it in %k"),
    (DOT, {"symmetric_activations": True}, "symmetric_activations", "got i8[2,2]"),
    (DOT, {"sums": (DType.I64,)}, "sums", "expected sums in i64, got i32[2,2]"),
    (DOT, {"roundings": ("pow2", "f32_rne")}, "roundings", "expected pow2 or f32_rne, got fixed31"),
    (DOT, {"kinds": ("codebook",)}, "kinds", "expected activations of kind codebook"),
    (DOT, {"integer_ops": frozenset({"conv"})}, "integer_ops", "quantize(keep_float=[op:dot])"),
    (DOT, {"outputs": (DType.F32,)}, "outputs", "expected outputs stored in f32, got %y"),
    (ADD, {"roundings": ("f32_rne",)}, "roundings", "expected f32_rne, got fixed31"),
    (ADD, {"fixed_codes": {"add": Affine.of(DType.I8, 0.5)}}, "fixed_codes", "scale=0.5"),
    (ADD, {"equal_codes": frozenset({"add"})}, "equal_codes", "with the code of its operand"),
    (POOL, {"equal_codes": frozenset({"mean"})}, "equal_codes", "with the code of its operand"),
    (LOOKUP, {"lookup": False}, "lookup", "expected no table, got one"),
    (FAR, {"zero_point_inside": True}, "zero_point_inside", "got i8[2,4]{scale=0.5, zp=200}"),
    (WIDE, {"wide_sums": False}, "wide_sums", "expected no code in i32 with bounds"),
    (QUANTIZE, {"quantize_modes": ("divide",)}, "quantize_modes", "by divide, got reciprocal"),
    (QUANTIZE, {"numbers": (DType.BOOL,)}, "numbers", "expected numbers of bool, got f32[2]"),
]


@pytest.mark.parametrize(
    ("graph", "fields", "rule", "sentence"), CASES, ids=[case[2] for case in CASES]
)
def test_a_rule_that_is_broken_is_named_and_no_other(graph, fields, rule, sentence):
    assert Target(**CHIP).obstacles(graph) == ()
    found = Target(**CHIP, **fields).obstacles(graph)
    assert {obstacle.rule for obstacle in found} == {rule}
    assert any(sentence in str(obstacle) for obstacle in found), [*map(str, found)]


def test_a_float_op_that_the_target_lacks_is_named():
    graph = qir.parse("graph @g(%x: f32[2]) { %y = mish(%x) : f32[2] return %y }")
    (found,) = Target(**CHIP, float_ops=frozenset({"exp"})).obstacles(graph)
    assert str(found) == "mish of %y: float_ops: expected an op that chip has, got mish"


def test_scales_at_run_time_are_an_obstacle_where_there_are_none():
    graph = qir.parse(
        "graph @g(%x: f32[2,4], %w: f32[4,2]) { %y = dot(%x, %w) : f32[2,2] return %y }"
    )
    dynamic = qir.quantize(graph, None, "w8-dynamic", accuracy_check=False)
    rules = {obstacle.rule for obstacle in find_target("onnx", "test").obstacles(dynamic)}
    assert "dynamic_modes" in rules
    with pytest.raises(qir.QirError, match=r"quantize-dynamic: .* got onnx; calibrate on data"):
        qir.quantize(graph, None, "w8-dynamic", target="onnx")


def test_rounding_to_16_bits_needs_a_form_that_backends_have():
    graph = program("  %y = requantize(%x) {rounding = dbl_away} : i16[2,4]{scale=0.001}")
    (found,) = find_target("xla", "test").obstacles(graph)
    assert "expected a mode that backends have a form of, got dbl_away" in str(found)
    with pytest.raises(qir.QirError, match="dbl_away"):
        qir.compile(graph)(np.ones((2, 4), np.int8))


def test_explain_tells_what_stands_in_the_way():
    text = str(qir.explain(DOT, target="onnx"))
    assert "target onnx: 1 rule broken\n  requantize of %y: roundings: expected f32_rne" in text
    assert "target xla: nothing stands in the way" in str(qir.explain(DOT, target="xla"))
    assert "target" not in str(qir.explain(DOT))


@pytest.mark.parametrize(
    "call",
    [
        lambda name: qir.explain(DOT, target=name),
        lambda name: qir.save(DOT, "x.qir", target=name),
        lambda name: qir.optimize(DOT, "canonicalize", target=name),
    ],
)
def test_a_target_that_does_not_exist_is_an_error_with_the_nearest_name(call):
    with pytest.raises(qir.QirError, match="expected the target xla or onnx, got 'onxn'; did you"):
        call("onxn")


@pytest.mark.parametrize("name", ["xla", "onnx"])
def test_a_target_names_ops_that_exist(name):
    target = find_target(name, "test")
    named = [*(target.integer_ops or ()), *(target.float_ops or ()), *target.reasons]
    assert target.name == name
    assert set(named) <= OPS.keys()


def test_loops_stand_in_the_way_of_a_runtime_that_has_none_yet():
    graph = qir.parse("""
        graph @f(%x: f32[4,2], %h: f32[2]) {
          %y = scan(%h, %x) {carries = 1, stacked = 1} with (%h: f32[2], %x: f32[2]) {
            %a = scan(%h) {carries = 1, trips = 3} with (%h: f32[2]) {
              %b = tanh(%h) : f32[2]
              return %b
            } : f32[2]
            %c = add(%a, %x) : f32[2]
            return %c
          } : f32[2]
          return %y
        }""")
    found = qir.explain(graph, target="onnx").obstacles
    assert [(each.op, each.value, each.rule) for each in found] == [
        ("scan", "y", "float_ops"),
        ("scan", "y/a", "float_ops"),
    ]
    assert not qir.explain(graph, target="xla").obstacles
