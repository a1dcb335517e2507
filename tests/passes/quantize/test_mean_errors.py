"""bias-correction takes the mean error of quantized products into their biases."""

import jax
import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ops import Dot
from qir.types import Array

RNG = np.random.default_rng(11)
WIDTH = 48
LAYERS = [RNG.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32) for _ in range(3)]
BIAS = RNG.normal(0, 1, WIDTH).astype(np.float32)
QUANTIZE = "fold, calibrate, ranges, quantize(weights=i4, correct_bias=false)"


def data(seed: int, count: int = 64) -> Array:
    return np.random.default_rng(seed).normal(0.5, 1, (count, WIDTH)).astype(np.float32)


def network(x: jax.Array | Array) -> jax.Array | Array:
    for index, weights in enumerate(LAYERS):
        x = x @ weights
        x = jax.nn.relu(x + BIAS) if index == 0 else jax.nn.relu(x)
    return x


def quantized(pipeline: str, batches: list[Array]) -> qir.Graph:
    graph = qir.from_jax(network, batches[0], batch="B")
    return qir.quantize(graph, batches, pipeline, accuracy_check=False)


def shift(graph: qir.Graph, inputs: Array) -> float:
    """The root mean square of the mean error of channels."""
    (found,) = qir.evaluate(graph, inputs)
    return float(np.sqrt(np.square((found - np.asarray(network(inputs))).mean(axis=0)).mean()))


def test_the_mean_error_of_channels_falls_on_other_data() -> None:
    before = quantized(f"{QUANTIZE}, integer", [data(0)])
    after = quantized(f"{QUANTIZE}, bias-correction, integer", [data(0)])
    other = data(1, 512)
    # The mean of 64 samples leaves an eighth of an error's spread, and clipped halves of relu more.
    assert shift(after, other) < shift(before, other) / 2
    for found, right in zip(qir.compile(after)(other), qir.evaluate(after, other), strict=True):
        np.testing.assert_array_equal(found, right)


def test_a_product_without_a_bias_gets_one() -> None:
    graph = quantized(f"{QUANTIZE}, bias-correction, integer", [data(0)])
    dots = [node for node in graph.nodes if isinstance(node.op, Dot)]
    assert [len(node.inputs) for node in dots] == [3, 3, 3]


@pytest.mark.parametrize("count", [1, 3])
def test_means_of_few_samples_are_chance(count: int) -> None:
    few = [data(0, count)]
    assert quantized(f"{QUANTIZE}, bias-correction", few) == quantized(QUANTIZE, few)


def test_samples_are_of_all_batches() -> None:
    biases = [
        [node.inputs[2].array for node in graph.nodes if isinstance(node.op, Dot)]
        for graph in (
            quantized(f"{QUANTIZE}, bias-correction", batches)
            for batches in ([data(0)], list(np.split(data(0), 8)))
        )
    ]
    for one, cut in zip(*biases, strict=True):
        # Floats are summed in another order, which moves scales by a unit in the last place.
        assert np.abs(one - cut).max() <= 1 + np.abs(one).max() * 2.0**-20


def test_what_is_missing_is_said() -> None:
    context = qir.Context()
    graph = qir.optimize(
        qir.from_jax(network, data(0), batch="B"), QUANTIZE, data=[data(0)], context=context
    )
    told = qir.Context(statistics=context.statistics)
    assert qir.optimize(graph, "bias-correction", context=told) == graph
    assert "expected the float program" in " ".join(told.diagnostics)
    stream = qir.Context()
    qir.optimize(graph, "bias-correction", data=[data(0)], context=stream)
    assert "expected the float program" in " ".join(stream.diagnostics)


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(QirError, match="expected at least 4 samples"):
        quantized(f"{QUANTIZE}, bias-correction(samples=2)", [data(0)])
