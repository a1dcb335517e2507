"""What a quantized program takes and returns in codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from tests.models.accuracy import decibels

RNG = np.random.default_rng(0)
W = RNG.normal(0, 0.3, (16, 16)).astype(np.float32)
BIAS = RNG.normal(0, 0.3, (16, 16)).astype(np.float32)
X = RNG.normal(size=(16, 16)).astype(np.float32)


def two_layers(x):
    return jax.nn.relu(x @ W) @ W


def scores(x):
    s = (x @ W) @ jnp.transpose(x) + BIAS
    return s, jax.nn.softmax(s)


@pytest.mark.parametrize("outputs", ["i8", "u8"])
@pytest.mark.parametrize("activations", ["i8", "i16"])
@pytest.mark.parametrize("function", [two_layers, scores])
def test_outputs_in_codes_of_8_bits_mean_what_floats_do(function, activations, outputs):
    options = f"activations={activations}, outputs={outputs}"
    recipe = f"fold, calibrate, ranges, quantize({options}), integer"
    integer = qir.quantize(qir.from_jax(function, X), [X], recipe, accuracy_check=False)
    wanted = jax.tree.leaves(function(X))
    for value, found, exact in zip(integer.outputs, qir.evaluate(integer, X), wanted, strict=True):
        assert value.type.code.storage.bits == 8
        real = value.type.code.decode(found)
        assert decibels(np.asarray(exact).ravel(), real.ravel()) > 25
