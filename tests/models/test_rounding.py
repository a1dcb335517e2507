"""A network that quantize rounds in another mode is the same integers in every backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.errors import ParseError
from qir.ops import Add, Requantize

RNG = np.random.default_rng(0)
KERNEL, HIDDEN, HEAD = (
    RNG.normal(0, 0.3, shape).astype("float32") for shape in ((3, 3, 2, 8), (8, 16), (16, 10))
)
IMAGES = RNG.uniform(-1, 1, (16, 8, 8, 2)).astype("float32")


def mlp(x):
    return jax.nn.gelu(x @ HIDDEN) @ HEAD


def cnn(x):
    y = jax.lax.conv_general_dilated(
        x, jnp.asarray(KERNEL), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    y = jax.nn.relu(y) + jnp.tile(x, (1, 1, 1, 4))
    return mlp(jnp.mean(y, axis=(1, 2)))


@pytest.mark.parametrize(
    ("model", "samples"), [(mlp, IMAGES.reshape(-1, 8)), (cnn, IMAGES)], ids=["mlp", "cnn"]
)
@pytest.mark.parametrize("rounding", ["f32_rne", "tflite_double"])
def test_every_requantize_is_in_the_wanted_rounding_and_xla_agrees(model, samples, rounding):
    graph = qir.from_jax(model, samples[:1], batch="B")
    options = f"quantize(rounding={rounding}, outputs=i8)"
    integer = qir.quantize(
        graph, [samples], f"fold, calibrate, propagate-ranges, {options}, integer"
    )
    ops = [node.op for node in integer.nodes]
    assert {op.rounding for op in ops if isinstance(op, Requantize)} == {rounding}
    assert {op.rounding for op in ops if isinstance(op, Add)} <= {"fixed31"}
    (found,), (expected,) = qir.compile(integer)(samples), qir.evaluate(integer, samples)
    np.testing.assert_array_equal(found, expected)


def test_a_rounding_that_does_not_exist_is_an_error_with_the_nearest():
    with pytest.raises(
        ParseError, match=r"quantize: rounding: .*'f32_rnd'; did you mean 'f32_rne'"
    ):
        qir.optimize(
            qir.parse("graph @g(%x: f32[1]) {\n  return %x\n}"), "quantize(rounding=f32_rnd)"
        )


def test_an_op_whose_scales_are_out_of_reach_of_the_rounding_stays_float_and_says_so():
    samples = IMAGES.reshape(-1, 8)
    graph = qir.from_jax(mlp, samples[:1], batch="B")
    recipe = "fold, calibrate, propagate-ranges, quantize(rounding=pow2), integer"
    reasons = [line.reason for line in qir.explain(qir.quantize(graph, [samples], recipe)).floats]
    assert any("pow2" in reason for reason in reasons)
