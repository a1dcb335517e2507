"""Attention, softmax and division on codes: how near to float, row by row, and what stays float."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.ir import Graph
from qir.types import Array


def noise(wanted: Array, found: Array) -> tuple[float, float]:
    """Returns the SQNR of the whole and the 5th percentile of those of rows, in decibels."""
    wanted, found = (array.reshape(-1, array.shape[-1]).astype(float) for array in (wanted, found))
    signal, error = np.square(wanted), np.square(wanted - found)
    rows = 10 * np.log10(signal.sum(-1) / np.maximum(error.sum(-1), 1e-300))
    return float(10 * np.log10(signal.sum() / error.sum())), float(np.percentile(rows, 5))


def quantized(f: Callable[..., Any], batches: list[Any]) -> tuple[Graph, Graph]:
    first = batches[0] if isinstance(batches[0], tuple) else (batches[0],)
    graph = qir.from_jax(f, *first)
    return graph, qir.quantize(graph, data=batches)


def ops(graph: Graph) -> list[str]:
    return [node.op.name for node in graph.nodes if node.op.name not in ("const", "return")]


@pytest.mark.parametrize("keys", [1024, 4096])
@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_attention_over_many_keys(keys: int, spread: float) -> None:
    rng = np.random.default_rng(keys)

    def heads() -> tuple[Array, Array, Array]:
        sizes = (1, 32, 32), (1, keys, 32), (1, keys, 32)
        q, k, v = (rng.normal(size=size).astype(np.float32) for size in sizes)
        return q, k, v

    def attention(q: Any, k: Any, v: Any) -> Any:
        scores = jnp.einsum("btd,bsd->bts", q, k) * (spread / np.sqrt(32))
        return jnp.einsum("bts,bsd->btd", jax.nn.softmax(scores, -1), v)

    graph, integer = quantized(attention, [heads() for _ in range(3)])
    assert "div" in ops(integer)
    assert "softmax" not in ops(integer)
    inputs = heads()
    (wanted,), (found,) = qir.evaluate(graph, *inputs), qir.evaluate(integer, *inputs)
    whole, rows = noise(wanted, found)
    assert whole >= 25
    assert rows >= 20
    (compiled,) = qir.compile(integer)(*inputs)
    np.testing.assert_array_equal(np.asarray(compiled), found)


@pytest.mark.parametrize("classes", [1000, 10_000])
@pytest.mark.parametrize("size", [1.0, 4.0])
def test_softmax_over_many_classes(classes: int, size: float) -> None:
    rng = np.random.default_rng(classes)
    # Clipped, so that the data to measure stays inside of what calibration saw.
    logits = [
        np.clip(rng.normal(0, size, (16, classes)), -4 * size, 4 * size).astype(np.float32)
        for _ in range(8)
    ]
    graph, integer = quantized(lambda x: jax.nn.softmax(x, -1), logits[:-1])
    (wanted,), (found,) = qir.evaluate(graph, logits[-1]), qir.evaluate(integer, logits[-1])
    whole, rows = noise(wanted, found)
    assert whole >= 25
    assert rows >= 20
    step = 8 * size / 255
    top = np.take_along_axis(logits[-1], found.argmax(-1)[:, None], -1)[:, 0]
    # Numbers of one step of the operand's code are equal to it.
    assert np.all(logits[-1].max(-1) - top <= step)


def test_a_short_softmax_keeps_256ths() -> None:
    rng = np.random.default_rng(0)
    _, integer = quantized(lambda x: jax.nn.softmax(x, -1), [rng.normal(0, 3, (8, 10)).astype("f")])
    (node,) = [node for node in integer.nodes if node.op.name == "softmax"]
    code = node.outputs[0].type.affine
    assert (float(code.scale.array), code.zero_point) == (1 / 256, -128)


def test_a_divisor_away_from_0_divides_as_integers() -> None:
    rng = np.random.default_rng(0)
    batches = [
        (rng.normal(size=(16, 16)).astype("f"), rng.uniform(1, 4, (16, 16)).astype("f"))
        for _ in range(3)
    ]
    graph, integer = quantized(lambda x, y: x / y, batches)
    assert ops(integer) == ["quantize", "quantize", "div", "dequantize"]
    (wanted,), (found,) = qir.evaluate(graph, *batches[0]), qir.evaluate(integer, *batches[0])
    assert noise(wanted, found)[0] > 33
    np.testing.assert_array_equal(np.asarray(qir.compile(integer)(*batches[0])[0]), found)


def test_a_divisor_near_0_stays_float_with_what_computes_it() -> None:
    rng = np.random.default_rng(0)
    batches = [tuple(rng.normal(0, 3, (2, 8, 8)).astype("f")) for _ in range(3)]
    kernel = rng.normal(0, 1, (8, 8)).astype("f")
    graph, integer = quantized(lambda x, y: x @ kernel / (jnp.exp(y) + 1e-3), batches)
    reasons = {line.op: line.reason for line in qir.explain(integer).floats}
    assert set(reasons) == {"exp", "add", "div"}
    assert "expected at least 16 steps; add a constant to it" in reasons["div"]
    (wanted,), (found,) = qir.evaluate(graph, *batches[0]), qir.evaluate(integer, *batches[0])
    assert np.all(np.isfinite(found))
    assert noise(wanted, found)[0] > 30


def test_an_addend_that_was_never_but_0_costs_nothing() -> None:
    rng = np.random.default_rng(0)
    x, mask = rng.normal(size=(4, 8, 8)).astype("f"), np.ones((4, 8), np.float32)
    mask[:, 5:] = 0

    def model(x: Any, m: Any) -> Any:
        return jax.nn.softmax(x + (1 - m)[:, None] * -1e9, -1)

    _, integer = quantized(model, [(x, mask)])
    assert "add" not in ops(integer)
    (found,) = qir.evaluate(integer, x, mask)
    assert noise(np.asarray(model(x, mask)), found)[0] > 33
