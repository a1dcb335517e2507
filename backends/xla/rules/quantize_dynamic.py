"""The cast whose scale is found at run time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Computation
from qir.backends.xla import arithmetic
from qir.backends.xla.dynamic_scale import divided, peaks, scale_of
from qir.backends.xla.lowering import lowering
from qir.interop.jax_internals import guarded
from qir.ir import Node
from qir.numbers.dynamic_scale import LARGEST_FLOAT, ONNX_SMALLEST_SCALE, ONNX_STEPS
from qir.ops import QuantizeDynamic
from qir.types import Array

_NO_GRADIENT = (
    "gradient: expected a float program, got one that rounds to the integers of %{}; "
    "differentiate the program that it was quantized from"
)
_CPU_ALONE = (
    "xla: quantize_dynamic in mode onnx of %{}: expected the platform cpu, got {}; ONNX defines it "
    "by divisions that other platforms round differently, so take mode symmetric"
)


def _symmetric(op: QuantizeDynamic, node: Node) -> bool:
    return op.mode == "symmetric"


@lowering(QuantizeDynamic, legal=_symmetric)
def quantize_dynamic(op: QuantizeDynamic, node: Node) -> Computation:
    """A maximum, quotients of integers for each scale, and one float32 multiplication."""
    largest = op.largest
    gradient = _NO_GRADIENT.format(node.outputs[0].name)
    storage = node.outputs[0].type.dtype.numpy

    def run(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        shape = x.shape
        blocks, axes = op.blocks(shape)
        viewed = guarded(x, gradient).reshape(blocks)
        scale, inverse = scale_of(peaks(viewed, axes), largest)
        steps = arithmetic.quantize(viewed, inverse, 0, -largest, largest, storage)
        return steps.reshape(shape), scale if op.block is None else scale[..., 0]

    return Computation(run, node.inputs)


def _onnx(op: QuantizeDynamic, node: Node) -> bool:
    return op.mode == "onnx"


@lowering(QuantizeDynamic, legal=_onnx)
def quantize_dynamic_onnx(op: QuantizeDynamic, node: Node) -> Computation:
    """Divisions by an array of x's shape, which XLA on CPU makes no products of."""
    name = node.outputs[0].name
    gradient, elsewhere = _NO_GRADIENT.format(name), _CPU_ALONE.format(name, "{}")

    def run(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        x = _fenced(guarded(x, gradient, elsewhere=elsewhere))
        finite = jnp.clip(jnp.where(jnp.isnan(x), 0, x), -LARGEST_FLOAT, LARGEST_FLOAT)
        low, high = (_normal(end(finite)) for end in (_least, _greatest))
        span = jnp.minimum(high - low, LARGEST_FLOAT)
        bits = divided(lax.bitcast_convert_type(span, jnp.int32), ONNX_STEPS)
        least = np.float32(ONNX_SMALLEST_SCALE).view(np.int32)
        quotient = lax.bitcast_convert_type(jnp.maximum(bits, least), jnp.float32)
        scale = _fenced(jnp.where(span == 0, jnp.float32(1), quotient))
        point = _rounded(jnp.clip(-(low / scale), 0, ONNX_STEPS))
        whole = _rounded(x / _fenced(jnp.broadcast_to(scale, x.shape)))
        steps = jnp.where(jnp.isnan(whole), 0, whole)
        # Bounds around the zero point: whole numbers that float32 holds.
        inside = jnp.clip(steps, -point, ONNX_STEPS - point).astype(jnp.int32)
        offset = point.astype(jnp.int32)
        return (inside + offset).astype(jnp.uint8), scale, offset.astype(jnp.uint8)

    return Computation(run, node.inputs)


def _least(x: jax.Array) -> jax.Array:
    return jnp.min(x, initial=0)


def _greatest(x: jax.Array) -> jax.Array:
    return jnp.max(x, initial=0)


def _normal(x: jax.Array) -> jax.Array:
    return jnp.where(jnp.abs(x) < ONNX_SMALLEST_SCALE, jnp.float32(0), x)


def _rounded(x: jax.Array) -> jax.Array:
    return lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)


def _fenced(x: jax.Array | Array) -> jax.Array:
    fenced: jax.Array = lax.optimization_barrier(x)  # type: ignore[no-untyped-call]
    return fenced
