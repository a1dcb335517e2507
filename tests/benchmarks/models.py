"""Models in plain JAX with random weights: what the benchmarks measure and tests quantize.

Every model is a function of `(params, images)`, channels last, with batch normalization by running
statistics as it stands in a trained model. An image may also be a clip, cepstra or features. The
weights keep activations near 1, so that calibrated codes use their whole range.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Params: TypeAlias = Mapping[str, Any]
LAYOUTS = {2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

RESNET50_STAGES = ((64, 3, 1), (128, 4, 2), (256, 6, 2), (512, 3, 2))
"""Width, number of blocks and first stride of each stage."""
MOBILENET_STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)
"""Expansion, outputs, number of blocks and first stride of each stage."""
VIDEO_STAGES = ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2))
MLP_WIDTHS = (512, 1024, 1024, 256)
KEYWORD_BLOCKS = 4


@dataclass(frozen=True)
class Model:
    """A model with the shape that it is measured at.

    Args:
        name: Name on the command line.
        function: Maps `(params, images)` to logits.
        init: Draws the weights with a seed.
        shape: Shape of the images.
    """

    name: str
    function: Callable[[Params, jax.Array], jax.Array]
    init: Callable[[int], Params]
    shape: tuple[int, ...]

    def images(self, seed: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Draws a batch of images."""
        return np.random.default_rng(seed).uniform(-1, 1, self.shape).astype(np.float32)


class _Draw:
    """Draws the arrays of layers."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def kernel(self, window: tuple[int, ...], inputs: int, outputs: int) -> Any:
        """Draws weights that keep the variance through a ReLU (He et al. 2015)."""
        shape = (*window, inputs, outputs)
        drawn = self.random.standard_normal(shape, np.float32)
        return jnp.asarray(drawn * np.float32((2 / prod(shape[:-1])) ** 0.5))

    def conv(self, window: tuple[int, ...], inputs: int, outputs: int, gain: float = 1.0) -> Params:
        """Draws a convolution without bias and the normalization behind it.

        The last one of a residual branch has a small gain, or sums would grow block by block.
        """
        uniform = self.random.uniform
        norm = {
            "scale": gain * uniform(0.8, 1.2, outputs),
            "bias": uniform(-0.2, 0.2, outputs),
            "mean": uniform(-0.2, 0.2, outputs),
            "variance": uniform(0.8, 1.2, outputs),
        }
        arrays = {name: jnp.asarray(array, jnp.float32) for name, array in norm.items()}
        return {"kernel": self.kernel(window, inputs, outputs), **arrays}

    def dense(self, inputs: int, outputs: int) -> Params:
        """Draws a dense layer."""
        bias = self.random.uniform(-0.2, 0.2, outputs)
        return {
            "kernel": self.kernel((), inputs, outputs),
            "bias": jnp.asarray(bias, jnp.float32),
        }


def _convolve(
    kernel: jax.Array, x: jax.Array, strides: tuple[int, ...], groups: int = 1
) -> jax.Array:
    window = kernel.shape[:-2]
    centred = [(size // 2, size // 2) for size in window]
    convolved: jax.Array = lax.conv_general_dilated(
        x,
        kernel,
        strides,
        centred if all(size % 2 for size in window) else "SAME",
        dimension_numbers=LAYOUTS[len(strides)],
        feature_group_count=groups,
    )
    return convolved


def _conv(params: Params, x: jax.Array, stride: int | tuple[int, ...] = 1, groups: int = 1) -> Any:
    """Convolves and normalizes by the running statistics."""
    strides = (stride,) * (x.ndim - 2) if isinstance(stride, int) else stride
    y = _convolve(params["kernel"], x, strides, groups)
    factor = params["scale"] * lax.rsqrt(params["variance"] + 1e-5)
    return (y - params["mean"]) * factor + params["bias"]


def _dense(params: Params, x: jax.Array) -> jax.Array:
    pooled = jnp.mean(x, axis=tuple(range(1, x.ndim - 1))) if x.ndim > 2 else x
    logits: jax.Array = pooled @ params["kernel"] + params["bias"]
    return logits


def _max_pool(x: jax.Array, size: int, stride: int, padding: int = 0) -> jax.Array:
    window, strides = (1, size, size, 1), (1, stride, stride, 1)
    sides = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    pooled: jax.Array = lax.reduce_window(x, -jnp.inf, lax.max, window, strides, sides)
    return pooled


def _resnet50_params(seed: int) -> Params:
    draw, params = _Draw(seed), dict[str, Any]()
    params["stem"], inputs = draw.conv((7, 7), 3, 64), 64
    for stage, (width, count, _) in enumerate(RESNET50_STAGES):
        for block in range(count):
            layers = {
                "reduce": draw.conv((1, 1), inputs, width),
                "conv": draw.conv((3, 3), width, width),
                "expand": draw.conv((1, 1), width, 4 * width, gain=0.25),
            }
            if block == 0:
                layers["shortcut"] = draw.conv((1, 1), inputs, 4 * width)
            params[f"stage{stage}_{block}"], inputs = layers, 4 * width
    params["head"] = draw.dense(inputs, 1000)
    return params


def resnet50(params: Params, images: jax.Array) -> jax.Array:
    """ResNet-50 v1.5 (He et al. 2016; the stride is on the 3 by 3 convolution)."""
    x = _max_pool(jax.nn.relu(_conv(params["stem"], images, 2)), 3, 2, 1)
    for stage, (_, count, first) in enumerate(RESNET50_STAGES):
        for block in range(count):
            layers, stride = params[f"stage{stage}_{block}"], first if block == 0 else 1
            y = jax.nn.relu(_conv(layers["reduce"], x))
            y = jax.nn.relu(_conv(layers["conv"], y, stride))
            shortcut = _conv(layers["shortcut"], x, stride) if "shortcut" in layers else x
            x = jax.nn.relu(_conv(layers["expand"], y) + shortcut)
    return _dense(params["head"], x)


def _mobilenet_params(seed: int) -> Params:
    draw, params = _Draw(seed), dict[str, Any]()
    params["stem"], inputs = draw.conv((3, 3), 3, 32), 32
    for stage, (expansion, outputs, count, _) in enumerate(MOBILENET_STAGES):
        for block in range(count):
            inner, layers = expansion * inputs, dict[str, Params]()
            if expansion > 1:
                layers["expand"] = draw.conv((1, 1), inputs, inner)
            layers["depthwise"] = draw.conv((3, 3), 1, inner)
            layers["project"] = draw.conv((1, 1), inner, outputs, gain=0.5)
            params[f"stage{stage}_{block}"], inputs = layers, outputs
    params["last"] = draw.conv((1, 1), inputs, 1280)
    params["head"] = draw.dense(1280, 1000)
    return params


def mobilenet_v2(params: Params, images: jax.Array) -> jax.Array:
    """MobileNetV2 of width 1 (Sandler et al. 2018)."""
    x = jax.nn.relu6(_conv(params["stem"], images, 2))
    for stage, (_, _, count, first) in enumerate(MOBILENET_STAGES):
        for block in range(count):
            layers, stride = params[f"stage{stage}_{block}"], first if block == 0 else 1
            y = jax.nn.relu6(_conv(layers["expand"], x)) if "expand" in layers else x
            y = jax.nn.relu6(_conv(layers["depthwise"], y, stride, groups=y.shape[-1]))
            y = _conv(layers["project"], y)
            x = y if block == 0 else x + y
    return _dense(params["head"], jax.nn.relu6(_conv(params["last"], x)))


def _video_params(seed: int) -> Params:
    draw, params = _Draw(seed), dict[str, Any]()
    params["stem"], inputs = draw.conv((3, 7, 7), 3, 64), 64
    for stage, (width, count, stride) in enumerate(VIDEO_STAGES):
        for block in range(count):
            layers = {
                "conv1": draw.conv((3, 3, 3), inputs, width),
                "conv2": draw.conv((3, 3, 3), width, width, gain=0.25),
            }
            if block == 0 and stride > 1:
                layers["shortcut"] = draw.conv((1, 1, 1), inputs, width)
            params[f"stage{stage}_{block}"], inputs = layers, width
    params["head"] = draw.dense(inputs, 400)
    return params


def video_resnet18(params: Params, clips: jax.Array) -> jax.Array:
    """R3D-18, a ResNet-18 with 3-D convolutions (Tran et al. 2018)."""
    x = jax.nn.relu(_conv(params["stem"], clips, (1, 2, 2)))
    for stage, (_, count, first) in enumerate(VIDEO_STAGES):
        for block in range(count):
            layers, stride = params[f"stage{stage}_{block}"], first if block == 0 else 1
            y = jax.nn.relu(_conv(layers["conv1"], x, stride))
            shortcut = _conv(layers["shortcut"], x, stride) if "shortcut" in layers else x
            x = jax.nn.relu(_conv(layers["conv2"], y) + shortcut)
    return _dense(params["head"], x)


def _mlp_params(seed: int) -> Params:
    draw, layers = _Draw(seed), enumerate(itertools.pairwise(MLP_WIDTHS))
    return {f"dense{layer}": draw.dense(*widths) for layer, widths in layers}


def mlp(params: Params, features: jax.Array) -> jax.Array:
    """Dense layers with ReLU between them."""
    x = features
    for layer, dense in enumerate(params.values()):
        x = _dense(dense, x if layer == 0 else jax.nn.relu(x))
    return x


def _keyword_params(seed: int) -> Params:
    draw, params = _Draw(seed), dict[str, Any]()
    params["stem"] = draw.conv((10, 4), 1, 64)
    for block in range(KEYWORD_BLOCKS):
        params[f"block{block}"] = {
            "depthwise": draw.conv((3, 3), 1, 64),
            "pointwise": draw.conv((1, 1), 64, 64),
        }
    params["head"] = draw.dense(64, 12)
    return params


def keyword_ds_cnn(params: Params, cepstra: jax.Array) -> jax.Array:
    """DS-CNN for keywords (Zhang et al. 2017), as in MLPerf Tiny (Banbury et al. 2021)."""
    x = jax.nn.relu(_conv(params["stem"], cepstra, 2))
    for block in range(KEYWORD_BLOCKS):
        layers = params[f"block{block}"]
        x = jax.nn.relu(_conv(layers["depthwise"], x, groups=x.shape[-1]))
        x = jax.nn.relu(_conv(layers["pointwise"], x))
    return _dense(params["head"], x)


def _digits_params(seed: int) -> Params:
    draw = _Draw(seed)
    return {
        "conv1": draw.conv((3, 3), 1, 16),
        "conv2": draw.conv((3, 3), 16, 32),
        "conv3": draw.conv((3, 3), 32, 32),
        "head": draw.dense(32, 10),
    }


def digits(params: Params, images: jax.Array) -> jax.Array:
    """The CNN of examples/digits_cnn.py, with normalization."""
    x = _max_pool(jax.nn.relu(_conv(params["conv1"], images)), 2, 2)
    x = jax.nn.relu(_conv(params["conv2"], x))
    x = jax.nn.relu(_conv(params["conv3"], x) + x)
    return _dense(params["head"], x)


MODELS = {
    model.name: model
    for model in (
        Model("digits", digits, _digits_params, (256, 8, 8, 1)),
        Model("mobilenet_v2", mobilenet_v2, _mobilenet_params, (1, 224, 224, 3)),
        Model("resnet50", resnet50, _resnet50_params, (1, 224, 224, 3)),
        Model("video_resnet18", video_resnet18, _video_params, (1, 8, 112, 112, 3)),
        Model("mlp", mlp, _mlp_params, (1, 512)),
        Model("mlp_64", mlp, _mlp_params, (64, 512)),
        Model("keyword_ds_cnn", keyword_ds_cnn, _keyword_params, (1, 49, 10, 1)),
    )
}
