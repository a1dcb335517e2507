"""What is quantized for a target has nothing in its way there, and says what stayed float."""

from typing import Any
from unittest import mock

import jax
import numpy as np
import pytest
from hypothesis import given

import qir
import qir.ops
from qir.ops.rules import KeepFloat, Table
from qir.targets import Target, find_target
from qir.types import Affine, DType
from tests.models.random_programs import NumpyExecutor
from tests.models.small_networks import NETWORKS
from tests.strategies.float_programs import FloatCase, float_programs
from tests.strategies.transformer_programs import transformer_programs

CHIP = Target(
    name="chip",
    runtime="a machine with products and moves, without tables",
    activations=(DType.I8,),
    weights=(DType.I8,),
    sums=(DType.I32,),
    kinds=("affine",),
    symmetric_activations=True,
    symmetric_weights=True,
    zero_point_inside=True,
    activation_scales=("tensor",),
    weight_scales=("tensor", "channel"),
    wide_sums=False,
    roundings=("fixed31",),
    lookup=False,
    integer_ops=frozenset({"conv", "dot", "add", "mul", "mean", "avg_pool", "max_pool", "relu"})
    | {"concat", "reshape", "transpose", "slice"},
    equal_codes=frozenset({"mean", "avg_pool"}),
)
ONNX = find_target("onnx", "test")
LEAST = 27.0
"""Signal to noise in dB: three less than that of the transformer, the least of them."""


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_for_onnx_has_nothing_in_its_way(name):
    network = NETWORKS[name]()
    graph = qir.from_jax(network.function, *network.inputs(0))
    integer = qir.quantize(graph, [network.inputs(seed) for seed in range(4)], target="onnx")
    assert qir.explain(integer, target="onnx").obstacles == ()
    assert qir.explain(qir.quantize(graph, [network.inputs(0)]), target="onnx").obstacles
    assert integer.accuracy is not None
    assert min(output.sqnr for output in integer.accuracy.outputs) > LEAST
    inputs = network.inputs(9)
    outputs = qir.compile(integer)(*inputs)
    for found, expected in zip(outputs, qir.evaluate(integer, *inputs), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    products = [node for node in integer.nodes if node.op.name in ("dot", "conv")]
    assert all(node.output.type.dtype is DType.I32 for node in products)
    floats = {line.op: line.reason for line in qir.explain(integer).floats}
    if name == "transformer":
        assert floats["softmax"] == "target onnx: ONNX Runtime computes it in floating point"
        assert set(floats) == {"softmax", "layer_norm"}
    else:
        assert floats == {}


@pytest.mark.hypothesis
@given(float_programs() | transformer_programs())
@pytest.mark.parametrize("target", [ONNX, CHIP], ids=["onnx", "chip"])
def test_a_random_program_has_nothing_in_its_way(target: Target, case: FloatCase) -> None:
    with mock.patch("qir.backends.xla.executor.XlaExecutor", NumpyExecutor):
        integer = qir.quantize(case.graph, [case.inputs], target=target, accuracy_check=False)
    assert [*map(str, target.obstacles(integer))] == []


X = np.linspace(-1, 3, 64, dtype=np.float32).reshape(1, 4, 4, 4)
POOLED = qir.parse(
    "graph @g(%x: f32[1,4,4,4]) {\n"
    "  %p = avg_pool(%x) {window = [2, 2]} : f32[1,3,3,4]\n"
    "  %m = max_pool(%x) {window = [2, 2]} : f32[1,3,3,4]\n"
    "  %y = add(%m, %p) : f32[1,3,3,4]\n  %s = logistic(%y) : f32[1,3,3,4]\n"
    "  return %y, %s\n}"
)


def test_results_get_the_code_of_their_operand_where_they_have_to():
    integer = qir.quantize(POOLED, [X], "calibrate, quantize(inputs=i8), integer", target=CHIP)
    assert CHIP.obstacles(integer) == ()
    (pool,) = (node for node in integer.nodes if node.op.name == "avg_pool")
    (rounded,) = (user for user in pool.output.users if user.op.name == "requantize")
    assert rounded.output.type.code == pool.inputs[0].type.code
    (left,) = qir.explain(integer).floats
    assert left.op == "logistic"
    assert left.reason == "target chip has no lookup and no logistic on codes"


def test_results_get_the_code_that_a_target_fixes():
    code = Affine.of(DType.I8, 1 / 64, 5)
    target = Target(name="fixed", runtime="a test", fixed_codes={"avg_pool": code, "add": code})
    integer = qir.quantize(POOLED, [X], target=target, accuracy_check=False)
    codes = {node.op.name: node.output.type.quant for node in integer.nodes if node.outputs}
    assert codes["add"] == codes["requantize"] == code
    assert target.obstacles(integer) == ()


def test_a_target_that_takes_all_changes_nothing():
    plain = qir.quantize(POOLED, [X])
    assert str(qir.quantize(POOLED, [X], target="xla")) == str(plain)
    assert find_target("xla", "test").obstacles(plain) == ()


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("w8a16", "activations: expected what target onnx accepts, i8 or u8, got i16"),
        ("w4a8", "weights: expected what target onnx accepts, i8, got i4"),
        ("log4", "weights: expected what target onnx accepts, i8, got i4"),
        ("nf4", "scheme: expected what target onnx accepts, affine, got nf4"),
        ("calibrate, quantize(rounding=srdhm_up)", "rounding: expected what .*, f32_rne, got srd"),
        ("calibrate, quantize(per=block:32)", "per: expected what .*, tensor or channel, got bl"),
        ("calibrate, quantize(per=chanel)", "per: expected channel, tensor, row or block:N"),
    ],
)
def test_an_option_that_a_target_does_not_accept_is_refused(pipeline, message):
    with pytest.raises(qir.QirError, match=f"quantize: {message}"):
        qir.quantize(POOLED, [X], pipeline, target="onnx")


def test_every_op_that_has_codes_is_accepted_by_onnx_or_has_a_reason():
    names = [getattr(qir.ops, name) for name in qir.ops.__all__]
    coded = {op.name for op in names if not isinstance(op.quant, KeepFloat | Table)}
    assert coded - set(ONNX.integer_ops or ()) == set(ONNX.reasons)


def test_options_at_their_default_follow_the_target():
    integer = qir.quantize(POOLED, [X], "calibrate, quantize", target="onnx")
    ops: dict[str, Any] = {node.op.name: node.op for node in integer.nodes}
    assert ops["quantize"].rounding == "divide"
    assert ops["requantize"].rounding == ops["add"].rounding == "f32_rne"
    unsigned = Target(name="unsigned", runtime="a test", activations=(DType.U8,), wide_sums=False)
    integer = qir.quantize(POOLED, [X], target=unsigned)
    assert unsigned.obstacles(integer) == ()


def test_a_context_that_is_used_again_has_the_target_of_the_run():
    context = qir.Context()
    qir.quantize(POOLED, [X], context=context, target="onnx")
    again = qir.quantize(POOLED, [X], context=context)
    assert again == qir.quantize(POOLED, [X])


@pytest.mark.parametrize(
    "fields",
    [
        {"activations": (DType.U8, DType.I8)},
        {"activations": (DType.U8,), "symmetric_activations": True},
        {"symmetric_activations": True},
        {"activation_scales": ("tensor",)},
    ],
    ids=str,
)
def test_scores_get_no_code_that_the_target_does_not_accept(fields):
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 12), (8, 6)))
    graph = qir.from_jax(lambda x: jax.nn.softmax(x[:, :8] @ w) * 2, x)
    target = Target(name="chip", runtime="a test", **fields)
    integer = qir.quantize(graph, [x], target=target)
    assert target.obstacles(integer) == ()
    assert qir.explain(integer).floats == ()
    assert np.array_equal(qir.compile(integer)(x)[0], qir.evaluate(integer, x)[0])
    (exact,), (found,) = qir.evaluate(graph, x), qir.evaluate(integer, x)
    assert np.sum((exact - found) ** 2) < np.sum(exact**2) / 10**3  # 30 dB


@pytest.mark.parametrize("pipeline", ["w8-dynamic", "w8"])
@pytest.mark.parametrize(
    "fields",
    [
        {"weights": (DType.I16,)},
        {"weight_scales": ("row",)},
        {"integer_ops": frozenset({"add"})},
        {"activations": (DType.I16,)},
    ],
    ids=str,
)
def test_weights_get_no_code_that_the_target_does_not_accept(fields, pipeline):
    rng = np.random.default_rng(4)
    x, w = (rng.standard_normal(shape).astype(np.float32) for shape in ((16, 64), (64, 6)))
    graph = qir.from_jax(lambda x: jax.nn.relu(x @ w), x)
    target = Target(name="chip", runtime="a test", **fields)
    made = qir.quantize(graph, None, pipeline, target=target, accuracy_check=False)
    assert target.obstacles(made) == ()


def test_a_target_without_scales_at_run_time_refuses_them():
    target = Target(name="chip", runtime="a test", dynamic_modes=())
    with pytest.raises(qir.QirError, match="expected a target that finds symmetric scales at run"):
        qir.quantize(POOLED, None, "w8-dynamic", target=target)


@pytest.mark.parametrize("rounding", ["srdhm_up", "tflite_double", "f32_rne"])
def test_a_target_without_fixed31_gets_no_wide_sums(rounding):
    network = NETWORKS["transformer"]()
    data = [network.inputs(0)]
    graph = qir.from_jax(network.function, *data[0], batch="B")
    target = Target(name="chip", runtime="a test", roundings=(rounding,))
    integer = qir.quantize(graph, data, target=target, accuracy_check=False)
    assert target.obstacles(integer) == ()


def test_statistics_of_parts_for_a_target_give_the_program_for_it():
    network = NETWORKS["transformer"]()
    data = [network.inputs(seed) for seed in range(3)]
    graph = qir.from_jax(network.function, *data[0], batch="B")
    first, second = (qir.calibrate(graph, part, target="onnx") for part in (data[:1], data[1:]))
    seen = second.merge(first)
    wanted = qir.quantize(graph, data, target="onnx", accuracy_check=False)
    assert qir.quantize(graph, statistics=seen, target="onnx") == wanted
    other = qir.calibrate(graph, data)
    with pytest.raises(qir.QirError, match="another target, which qir"):
        qir.quantize(graph, statistics=other, target="onnx")


@pytest.mark.parametrize("pipeline", ["lift-qdq", "w8a8"])
def test_sums_of_a_program_with_codes_are_rounded_as_the_target_does(pipeline):
    given = qir.parse("""
    graph @given(%x: f32[B,3]) {
      %w = const [[60, -100], [25, 50], [-75, 20]] : i8[3,2]{scale=0.01}
      %wd = dequantize(%w) : f32[3,2]
      %xq = quantize(%x) {rounding = divide} : i8[B,3]{scale=0.02, zp=-5}
      %xd = dequantize(%xq) : f32[B,3]
      %y = dot(%xd, %wd) : f32[B,2]
      %yq = quantize(%y) : i8[B,2]{scale=0.015, zp=4}
      %yd = dequantize(%yq) : f32[B,2]
      return %yd
    }""")
    data = [np.random.default_rng(0).normal(size=(16, 3)).astype(np.float32)]
    lifted = qir.optimize(given, pipeline, data=data, target="onnx")
    assert [node.op.name for node in lifted.nodes if "dot" in node.op.name] == ["dot"]
    assert qir.explain(lifted, target="onnx").obstacles == ()
    assert "f32_rne" in str(lifted)
    (wanted,), (found,) = qir.evaluate(given, data[0]), qir.evaluate(lifted, data[0])
    assert np.max(np.abs(wanted - found)) <= 0.015 * (1 + 2.0**-20)  # one step, at ties
