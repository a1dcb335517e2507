"""A program of a fixed batch, of fewer samples: the same numbers of each, or refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.analysis.fewer_samples import with_fewer_samples

WEIGHTS = np.random.default_rng(0).normal(size=(6, 6)).astype(np.float32)


def network(x: jax.Array) -> jax.Array:
    """Rows of two halves, of which each is one row of a product."""
    halves = jnp.tanh(x.reshape(16, 6) @ WEIGHTS)
    return halves.reshape(8, 2, 6).mean(1) + jnp.broadcast_to(x.sum(1)[:, None], (8, 6))


def rows(count: int = 8) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 12)).astype(np.float32)


def test_each_sample_has_the_numbers_that_it_has_in_the_whole_batch():
    x = rows()
    graph = qir.from_jax(network, x)
    for program in (graph, qir.quantize(graph, [x], accuracy_check=False)):
        few = with_fewer_samples(program, 3)
        assert few is not None
        assert few.inputs[0].type.shape == (3, 12)
        (whole,) = qir.evaluate(program, x)
        (found,) = qir.evaluate(few, x[:3])
        np.testing.assert_array_equal(found, whole[:3])
        assert program.inputs[0].type.shape == (8, 12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x + np.arange(8, dtype=np.float32)[:, None],
        lambda x: x[2:5] * 2,
        lambda x: jax.lax.fori_loop(0, 3, lambda _, y: jnp.sin(y), x),
    ],
    ids=["constants of rows", "some of the rows", "a loop"],
)
def test_what_holds_on_to_its_batch_is_refused(function):
    graph = qir.from_jax(function, rows())
    assert with_fewer_samples(graph, 3) is None


def test_a_batch_that_is_not_larger_stays():
    graph = qir.from_jax(network, rows())
    assert with_fewer_samples(graph, 8) is None
    assert with_fewer_samples(qir.from_jax(jnp.tanh, rows(), batch="B"), 2) is None
