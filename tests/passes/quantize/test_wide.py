"""Sums that stay in i32 between ops, and what becomes of their parts."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.ops import Add, Concat, Dot, Lookup, Mul, Requantize, RmsNorm
from qir.types import Affine, Array, DType

RNG = np.random.default_rng(7)
DEPTH = 64
SAMPLES = [RNG.normal(0, 1, (4, 8, DEPTH)).astype(np.float32) for _ in range(4)]


def weights(*shape: int) -> Array:
    return RNG.normal(0, 0.1, shape).astype(np.float32)


def quantized(function: Callable[..., Any]) -> qir.Graph:
    graph = qir.from_jax(function, SAMPLES[0], batch="B")
    integer = qir.quantize(graph, SAMPLES)
    for kernels in (False, True):
        for found, wanted in zip(
            qir.compile(integer, kernels=kernels)(SAMPLES[0]),
            qir.evaluate(integer, SAMPLES[0]),
            strict=True,
        ):
            np.testing.assert_array_equal(found, wanted)
    return integer


def step(graph: qir.Graph, op: type) -> float:
    """The step of the code of the only result of an op that has one."""
    (node,) = (node for node in graph.nodes if isinstance(node.op, op))
    assert node.output.type.quant is not None
    return float(node.output.type.quant.scale.array)


def real_operands(graph: qir.Graph) -> list[tuple[Array, Array]]:
    """The operands of each dot in real numbers, as their codes have them."""
    values = {}
    for node in graph.nodes:
        if isinstance(node.op, Dot):
            values[node] = node.inputs[:2]
    found = []
    for x, kernel in values.values():
        (stored,) = qir.evaluate(graph.extract(graph.inputs, [x]), SAMPLES[0])
        assert x.type.quant is not None
        found.append((x.type.quant.decode(stored).astype(float), kernel.real))
    return found


def test_a_sum_of_dots_is_rounded_to_no_code_of_8_bits() -> None:
    first, second = weights(DEPTH, 16), 30 * weights(DEPTH, 16)
    graph = quantized(lambda x: x @ first + jnp.tanh(x) @ second)
    (add,) = (node for node in graph.nodes if isinstance(node.op, Add))
    assert {value.type.dtype for value in (*add.inputs, add.output)} == {DType.I32}
    (found,) = qir.evaluate(graph, SAMPLES[0])
    wanted = sum(x @ kernel for x, kernel in real_operands(graph))
    # One rounding of each term, and the float32 of the result.
    bound = step(graph, Add) + 2.0**-23 * np.abs(wanted)
    assert np.all(np.abs(found - wanted) <= bound)


def test_a_sum_saturates_at_four_times_its_range_only() -> None:
    first, second = weights(DEPTH, 16), weights(DEPTH, 16)
    graph = quantized(lambda x: x @ first + (0.5 * x) @ second)
    (add,) = (node for node in graph.nodes if isinstance(node.op, Add))
    code = add.output.type.affine
    assert code.bounds is not None
    peak = max(abs(bound) for bound in add.output.observed.bounds) if add.output.observed else 0.0
    (found,) = qir.evaluate(graph, SAMPLES[0])
    assert code.bounds[1] * float(code.scale.array) >= 3.9 * max(peak, np.abs(found).max())


def test_parts_of_one_product_have_codes_of_their_own() -> None:
    kernel = weights(DEPTH, 3 * 32)
    kernel[:, :32] *= 0.01
    kernel[:, 32:64] *= 30

    def heads(x: jax.Array) -> list[jax.Array]:
        parts = (x @ kernel).reshape(*x.shape[:2], 3, 2, 16)
        return [parts[:, :, part] for part in range(3)]

    graph = quantized(heads)
    (x, columns) = real_operands(graph)[0]
    wanted = (x @ columns).reshape(4, 8, 3, 2, 16)
    codes = []
    for part, (found, value) in enumerate(
        zip(qir.evaluate(graph, SAMPLES[0]), graph.outputs, strict=True)
    ):
        code = value.inputs[0].type.quant
        assert code is not None
        codes.append(float(code.scale.array))
        exact = wanted[:, :, part]
        # Half a step, and that of the fixed-point multiplier.
        bound = codes[-1] * (0.5 + 2.0**-20)
        inside = np.abs(exact) < 100 * codes[-1]
        assert inside.mean() > 0.9
        assert np.abs(found - exact)[inside].max() <= bound
    assert codes[1] > 1000 * codes[0]
    assert codes[1] > 20 * codes[2]


@pytest.mark.parametrize("function", [jax.nn.silu, jax.nn.gelu, lambda x: jax.nn.gelu(x, False)])
def test_a_smooth_function_is_looked_up_from_12_bits_of_a_sum(function: Callable[..., Any]) -> None:
    kernel = weights(DEPTH, 16)
    graph = quantized(lambda x: function(x @ kernel))
    (lookup,) = (node for node in graph.nodes if isinstance(node.op, Lookup))
    fine = lookup.inputs[0].type.quant
    assert isinstance(fine, Affine)
    assert fine.bounds == (-2048, 2047)
    assert lookup.inputs[1].type.shape == (4096,)
    x, columns = real_operands(graph)[0]
    wanted = np.asarray(function(jnp.asarray(x @ columns, jnp.float32)))
    (found,) = qir.evaluate(graph, SAMPLES[0])
    # Half a step of the result, and half a step of the argument at a slope of 1.13 at most.
    bound = 0.501 * step(graph, Lookup) + 1.13 * 0.501 * float(fine.scale.array) + 1e-6
    assert np.abs(found - wanted).max() <= bound


def test_a_function_of_a_convolution_stays_a_lookup_of_bytes() -> None:
    kernel = jnp.asarray(weights(3, DEPTH, 8))

    def model(x: jax.Array) -> jax.Array:
        dimensions = ("NWC", "WIO", "NWC")
        y = jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=dimensions)
        return jax.nn.silu(y)

    graph = quantized(model)
    (lookup,) = (node for node in graph.nodes if isinstance(node.op, Lookup))
    assert lookup.inputs[0].type.dtype is DType.I8


def test_a_residual_sum_that_no_norm_reads_has_8_bits() -> None:
    kernel = weights(DEPTH, DEPTH)
    graph = quantized(lambda x: x + jax.nn.relu(x @ kernel))
    (add,) = (node for node in graph.nodes if isinstance(node.op, Add))
    assert add.output.type.dtype is DType.I8


def test_every_requantize_to_32_bits_has_bounds() -> None:
    first, second = weights(DEPTH, 16), weights(DEPTH, 16)
    graph = quantized(lambda x: x @ first - jnp.tanh(x) @ second)
    wide = [
        node.op.to
        for node in graph.nodes
        if isinstance(node.op, Requantize) and node.op.to.storage is DType.I32
    ]
    assert len(wide) == 2
    assert all(code.bounds == (-(2**17 - 1), 2**17 - 1) for code in wide)


def test_heads_of_very_different_size_have_codes_of_their_own() -> None:
    sizes = np.array([0.02, 1, 5, 0.3], np.float32)
    of_heads = np.repeat(sizes, DEPTH // 4)
    query, key, value = (
        weights(DEPTH, DEPTH) / of_heads,
        weights(DEPTH, DEPTH),
        weights(DEPTH, DEPTH),
    )

    def split(x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], 4, DEPTH // 4).transpose(0, 2, 1, 3)

    def attention(x: jax.Array) -> list[jax.Array]:
        q, k, v = (split(x @ kernel) for kernel in (query, key * of_heads, value * of_heads))
        shares = jax.nn.softmax(jnp.einsum("bhtd,bhsd->bhts", q, k) / 4, -1)
        return [(shares @ v)[:, head] for head in range(4)]

    graph = qir.from_jax(attention, SAMPLES[0], batch="B")
    integer = quantized(attention)
    batched = [node for node in integer.nodes if isinstance(node.op, Dot) and node.op.batch]
    codes = [value.type.quant for node in batched for value in node.inputs]
    by_head = [code for code in codes if code is not None and code.axis == 1]
    assert len(by_head) == 3
    for code in by_head:
        assert code.scale.array.shape == (1, 4, 1, 1)
    pairs = zip(qir.evaluate(graph, SAMPLES[0]), qir.evaluate(integer, SAMPLES[0]), strict=True)
    ratios = [np.sum(exact**2) / np.sum((exact - found) ** 2) for exact, found in pairs]
    # With one code for all heads the first one keeps no bit at all.
    assert 10 * np.log10(min(ratios)) >= 28


@pytest.mark.parametrize("kept", ["tanh", "exp", "relu"])
def test_a_sum_whose_other_term_is_zero_stands_for_a_value_of_any_form(kept: str) -> None:
    """What enters the norm is a float value, a function that becomes a table, or a code."""
    first, second = weights(DEPTH, DEPTH), weights(DEPTH, DEPTH)

    def block(x: jax.Array) -> jax.Array:
        y = jnp.exp(jnp.tanh(x))
        zero = jax.nn.relu(y @ -jnp.abs(first)) @ second
        z = y + zero
        return z / jnp.sqrt(jnp.mean(z * z, -1, keepdims=True) + 1e-5)

    graph = qir.from_jax(block, SAMPLES[0])
    pipeline = f"fold, calibrate, propagate-ranges, quantize(keep_float=[op:{kept}]), integer"
    integer = qir.quantize(graph, SAMPLES, pipeline)
    assert integer.accuracy is not None
    assert integer.accuracy.outputs[0].sqnr >= 30


def test_gates_multiply_12_bits_and_round_their_product_once() -> None:
    gate, up, down = weights(DEPTH, 32), weights(DEPTH, 32), weights(32, 16)
    graph = quantized(lambda x: (jax.nn.silu(x @ gate) * (x @ up)) @ down)
    (product,) = (node for node in graph.nodes if isinstance(node.op, Mul))
    assert [value.type.dtype for value in product.inputs] == [DType.I16, DType.I16]


def test_a_concat_that_a_norm_reads_is_one_of_sums() -> None:
    first, second = weights(DEPTH, 32), 20 * weights(DEPTH, 32)

    def function(x: jax.Array) -> jax.Array:
        y = jnp.concatenate([x @ first, x @ second], -1)
        return y * jax.lax.rsqrt(jnp.square(y).mean(-1, keepdims=True) + 1e-6)

    graph = quantized(function)
    (concat,) = (node for node in graph.nodes if isinstance(node.op, Concat))
    assert concat.output.type.dtype is DType.I32


def test_a_smooth_function_of_a_norm_is_looked_up_from_12_bits() -> None:
    last = weights(DEPTH, 16)

    def function(x: jax.Array) -> jax.Array:
        y = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
        return jax.nn.silu(y) @ last

    graph = quantized(function)
    (found,) = (node for node in graph.nodes if isinstance(node.op, Lookup))
    assert found.inputs[0].type.dtype is DType.I16
    assert isinstance(found.inputs[0].op, RmsNorm)


def test_a_norm_that_a_selector_keeps_reads_the_sum_that_an_integer_one_reads() -> None:
    kernel = weights(DEPTH, DEPTH)

    def function(x: jax.Array) -> jax.Array:
        return x + x @ kernel

    def normed(x: jax.Array) -> jax.Array:
        y = function(x)
        return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + 1e-6)

    graph = qir.from_jax(normed, SAMPLES[0], batch="B")
    recipe = "fold, calibrate, ranges, quantize(keep_float=[op:rms_norm]), integer"
    kept = qir.quantize(graph, SAMPLES, recipe)
    (add,) = (node for node in kept.nodes if isinstance(node.op, Add))
    (norm,) = (node for node in kept.nodes if isinstance(node.op, RmsNorm))
    assert norm.output.type.dtype is DType.F32
    assert add.output.type.dtype is DType.I32
    assert step(kept, Add) == step(qir.quantize(graph, SAMPLES), Add)


@pytest.mark.parametrize(
    "term",
    [jnp.tanh, lambda x: x, lambda x: x @ jnp.eye(DEPTH)],
    ids=["table", "input", "sum"],
)
def test_a_sum_with_a_term_that_was_only_ever_0_leaves_as_the_other_term(term: Any) -> None:
    kernel = weights(DEPTH, DEPTH)

    def function(x: jax.Array) -> jax.Array:
        y = x @ kernel
        return jnp.add(term(x), jax.nn.relu(-jnp.abs(y)))

    context = qir.Context()
    integer = qir.quantize(qir.from_jax(function, SAMPLES[0]), SAMPLES, context=context)
    assert any("alone: the other term was 0" in line for line in context.diagnostics)
    (output,) = integer.outputs
    assert output.type.dtype is DType.F32
    (found,) = qir.evaluate(integer, SAMPLES[0])
    wanted = np.asarray(function(jnp.asarray(SAMPLES[0])))
    noise = np.square(found - wanted).sum(dtype=np.float64)
    assert np.square(wanted).sum(dtype=np.float64) > 1000 * noise


@pytest.mark.parametrize("kept", ["none", "op:tanh"])
def test_a_norm_reads_a_sum_whose_other_term_was_only_ever_0_and_stayed_float(kept: str) -> None:
    kernel = weights(DEPTH, DEPTH)

    def function(x: jax.Array) -> jax.Array:
        y = jnp.add(jnp.tanh(x), jax.nn.relu(-jnp.abs(x @ kernel)))
        return (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-3)

    graph = qir.from_jax(function, SAMPLES[0])
    recipe = f"fold, calibrate, ranges, quantize(keep_float=[{kept}]), integer"
    accuracy = qir.quantize(graph, SAMPLES, recipe.replace("(keep_float=[none])", "")).accuracy
    assert accuracy is not None
    assert not accuracy.inaccurate


def test_heads_that_meet_weights_have_the_code_of_the_tensor():
    """Weights have a scale for each channel, and no sum has those of heads beside them."""
    text = """
    graph @heads(%x: f32[3,2,4,3], %y: f32[3,2,3,4]) {
      %dot = dot(%x, %y) {batch = 2} : f32[3,2,4,4]
      %k = const : f32[3,2,4,5]
      %out = dot(%dot, %k) {batch = 2} : f32[3,2,4,5]
      return %out
    }"""
    draw = np.random.default_rng(0)
    graph = qir.parse(text, {"k": draw.normal(size=(3, 2, 4, 5)).astype(np.float32)})
    x, y = (draw.normal(size=shape).astype(np.float32) for shape in ((3, 2, 4, 3), (3, 2, 3, 4)))
    x[:, 1] *= 20
    integer = qir.quantize(graph, [(x, y)], accuracy_check=False)
    assert not qir.explain(integer).floats
    assert integer.value("dot").type.code.per_tensor
