"""What rules of a recipe choose is what values and weights get, and nothing else changes by it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.errors import QirError
from qir.ir import Graph
from qir.types import DType

RNG = np.random.default_rng(5)
X = RNG.normal(size=(64, 16)).astype(np.float32)
HIDDEN, DENSE, HEAD = (
    RNG.normal(0, 0.3, shape).astype(np.float32) for shape in ((16, 32), (32, 16), (16, 8))
)
VALUES = ("x", "dot", "gelu", "dot_1", "add", "layer_norm", "dot_2", "softmax")


def block(x: jax.Array) -> jax.Array:
    """A dense layer, its residual sum, a norm and a softmax, as in a transformer."""
    y = x + jax.nn.gelu(x @ HIDDEN) @ DENSE
    y = (y - y.mean(-1, keepdims=True)) / jnp.sqrt(y.var(-1, keepdims=True) + 1e-5)
    return jax.nn.softmax(y @ HEAD)


def sums(x: jax.Array) -> jax.Array:
    """A loop that carries what it computes."""
    weights = HIDDEN[:, :16] * 0.5

    def step(state: jax.Array, part: jax.Array) -> tuple[jax.Array, jax.Array]:
        state = jnp.tanh(part @ weights + state @ (weights * 0.3))
        return state, state

    return jax.lax.scan(step, jnp.zeros(16), x)[1]


GRAPH = qir.from_jax(block, X, batch="B")


def quantized(*rules: dict[str, Any], graph: Graph = GRAPH, **options: Any) -> Graph:
    options = {"accuracy_check": False, **options}
    return qir.quantize(graph, [X], recipe=list(rules), **options)


def decibels(model: Callable[[jax.Array], jax.Array], graph: Graph) -> float:
    """Signal to noise of a program."""
    exact = np.asarray(model(jnp.asarray(X)))
    (found,) = qir.evaluate(graph, X)
    return float(10 * np.log10((exact**2).sum() / ((exact - found) ** 2).sum()))


def storage(graph: Graph, name: str) -> DType:
    """The narrowest storage in which a value is held."""
    held: list[DType] = [
        value.type.quant.storage
        for value in graph.values()
        if name in value.origin and value.type.quant is not None
    ]
    return min(held, key=lambda dtype: dtype.bits)


PLAIN = quantized({"select": "op:dot", "weights": "i8"})


@pytest.mark.parametrize("name", VALUES)
def test_more_bits_never_cost_accuracy(name: str) -> None:
    """A quarter of a decibel is what other roundings of the rest may happen to give."""
    wide = quantized({"select": name, "activations": "i16"})
    assert decibels(block, wide) > decibels(block, PLAIN) - 0.25


@pytest.mark.parametrize("name", ["dot", "dot_1", "add", "dot_2"])
def test_what_is_kept_wide_is_rounded_where_a_rule_says_so(name: str) -> None:
    """Without rules these are read as sums in 32 bits, or in 12 bits of those."""
    assert storage(PLAIN, name) is not DType.I8
    narrow = quantized({"select": name, "activations": "i8"})
    assert storage(narrow, name) is DType.I8
    assert decibels(block, narrow) < decibels(block, PLAIN) - 0.5


@pytest.mark.parametrize("kernels", [False, True])
def test_backends_agree_on_programs_of_several_widths(kernels: bool) -> None:
    graphs = [
        quantized({"select": ["x", "gelu", "dot_2"], "activations": "i16"}),
        quantized({"select": ["dot_1", "softmax"], "activations": "u8"}, pipeline="w8a16"),
        quantized({"select": "*", "activations": "i16"}, {"select": "add", "activations": "i8"}),
    ]
    for graph in graphs:
        found = qir.compile(graph, kernels=kernels)(X)[0]
        assert np.array_equal(np.asarray(found), qir.evaluate(graph, X)[0])


@pytest.mark.parametrize("name", VALUES)
def test_fewer_bits_in_a_program_of_sixteen(name: str) -> None:
    graph = quantized({"select": name, "activations": "u8"}, pipeline="w8a16")
    assert storage(graph, name) is DType.U8
    assert decibels(block, graph) > 38


def test_all_in_sixteen_bits_is_as_good_as_the_pipeline_for_that() -> None:
    wide = quantized({"select": "*", "activations": "i16"})
    plain = qir.quantize(GRAPH, [X], "w8a16", accuracy_check=False)
    assert decibels(block, wide) > decibels(block, plain) - 0.25


def test_what_is_only_moved_shares_the_code_that_is_chosen() -> None:
    graph = qir.from_jax(lambda x: jnp.maximum(x @ HIDDEN, 0).reshape(-1, 8).T * 2.0, X)
    chosen = next(node.output.name for node in graph.nodes if node.op.name == "relu")
    coded = [
        value.type.quant.storage
        for value in quantized({"select": chosen, "activations": "i16"}, graph=graph).values()
        if value.type.quant is not None and value.op is not None and not value.is_constant
    ]
    assert coded.count(DType.I16) >= 2
    assert DType.I8 not in coded[1:]


@pytest.mark.parametrize(
    ("selector", "bits", "carried"),
    [("op:scan", "i16", DType.I16), ("*tanh*", "i16", DType.I16), ("*tanh*", "i8", DType.I8)],
)
def test_what_a_loop_carries_has_one_code(selector: str, bits: str, carried: DType) -> None:
    graph = qir.from_jax(sums, X)
    integer = quantized({"select": selector, "activations": bits}, graph=graph)
    (loop,) = [node for node in integer.nodes if node.regions]
    assert loop.regions[0].inputs[0].type.dtype is carried
    assert decibels(sums, integer) > 30


def test_weights_have_the_codes_that_are_chosen() -> None:
    graph = quantized(
        {"select": "op:dot", "weights": "i4", "per": "block:8"},
        {"select": "dot_2", "weights": "i16", "per": "channel"},
    )
    kernels = [node.inputs[1].type.code.storage for node in graph.nodes if node.op.name == "dot"]
    assert kernels == [DType.I4, DType.I4, DType.I16]


@pytest.mark.parametrize("pipeline", ["w8a8", "w8", "w8-dynamic"])
def test_ops_stay_float_and_a_later_rule_takes_that_back(pipeline: str) -> None:
    graph = quantized(
        {"select": "op:dot", "keep_float": True, "reason": "to see"},
        {"select": "dot_1", "keep_float": False},
        pipeline=pipeline,
    )
    weights = [node.inputs[1] for node in graph.nodes if node.op.name == "dot"]
    floats = [value.type.is_float and value.op.name == "const" for value in weights if value.op]
    assert floats == [True, False, True]
    told = {line.value: line.choices for line in qir.explain(graph).lines}
    assert [each.reason for each in told["dot"]] == ["to see"]


def test_a_rule_for_a_loop_is_undone_inside_by_order_alone() -> None:
    graph = qir.from_jax(sums, X)
    keep = {"select": "op:scan", "keep_float": True}
    undo = {"select": "op:scan", "keep_float": False, "reason": "after all"}
    with pytest.raises(QirError, match="keep_float of rule 1 is without effect"):
        quantized(keep, undo, graph=graph)
    kept = quantized({"select": "op:tanh", "method": "mse"}, keep, graph=graph)
    assert not any(
        value.type.quant is not None
        for node in kept.nodes
        for region in node.regions
        for value in region.values()
    )


def test_scales_of_run_time_follow_rules() -> None:
    graph = quantized(
        {"select": "dot", "weights": "i4"},
        {"select": "layer_norm", "activations": "i4"},
        {"select": "dot_1", "keep_float": True},
        pipeline="w8-dynamic",
    )
    dots = [node for node in graph.nodes if node.op.name == "dot"]
    codes = [value.type.quant for node in dots for value in node.inputs]
    shown = [code and (code.storage, code.range[1]) for code in codes]
    assert shown == [(DType.I8, 127), (DType.I4, 7), None, None, (DType.I8, 7), (DType.I8, 127)]
    wide = quantized({"select": "layer_norm", "activations": "i8"}, pipeline="w8-dynamic")
    assert wide == qir.quantize(GRAPH, pipeline="w8-dynamic", accuracy_check=False)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"activations": "i16"}, "activations: expected what target onnx accepts, i8 or u8, got"),
        ({"weights": "i2"}, "weights: expected what target onnx accepts, i8, got i2"),
        ({"scheme": "apot", "weights": "i4"}, "expected what target onnx accepts"),
    ],
)
def test_a_target_has_to_accept_what_is_chosen(rule: dict[str, Any], error: str) -> None:
    with pytest.raises(QirError) as caught:
        quantized({"select": "dot", **rule}, target="onnx")
    assert error in str(caught.value)
    assert "in rule 1, dot: " in str(caught.value)


def test_what_is_not_followed_is_told() -> None:
    graph = qir.from_jax(lambda x: jnp.exp(jnp.tanh(x @ HIDDEN) * 0.5), X)
    integer = quantized({"select": "*", "activations": "i16"}, graph=graph)
    assert any(
        told.startswith("quantize: activations=i16 of %tanh, %mul is not followed: inside of a ")
        for told in integer.diagnostics
    )


def test_a_function_of_sixteen_bits_is_not_cut_off_where_eight_end() -> None:
    """tanh has all but a 510th of its range within ±3.2, and 16 bits tell apart far more."""
    model = lambda x: jnp.tanh(x @ HIDDEN * 3)  # noqa: E731
    graph = qir.from_jax(model, X)
    both = {"select": "*", "activations": "i16"}
    assert decibels(model, quantized(both, graph=graph)) > 44
