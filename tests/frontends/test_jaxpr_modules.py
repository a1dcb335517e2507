"""Modules of flax nnx that change as they run: themselves, their methods, and functions of them."""

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import qir

SEQUENCES = np.random.default_rng(0).normal(size=(3, 2, 4)).astype(np.float32)


class Tagger(nnx.Module):
    """Counts random numbers as it runs, as its RNN asks for a state to begin with."""

    def __init__(self):
        self.rnn = nnx.RNN(nnx.GRUCell(4, 5, rngs=nnx.Rngs(0)))

    def tag(self, x, factor=1.0):
        found: Any = self.rnn(x)
        return found * factor


def test_methods_and_partials_of_modules_are_imported():
    model = Tagger()
    for function in (
        model.tag,
        partial(model.tag, factor=2.0),
        partial(model.rnn, time_major=True),
    ):
        graph = qir.from_jax(function, SEQUENCES)
        (found,) = qir.evaluate(graph, SEQUENCES)
        np.testing.assert_allclose(found, function(jnp.asarray(SEQUENCES)), atol=1e-6)
        assert any("dense_h" in value.name for value in graph.values_inside())
        assert graph.name != "partial"


def test_a_function_that_changes_a_module_is_refused_with_the_ways_that_work():
    model = Tagger()
    with pytest.raises(qir.QirError, match=r"changes nothing outside.*\n.*test_jaxpr_modules.py"):
        qir.from_jax(lambda x: model.tag(x), SEQUENCES)
    structure, state = nnx.split(model)
    graph = qir.from_jax(
        lambda state, x: nnx.merge(structure, state).tag(x), state, SEQUENCES, weight_argnums=0
    )
    (found,) = qir.evaluate(graph, SEQUENCES)
    np.testing.assert_allclose(found, model.tag(SEQUENCES), atol=1e-6)
