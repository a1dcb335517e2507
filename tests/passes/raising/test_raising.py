"""Decomposed forms become the op that they mean, with jax's numbers and nothing left over."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax

from qir.api import from_jax
from qir.errors import QirError
from qir.ir import Graph
from qir.ops import Clip, Elu, Gather, Gelu, LeakyRelu, ResizeNearest
from qir.pipeline import PASSES
from qir.pipeline.rewrite import rewrite, rule
from tests.frontends.agreement import agrees, op_names, uniform

X = uniform(3, 5, low=-8, high=8)
IMAGE = uniform(2, 6, 6, 4)


def only(graph: Graph) -> Any:
    """The one op of a graph."""
    (name,) = op_names(graph)
    return next(node.op for node in graph.nodes if node.op.name == name)


BY_NAME = {
    "relu": jax.nn.relu,
    "silu": jax.nn.silu,
    "hard_swish": jax.nn.hard_swish,
    "hard_sigmoid": jax.nn.hard_sigmoid,
    "softplus": jax.nn.softplus,
    "mish": jax.nn.mish,
    "logistic": jax.nn.sigmoid,
}


@pytest.mark.parametrize("name", BY_NAME)
def test_functions_that_jax_names(name):
    assert op_names(agrees(BY_NAME[name], X)) == [name]


def test_parameters_of_named_functions():
    assert only(agrees(jax.nn.relu6, X)) == Clip(0, 6)
    assert only(agrees(lambda x: jnp.clip(x, -0.3, 2), X)) == Clip(-0.3, 2)
    assert only(agrees(lambda x: jnp.clip(x, None, 2), X)) == Clip(-math.inf, 2)
    assert only(agrees(lambda x: jax.nn.elu(x, 0.2), X)) == Elu(0.2)
    assert only(agrees(lambda x: jax.nn.leaky_relu(x, 0.2), X)) == LeakyRelu(0.2)
    assert only(agrees(lambda x: jax.nn.gelu(x, approximate=True), X)) == Gelu(approximate=True)
    assert only(agrees(lambda x: jax.nn.gelu(x, approximate=False), X)) == Gelu()


def test_a_name_alone_proves_nothing():
    @jax.jit
    def silu(x):
        return x * jnp.tanh(x)

    @jax.jit
    def relu(x):
        return jnp.maximum(x, 0.01)

    assert op_names(agrees(silu, X)) == ["tanh", "mul"]
    assert only(agrees(relu, X)) == Clip(0.01, math.inf)


STRUCTURES = {
    "relu by max": (lambda x: jnp.maximum(x, 0), ["relu"]),
    "relu by where": (lambda x: jnp.where(x > 0, x, 0), ["relu"]),
    "relu6": (lambda x: jnp.minimum(jnp.maximum(x, 0), 6), ["clip"]),
    "clips in a row": (lambda x: jnp.maximum(jnp.minimum(jax.nn.relu(x), 5), 1), ["clip"]),
    "silu": (lambda x: lax.logistic(x) * x, ["silu"]),
    "sigmoid by exp": (lambda x: 1 / (1 + jnp.exp(-x)), ["logistic"]),
    "silu by exp": (lambda x: x / (1 + jnp.exp(-x)), ["neg", "exp", "add", "div"]),
    "hard_sigmoid": (lambda x: jnp.minimum(jnp.maximum(3 + x, 0), 6) / 6, ["hard_sigmoid"]),
    "hard_sigmoid by 1/6": (lambda x: jnp.clip(x / 6 + 0.5, 0, 1), ["hard_sigmoid"]),
    "hard_swish": (lambda x: x * jax.nn.relu6(x + 3) * (1 / 6), ["hard_swish"]),
    "hard_swish, divided first": (lambda x: x * (jax.nn.relu6(x + 3) / 6), ["hard_swish"]),
    "gelu": (lambda x: 0.5 * x * (1 + lax.erf(x / math.sqrt(2))), ["gelu"]),
    "gelu by erfc": (lambda x: x * (lax.erfc(-x * math.sqrt(0.5)) * 0.5), ["gelu"]),
    "gelu by tanh": (
        lambda x: x * 0.5 * (1 + jnp.tanh(0.7978845608 * (x + 0.044715 * x * x * x))),
        ["gelu"],
    ),
    "gelu by tanh, factored": (
        lambda x: 0.5 * (x * (1 + jnp.tanh(x * 0.7978845608 * (1 + 0.044715 * x**2)))),
        ["gelu"],
    ),
    "leaky_relu by max": (lambda x: jnp.maximum(x, 0.1 * x), ["leaky_relu"]),
    "leaky_relu by where": (lambda x: jnp.where(x >= 0, x, x / 8), ["leaky_relu"]),
    "elu by where": (lambda x: jnp.where(x > 0, x, 2 * (jnp.exp(x) - 1)), ["elu"]),
    "softplus by log": (lambda x: jnp.log(1 + jnp.exp(x)), ["softplus"]),
    "rsqrt": (lambda x: 1 / jnp.sqrt(jnp.abs(x)), ["abs", "rsqrt"]),
    "square": (lambda x: x * x, ["square"]),
    "other gates stay": (lambda x: x * lax.logistic(1.702 * x), ["mul", "logistic", "mul"]),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_structures(name):
    f, ops = STRUCTURES[name]
    assert op_names(agrees(f, X, terms=8)) == ops


def test_activations_of_products_take_the_product_whole():
    graph = agrees(lambda x: jax.nn.gelu(x * jnp.arange(1.0, 6.0)), X, terms=20)
    assert op_names(graph) == ["mul", "gelu"]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize(
    "f", [jax.nn.gelu, jax.nn.silu, jax.nn.hard_swish, jax.nn.relu6, jax.nn.softplus]
)
def test_activations_in_half_precision(f, dtype):
    assert len(op_names(from_jax(f, jax.ShapeDtypeStruct((4,), dtype)))) == 1


def plain_softmax(x: Any) -> Any:
    powers = jnp.exp(x)
    return powers / powers.sum(1, keepdims=True)


@pytest.mark.parametrize("f", [jax.nn.softmax, lambda x: jax.nn.softmax(x, axis=0), plain_softmax])
def test_softmax(f):
    assert op_names(agrees(f, X, terms=5)) == ["softmax"]


def test_means():
    assert op_names(agrees(lambda x: x.mean((1, 2)), IMAGE, terms=36)) == ["mean"]
    assert op_names(agrees(lambda x: x.sum(1) * (1 / 6), IMAGE, terms=6)) == ["mean"]
    assert op_names(agrees(lambda x: x.sum(1) / 5, IMAGE, terms=6)) == ["reduce_sum", "mul"]
    assert only(agrees(lambda x: x.mean(-1, keepdims=True), IMAGE, terms=4)).keep_axes


def test_variance_is_the_mean_of_squares():
    assert op_names(agrees(lambda x: jnp.var(x, 1), IMAGE, terms=12)) == [
        "mean",
        "sub",
        "square",
        "mean",
    ]


@pytest.mark.parametrize("padding", ["SAME", "VALID", ((1, 0), (0, 1))])
@pytest.mark.parametrize("count_padding", [True, False])
def test_average_pools(padding, count_padding):
    def f(x):
        return nn.avg_pool(x, (3, 2), (2, 1), padding=padding, count_include_pad=count_padding)

    pool = only(agrees(f, IMAGE, terms=8))
    assert pool.name == "avg_pool"
    assert pool.count_padding == (count_padding and padding != "VALID")


def test_average_pools_of_a_named_batch():
    def f(x):
        ones = jnp.ones_like(x)
        window = ((1, 2, 2, 1), (1, 1, 1, 1), "SAME")
        return lax.reduce_window(x, 0.0, lax.add, *window) / lax.reduce_window(
            ones, 0.0, lax.add, *window
        )

    assert op_names(agrees(f, IMAGE, terms=4, batch="B")) == ["avg_pool"]


def test_max_pool():
    assert op_names(agrees(lambda x: nn.max_pool(x, (2, 2), (2, 2)), IMAGE)) == ["max_pool"]


def test_a_bias_joins_its_layer():
    kernel, bias = jnp.asarray(uniform(3, 3, 4, 5)), uniform(5)

    def f(x):
        y = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return (y + bias).reshape(-1, 5) @ kernel[0, 0, :, :].T + 0.25

    graph = agrees(f, IMAGE, terms=60)
    assert op_names(graph) == ["conv", "reshape", "dot"]
    assert [len(node.inputs) for node in graph.nodes if node.op.name in ("conv", "dot")] == [3, 3]


def test_a_bias_that_another_op_bypasses_stays():
    def f(x):
        y = x @ np.ones((5, 5), np.float32)
        return y + uniform(5), jnp.tanh(y)

    assert op_names(agrees(f, X, terms=5)) == ["dot", "add", "tanh"]


def test_batch_norm_is_one_mul_and_one_add():
    mean, variance = uniform(4), uniform(4, low=0.5)
    scale, bias = uniform(4, seed=1), uniform(4, seed=2)

    def flax(x):
        return (x - mean) * (lax.rsqrt(variance + 1e-5) * scale) + bias

    def keras(x):
        inverse = lax.rsqrt(variance + 1e-3) * scale
        return x * inverse + (bias - mean * inverse)

    def equinox(x):
        return (x - mean) / jnp.sqrt(variance + 1e-5) * scale + bias

    for f in (flax, keras, equinox):
        graph = agrees(f, IMAGE, terms=16)
        assert op_names(graph) == ["mul", "add"]
        assert all(
            node.inputs[1].type.shape == (4,)
            for node in graph.nodes
            if node.op.name in ("mul", "add")
        )


def test_scalars_of_preprocessing_merge():
    assert op_names(agrees(lambda x: (x / 255 - 0.5) / 0.25 + 1, IMAGE, terms=8)) == ["mul", "add"]
    assert op_names(agrees(lambda x: x * 2 * 0.5 + 0, IMAGE)) == []


def test_channels_first_computes_channels_last():
    kernel = jnp.asarray(uniform(5, 4, 3, 3))
    scale, bias = uniform(5, 1, 1), uniform(5, 1, 1, seed=1)

    def f(x):
        y = lax.conv_general_dilated(
            x, kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        y = jax.nn.relu(y + bias) * scale
        y = jnp.concatenate(
            [y, lax.reduce_window(y, -jnp.inf, lax.max, (1, 1, 3, 3), (1, 1, 1, 1), "SAME")], 1
        )
        return y.mean((2, 3))

    graph = agrees(f, IMAGE.transpose(0, 3, 1, 2).copy(), terms=80)
    assert op_names(graph) == ["transpose", "conv", "relu", "mul", "max_pool", "concat", "mean"]


@pytest.mark.parametrize("method", ["nearest", "bilinear"])
@pytest.mark.parametrize("sizes", [(12, 12), (9, 18), (6, 12)])
def test_resizes(method, sizes):
    def f(x: Any) -> Any:
        return jax.image.resize(x, (x.shape[0], *sizes, 4), method)

    graph = agrees(f, IMAGE, terms=40, batch="B")
    assert op_names(graph) == ["resize_nearest" if method == "nearest" else "resize_linear"]


def test_resizes_of_other_kinds_stay_sums():
    graph = agrees(lambda x: jax.image.resize(x, (2, 3, 3, 4), "bilinear"), IMAGE, terms=40)
    assert set(op_names(graph)) == {"dot", "transpose"}  # antialiased


def test_repeats_are_resizes():
    graph = agrees(lambda x: x.repeat(2, axis=1).repeat(3, axis=2), IMAGE)
    assert isinstance(only(graph), ResizeNearest)


PADS = [((0, 0), (1, 2), (1, 1), (0, 0)), ((0, 0), (3, 0), (0, 2), (1, 0)), ((0, 0),) * 4]
MODES = [
    "constant", "edge", "linear_ramp", "maximum", "mean", "minimum", "reflect", "symmetric", "wrap",
]  # fmt: skip


@pytest.mark.parametrize("batch", [None, "B"])
@pytest.mark.parametrize("mode", MODES)
def test_paddings_of_every_mode_are_imported(mode, batch):
    for pads in PADS:
        agrees(lambda x, pads=pads: jnp.pad(x, pads, mode=mode), IMAGE, terms=6, batch=batch)


def test_edges_of_the_batch_are_padded_where_its_size_is_known():
    def padded(x):
        return jnp.pad(x, ((1, 1), (0, 0), (0, 0), (0, 0)), mode="edge")

    agrees(padded, IMAGE)
    with pytest.raises(QirError, match="slice along axis 0: expected a known size"):
        from_jax(padded, IMAGE, batch="B")


def test_a_repeat_of_nothing_is_no_resize():
    for axis, times in [(1, 0), (2, 2)]:
        agrees(lambda x, axis=axis, times=times: jnp.repeat(x, times, axis), IMAGE[:, :0])
        agrees(lambda x, axis=axis, times=times: jnp.repeat(x, times, axis), IMAGE)


def test_a_rule_that_fails_leaves_what_was_imported(monkeypatch):
    @rule(Gather)
    def failing(y, b):
        b.const(1.0)
        raise QirError("resize: expected anything else")

    monkeypatch.setattr(PASSES["raise-resizes"], "rules", (failing,))
    graph = agrees(lambda x: jnp.take(x, jnp.array([0, 0, 1, 1]), axis=1), IMAGE)
    assert op_names(graph) == ["gather"]
    (miss,) = rewrite(graph, [failing], strict=False).skips
    assert (miss[0], miss[2].reason) == ("failing", "resize: expected anything else")
    with pytest.raises(QirError, match="expected anything else"):
        rewrite(graph, [failing])


TABLE = uniform(11, 6)
IDS = np.array([[0, 10, 3], [-1, -11, 10]], np.int32)
LOOKUPS = {
    "brackets": lambda ids: jnp.asarray(TABLE)[ids],
    "take": lambda ids: jnp.take(TABLE, ids, axis=0),
    "clip": lambda ids: jnp.take(TABLE, ids, axis=0, mode="clip"),
    "linen": lambda ids: nn.Embed(11, 6).apply({"params": {"embedding": TABLE}}, ids),
    "vmap": lambda ids: jax.vmap(jax.vmap(lambda row: jnp.asarray(TABLE)[row]))(ids),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_lookups_of_rows(name):
    graph = agrees(LOOKUPS[name], IDS)
    around = {"less", "add", "select"}  # negative ids counted from the end
    assert set(op_names(graph)) - around == {"embedding"}


@pytest.mark.parametrize(
    "f",
    [
        lambda ids: jnp.take(TABLE, ids, axis=1, mode="clip"),
        lambda ids: jnp.take(TABLE[:, 0], ids, mode="clip"),
    ],
)
def test_other_gathers_stay(f):
    assert op_names(agrees(f, np.abs(IDS) % 6)) == ["gather"]
