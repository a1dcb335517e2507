"""Recurrent models of several libraries compute what jax does, in the reference and in XLA."""

import jax
import numpy as np
import pytest

import qir
from qir.analysis.verify import verify
from qir.frontends.jaxpr.modules import pure
from qir.ops.regions import RegionOp
from tests.models.recurrent import RECURRENT

UNROLLED = {
    "linen scan over layers",
    "linen remat_scan",
    "nnx scan over layers",
    "selective state, associative scan",
}


FAST = {"linen OptimizedLSTMCell", "linen lengths", "linen scan over layers", "greedy decoder"}
CASES = [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in RECURRENT]


@pytest.mark.parametrize("name", CASES)
def test_recurrent_models_compute_what_jax_does(name: str) -> None:
    network = RECURRENT[name]()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    verify(graph)
    assert any(isinstance(node.op, RegionOp) for node in graph.walk()) == (name not in UNROLLED)
    wanted = jax.tree.leaves(jax.jit(pure(network.function))(*inputs))
    programs = qir.evaluate(graph, *inputs), qir.compile(graph)(*inputs)
    for found in programs:
        for number, right in zip(found, wanted, strict=True):
            np.testing.assert_allclose(np.asarray(number), right, rtol=1e-5, atol=2e-6)
    names = [value.name for value in graph.values_inside()]
    assert len(names) == len(set(names))
