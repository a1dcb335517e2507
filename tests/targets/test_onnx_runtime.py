"""What target onnx says is so: programs quantized for it have the same integers in ONNX Runtime."""

from unittest import mock

import numpy as np
import pytest
from hypothesis import given

import qir
from qir.ir import clone
from qir.targets import find_target
from qir.types import DType
from tests.models.random_programs import NumpyExecutor
from tests.models.small_networks import NETWORKS
from tests.strategies.float_programs import FloatCase, float_programs
from tests.targets.onnx_program import WRITERS, run

ONNX = find_target("onnx", "test")


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_same_numbers(name):
    network = NETWORKS[name]()
    graph = qir.from_jax(network.function, *network.inputs(0))
    integer = qir.quantize(graph, [network.inputs(seed) for seed in range(4)], target="onnx")
    inputs = network.inputs(9)
    (found,), (expected,) = run(integer, inputs), qir.evaluate(integer, *inputs)
    if name != "transformer":
        assert np.array_equal(found, expected)
        return
    # Softmax and norms are floats, whose last bits move a few codes by a step: the difference is
    # far below what rounding to 8 bits costs.
    (real,) = qir.evaluate(graph, *inputs)
    assert np.square(found - expected).mean() < np.square(expected - real).mean() / 100


def test_coded_weights_of_a_float_network_have_the_same_numbers_but_for_roundings_of_floats():
    network = NETWORKS["mlp"]()
    graph = qir.from_jax(network.function, *network.inputs(0))
    coded = qir.quantize(graph, None, "w8", target="onnx", accuracy_check=False)
    assert ONNX.obstacles(coded) == ()
    assert [value.type.dtype for value in coded.values() if value.type.quant] == [DType.I8] * 3
    inputs = network.inputs(9)
    (found,), (expected,) = run(coded, inputs), qir.evaluate(coded, *inputs)
    # Sums of at most 256 products of three layers in another order.
    np.testing.assert_allclose(found, expected, atol=3 * 256 * 2.0**-24 * np.abs(expected).max())


PROGRAMS = {
    "add": "%y = add(%a, %b) {rounding = f32_rne} : i8[2,6,6,4]{scale=0.083, zp=-7}",
    "avg_pool": "%s = avg_pool(%a) {window = [2, 3], strides = [2, 1]} : "
    "i32[2,3,4,4]{scale=0.007666666681567828} %y = dequantize(%s) : f32[2,3,4,4]",
    "broadcast": "%s = reduce_max(%a) {axes = [0]} : i8[6,6,4]{scale=0.046, zp=5} "
    "%y = broadcast(%s) : i8[2,6,6,4]{scale=0.046, zp=5}",
    "clip": "%y = clip(%a) {low = -1.5, high = 2.25} : i8[2,6,6,4]{scale=0.046, zp=5}",
    "less": "%y = less(%a, %c) : bool[2,6,6,4]",
    "less_equal": "%y = less_equal(%a, %c) : bool[2,6,6,4]",
    "greater_equal": "%y = greater_equal(%a, %c) : bool[2,6,6,4]",
    "select": "%m = less(%c, %a) : bool[2,6,6,4] "
    "%y = select(%m, %a, %c) : i8[2,6,6,4]{scale=0.046, zp=5}",
    "equal": "%y = equal(%a, %c) : bool[2,6,6,4]",
    "greater": "%y = greater(%a, %c) : bool[2,6,6,4]",
    "max_pool": "%y = max_pool(%a) {window = [3, 3], strides = [2, 2], padding = [[1, 1], [1, 1]]}"
    " : i8[2,3,3,4]{scale=0.046, zp=5}",
    "maximum": "%y = maximum(%a, %c) : i8[2,6,6,4]{scale=0.046, zp=5}",
    "minimum": "%y = minimum(%a, %c) : i8[2,6,6,4]{scale=0.046, zp=5}",
    "pad": "%y = pad(%a) {low = [0, 1, 0, 0], high = [0, 0, 2, 1]} : "
    "i8[2,7,8,5]{scale=0.046, zp=5}",
    "reduce_max": "%y = reduce_max(%a) {axes = [1, 2]} : i8[2,4]{scale=0.046, zp=5}",
    "reduce_min": "%y = reduce_min(%a) {axes = [3]} : i8[2,6,6]{scale=0.046, zp=5}",
    "relu": "%y = relu(%a) : i8[2,6,6,4]{scale=0.046, zp=5}",
    "requantize": "%y = requantize(%a) {rounding = f32_rne} : i8[2,6,6,4]{scale=0.092, zp=-3}",
    "split": "%y, %z = split(%a) {axis = 3, sizes = [1, 3]} : "
    "i8[2,6,6,1]{scale=0.046, zp=5}, i8[2,6,6,3]{scale=0.046, zp=5}",
    "sub": "%y = sub(%a, %b) {rounding = f32_rne} : i8[2,6,6,4]{scale=0.083, zp=-7}",
    "tile": "%y = tile(%a) {repeats = [1, 2, 1, 3]} : i8[2,12,6,12]{scale=0.046, zp=5}",
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_op_has_the_same_integers(name):
    graph = qir.parse(
        "graph @g(%a: i8[2,6,6,4]{scale=0.046, zp=5}, %b: i8[2,6,6,4]{scale=0.03125, zp=-2}, "
        "%c: i8[2,6,6,4]{scale=0.046, zp=5}) {\n" + PROGRAMS[name] + "\n return %y }"
    )
    assert ONNX.obstacles(graph) == ()
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, (2, 6, 6, 4)).astype(np.int8) for _ in range(3)]
    inputs[2] = np.where(rng.random(inputs[2].shape) < 0.3, inputs[0], inputs[2])
    for found, expected in zip(run(graph, inputs), qir.evaluate(graph, *inputs), strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected)


@pytest.mark.hypothesis
@given(float_programs())
def test_a_random_integer_program_has_the_same_numbers(case: FloatCase) -> None:
    graph = clone(
        case.graph, retype=lambda type: type.with_element(DType.F32) if type.is_float else type
    )
    inputs = tuple(x.astype(np.float32) if x.dtype == np.float64 else x for x in case.inputs)
    with mock.patch("qir.backends.xla.executor.XlaExecutor", NumpyExecutor):
        integer = qir.quantize(graph, [inputs], target="onnx", accuracy_check=False)
    ops = {node.op.name for node in integer.nodes} - {"const", "return"}
    if qir.explain(integer).floats or not ops <= WRITERS.keys():
        return
    for found, expected in zip(run(integer, inputs), qir.evaluate(integer, *inputs), strict=True):
        assert np.array_equal(found, expected)


def test_every_integer_op_of_the_target_is_tried_but_moves_that_are_named():
    untried = set(ONNX.integer_ops or ()) - WRITERS.keys()
    assert untried == {
        "argmax",
        "lookup2",
        "not_equal",
        "resize_nearest",
        "reverse",
        "slice",
    }
