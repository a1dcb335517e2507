"""Faults planted in integer programs: each comes out as the first culprit, told apart as it is."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.ops import Const
from qir.types import FrozenArray
from qir.types.arrays import array_digest
from tests.models.small_networks import cnn, transformer_block
from tests.models.transformers import reals


def programs(network, pipeline="w8a8"):
    """A network's float program, the integer one, and data."""
    data = [network.inputs(seed) for seed in range(3)]
    graph = qir.from_jax(network.function, *data[0])
    return graph, qir.quantize(graph, data, pipeline, accuracy_check=False), data


def compared(graph, integer, data):
    return qir.compare(graph, integer, data[:1], measure=False)


def change(graph, name, change):
    """Puts other stored numbers into a constant."""
    value = graph.value(name)
    stored = np.array(value.array)
    change(stored)
    value.node.op = Const(FrozenArray(stored), value.type)


def rescaled(graph, name, factor):
    """A copy in which each scale of a constant is so many times as large."""
    program = qir.to_program(graph)
    shared = f"{name}.scale"
    scales = program.arrays[shared]
    arrays = dict(program.arrays) | {shared: scales * np.float32(factor)}
    old, new = (array_digest(each[shared]) for each in (program.arrays, arrays))
    return qir.parse(program.text.replace(old, new), arrays)


def standing_for(graph, node):
    """What an accumulator stands for where it is rounded."""
    (reader,) = node.outputs[0].users
    return reader.outputs[0].origin[-1]


class TestCnn:
    def faulty(self):
        graph, integer, data = programs(cnn())
        nodes = [node for node in integer.nodes if node.op.name == "conv"]
        return graph, integer, data, nodes[2]

    def test_the_program_without_a_fault_has_errors_that_add_up_to_what_is_measured(self):
        graph, integer, data, _ = self.faulty()
        found = compared(graph, integer, data)
        (output,) = found.outputs
        # Errors of about a dozen values that are independent add up within the square root of 2
        # of their count's inverse, far below 3 dB.
        assert found.independent[output.name] == pytest.approx(output.sqnr, abs=3)
        assert sum(one.share for one in found.culprits) == pytest.approx(1)

    def test_a_scale_of_weights_times_four(self):
        graph, integer, data, node = self.faulty()
        planted = rescaled(integer, node.inputs[1].name, 4)
        found = compared(graph, planted, data)
        culprit = found.culprits[0]
        assert culprit.value == standing_for(integer, node)
        assert culprit.source in ("weights", "clipping")

    def test_a_multiplier_that_is_four_times_too_small(self):
        graph, integer, data, node = self.faulty()
        (rounded,) = node.outputs[0].users
        name = rounded.outputs[0].name
        text = qir.to_program(integer).text
        line = next(each for each in text.splitlines() if f"%{name} = requantize" in each)
        scale = re.search(r"scale=([\d.e-]+)", line)
        assert scale is not None
        wrong = line.replace(f"%{name} =", f"%{name}.wrong =")
        wrong = wrong.replace(scale[1], str(np.float32(float(scale[1]) * 4)))
        wrong = re.sub(r" of .*", " of []", wrong)
        kind = line[line.index(" : ") :]
        planted = qir.parse(
            text.replace(line, f"{wrong}\n  %{name} = recode(%{name}.wrong){kind}"),
            qir.to_program(integer).arrays,
        )
        found = compared(graph, planted, data)
        assert found.culprits[0].value == standing_for(integer, node)

    def test_a_weight_channel_of_zeros(self):
        graph, integer, data, node = self.faulty()

        def zero(stored):
            stored[..., np.argmax(np.abs(stored.astype(int)).sum((0, 1, 2)))] = 0

        change(integer, node.inputs[1].name, zero)
        found = compared(graph, integer, data)
        assert found.culprits[0].value == standing_for(integer, node)
        assert found.culprits[0].source == "weights"
        assert found.culprits[0].remedies[0].name == "keep float"


class TestTransformer:
    def test_a_bias_that_is_dropped(self):
        draw = np.random.default_rng(3)
        graph, integer, data = programs(with_biases(draw))
        node = next(node for node in integer.nodes if node.op.name == "dot")
        change(integer, node.inputs[2].name, lambda stored: stored.fill(0))
        found = compared(graph, integer, data)
        assert found.culprits[0].value == standing_for(integer, node)
        assert found.culprits[0].source == "weights"

    def test_a_weight_channel_of_zeros(self):
        graph, integer, data = programs(transformer_block())
        products = [node for node in integer.nodes if node.op.name == "dot"]
        node = [node for node in products if node.inputs[1].is_constant][-1]

        def zero(stored):
            stored[..., np.argmax(np.abs(stored.astype(int)).sum(0))] = 0

        change(integer, node.inputs[1].name, zero)
        found = compared(graph, integer, data)
        assert found.culprits[0].value == standing_for(integer, node)
        assert found.culprits[0].source == "weights"

    def test_a_mask_that_is_let_into_a_range(self):
        data = [(reals(seed, 2, 16, 32),) for seed in range(3)]
        graph = qir.from_jax(masked, *data[0])
        integer = qir.quantize(graph, data, accuracy_check=False)
        found = compared(graph, integer, data)
        # The scores have the code that the mask has beside them.
        assert found.culprits[0].value == "dot"
        code = integer.value(found.value("dot").stands).type.code
        assert code.greatest_scale > 1e6


class TestConcat:
    def test_a_part_that_is_a_hundred_times_as_large(self):
        """Its code is that of the other part too, of which nothing is left."""
        kernel = np.random.default_rng(0).normal(0, 0.2, (32, 8)).astype(np.float32)
        kernel[16:] /= 100

        def function(x):
            return jnp.tanh(jnp.concatenate([x, jnp.square(x) * 100], 1) @ kernel)

        data = [(reals(seed, 8, 16),) for seed in range(3)]
        graph = qir.from_jax(function, *data[0])
        pipeline = "calibrate, propagate-ranges(share=true), quantize, integer"
        integer = qir.quantize(graph, data, pipeline, accuracy_check=False)
        found = compared(graph, integer, data)
        culprit = found.culprits[0]
        assert culprit.op in ("concat", "input")
        assert culprit.share > 0.5
        gains = {remedy.name: remedy.gain for remedy in culprit.remedies}
        assert "another clip" not in gains
        assert gains["separate codes"] > 6  # one bit at the least


def masked(x):
    """Scores of which a relu, not a softmax, reads those that are masked."""
    scores = jnp.where(jnp.tril(jnp.ones((16, 16), bool)), x @ x.transpose(0, 2, 1), -1e9)
    return jax.nn.relu(scores / 10 + 3) @ x


def with_biases(draw):
    first, second = (draw.normal(0, 0.2, (32, 32)).astype(np.float32) for _ in range(2))
    bias = draw.normal(0, 1, 32).astype(np.float32)

    class Network:
        def function(self, x):
            return jnp.tanh(jax.nn.relu(x @ first + bias) @ second)

        def inputs(self, seed):
            return (reals(seed, 8, 32),)

    return Network()
