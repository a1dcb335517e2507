"""Every mode of quantize in XLA: at each of its thresholds the stored number of the definition."""

from collections.abc import Iterator
from unittest.mock import patch

import jax
import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.errors import UnsupportedError
from qir.ir import Graph
from qir.numbers.quantize_mode import QUANTIZE_MODES, quantize_mode, register_quantize_mode
from qir.ops import Quantize
from qir.types import Affine, Array, DType, TensorType
from tests.numbers.test_quantize_mode import CODES, around_thresholds


def quantizing(code: Affine, rounding: str, shape: tuple[int, ...]) -> Graph:
    graph = Graph("quantize")
    x = graph.add_input("x", TensorType(shape, DType.F32))
    graph.set_outputs([graph.at_end().emit(Quantize(code, rounding), x)])
    return graph


@pytest.mark.parametrize("code", CODES.values(), ids=CODES)
def test_all_modes_at_all_thresholds(code: Affine) -> None:
    x = around_thresholds(code)
    programs = [qir.compile(quantizing(code, name, x.shape)) for name in QUANTIZE_MODES]

    def whole(parameters: list[dict[str, jax.Array]], x: jax.Array) -> list[tuple[jax.Array, ...]]:
        pairs = zip(programs, parameters, strict=True)
        return [program.function(given, x) for program, given in pairs]

    found = jax.jit(whole)([program.parameters for program in programs], x)
    for name, (stored,) in zip(QUANTIZE_MODES, found, strict=True):
        assert np.array_equal(stored, quantize_mode(name)(x, code)), name


@pytest.mark.parametrize("rounding", QUANTIZE_MODES)
def test_what_was_decoded_in_the_same_program_is_not_folded(rounding: str) -> None:
    text = f"""
graph @again(%x: i8[256]{{scale=0.0123, zp=3}}) {{
  %r = dequantize(%x) : f32[256]
  %y = quantize(%r) {{rounding = {rounding}}} : i8[256]{{scale=0.0371, zp=-9}}
  return %y
}}"""
    graph, x = qir.parse(text), np.arange(-128, 128).astype(np.int8)
    assert np.array_equal(qir.compile(graph)(x)[0], run(graph, x)[0])


@pytest.fixture
def own() -> Iterator[None]:
    with patch.dict(QUANTIZE_MODES):

        @register_quantize_mode("half_up")
        def half_up(real: Array, code: Affine) -> Array:
            """Rounds half toward +infinity."""
            steps = np.floor(real.astype(np.float64) / code.scale.array + 0.5)
            whole = np.nan_to_num(steps, nan=0) + code.zero_points
            stored: Array = np.clip(whole, *code.range).astype(code.storage.numpy)
            return stored

        @register_quantize_mode("doubled")
        def doubled(real: Array, code: Affine) -> Array:
            """Is far from the product."""
            return code.encode(real * 2)

        yield


@pytest.mark.usefixtures("own")
def test_a_mode_of_ones_own_runs_where_it_rounds_the_product() -> None:
    code = Affine.of(DType.I8, 0.25, 3)
    x = np.arange(-200, 200, dtype=np.float32) / 16
    graph = quantizing(code, "half_up", x.shape)
    assert "rounding = half_up" in str(graph)
    assert np.array_equal(qir.compile(graph)(x)[0], quantize_mode("half_up")(x, code))
    graph = quantizing(code, "doubled", x.shape)
    with pytest.raises(UnsupportedError, match=r"got doubled; qir\.evaluate computes it"):
        qir.compile(graph)
    assert np.array_equal(run(graph, x)[0], code.encode(x * 2))


def test_kernels_leave_other_modes_to_xla() -> None:
    pytest.importorskip("llvmlite")
    code = Affine.of(DType.I8, 0.25, 3)
    graph = quantizing(code, "half_away", (512,))
    compiled = qir.compile(graph, kernels=True)
    assert "no form of the rounding half_away" in str(compiled.partition())
    x = np.arange(512, dtype=np.float32) / 8 - 32
    assert np.array_equal(compiled(x)[0], quantize_mode("half_away")(x, code))
