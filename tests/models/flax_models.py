"""Small models of flax linen, one for each family of architectures, with seeded weights."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from qir.types import Array
from tests.frontends.agreement import uniform


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
