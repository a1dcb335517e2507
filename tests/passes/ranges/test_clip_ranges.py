"""clip-ranges cuts a range where the outputs of what reads it lose less, and nowhere else."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.backends.xla.executor import XlaExecutor
from qir.errors import QirError
from qir.ops import Conv
from qir.passes.shared import sampled_products
from qir.pipeline import Context
from qir.types import Array

RNG = np.random.default_rng(3)
WIDTH = 32
FIRST = RNG.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
SECOND = RNG.normal(0, WIDTH**-0.5, (WIDTH, 16)).astype(np.float32)
KERNEL = RNG.normal(0, 0.3, (3, 3, 2, 4)).astype(np.float32)
DEPTHWISE = RNG.normal(0, 0.3, (3, 3, 1, 4)).astype(np.float32)
BATCH = 256

CUT = "fold, calibrate, clip-ranges(report=true)"
WHOLE = "fold, calibrate"


def tailed(seed: int) -> Array:
    """Normal numbers, of which one in each 2,000 is 30 times as large and met by small weights."""
    random = np.random.default_rng(seed)
    numbers = random.normal(0, 1, (BATCH, WIDTH)).astype(np.float32)
    numbers[random.random(BATCH) < 1 / 64, 0] *= 30
    return numbers


def even(seed: int) -> Array:
    return np.random.default_rng(seed).uniform(-1, 1, (BATCH, WIDTH)).astype(np.float32)


def dense(x: jax.Array) -> jax.Array:
    weights = FIRST.copy()
    weights[0] *= 2.0**-6
    return jax.nn.relu(x @ weights) @ SECOND


def convolved(x: jax.Array) -> jax.Array:
    numbers = ("NHWC", "HWIO", "NHWC")
    image = jax.lax.conv_general_dilated(
        x.reshape(-1, 4, 4, 2), jnp.asarray(KERNEL), (2, 2), "SAME", dimension_numbers=numbers
    )
    return jax.lax.conv_general_dilated(
        jax.nn.relu(image),
        jnp.asarray(DEPTHWISE),
        (1, 1),
        ((1, 1), (1, 1)),
        feature_group_count=4,
        dimension_numbers=numbers,
    )


def cut(function: Any, data: list[Array], pipeline: str = CUT) -> tuple[qir.Graph, Context]:
    context = Context()
    graph = qir.from_jax(function, data[0], batch="B")
    return qir.optimize(graph, pipeline, data=data, context=context), context


def noise(function: Any, data: Array, pipeline: str) -> float:
    graph = qir.from_jax(function, data, batch="B")
    integer = qir.quantize(graph, [data], pipeline, accuracy_check=False)
    other = tailed(1)
    wanted = np.asarray(function(other), np.float64)
    return float(np.square(qir.evaluate(integer, other)[0] - wanted).mean())


def test_tails_that_count_little_in_the_outputs_are_cut_off() -> None:
    graph, context = cut(dense, [tailed(0)])
    x = graph.inputs[0]
    assert x.range is not None
    assert x.observed is not None
    assert x.range.bounds[1] < x.observed.bounds[1] / 2
    assert any("clip-ranges: %x" in line for line in context.diagnostics)
    rest = "propagate-ranges, quantize, integer"
    assert noise(dense, tailed(0), f"{CUT}, {rest}") < noise(dense, tailed(0), f"{WHOLE}, {rest}")


def test_the_program_computes_the_same_in_floating_point() -> None:
    graph, _ = cut(dense, [tailed(0)])
    before, _ = cut(dense, [tailed(0)], WHOLE)
    np.testing.assert_array_equal(run(graph, tailed(1))[0], run(before, tailed(1))[0])


@pytest.mark.parametrize("function", [dense, convolved])
def test_ranges_of_even_numbers_stay(function: Any) -> None:
    graph, _ = cut(function, [even(0)])
    assert graph.inputs[0].range == graph.inputs[0].observed


def test_convolutions_are_computed_on_what_their_windows_meet() -> None:
    """The sums of the samples are those of the program, by value: padding, strides and groups."""
    graph, _ = cut(convolved, [even(0)], WHOLE)
    values = {node: node.inputs[0] for node in graph.nodes if isinstance(node.op, Conv)}
    context = Context(data=[even(0)], executor=XlaExecutor())
    samples = sampled_products.sample_operands(graph, list(values.values()), context)
    assert samples is not None
    assert len(values) == 2
    for node, value in values.items():
        product = sampled_products.SampledProduct.of(node, samples[value], np.random.default_rng(0))
        (whole,) = run(graph.extract([value], [node.output]), samples[value])
        found = product.sums(product.rows, product.weights)
        low, high = product.bounds
        rows = {tuple(row) for row in whole.reshape(-1, whole.shape[-1]).clip(low, high).round(3)}
        known = np.array(sorted(rows))
        for row in found:
            assert np.abs(known - row).max(axis=1).min() < 2e-3


def test_few_samples_leave_ranges_as_they_are() -> None:
    few = [tailed(0)[:16]]
    assert cut(dense, few)[0] == cut(dense, few, WHOLE)[0]


def test_a_negative_gain_is_refused() -> None:
    with pytest.raises(QirError, match="expected a gain of at least 0 dB"):
        cut(dense, [even(0)], "fold, calibrate, clip-ranges(gain=-1)")


def test_what_every_row_loses_alike_is_lost_too() -> None:
    """No bias takes in what clipping does to numbers that are all the same."""
    same = [np.full((BATCH, WIDTH), 0.7, np.float32)]
    graph = qir.from_jax(dense, same[0])
    exact = qir.evaluate(graph, same[0])[0]
    for passes in ("", "clip-ranges(gain=0.0), "):
        pipeline = f"fold, calibrate, {passes}propagate-ranges, quantize, integer"
        integer = qir.optimize(graph, pipeline, data=same)
        found = qir.evaluate(integer, same[0])[0]
        assert np.sum((found - exact) ** 2) < 1e-3 * np.sum(exact**2)
