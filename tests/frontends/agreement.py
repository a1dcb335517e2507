"""What tests of frontends share: a graph gives the numbers of the model that it came from."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

import qir
from qir.analysis.verify import verify
from qir.backends.reference.interpreter import run
from qir.ir import Graph
from qir.ops import Const, Return
from qir.types import Array

EPSILON = float(np.finfo(np.float32).eps)


def uniform(*shape: int, seed: int = 0, low: float = -2, high: float = 2) -> Array:
    """Random float32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def op_names(graph: Graph) -> list[str]:
    """The ops of a graph in order, without constants and the return."""
    return [node.op.name for node in graph.nodes if not isinstance(node.op, Const | Return)]


def assert_equal(found: Any, wanted: Any, terms: int = 1) -> None:
    """Compares float32 results.

    Two libraries each round a sum of n numbers of size s at most n times by s * epsilon / 2; a
    function of one number is off by at most 4 units in each.
    """
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.dtype == wanted.dtype
    assert found.shape == wanted.shape
    if found.dtype.kind in "biu":
        np.testing.assert_array_equal(found, wanted)
        return
    finite = np.abs(wanted[np.isfinite(wanted)].astype(np.float64))
    bound = (terms + 7) * EPSILON * max(1.0, finite.max(initial=0))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=bound)


def agrees(f: Callable[..., Any], *inputs: Any, terms: int = 1, **options: Any) -> Graph:
    """Imports a function, compares its results with jax's, and returns the graph."""
    graph = qir.from_jax(f, *inputs, **options)
    verify(graph)
    weights = options.get("weight_argnums", ())
    positions = {weights} if isinstance(weights, int) else set(weights)
    data = [
        leaf
        for place, tree in enumerate(inputs)
        if place not in positions
        for leaf in jax.tree.leaves(tree)
    ]
    results = run(graph, *map(np.asarray, data))
    wanted = jax.tree.leaves(jax.jit(f)(*inputs))
    for found, right in zip(results, wanted, strict=True):
        assert_equal(found, right, terms)
    return graph
