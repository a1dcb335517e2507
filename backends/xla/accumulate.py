"""Sums of products of stored numbers: signed bytes into the dot, zero points outside it.

With x of zero point z and weights w of zero point u, over k terms,

    sum (x - z)(w - u) = sum x w  -  u * sum x  -  z * sum (w - u),

where the last term is known at compile time if the weights are, and then goes into the bias; zero
points z that vary along the rows of x make it a product of two vectors, formed at run time. All of
it holds modulo 2^32, so that only the sum itself has to fit int32. Numbers of more than 8 bits are
two bytes (`qir.backends.xla.limbs`), and their sum is one of products of bytes, shifted: in int32
too, or where the type says i64, in two words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial, reduce
from math import prod
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from qir.backends.native.computation import Argument, Computation, Parameter
from qir.backends.xla.limbs import Limb, constant_limbs, empty_limbs, limbs, points_of, zero_bytes
from qir.backends.xla.lowering import coded
from qir.backends.xla.words import Words
from qir.errors import UnsupportedError
from qir.ir import Node
from qir.numbers.long_sums import LONG_MAX
from qir.ops.cast import is_long
from qir.ops.op import Op
from qir.ops.type_rules import are_bytes
from qir.types import Array, TensorType, known

Product: TypeAlias = Callable[[jax.Array, jax.Array, Array | None, int], jax.Array]
"""From signed bytes, packed weights, their zero points (None for 0) and the byte that stands for 0
among the first, to sum x w - u * sum x."""

Accumulators: TypeAlias = jax.Array | Words
"""Accumulators in int32, modulo 2^32, or in two words."""


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
    """Builds the computation of a sum of products: operands x, weights and perhaps a bias.

    Args:
        node: The node.
        summed: The axes of the weights that are summed over.
        product: Computes the sums from signed bytes.
        pack: Changes the layout of weights, numpy or jax, into what the product takes.

    Raises:
        UnsupportedError: So many terms that int32 might not hold the sum of one pair of bytes, or
            two words the whole sum.
    """
    x, weights, *bias = node.inputs
    name, long = node.output.name, is_long(node.output.type)
    x_type, weights_type = x.type, weights.type
    terms = prod(known(weights_type.shape[axis], "xla") for axis in summed)
    zeros, points = zero_bytes(x_type), points_of(x_type)
    point = 0 if points.ndim else int(points)
    if long:
        _check_long(x_type, weights_type, terms)
    known_bias = np.asarray(sum(value.array for value in bias if value.is_constant), np.int64)
    others = [value for value in bias if not value.is_constant]

    def sums(x: jax.Array, kernel: Sequence[Limb]) -> Accumulators:
        parts = []
        for part, zero in zip(limbs(x, x_type), zeros, strict=True):
            for other in kernel:
                found = product(part.bytes, other.bytes, other.nonzero_points, zero)
                parts.append((found, part.places + other.places))
        return _added(parts, long)

    if weights.is_constant:
        whole = constant_limbs(weights.array, weights_type)
        offset = known_bias - point * _total(whole, summed, terms)
        packed = [limb._replace(bytes=np.ascontiguousarray(pack(limb.bytes))) for limb in whole]
        if long:
            _check_terms(packed, terms)
        arguments: list[Argument] = [
            weights
            if limb.bytes.dtype == weights.array.dtype and np.array_equal(limb.bytes, weights.array)
            else Parameter(f"{name}.kernel", limb.bytes)
            for limb in packed
        ]
        constants = _constants(f"{name}.bias", offset, long)

        def run(x: jax.Array, *arrays: Any) -> Accumulators:
            count = len(packed)
            kernel = [
                limb._replace(bytes=bytes)
                for limb, bytes in zip(packed, arrays[:count], strict=True)
            ]
            acc = sums(x, kernel)
            if points.ndim:
                acc = _less_by_row(acc, points, arrays[-1])
                arrays = arrays[:-1]
            return _finished(acc, _addends(arrays[count:], len(constants), long))

        totals = []
        if points.ndim:
            found = _total(whole, summed, terms).astype(np.int32)
            totals = [Parameter(f"{name}.totals", found)]
        return Computation(run, (x, *arguments, *constants, *others, *totals))

    constants = _constants(f"{name}.bias", known_bias, long)
    if long:
        _check_terms(empty_limbs(weights_type), terms)

    def run_with_varying_weights(x: jax.Array, weights: jax.Array, *arrays: Any) -> Accumulators:
        kernel = limbs(weights, weights_type)
        acc = sums(x, [limb._replace(bytes=pack(limb.bytes)) for limb in kernel])
        addends = _addends(arrays, len(constants), long)
        if points.ndim:
            each = [(_limb_total(limb, summed, terms), limb.places) for limb in kernel]
            acc = _less_by_row(acc, points, _added(each, long))
        if point:
            totals = [(_limb_total(limb, summed, terms), limb.places) for limb in kernel]
            addends = [_scaled(_added(totals, long), -point), *addends]
        return _finished(acc, addends)

    return Computation(run_with_varying_weights, (x, weights, *constants, *others))


def _less_by_row(acc: Accumulators, points: Array, totals: Accumulators) -> jax.Array:
    """Takes zero points of the rows times sum (w - u) off sums in int32.

    Args:
        acc: The sums, [batch…, rows…, columns].
        points: The zero points, of the rank of the sums and 1 along columns.
        totals: sum (w - u), [batch…, columns].
    """
    assert not isinstance(acc, Words)
    assert not isinstance(totals, Words)
    return acc - np.asarray(points).astype(np.int32) * _without_rows(totals, acc.ndim)


def _without_rows(x: jax.Array, rank: int) -> jax.Array:
    """Gives [batch…, columns] the rank of [batch…, rows…, columns]."""
    return x.reshape(x.shape[:-1] + (1,) * (rank - x.ndim) + x.shape[-1:])


def _check_long(x: TensorType, weights: TensorType, terms: int) -> None:
    """Raises UnsupportedError where two words might not hold the sums that codes allow."""
    largest = prod(max(map(abs, type.code.step_bounds or (0, 0))) for type in (x, weights))
    if terms * largest > LONG_MAX:
        raise UnsupportedError(
            f"xla: expected sums of products within {LONG_MAX} of 0, got {terms} of up to "
            f"{largest}; split the sum, whose parts requantize to one scale"
        )


def _check_terms(kernel: Sequence[Limb], terms: int) -> None:
    """Raises UnsupportedError where int32 might not hold a sum of products of two limbs."""
    furthest = max(int(np.abs(limb.points).max(initial=0)) for limb in kernel)
    most = (2**31 - 1) // (128 * (128 + furthest))
    if terms > most:
        raise UnsupportedError(
            f"xla: expected sums in i64 of at most {most} terms, got {terms}; split the sum, "
            "whose parts requantize to one scale"
        )


def _total(kernel: Sequence[Limb], summed: tuple[int, ...], terms: int) -> Array:
    """Returns sum (w - u) for each output, of constants, in int64."""
    totals = [
        (limb.bytes.sum(axis=summed, dtype=np.int64) - terms * limb.points.astype(np.int64))
        << limb.places
        for limb in kernel
    ]
    return np.asarray(sum(totals))


def _limb_total(limb: Limb, summed: tuple[int, ...], terms: int) -> jax.Array:
    """Returns sum (w - u) of one limb for each output, in int32."""
    total: jax.Array = limb.bytes.sum(axis=summed, dtype=np.int32)
    return total - np.int32(terms) * limb.points


def _added(parts: Sequence[tuple[jax.Array, int]], long: bool) -> Accumulators:
    """Adds up int32 sums, each shifted left by its places."""
    if long:
        return reduce(Words.plus, [Words.of_signed(part).moved(count) for part, count in parts])
    return reduce(jnp.add, [part << count if count else part for part, count in parts])


def _scaled(sums: Accumulators, factor: int) -> Accumulators:
    return sums.times(factor) if isinstance(sums, Words) else sums * np.int32(factor)


def _constants(name: str, offset: Array, long: bool) -> list[Parameter]:
    """Returns what is added to all sums as parameters: one of int32, or two words."""
    if not np.any(offset):
        return []
    if long:
        return [Parameter(name, word) for word in Words.constant(offset)]
    return [Parameter(name, np.asarray(offset).astype(np.int32))]


def _addends(arrays: Sequence[Any], constants: int, long: bool) -> list[Accumulators]:
    """Returns what is added to sums: the parameters of `_constants`, and arrays as they are."""
    if long and constants:
        return [Words(*arrays[:constants]), *arrays[constants:]]
    return list(arrays)


def _finished(acc: Accumulators, addends: Sequence[Accumulators]) -> Accumulators:
    """Adds to sums [batch…, rows…, columns] what has no rows: [batch…, columns]."""
    for addend in addends:
        aligned = partial(_without_rows, rank=acc.ndim)
        if isinstance(acc, Words):
            assert isinstance(addend, Words)
            acc = acc.plus(addend.each(aligned))
        else:
            assert not isinstance(addend, Words)
            acc = acc + aligned(addend)
    return acc


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
    """Accumulators signed bytes along the last axis, which stays, in int32."""
    return jnp.sum(x, axis=-1, keepdims=True, dtype=jnp.int32)
