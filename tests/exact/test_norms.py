"""Norms in XLA against the reference at the ends of codes, and words of 64 bits."""

from __future__ import annotations

from itertools import cycle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qir.backends.reference.interpreter import run
from qir.backends.xla.compile import compile_graph
from qir.backends.xla.words import Words, inverse_root
from qir.ir import Graph
from qir.numbers.inverse_root import inverse_root as defined
from qir.ops import L2Norm, LayerNorm, RmsNorm
from qir.types import Affine, Array, DType, TensorType
from tests.ops.test_normalization import I8, U8, WIDE, extremes, parameters

SUM = Affine.of(DType.I32, 1e-7, bounds=(1 - 2**31, 2**31 - 1))


@pytest.mark.parametrize("count", [1, 3, 4096, 2**17])
def test_norms_at_the_ends(count: int) -> None:
    graph = Graph("norms")
    arrays: list[Array] = []
    builder = graph.at_end()
    gamma, beta = (builder.const(array) for array in parameters(count))
    outputs = []
    targets = cycle([Affine.of(DType.I8, 0.05, 9), Affine.of(DType.I32, 1e-4)])
    for code in (I8, U8, WIDE, SUM):
        x = extremes(count, code)
        value = graph.add_input(f"x{len(arrays)}", TensorType(x.shape, code))
        arrays.append(x)
        for op in (
            LayerNorm((1,), 1e-12),
            RmsNorm((1,), 1e3),
            RmsNorm((1,), 0.0),
            L2Norm((1,), 1e-3, "max"),
            LayerNorm((1,), 1e-3, "root"),
            L2Norm((1,), 1e3, "root"),
        ):
            if code is SUM and (count > 1 or isinstance(op, LayerNorm)):
                continue
            if code is WIDE and count > 8192:
                continue
            outputs.append(builder.emit(op.with_code(next(targets)), value, gamma, beta))
    graph.set_outputs(outputs)
    found = compile_graph(graph, kernels=False)(*arrays)
    for got, wanted in zip(found, run(graph, *arrays), strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_the_inverse_root_of_words() -> None:
    rng = np.random.default_rng(0)
    anywhere = rng.integers(1, 2**62, 2000) >> rng.integers(0, 62, 2000)
    given = np.maximum(1, np.concatenate([anywhere, 2 ** np.arange(62), 2 ** np.arange(62) - 1]))
    words = Words(*map(jnp.asarray, Words.constant(given)))
    for found, wanted in zip(jax.jit(inverse_root)(words), defined(given), strict=True):
        np.testing.assert_array_equal(np.asarray(found, np.int64), wanted)


def test_words_compute_modulo_2_to_the_64() -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(0, 2**63, 500) >> rng.integers(0, 63, 500) for _ in range(2))
    a, b = (Words(*map(jnp.asarray, Words.constant(part))) for part in (x, y))

    def joined(words: Words) -> list[int]:
        pairs = zip(np.asarray(words.high).tolist(), np.asarray(words.low).tolist(), strict=True)
        return [(high << 32) | low for high, low in pairs]

    wide = list(zip(x.tolist(), y.tolist(), strict=True))
    assert joined(a.plus(b)) == [(p + q) % 2**64 for p, q in wide]
    assert joined(a.minus(b)) == [(p - q) % 2**64 for p, q in wide]
    assert joined(a.greater(b)) == [max(p, q) for p, q in wide]
    assert joined(a.times(12345)) == [p * 12345 % 2**64 for p, _ in wide]
    for places in (-70, -63, -33, -32, -31, -1, 0, 1, 31, 32, 33, 63):
        moved = [(p << places if places >= 0 else p >> -places) % 2**64 for p, _ in wide]
        assert joined(a.moved(places)) == moved
    for places in (0, 1, 31, 32, 33, 63):
        shifted = a.down(jnp.full(a.low.shape, places, jnp.uint32))
        assert joined(shifted) == [p >> places for p, _ in wide]
    assert np.asarray(a.bits).tolist() == [p.bit_length() for p, _ in wide]
