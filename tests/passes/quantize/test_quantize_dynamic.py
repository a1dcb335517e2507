"""quantize-dynamic: which products it takes, what it leaves, and that XLA agrees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.typing import ArrayLike

import qir
from qir.ir import Graph
from qir.ops import Const, Conv, ConvTranspose, Dot, Embedding, QuantizeDynamic, Reshape
from qir.types import Array, DType
from tests.drawing import drawn
from tests.models.random_programs import quantizations

RNG = np.random.default_rng(21)
X = RNG.normal(size=(16, 32)).astype(np.float32)
W = RNG.normal(0, 0.3, (32, 24)).astype(np.float32)
V = RNG.normal(0, 0.3, (24, 8)).astype(np.float32)
BIAS = RNG.normal(size=24).astype(np.float32)
IMAGES = RNG.normal(size=(4, 9, 9, 6)).astype(np.float32)
KERNEL = jnp.asarray(RNG.normal(0, 0.3, (3, 3, 6, 10)), jnp.float32)
LAYOUT = ("NHWC", "HWIO", "NHWC")
STEP = 20 * np.log10(2 * 127 * np.sqrt(3))
"""Decibels of a number against the error of rounding it, uniform in a step of which it has 127."""


def decibels(exact: ArrayLike, found: ArrayLike) -> float:
    exact, found = (np.asarray(array, np.float64) for array in (exact, found))
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def quantized(model: Callable[..., Any], *inputs: Array, options: str = "") -> Graph:
    graph = qir.from_jax(model, *inputs, batch="B")
    return qir.optimize(graph, f"fold, quantize-dynamic({options}), canonicalize, check-overflow")


def check_exact(graph: Graph, *inputs: Array) -> Array:
    """Compares XLA with the reference, in which nothing but products is rounded."""
    (wanted,) = qir.evaluate(graph, *inputs)
    assert np.array_equal(qir.compile(graph, kernels=False)(*inputs)[0], wanted)
    return wanted


def ops(graph: Graph, *kinds: type) -> list[qir.Node]:
    return [node for node in graph.nodes if isinstance(node.op, kinds)]


def mlp(x: jax.Array) -> jax.Array:
    return jax.nn.relu(x @ W + BIAS) @ V


def test_a_network_is_quantized_without_data():
    graph = qir.quantize(qir.from_jax(mlp, X, batch="B"), pipeline="w8-dynamic")
    found = check_exact(graph, X)
    # Two layers round weights and activations: four errors of the size of a step's or less, of
    # normal numbers whose peak is 2.4 times their root mean square in rows and columns of 24 to 32.
    assert decibels(mlp(jnp.asarray(X)), found) > STEP - 20 * np.log10(2.4) - 10 * np.log10(4) - 3
    assert [node.inputs[1].type.dtype for node in ops(graph, Dot)] == [DType.I8, DType.I8]
    assert graph == qir.parse(str(graph), qir.to_program(graph).arrays)


def test_a_row_of_any_size_keeps_its_bits():
    sizes = np.float32(10.0) ** np.arange(-8, 8)[:, None].astype(np.float32)
    graph = quantized(lambda x: x @ W, X)
    found = check_exact(graph, X * sizes)
    plain = check_exact(graph, X)
    assert np.allclose(found / sizes, plain, rtol=1e-2, atol=0.05)


def test_a_sample_does_not_depend_on_the_others_of_its_batch():
    def model(x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, KERNEL, (1, 1), "SAME", dimension_numbers=LAYOUT)

    graph = quantized(model, IMAGES)
    together = check_exact(graph, IMAGES)
    for index in range(len(IMAGES)):
        assert np.array_equal(check_exact(graph, IMAGES[index : index + 1])[0], together[index])
    (cast,) = ops(graph, QuantizeDynamic)
    assert cast.outputs[1].type.shape[1:] == (1, 1, 1)


@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_convolutions_of_all_kinds(strides):
    depthwise = KERNEL[:, :, :1, :6]

    def model(x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x, depthwise, strides, "SAME", dimension_numbers=LAYOUT, feature_group_count=6
        )
        return jax.lax.conv_transpose(y, KERNEL, (2, 2), "SAME", dimension_numbers=LAYOUT)

    graph = quantized(model, IMAGES)
    assert all(not node.inputs[0].type.is_float for node in ops(graph, Conv, ConvTranspose))
    assert decibels(model(jnp.asarray(IMAGES)), check_exact(graph, IMAGES)) > 30


@pytest.mark.parametrize("expression", ["bijk,bkn->bijn", "bik,bkn->bin", "bik,kn->bin"])
def test_products_of_two_activations(expression):
    left, right = expression.split("->")[0].split(",")
    sizes = dict(zip("bijkn", (4, 5, 6, 7, 8), strict=True))
    x, y = (
        RNG.normal(size=[sizes[letter] for letter in word]).astype("f4") for word in (left, right)
    )
    graph = qir.from_jax(lambda x, y: jnp.einsum(expression, x, y), x, y)
    graph = qir.optimize(graph, "quantize-dynamic")
    (node,) = ops(graph, Dot)
    assert all(value.type.dtype is DType.I8 for value in node.inputs)
    assert len(ops(graph, Reshape)) == (len(left) != len(right))
    assert decibels(np.einsum(expression, x, y), check_exact(graph, x, y)) > 35
    kept = qir.optimize(
        qir.from_jax(lambda x, y: jnp.einsum(expression, x, y), x, y),
        "quantize-dynamic(products=weights)",
    )
    assert "is not a constant, and products=weights" in str(qir.explain(kept))


def test_attention_is_exact_but_for_its_floats():
    weights = jnp.asarray(RNG.normal(0, 0.2, (3, 16, 16)), jnp.float32)
    x = RNG.normal(size=(4, 12, 16)).astype(np.float32)

    def attention(x: jax.Array) -> jax.Array:
        q, k, v = (x @ each for each in weights)
        mixed: jax.Array = jax.nn.softmax(q @ k.swapaxes(-1, -2) / 4) @ v
        return mixed

    graph = quantized(attention, x)
    assert len(ops(graph, QuantizeDynamic)) == 5
    # Each step is compared with what the floats before it, as XLA has them, may become.
    plain = qir.compile(graph, kernels=False).report
    assert qir.compile(graph, kernels=False, check=[x]).report == plain
    assert decibels(attention(jnp.asarray(x)), qir.evaluate(graph, x)[0]) > 30


@pytest.mark.hypothesis
def test_random_networks():
    """Every fourth is compared with the reference: integers equal, floats within bounds."""
    cases = [case for case, *_ in drawn(quantizations(), 32, pack=4)]
    for index, case in enumerate(cases):
        graph = qir.quantize(case.graph, pipeline="w8-dynamic")
        program = qir.to_program(graph)
        assert qir.parse(program.text, program.arrays) == graph
        if index % 4 == 0:
            plain = qir.compile(graph, kernels=False).report
            assert qir.compile(graph, kernels=False, check=case.inputs).report == plain


def test_what_several_products_read_is_quantized_once():
    graph = quantized(lambda x: x @ W[:, :8] + x @ W[:, 8:16], X)
    assert len(ops(graph, QuantizeDynamic)) == 1


def test_tables_are_coded_by_row():
    ids = np.arange(16, dtype=np.int32)
    table = jnp.asarray(X)
    graph = quantized(lambda ids: table[ids] @ W, ids)
    (lookup,) = ops(graph, Embedding)
    assert lookup.inputs[0].type.dtype is DType.I8
    # Weights and activations are rounded, and the activations once before as weights.
    assert decibels(X @ W, check_exact(graph, ids)) > 35


@pytest.mark.parametrize(
    ("options", "weights", "bound"), [("weights=i4", DType.I4, 7), ("activations=i4", DType.I8, 7)]
)
def test_four_bits(options, weights, bound):
    graph = quantized(lambda x: x @ W, X, options=options)
    (node,) = ops(graph, Dot)
    assert node.inputs[1].type.dtype is weights
    x_code = node.inputs[0].type.quant
    assert x_code is not None
    assert x_code.range == ((-bound, bound) if "activations" in options else (-127, 127))
    assert decibels(X @ W, check_exact(graph, X)) > 15


def test_one_scale_for_the_tensor():
    graph = quantized(lambda x: x @ W, X, options="scales=tensor, per=tensor")
    (cast,) = ops(graph, QuantizeDynamic)
    assert cast.outputs[1].type.shape == (1, 1)
    (node,) = ops(graph, Dot)
    code = node.inputs[1].type.quant
    assert code is not None
    assert code.per_tensor
    assert decibels(X @ W, check_exact(graph, X)) > 30


def test_what_a_selector_keeps_stays_float_and_says_so():
    graph = quantized(mlp, X, options="keep_float=[dot_1]")
    assert [node.inputs[1].type.dtype for node in ops(graph, Dot)] == [DType.I8, DType.F32]
    assert "a selector keeps it in floating point" in str(qir.explain(graph))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "graph @g(%x: f32[2,200000]) {\n  %w = const 1.0 : f32[200000,3]\n"
            "  %y = dot(%x, %w) : f32[2,3]\n  return %y\n}",
            "its sums of 200000 products might leave 32 bits",
        ),
        (
            "graph @g(%x: f32[2,B], %w: f32[B,3]) {\n  %y = dot(%x, %w) : f32[2,3]\n  return %y\n}",
            "it sums over the named dimension B",
        ),
        (
            "graph @g(%x: f16[2,4]) {\n  %w = const 1.0 : f16[4,3]\n"
            "  %y = dot(%x, %w) : f16[2,3]\n  return %y\n}",
            "expected an operand of f32",
        ),
        (
            "graph @g(%x: f32[4,3]) {\n  %w = const 1.0 : f32[2,4]\n"
            "  %y = dot(%w, %x) : f32[2,3]\n  return %y\n}",
            "%w is a constant where an activation belongs",
        ),
    ],
    ids=["long sums", "named sums", "16 bits", "constant"],
)
def test_what_can_not_be_quantized_stays_as_it_is_and_says_why(text, reason):
    graph = qir.parse(text)
    context = qir.Context()
    same = qir.optimize(graph, "quantize-dynamic", context=context)
    assert [node.op for node in same.nodes] == [node.op for node in graph.nodes]
    assert reason in str(qir.explain(same))
    assert "nothing was quantized" in context.diagnostics[0]


def test_constants_that_nothing_reads_are_gone_and_names_stay():
    graph = quantized(mlp, X)
    names = {node.output.name: node.output.type.dtype for node in ops(graph, Const)}
    assert names == {"W": DType.I8, "V": DType.I8, "BIAS": DType.F32}


@pytest.mark.parametrize("options", ["weights=i4, per=block:8", "weights=i4, scheme=log2"])
def test_weights_of_other_codes(options):
    graph = quantized(mlp, X, options=options)
    weights = [node.inputs[1].type.code for node in ops(graph, Dot)]
    assert [code.storage.bits for code in weights] == [4, 4]
    assert all((code.multipliers is not None) == ("block" in options) for code in weights)
    check_exact(graph, X)


def test_weights_without_steps_are_refused():
    with pytest.raises(qir.QirError, match=r"quantize-dynamic: scheme=nf4 .* scheme=apot"):
        qir.Pipeline.parse("quantize-dynamic(weights=i4, scheme=nf4)")


@pytest.mark.parametrize("options", ["weights=i4, scheme=nf4", "per=row", "scheme=fp8"])
def test_no_error_advises_an_option_that_the_pass_does_not_have(options):
    advice = "activations=float of pass quantize"
    with pytest.raises(qir.QirError, match=advice):
        qir.Pipeline.parse(f"quantize-dynamic({options})")
    with pytest.raises(qir.QirError, match=r"activations=float(,|\n)"):
        qir.Pipeline.parse(f"quantize({options})")
