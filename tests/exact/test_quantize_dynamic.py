"""Scales of run time in XLA: the bits of the reference, and the numbers of ONNX Runtime."""

from __future__ import annotations

import jax
import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.backends.xla.dynamic_scale import peaks, scale_of
from qir.errors import QirError
from qir.numbers.dynamic_scale import symmetric_scale
from qir.types import Array

COUNT = 40_000


def around(largest: int, seed: int) -> Array:
    """Numbers of every size, and such whose quotient by the largest step is nearly a tie."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 0x7F800000, COUNT).astype(np.int32)
    bits[:100], bits[100:200] = np.arange(100), 0x7F800000 - np.arange(100)
    x = bits.view(np.float32)
    x[200 : COUNT // 2] = (rng.integers(2**23, 2**24, COUNT // 2 - 200) + 0.5) * largest
    x[COUNT // 2 : COUNT // 2 + 200] = 2.0 ** rng.integers(-120, 120, 200)
    return x


@pytest.mark.parametrize("largest", [1, 3, 7, 15, 127, 255, 2047, 32767])
def test_quotients_are_those_of_numpy(largest: int) -> None:
    x = around(largest, largest)
    scale, inverse = jax.jit(lambda x: scale_of(peaks(x[:, None], (1,))[:, 0], largest))(x)
    wanted = symmetric_scale(x[:, None], (1,), largest)[:, 0]
    assert np.array_equal(scale, wanted)
    assert np.array_equal(inverse, (1.0 / wanted.astype(np.float64)).astype(np.float32))


LAYER = """
graph @layer(%x: i8[B,64]{scale=0.0371}) {
  %r = dequantize(%x) : f32[B,64]
  %q, %s = quantize_dynamic(%r) {axes = [1]} : i8[B,64]{scale=1.0, bounds=[-127, 127]}, f32[B,1]
  %w = const : i8[64,32]{scale=@w.scale, axis=1}
  %b = const : f32[32]
  %acc = dot(%q, %w) : i32[B,32]{scale=%q*%w, axis=1}
  %u = dequantize(%acc) : f32[B,32]
  %p = mul(%u, %s) : f32[B,32]
  %y = add(%p, %b) : f32[B,32]
  %z = relu(%y) : f32[B,32]
  %t, %v = quantize_dynamic(%z) {axes = [1], block = 8} : i8[B,32]{scale=1, bounds=[-7,7]}, f32[B,4]
  return %q, %s, %y, %t, %v
}"""


def layer() -> qir.Graph:
    rng = np.random.default_rng(0)
    arrays = {
        "w": rng.integers(-127, 128, (64, 32), np.int8),
        "w.scale": rng.uniform(0.001, 0.1, 32).astype(np.float32),
        "b": rng.normal(0, 30, 32).astype(np.float32),
    }
    return qir.parse(LAYER, arrays)


@pytest.mark.parametrize("kernels", [False, None])
def test_a_layer_is_exact_down_to_the_floats_behind_its_bias(kernels: bool | None) -> None:
    """XLA on CPU would round the last product and the bias once, in a quarter of the numbers."""
    x = np.random.default_rng(1).integers(-128, 128, (256, 64)).astype(np.int8)
    graph = layer()
    program = qir.compile(graph, kernels=kernels)
    for found, wanted in zip(program(x), run(graph, x), strict=True):
        assert np.array_equal(found, wanted)


BESIDE_A_PRODUCT = {
    "z - p": "%y = sub(%z, %p) : f32[B,32]",
    "p - z": "%y = sub(%p, %z) : f32[B,32]",
    "z + (-p)": "%m = neg(%p) : f32[B,32]\n  %y = add(%z, %m) : f32[B,32]",
    "z + p moved": "%m = reshape(%p) : f32[B,32]\n  %y = add(%z, %m) : f32[B,32]",
    "z - part of p": """%m = slice(%p) {axes = [1], start = [8], limit = [24]} : f32[B,16]
  %n = slice(%z) {axes = [1], start = [8], limit = [24]} : f32[B,16]
  %k = sub(%n, %m) : f32[B,16]
  %y = concat(%k, %k) {axis = 1} : f32[B,32]""",
    "z - z * p": "%m = mul(%z, %p) : f32[B,32]\n  %y = sub(%z, %m) : f32[B,32]",
}


@pytest.mark.parametrize("beside", BESIDE_A_PRODUCT)
@pytest.mark.parametrize("kernels", [False, None])
def test_a_product_is_rounded_before_what_it_is_added_to(beside: str, kernels: bool | None) -> None:
    rng = np.random.default_rng(5)
    head = LAYER.replace("(%x: i8[B,64]{scale=0.0371})", "(%x: f32[B,64], %z: f32[B,32])")
    head = head.replace("dequantize(%x)", "relu(%x)").split("  %b = const")[0]
    text = f"""{head}  %acc = dot(%q, %w) : i32[B,32]{{scale=%q*%w, axis=1}}
  %u = dequantize(%acc) : f32[B,32]
  %p = mul(%u, %s) : f32[B,32]
  {BESIDE_A_PRODUCT[beside]}
  return %y
}}"""
    arrays = {
        "w": rng.integers(-127, 128, (64, 32), np.int8),
        "w.scale": rng.uniform(0.001, 0.1, 32).astype(np.float32),
    }
    graph = qir.parse(text, arrays)
    x, z = (rng.normal(0, 30, (256, size)).astype(np.float32) for size in (64, 32))
    (found,) = qir.compile(graph, kernels=kernels)(x, z)
    assert np.array_equal(found, run(graph, x, z)[0])


def test_a_caller_s_jit_changes_nothing() -> None:
    x = np.random.default_rng(1).integers(-128, 128, (32, 64)).astype(np.int8)
    graph = layer()
    program = qir.compile(graph, kernels=False)
    found = jax.jit(lambda x: [2 * array for array in program(x // 2)])(x)
    for array, wanted in zip(found, run(graph, x // 2), strict=True):
        assert np.array_equal(array, 2 * wanted)


ONNX = """
graph @onnx(%x: f32[{rows},64]) {{
  %q, %s, %z = quantize_dynamic(%x) {{axes = [0, 1], mode = onnx}} : u8[{rows},64], f32[], u8[]
  %w = const : i8[64,32]
  %sums = const : i32[32]
  %acc = dot(%q, %w) : i32[{rows},32]
  %p = cast(%z) : i32[]
  %c = mul(%sums, %p) : i32[32]
  %y = sub(%acc, %c) : i32[{rows},32]
  return %q, %s, %z, %y
}}"""


def onnx_program(rows: int) -> tuple[qir.Graph, Array]:
    weights = np.random.default_rng(2).integers(-127, 128, (64, 32), np.int8)
    sums = weights.sum(axis=0, dtype=np.int32)
    return qir.parse(ONNX.format(rows=rows), {"w": weights, "sums": sums}), weights


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1.0, 1e25])
def test_mode_onnx_is_dynamic_quantize_linear(size: float) -> None:
    models = pytest.importorskip("tests.exact.qlinear_models")
    rng = np.random.default_rng(3)
    graph, weights = onnx_program(500)
    program = qir.compile(graph, kernels=False)
    whole = rng.integers(-300, 301, (500, 64)) / 2  # ties, where the scale is a power of two
    for numbers in (rng.normal(0.5, 1, (500, 64)), whole, np.abs(whole), -np.abs(whole), 0 * whole):
        x = (numbers * size).astype(np.float32)
        theirs = models.results(
            "DynamicQuantizeLinear", x, {}, {"y": np.uint8, "s": np.float32, "z": np.uint8}
        )
        stored, _, point = theirs
        theirs.append(
            models.results(
                "MatMulInteger", stored, {"w": weights, "z": np.asarray(point)}, {"y": np.int32}
            )[0]
        )
        for ours in (run(graph, x), program(x)):
            assert all(map(np.array_equal, ours, theirs))


def test_mode_onnx_is_refused_on_other_platforms() -> None:
    graph, _ = onnx_program(4)
    program = qir.compile(graph, kernels=False)
    program.export(["cpu"])
    with pytest.raises(QirError, match="expected the platform cpu, got cuda; ONNX defines it by"):
        program.export(["cpu", "cuda"])


def test_a_dynamic_product_of_onnx_runtime_in_its_own_order() -> None:
    """DynamicQuantizeMatMul multiplies the scales first, and the sums by their product."""
    models = pytest.importorskip("tests.exact.qlinear_models")
    rng = np.random.default_rng(4)
    x = rng.normal(0.3, 1, (40, 64)).astype(np.float32)
    graph, weights = onnx_program(40)
    scales = rng.uniform(0.001, 0.02, 32).astype(np.float32)
    rest = {"w": weights, "w_scale": scales}
    theirs = models.run("DynamicQuantizeMatMul", x, rest, models.MICROSOFT)
    _, scale, _, sums = run(graph, x)
    assert np.array_equal(theirs, sums.astype(np.float32) * (scale * scales))


def test_it_has_no_gradient() -> None:
    graph = qir.parse("""
graph @row(%x: f32[4]) {
  %q, %s = quantize_dynamic(%x) {axes = [0]} : i8[4]{scale=1, bounds=[-127, 127]}, f32[1]
  return %s
}""")
    program = qir.compile(graph, kernels=False)
    with pytest.raises(QirError, match="expected a float program, got one that rounds"):
        jax.grad(lambda x: program(x)[0].sum())(np.ones(4, np.float32))
