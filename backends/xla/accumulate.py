"""Sums of products of stored numbers: signed bytes into the dot, zero points outside it.

With x of zero point z and weights w of zero point u, over k terms,

    sum (x - z)(w - u) = sum x w  -  u * sum x  -  z * sum (w - u),

where the last term is known at compile time if the weights are, and then goes into the bias. All of
it holds modulo 2^32, so that only the sum itself has to fit int32.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Argument, Computation, Parameter
from qir.backends.xla.codes import in_sums, signed, signed_zero_points, type_in_sums
from qir.backends.xla.lowering import coded
from qir.errors import UnsupportedError
from qir.ir import Node
from qir.ops.op import Op
from qir.ops.type_rules import are_bytes
from qir.types import Array

Product: TypeAlias = Callable[[jax.Array, jax.Array, Array | None], jax.Array]
"""From signed bytes, packed weights and their zero points (None for 0) to sum x w - u * sum x."""


def sums_bytes(op: Op, node: Node) -> bool:
    """Whether an op sums products of codes, or of plain integers of at most 8 bits."""
    x, weights, *_ = node.inputs
    return coded(op, node) or are_bytes(x.type, weights.type)


def sums_numbers(op: Op, node: Node) -> bool:
    """Whether an op sums products of floats or of wider integers."""
    return not sums_bytes(op, node)


def accumulation(
    node: Node,
    summed: tuple[int, ...],
    product: Product,
    pack: Callable[[Any], Any] = lambda weights: weights,
) -> Computation:
    """Builds the computation of a sum of products of bytes: operands x, weights and perhaps a bias.

    Args:
        node: The node.
        summed: The axes of the weights that are summed over.
        product: Computes the sums from signed bytes.
        pack: Changes the layout of weights, numpy or jax, into what the product takes.
    """
    x, weights, *bias = node.inputs
    x_type, weights_type = x.type, weights.type
    x_storage, storage = (type_in_sums(type).dtype for type in (x_type, weights_type))
    if max(x_storage.bits, storage.bits) > 8:
        raise UnsupportedError(
            f"xla: expected operands whose steps are of at most 8 bits, got {x_type} and "
            f"{weights_type}; qir.evaluate computes it"
        )
    x_point = int(signed_zero_points(x.type)[0])
    points = signed_zero_points(weights.type)
    name = node.output.name

    def correction(kernel: Any, points: Array) -> Any:
        """Returns -z * sum (w - u), one for each output, with the batch axes of the weights."""
        terms = int(np.prod([kernel.shape[axis] for axis in summed]))
        total = kernel.sum(axis=summed, dtype=np.int32) - np.int32(terms) * points
        return np.int32(-x_point) * total

    def finish(acc: jax.Array, addends: tuple[jax.Array, ...]) -> jax.Array:
        for addend in addends:
            ones = (1,) * (acc.ndim - addend.ndim)
            leading = addend.ndim - 1
            acc = acc + addend.reshape(addend.shape[:leading] + ones + addend.shape[leading:])
        return acc

    if weights.is_constant:
        kernel, points = _centred(signed(in_sums(weights.array, weights_type), storage), points)
        zero_points = points if np.any(points) else None
        offset = correction(kernel, points)
        if bias and bias[0].is_constant:
            offset = offset + bias[0].array
            bias = []
        packed = np.ascontiguousarray(pack(kernel))
        same = packed.dtype == weights.array.dtype and np.array_equal(packed, weights.array)
        arguments: list[Argument] = [x, weights if same else Parameter(f"{name}.kernel", packed)]
        if np.any(offset):
            arguments.append(Parameter(f"{name}.bias", offset))

        def run(x: jax.Array, kernel: jax.Array, *addends: jax.Array) -> jax.Array:
            bytes = signed(in_sums(x, x_type), x_storage)
            return finish(product(bytes, kernel, zero_points), addends)

        return Computation(run, (*arguments, *bias))

    def run_with_varying_weights(
        x: jax.Array, weights: jax.Array, *addends: jax.Array
    ) -> jax.Array:
        kernel = signed(in_sums(weights, weights_type), storage)
        bytes = signed(in_sums(x, x_type), x_storage)
        acc = product(bytes, pack(kernel), points if np.any(points) else None)
        if x_point:
            addends = (correction(kernel, points), *addends)
        return finish(acc, addends)

    return Computation(run_with_varying_weights, node.inputs)


def _centred(kernel: Array, points: Array) -> tuple[Array, Array]:
    """Takes the zero points off the weights where signed bytes hold the differences."""
    if not np.any(points):
        return kernel, np.zeros(1, np.int32)
    differences = kernel.astype(np.int32) - points
    if differences.size and (differences.min() < -128 or differences.max() > 127):
        return kernel, points
    return differences.astype(np.int8), np.zeros(1, np.int32)


MAX_TERMS = 2**17 - 1
"""Products of two signed bytes of which no sum leaves int32."""


def dot_rows(x: jax.Array, weights: jax.Array, points: Array | None, batch: int = 0) -> jax.Array:
    """Multiplies rows [batch…, rows…, k] with weights [batch…, k, columns] as s8 · s8 → s32.

    Longer sums than `MAX_TERMS` are added up from parts, and wrap where only the correction by zero
    points brings them back into int32. Inside one product the matrix units of CUDA saturate.
    """
    parts = [(x, weights)]
    if weights.shape[-2] > MAX_TERMS:
        cuts = [slice(at, at + MAX_TERMS) for at in range(0, weights.shape[-2], MAX_TERMS)]
        parts = [(x[..., cut], weights[..., cut, :]) for cut in cuts]
    acc: jax.Array = reduce(jnp.add, [_dot(*part, batch) for part in parts])
    return acc if points is None else acc - row_sums(x) * points


def _dot(x: jax.Array, weights: jax.Array, batch: int) -> jax.Array:
    shared = tuple(range(batch))
    dimensions = (((x.ndim - 1,), (weights.ndim - 2,)), (shared, shared))

    def dot(x: jax.Array, weights: jax.Array) -> jax.Array:
        return lax.dot_general(x, weights, dimensions, preferred_element_type=jnp.int32)

    rows = x.shape[batch:-1]
    row = int(bool(rows) and all(size == 1 for size in rows))
    column = int(weights.shape[-1] == 1)
    if not row and not column:
        return dot(x, weights)

    def widened(x: jax.Array, weights: jax.Array) -> jax.Array:
        # XLA turns a product with a vector into a sum of all terms, which on CUDA may stand in
        # memory as int32; a second row or column makes it a matrix product.
        zero, keep = np.int8(0), (0, 0, 0)
        if row:
            x = lax.pad(x, zero, [*[keep] * (x.ndim - 2), (0, 1, 0), keep])
        if column:
            weights = lax.pad(weights, zero, [*[keep] * (weights.ndim - 1), (0, 1, 0)])
        acc = dot(x, weights)
        acc = acc[..., :1] if column else acc
        return acc[..., :1, :] if row else acc

    found: jax.Array = lax.platform_dependent(x, weights, cuda=widened, default=dot)
    return found


def row_sums(x: jax.Array) -> jax.Array:
    """Sums signed bytes along the last axis, which stays, in int32."""
    return jnp.sum(x, axis=-1, keepdims=True, dtype=jnp.int32)
