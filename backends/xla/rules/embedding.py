"""Rows of a table: gathered as they are stored, together with what their code varies by."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from qir.backends.native.computation import Argument, Computation
from qir.backends.xla.codes import code_of, multiples, steps
from qir.backends.xla.lowering import argument, coded, floating, lowering, plain, spread
from qir.backends.xla.requantize import Factor, rescaling
from qir.backends.xla.rules.indexing import taken
from qir.ir import Node
from qir.ops import Embedding
from qir.types import Affine, Code, TensorType, known


@lowering(Embedding, legal=plain)
def embedding(op: Embedding, node: Node) -> Computation:
    """A gather of whole rows with clamped ids."""
    if op.factor == 1:
        return Computation(lambda table, ids: taken(table, ids, 0), node.inputs)
    factor = np.float32(op.factor)
    return floating(node, lambda table, ids: taken(table, ids, 0) * factor)


def _is_decoded(op: Embedding, node: Node) -> bool:
    return coded(op, node) and op.to is None


@lowering(Embedding, legal=_is_decoded)
def decoded_rows(op: Embedding, node: Node) -> Computation:
    """A gather of stored rows and of their scales, and one float32 multiplication."""
    table = node.inputs[0].type
    code, varying = table.code, _varying(node)
    scale = argument(f"{node.output.name}.scale", op.scales(code))

    def run(stored: jax.Array, ids: jax.Array, scale: Factor, *varying: Factor) -> jax.Array:
        rows = taken(stored, ids, 0)
        points, multipliers = _on_rows(varying, ids, table, rows)
        if isinstance(code, Affine):
            found = ((steps(rows, _alike(code)) - points) * multipliers).astype(jnp.float32)
        else:
            found = multiples(rows, _alike(code)) * multipliers.astype(jnp.float32)
        (factor,) = _on_rows((scale,), ids, table, rows)
        return (found * factor).astype(code.expressed.numpy)

    return Computation(run, (*node.inputs, scale, *varying))


def _is_rounded(op: Embedding, node: Node) -> bool:
    return op.to is not None


@lowering(Embedding, legal=_is_rounded)
def rounded_rows(op: Embedding, node: Node) -> Computation:
    """A gather of stored rows and of their multipliers, and one rounding."""
    table, to = node.inputs[0].type, code_of(node.output.type)
    rescale, factors = rescaling(node.output.name, op.factors(table), to)
    code, varying = table.code, _varying(node)

    def run(stored: jax.Array, ids: jax.Array, *arrays: Factor) -> jax.Array:
        rows = taken(stored, ids, 0)
        points, multipliers = _on_rows(arrays[:2], ids, table, rows)
        found = (steps(rows, _alike(code)) - points) * multipliers
        chosen = arrays[2:]
        if code.scale.shape:
            chosen = tuple(_of_rows(factor, ids, table) for factor in chosen)
        return rescale(found, *chosen)

    return Computation(run, (*node.inputs, *varying, *factors))


def _alike(code: Code) -> Code:
    """Returns a code without what varies by place beside the scale, of which `_varying` tells."""
    if code.multipliers is not None:
        code = replace(code, multipliers=None)
    if isinstance(code, Affine) and code.zero_points.ndim:
        return replace(code, zero_point=0)
    return code


def _varying(node: Node) -> tuple[Argument, ...]:
    """Returns the zero points and the multipliers of a table as arguments: 0 and 1 for none."""
    code, name = node.inputs[0].type.code, node.output.name
    points, multipliers = np.zeros((), np.int32), np.ones((), np.int32)
    if isinstance(code, Affine) and code.zero_points.ndim:
        points = code.zero_points
    if code.multipliers is not None:
        multipliers = code.multipliers.array.astype(np.int32)
    return argument(f"{name}.points", points), argument(f"{name}.multipliers", multipliers)


def _on_rows(
    arrays: tuple[Factor, ...], ids: jax.Array, table: TensorType, rows: jax.Array
) -> list[jax.Array]:
    """Returns what belongs to the chosen rows, so that it broadcasts against them."""
    return [jnp.asarray(spread(_of_rows(array, ids, table), rows.shape)) for array in arrays]


def _of_rows(factors: Factor, ids: jax.Array, table: TensorType) -> Factor:
    """Takes the factors of the chosen rows; see `qir.ops.embedding.of_rows`.

    Args:
        factors: A scalar, or factors of the table's rank, or several of those in a row.
        ids: The rows.
        table: The type of the table.
    """
    axis = factors.ndim - table.rank
    if axis < 0:
        return factors
    factors = jnp.asarray(factors)
    if factors.shape[axis] == 1:
        shape = (*factors.shape[:axis], *(1,) * ids.ndim, *factors.shape[axis + 1 :])
        return factors.reshape(shape)
    count = known(table.shape[0], "embedding")
    if factors.shape[axis] == count:
        return taken(factors, ids, axis)
    if ids.dtype == jnp.uint32:
        ids = jnp.minimum(ids, np.uint32(2**31 - 1))
    inside = jnp.clip(ids.astype(jnp.int32), 0, count - 1)
    return taken(factors, inside // (count // factors.shape[axis]), axis)
