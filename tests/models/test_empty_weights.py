"""Weights, biases and activations without a number are quantized and computed like others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.errors import PassError
from tests.frontends.agreement import assert_equal, uniform

NHWC = ("NHWC", "HWIO", "NHWC")


def conv(x, kernel, strides=(1, 1), groups=1):
    return lax.conv_general_dilated(
        x, kernel, strides, "SAME", dimension_numbers=NHWC, feature_group_count=groups
    )


MODELS = {
    "a dot to no channel": (lambda x: x @ uniform(4, 0) + uniform(0), (8, 4)),
    "a dot over no channel": (lambda x: jax.nn.relu(x @ uniform(0, 4) + uniform(4)), (8, 0)),
    "a dot for no head": (lambda x: jnp.einsum("bhi,hio->bho", x, uniform(0, 4, 2)), (8, 0, 4)),
    "dots through no channel": (
        lambda x: jax.nn.sigmoid(x @ uniform(4, 0)) @ uniform(0, 3) + uniform(3),
        (8, 4),
    ),
    "a dot of activations": (lambda x: jnp.einsum("bic,bjc->bij", x, x), (8, 3, 0)),
    "a dot of activations of no head": (
        lambda x: jnp.einsum("bhic,bhjc->bhij", jax.nn.relu(x), x),
        (2, 0, 4, 3),
    ),
    "a dot of a concat to no channel": (
        lambda x: jnp.concatenate([x * 100, jnp.tanh(x)], 1) @ uniform(8, 0),
        (8, 4),
    ),
    "a convolution to no channel": (
        lambda x: jax.nn.relu(conv(x, uniform(3, 3, 2, 0)) * uniform(0) + uniform(0)),
        (2, 5, 5, 2),
    ),
    "a convolution over no channel": (
        lambda x: jax.nn.relu(conv(x, uniform(3, 3, 0, 2), (2, 2)) + uniform(2)),
        (2, 5, 5, 0),
    ),
    "a depthwise convolution": (lambda x: conv(x, uniform(3, 3, 1, 0), groups=2), (2, 5, 5, 2)),
    "a grouped convolution": (lambda x: conv(x, uniform(3, 3, 0, 4), groups=2), (2, 5, 5, 0)),
    "a transposed convolution": (
        lambda x: lax.conv_transpose(x, jnp.asarray(uniform(3, 3, 0, 2)), (2, 2), "SAME"),
        (2, 5, 5, 0),
    ),
    "a constant": (lambda x: x * uniform(0) + uniform(0), (8, 0)),
    "a pool": (
        lambda x: 2 * lax.reduce_window(x, 0.0, lax.add, (1, 2, 2, 1), (1, 2, 2, 1), "VALID"),
        (2, 4, 4, 0),
    ),
    "a part of a result": (lambda x: (x * 2, jax.nn.gelu(x[:, :0])), (8, 4)),
}


@pytest.mark.parametrize("batch", [None, "B"])
@pytest.mark.parametrize("name", MODELS)
def test_a_program_with_empty_tensors_is_quantized_and_computed(name, batch):
    f, shape = MODELS[name]
    x = uniform(*shape)
    graph = qir.from_jax(f, x, batch=batch)
    for real, right in zip(qir.evaluate(graph, x), jax.tree.leaves(f(x)), strict=True):
        assert_equal(real, right, terms=18)
    integer = qir.quantize(graph, [x])
    program = qir.to_program(integer)
    assert qir.parse(program.text, program.arrays) == integer
    expected = qir.evaluate(integer, x)
    for compiled in (qir.compile(integer), qir.compile(integer, kernels=False)):
        for computed, number in zip(compiled(x), expected, strict=True):
            np.testing.assert_array_equal(computed, number)


@pytest.mark.parametrize("method", ["minmax", "moving_average", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("weights", ["i8", "i4"])
def test_every_calibration_takes_empty_weights(method, weights):
    x = uniform(8, 4)
    graph = qir.from_jax(MODELS["dots through no channel"][0], x)
    pipeline = f"fold, calibrate(method={method}), quantize(weights={weights}), integer"
    assert not qir.explain(qir.quantize(graph, [x], pipeline)).floats


def test_scales_of_no_channel_are_equalized():
    x = uniform(8, 4)
    graph = qir.from_jax(lambda x: jax.nn.relu(x @ uniform(4, 0)) @ uniform(0, 3), x)
    (found,) = qir.evaluate(qir.optimize(graph, "equalize"), x)
    np.testing.assert_array_equal(found, np.zeros((8, 3)))


def test_batches_without_samples_are_no_data_where_there_could_be_some():
    graph = qir.from_jax(MODELS["a dot to no channel"][0], uniform(8, 4), batch="B")
    with pytest.raises(PassError, match="expected batches with samples, got empty ones only"):
        qir.quantize(graph, [uniform(0, 4)])
