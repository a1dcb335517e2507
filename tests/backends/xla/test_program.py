"""What a compiled program takes beside its inputs: the arrays of its constants, each once."""

from functools import partial

import jax
import numpy as np
import pytest

import qir

TIED = """
graph @tied(%x: f32[2,9]) {
  %a = const @w : f32[9,9]
  %c = dot(%x, %a) : f32[2,9]
  %b = const @w : f32[9,9]
  %d = dot(%c, %b) : f32[2,9]
  return %d
}
"""
NUMBERS = np.random.default_rng(0).integers(-3, 4, (9, 9)).astype(np.float32)
X = np.arange(18, dtype=np.float32).reshape(2, 9)


def test_an_array_that_constants_share_is_one_parameter():
    graph = qir.parse(TIED, {"w": NUMBERS})
    compiled = qir.compile(graph)
    assert list(compiled.parameters) == ["a"]
    np.testing.assert_array_equal(compiled(X)[0], X @ NUMBERS @ NUMBERS)


def test_other_arrays_are_parameters_of_their_own():
    graph = qir.parse(TIED.replace("%b = const @w", "%b = const @v"), {"w": NUMBERS, "v": -NUMBERS})
    compiled = qir.compile(graph)
    assert list(compiled.parameters) == ["a", "b"]
    np.testing.assert_array_equal(compiled(X)[0], -(X @ NUMBERS @ NUMBERS))


@pytest.mark.parametrize(
    "function",
    [
        partial(jax.nn.softmax, axis=-1),
        partial(jax.nn.logsumexp, axis=-1),
        partial(jax.nn.log_softmax, axis=-1),
        lambda scores: jax.nn.softmax(scores.reshape(4, 3, 2).transpose(1, 0, 2), axis=-1),
    ],
)
def test_large_products_are_as_large_in_their_maximum_as_beside_it(function):
    """XLA on CPU contracts a product with the subtraction of its maximum: exp(1e8), not exp(0)."""
    rng = np.random.default_rng(0)
    x = rng.integers(-9999, 9999, (4, 6)).astype(np.float32)
    scales = rng.uniform(1e12, 2e12, (4, 1)).astype(np.float32)
    graph = qir.from_jax(lambda x, scales: function(x * scales), x, scales)
    (expected,) = qir.evaluate(graph, x, scales)
    (found,) = qir.compile(graph)(x, scales)
    assert np.all(np.isfinite(expected))
    # The products are the same bits; exponentials and logarithms differ by units in the last place.
    np.testing.assert_allclose(found, expected, rtol=2**-20)
