"""Networks written channels first, as other frameworks do, compute channels last throughout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import qir
from qir.frontends.jaxpr import from_jax as translate
from qir.ir import Graph
from qir.ops import Transpose
from tests.models.transformers import Weights, reals


def mobile_net() -> Callable[[Any], Any]:
    """Inverted residuals of images [N, 3, 32, 32], with batch normalization and a hard swish."""
    draw = Weights()

    def conv(x: Any, kernel: Any, stride: int = 1, groups: int = 1) -> Any:
        names = ("NCHW", "OIHW", "NCHW")
        return lax.conv_general_dilated(
            x, kernel, (stride, stride), "SAME", dimension_numbers=names, feature_group_count=groups
        )

    def norm(width: int) -> Callable[[Any], Any]:
        gamma, beta = (parameter.reshape(1, width, 1, 1) for parameter in draw.norm(width))
        mean, deviation = draw.normal(1, width, 1, 1, size=0.1), 1 + draw.normal(1, 1, 1, 1) ** 2
        return lambda x: (x - mean) / jnp.sqrt(deviation + 1e-5) * gamma + beta

    def kernel(outputs: int, inputs: int, size: int) -> Any:
        return draw.normal(outputs, inputs, size, size, size=(inputs * size**2) ** -0.5)

    stem, first = kernel(16, 3, 3), norm(16)
    blocks = []
    for inputs, outputs, stride in ((16, 16, 1), (16, 24, 2), (24, 24, 1), (24, 32, 2)):
        hidden = 4 * inputs
        weights = kernel(hidden, inputs, 1), kernel(hidden, 1, 3), kernel(outputs, hidden, 1)
        blocks.append((stride, weights, norm(hidden), norm(hidden), norm(outputs)))
    head, bias = draw.dense(32, 10), draw.normal(10, size=0.1)

    def function(x: Any) -> Any:
        x = jax.nn.hard_swish(first(conv(x, stem, 2)))
        for stride, (wide, depthwise, narrow), *norms in blocks:
            y = jnp.clip(norms[0](conv(x, wide)), 0, 6)
            y = jnp.clip(norms[1](conv(y, depthwise, stride, len(depthwise))), 0, 6)
            y = norms[2](conv(y, narrow))
            x = x + y if x.shape == y.shape else y
        return x.mean((2, 3)) @ head + bias

    return function


def transposes(graph: Graph) -> int:
    return sum(isinstance(node.op, Transpose) for node in graph.nodes)


@pytest.mark.parametrize("importer", [qir.from_jax, translate], ids=["raised", "translated"])
def test_a_channels_first_network_keeps_the_transpose_of_its_input_alone(importer):
    samples = reals(0, 8, 3, 32, 32)
    graph = importer(mobile_net(), samples[:1], batch="B")
    integer = qir.quantize(graph, [samples])
    assert transposes(integer) == 1
    assert not qir.explain(integer).floats
    # The same network channels last has 42.2 dB; numbers in a wrong order would leave none.
    assert integer.accuracy is not None
    (output,) = integer.accuracy.outputs
    assert output.sqnr > 38
    if importer is translate:
        assert transposes(graph) == 26


def test_however_it_is_written_it_is_one_integer_program():
    function, samples = mobile_net(), reals(0, 8, 3, 32, 32)

    def channels_last(x: Any) -> Any:
        return function(jnp.transpose(x, (0, 3, 1, 2)))

    moved = np.ascontiguousarray(samples.transpose(0, 2, 3, 1))
    first = qir.quantize(qir.from_jax(function, samples), [samples])
    last = qir.quantize(qir.from_jax(channels_last, moved), [moved])
    assert transposes(last) == 0
    np.testing.assert_array_equal(qir.evaluate(first, samples)[0], qir.evaluate(last, moved)[0])
