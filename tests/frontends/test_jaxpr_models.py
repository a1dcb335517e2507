"""Whole models of flax: imported without leftovers, with jax's numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx

from qir.backends.reference.interpreter import run
from qir.frontends.jaxpr import from_jax
from qir.types import Array
from qir.verify import verify
from tests.frontends.agreement import agrees, assert_equal, op_names, uniform


def weights(model: nn.Module, x: Array) -> Any:
    """Random numbers of the size that keeps activations near 1; statistics are positive."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x)

    def draw(spec: Any) -> jax.Array:
        if len(spec.shape) < 2:
            return jnp.asarray(rng.uniform(0.1, 1, spec.shape), spec.dtype)
        return jnp.asarray(rng.normal(0, np.prod(spec.shape[:-1]) ** -0.5, spec.shape), spec.dtype)

    return jax.tree.map(draw, shapes)


class Residual(nn.Module):
    features: int
    strides: tuple[int, int] = (1, 1)
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.Conv(self.features, (3, 3), self.strides, use_bias=False, dtype=self.dtype)(x)
        y = nn.BatchNorm(use_running_average=True, dtype=self.dtype)(y)
        y = nn.Conv(self.features, (3, 3), use_bias=False, dtype=self.dtype)(nn.relu(y))
        y = nn.BatchNorm(use_running_average=True, dtype=self.dtype)(y)
        if x.shape != y.shape:
            x = nn.Conv(self.features, (1, 1), self.strides, name="shortcut", dtype=self.dtype)(x)
        return nn.relu(x + y)


class ResNet(nn.Module):
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.Conv(8, (3, 3), dtype=self.dtype, name="stem")(x.astype(self.dtype))
        x = nn.max_pool(nn.relu(x), (3, 3), (2, 2), "SAME")
        x = Residual(8, dtype=self.dtype)(x)
        x = Residual(16, (2, 2), dtype=self.dtype)(x)
        return nn.Dense(10, dtype=self.dtype, name="head")(x.mean((1, 2))).astype(jnp.float32)


class MobileNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu6(nn.Conv(16, (1, 1))(x))
        y = nn.Conv(16, (3, 3), feature_group_count=16, use_bias=False)(y)
        y = nn.hard_swish(nn.BatchNorm(use_running_average=True)(y))
        return x + nn.Conv(4, (1, 1))(y)


class SqueezeExcite(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.silu(nn.Conv(8, (3, 3))(x))
        s = nn.silu(nn.Conv(2, (1, 1))(x.mean((1, 2), keepdims=True)))
        return nn.Dense(3)((x * nn.sigmoid(nn.Conv(8, (1, 1))(s))).reshape(x.shape[0], -1))


class UNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        top = nn.relu(nn.Conv(4, (3, 3))(x))
        low = nn.relu(nn.Conv(8, (3, 3))(nn.avg_pool(top, (2, 2), (2, 2))))
        up = nn.ConvTranspose(4, (2, 2), (2, 2))(low)
        linear = jax.image.resize(low, (*x.shape[:3], 8), "bilinear")
        nearest = jax.image.resize(low, (*x.shape[:3], 8), "nearest")
        return nn.Conv(2, (1, 1))(jnp.concatenate([top, up, linear, nearest], -1))


class DenseNet(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(3):
            y = nn.relu(nn.BatchNorm(use_running_average=True)(x))
            x = jnp.concatenate([x, nn.Conv(4, (3, 3), use_bias=False)(y)], -1)
        return x


class Video(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = nn.relu(nn.Conv(4, (3, 3, 3))(x))
        x = nn.avg_pool(nn.max_pool(x, (1, 2, 2), (1, 2, 2)), (2, 2, 2), (2, 2, 2))
        return nn.Dense(3)(x.mean((1, 2, 3)))


class Sequence(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return nn.gelu(nn.Conv(6, (5,), (2,), "VALID")(x), approximate=False)


class Attention(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        h = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(2)(h, h)
        return x + nn.Dense(8)(nn.gelu(nn.Dense(16)(nn.RMSNorm()(x))))


MODELS: dict[str, tuple[nn.Module, Array, dict[str, int]]] = {
    "resnet": (
        ResNet(),
        uniform(2, 16, 16, 3),
        {"conv": 6, "relu": 5, "mul": 4, "add": 6, "max_pool": 1, "mean": 1, "dot": 1},
    ),
    "mobilenet": (
        MobileNet(),
        uniform(2, 6, 6, 4),
        {"conv": 3, "clip": 1, "mul": 1, "add": 2, "hard_swish": 1},
    ),
    "squeeze-excite": (
        SqueezeExcite(),
        uniform(2, 6, 6, 3),
        {"conv": 3, "silu": 2, "mean": 1, "logistic": 1, "mul": 1, "reshape": 1, "dot": 1},
    ),
    "u-net": (
        UNet(),
        uniform(2, 8, 8, 3),
        {
            "conv": 3,
            "relu": 2,
            "avg_pool": 1,
            "conv_transpose": 1,
            "resize_linear": 1,
            "resize_nearest": 1,
            "concat": 1,
        },
    ),
    "densenet": (
        DenseNet(),
        uniform(2, 6, 6, 4),
        {"mul": 3, "add": 3, "relu": 3, "conv": 3, "concat": 3},
    ),
    "video": (
        Video(),
        uniform(2, 4, 8, 8, 3),
        {"conv": 1, "relu": 1, "max_pool": 1, "avg_pool": 1, "mean": 1, "dot": 1},
    ),
    "sequence": (Sequence(), uniform(2, 12, 3), {"conv": 1, "gelu": 1}),
}


@pytest.mark.parametrize("name", MODELS)
def test_linen_models(name):
    model, x, ops = MODELS[name]
    variables = weights(model, x)
    graph = agrees(model.apply, variables, x, weight_argnums=0, batch="B", terms=400)
    found = op_names(graph)
    assert {op: found.count(op) for op in found} == ops
    assert [value.name for value in graph.inputs] == ["x"]


def test_attention_keeps_its_products_and_softmax():
    x = uniform(2, 5, 8)
    variables = weights(Attention(), x)
    graph = agrees(lambda v, x: Attention().apply(v, x), variables, x, weight_argnums=0, terms=400)
    found = op_names(graph)
    assert (found.count("dot"), found.count("softmax"), found.count("gelu")) == (8, 1, 1)
    layers = [node for node in graph.nodes if node.op.name == "dot" and node.inputs[1].is_constant]
    assert all(len(node.inputs) == 3 for node in layers)


def test_linen_names():
    x = uniform(2, 16, 16, 3)
    variables = weights(ResNet(), x)
    graph = from_jax(lambda x: ResNet().apply(variables, x), x)
    names = [value.name for value in graph.values()]
    for name in (
        "stem",
        "params.stem.kernel",
        "Residual_1.Conv_0",
        "Residual_1.BatchNorm_0.mul",
        "Residual_1.BatchNorm_0.offset",
        "Residual_1.shortcut",
        "Residual_1.relu_1",
        "params.head.kernel",
        "head",
    ):
        assert name in names
    loc = graph.value("Residual_1.Conv_0").loc
    assert loc is not None
    assert "test_jaxpr_models.py:" in loc
    assert loc.endswith("(ResNet/Residual_1/Conv_0)")


class NnxCnn(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.bn1 = nnx.BatchNorm(8, rngs=rngs)
        self.conv2 = nnx.Conv(8, 8, (3, 3), feature_group_count=8, use_bias=False, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.layers = nnx.List([nnx.Linear(8, 6, rngs=rngs), nnx.Linear(6, 4, rngs=rngs)])

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.bn1(self.conv1(x)))
        x = nnx.avg_pool(nnx.silu(self.conv2(x)), (2, 2), (2, 2))
        x = self.dropout(x.mean((1, 2)))
        for layer in self.layers:
            x = layer(x)
        return nnx.softmax(x)


NNX = """
graph @NnxCnn(%x: f32[B,8,8,3]) {
  %conv1.kernel = const @conv1.kernel : f32[3,3,3,8]
  %conv1.bias = const 0.0 : f32[8]
  %conv1 = conv(%x, %conv1.kernel, %conv1.bias) {padding = same} : f32[B,8,8,8]
  %bn1.factor = const 0.999995 : f32[8]
  %bn1.mul = mul(%conv1, %bn1.factor) : f32[B,8,8,8]
  %bn1.offset = const 0.0 : f32[8]
  %bn1.add = add(%bn1.mul, %bn1.offset) : f32[B,8,8,8]
  %relu = relu(%bn1.add) : f32[B,8,8,8]
  %conv2.kernel = const @conv2.kernel : f32[3,3,1,8]
  %conv2 = conv(%relu, %conv2.kernel) {padding = same, groups = 8} : f32[B,8,8,8]
  %silu = silu(%conv2) : f32[B,8,8,8]
  %avg_pool = avg_pool(%silu) {window = [2, 2], strides = [2, 2]} : f32[B,4,4,8]
  %mean = mean(%avg_pool) {axes = [1, 2]} : f32[B,8]
  %layers.0.kernel = const @layers.0.kernel : f32[8,6]
  %layers.0.bias = const 0.0 : f32[6]
  %layers.0 = dot(%mean, %layers.0.kernel, %layers.0.bias) : f32[B,6]
  %layers.1.kernel = const @layers.1.kernel : f32[6,4]
  %layers.1.bias = const 0.0 : f32[4]
  %layers.1 = dot(%layers.0, %layers.1.kernel, %layers.1.bias) : f32[B,4]
  %softmax = softmax(%layers.1) {axis = 1} : f32[B,4]
  return %softmax
}
"""


def test_an_nnx_module_is_a_function():
    model = NnxCnn(nnx.Rngs(0))
    model.eval()
    assert str(agrees(model, uniform(2, 8, 8, 3), batch="B", terms=72)) == NNX.strip()


def test_nnx_state_as_an_argument():
    model = NnxCnn(nnx.Rngs(0))
    model.eval()
    definition, state = nnx.split(model)

    def f(state: Any, x: Any) -> Any:
        return nnx.merge(definition, state)(x)

    graph = from_jax(f, state, uniform(2, 8, 8, 3), weight_argnums=0, batch="B", name="NnxCnn")
    assert str(graph) == NNX.strip()


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_models(dtype):
    x = uniform(2, 16, 16, 3)
    model = ResNet(dtype)
    variables = weights(ResNet(), x)
    graph = from_jax(lambda x: model.apply(variables, x), x, batch="B")
    verify(graph)
    convs = [node.output for node in graph.nodes if node.op.name == "conv"]
    assert {value.type.dtype.value for value in convs} == {
        "f16" if dtype == jnp.float16 else "bf16"
    }
    wanted = np.asarray(model.apply(variables, x))
    # Both round every activation to the narrow type; a chain of 20 such roundings separates them.
    bound = 20 * float(jnp.finfo(dtype).eps) * np.abs(wanted).max()
    np.testing.assert_allclose(run(graph, x)[0], wanted, rtol=0, atol=bound)


def channels_first(kernel: Any, bias: Any) -> Callable[[jax.Array], jax.Array]:
    """A layer as equinox writes it: for one image, channels first, mapped over the batch."""

    def layer(x: jax.Array) -> jax.Array:
        y = jax.lax.conv_general_dilated(
            x[None], kernel, (1, 1), "SAME", dimension_numbers=("NCHW", "OIHW", "NCHW")
        )
        return jax.nn.relu(y[0] + bias[:, None, None])

    return layer


def test_a_channels_first_model_under_vmap():
    first = channels_first(uniform(5, 3, 3, 3), uniform(5))
    second = channels_first(uniform(4, 5, 3, 3), uniform(4))
    head = jnp.asarray(uniform(2, 4))

    def f(x: Any) -> Any:
        return jax.vmap(lambda image: head @ second(first(image)).mean((1, 2)))(x)

    x = uniform(2, 3, 6, 6)
    graph = from_jax(f, x, batch="B")
    verify(graph)
    assert op_names(graph) == ["transpose", "conv", "relu", "conv", "relu", "mean", "dot"]
    assert_equal(run(graph, x)[0], f(x), terms=400)
