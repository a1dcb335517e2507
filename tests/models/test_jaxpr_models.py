"""Whole models of flax: imported without leftovers, with jax's numbers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from qir.analysis.verify import verify
from qir.api import from_jax
from qir.backends.reference.interpreter import run
from tests.frontends.agreement import agrees, assert_equal, op_names, uniform
from tests.models.flax_models import MODELS, Attention, ResNet, weights


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
    assert "flax_models.py:" in loc
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
  %conv1.kernel = const : f32[3,3,3,8]
  %conv1.bias = const 0.0 : f32[8]
  %conv1 = conv(%x, %conv1.kernel, %conv1.bias) {padding = same} : f32[B,8,8,8]
  %bn1.factor = const 0.999995 : f32[8]
  %bn1.mul = mul(%conv1, %bn1.factor) : f32[B,8,8,8]
  %bn1.offset = const 0.0 : f32[8]
  %bn1.add = add(%bn1.mul, %bn1.offset) : f32[B,8,8,8]
  %relu = relu(%bn1.add) : f32[B,8,8,8]
  %conv2.kernel = const : f32[3,3,1,8]
  %conv2 = conv(%relu, %conv2.kernel) {padding = same, groups = 8} : f32[B,8,8,8]
  %silu = silu(%conv2) : f32[B,8,8,8]
  %avg_pool = avg_pool(%silu) {window = [2, 2], strides = [2, 2]} : f32[B,4,4,8]
  %mean = mean(%avg_pool) {axes = [1, 2]} : f32[B,8]
  %layers.0.kernel = const : f32[8,6]
  %layers.0.bias = const 0.0 : f32[6]
  %layers.0 = dot(%mean, %layers.0.kernel, %layers.0.bias) : f32[B,6]
  %layers.1.kernel = const : f32[6,4]
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
