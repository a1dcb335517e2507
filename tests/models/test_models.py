"""Whole models from JAX to integers: nothing stays float, XLA gives the reference's bits."""

import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.analysis.properties import INTEGER
from tests.frontends.agreement import uniform
from tests.models.flax_models import MODELS, Attention, ResNet, weights

LEAST_SQNR = 30
"""Decibels. 8 bits leave 35 and more on these models; a wrong scale or edge leaves less than 10."""


def quantized(model, x, *, batch="B"):
    params = weights(model, x)
    graph = qir.from_jax(lambda x: model.apply(params, x), x, batch=batch)
    samples = [x, *(uniform(*x.shape, seed=seed) for seed in range(1, 4))]
    return model.apply(params, x), qir.quantize(graph, samples)


def sqnr(signal, noisy):
    error = np.asarray(signal, np.float64) - np.asarray(noisy, np.float64)
    return 10 * np.log10(np.square(np.asarray(signal, np.float64)).sum() / np.square(error).sum())


@pytest.mark.parametrize("name", MODELS)
def test_a_model_becomes_one_integer_program(name):
    model, x, _ = MODELS[name]
    wanted, integer = quantized(model, x)
    assert INTEGER.missing(integer) is None
    (reference,) = qir.evaluate(integer, x)
    np.testing.assert_array_equal(qir.compile(integer)(x)[0], reference)
    assert sqnr(wanted, reference) > LEAST_SQNR
    assert all(line.integer for line in qir.explain(integer).lines)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_of_a_half_precision_model_only_casts_at_its_ends_stay_float(dtype):
    x = MODELS["resnet"][1]
    wanted, integer = quantized(ResNet(dtype=dtype), x)
    (reference,) = qir.evaluate(integer, x)
    assert INTEGER.missing(integer) is None
    assert sqnr(wanted, reference) > LEAST_SQNR


def test_an_attention_block_with_its_norms_becomes_integers():
    model, x = Attention(), uniform(2, 5, 8)
    wanted, integer = quantized(model, x)
    (reference,) = qir.evaluate(integer, x)
    np.testing.assert_array_equal(qir.compile(integer)(x)[0], reference)
    assert INTEGER.missing(integer) is None
    assert sqnr(wanted, reference) > LEAST_SQNR
