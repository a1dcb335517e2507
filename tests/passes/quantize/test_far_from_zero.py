"""Ranges whose distance from zero is a multiple of their width: zero points outside of storage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.ops import Quantize


class TestNumbersFarFromZero:
    """Ranges whose distance from zero is a multiple of their width."""

    WEIGHTS = np.random.default_rng(3).normal(0, 0.4, (8, 4)).astype(np.float32)

    @pytest.mark.parametrize(("middle", "width"), [(300, 5), (-300, 5), (101325, 300)])
    def test_what_is_normalized_in_the_model_keeps_its_bits(self, middle, width):
        rng = np.random.default_rng(27)
        data = [rng.normal(middle, width, (32, 8)).astype(np.float32) for _ in range(4)]
        graph = qir.from_jax(lambda x: ((x - middle) / width) @ self.WEIGHTS, data[0], batch="B")
        integer = qir.quantize(graph, data)
        assert integer.accuracy is not None
        assert integer.accuracy.outputs[0].sqnr > 35
        (found,) = qir.compile(integer)(data[0])
        assert np.array_equal(found, qir.evaluate(integer, data[0])[0])
        program = qir.to_program(integer)
        assert qir.parse(program.text, program.arrays) == integer

    def test_padding_keeps_a_stored_number_for_zero(self):
        rng = np.random.default_rng(28)
        data = [rng.normal(300, 5, (2, 6, 6, 3)).astype(np.float32) for _ in range(2)]
        kernel = jnp.asarray(rng.normal(0, 0.4, (3, 3, 3, 4)), jnp.float32)
        for padding, holds_zero in (("SAME", True), ("VALID", False)):
            layers = ("NHWC", "HWIO", "NHWC")

            def function(x, padding=padding, layers=layers):
                return jax.lax.conv_general_dilated(
                    x, kernel, (1, 1), padding, dimension_numbers=layers
                )

            integer = qir.quantize(qir.from_jax(function, data[0]), data, accuracy_check=False)
            (quantize,) = (node for node in integer.nodes if isinstance(node.op, Quantize))
            code = quantize.output.type.quant
            assert code is not None
            assert code.holds_zero == holds_zero
