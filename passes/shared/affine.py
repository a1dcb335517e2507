"""Affine maps along one axis, recognized in chains of additions, products and normalizations."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from qir.ir import Value
from qir.numbers.affine_map import AffineMap
from qir.ops.op import OPS, Op
from qir.pipeline.rewrite import Rule
from qir.types import Array


def along_one_axis(array: Array, rank: int) -> tuple[Array, int] | None:
    """Describes an array that is constant along all axes but one of a tensor that it broadcasts to.

    Args:
        array: The array.
        rank: The tensor's rank.

    Returns:
        The numbers along the axis as a float64 vector, one where none varies, and the axis of the
        tensor; None where the array varies along several axes.
    """
    real = array.astype(np.float64, copy=False)
    axis = rank - 1
    for place in range(real.ndim):
        first = real.take([0], place) if real.shape[place] else real
        if real.shape[place] > 1 and np.array_equal(np.broadcast_to(first, real.shape), real):
            real = first
    varying = [place for place, size in enumerate(real.shape) if size != 1]
    if len(varying) > 1:
        return None
    if varying:
        axis = varying[0] + rank - real.ndim
    return real.reshape(-1), axis


def at_linear_ops(candidate: Rule) -> Rule:
    """Returns a rule for the ops alone that may be affine maps of one operand."""
    ops = tuple(cls for cls in OPS.values() if cls.linear is not Op.linear)
    return replace(candidate, ops=ops)


def match_affine(value: Value) -> tuple[Value, AffineMap] | None:
    """Returns the tensor that a value is an affine map of, and the map; None for anything else."""
    op = value.op
    if op is None or type(op).linear is Op.linear or not value.type.is_float:
        return None
    varying = [x for x in value.inputs if not x.is_constant]
    if len(varying) != 1 or varying[0].type != value.type:
        return None
    constants = [x.real.astype(np.float64) if x.is_constant else None for x in value.inputs]
    if (found := op.linear(constants)) is None:
        return None
    factor, offset = (along_one_axis(part, value.type.rank) for part in found[1:])
    if factor is None or offset is None:
        return None
    (factors, axis), (offsets, other) = factor, offset
    if factors.size > 1 and offsets.size > 1 and axis != other:
        return None
    return varying[0], AffineMap(factors, offsets, axis if factors.size > 1 else other)


class Chain(NamedTuple):
    """Consecutive affine maps of which each but the last is read by the next one only.

    Attributes:
        source: What the first one reads.
        affine: All of them as one.
        values: Their results, the last one first.
    """

    source: Value
    affine: AffineMap
    values: tuple[Value, ...]


def affine_chain(value: Value) -> Chain | None:
    """Returns the longest chain of affine maps that ends at a value."""
    if (found := match_affine(value)) is None:
        return None
    source, affine = found
    values = [value]
    while len(source.uses) == 1 and (found := match_affine(source)) is not None:
        if (composed := affine.after(found[1])) is None:
            break
        values.append(source)
        source, affine = found[0], composed
    return Chain(source, affine, tuple(values))


def chain_goes_on(value: Value) -> bool:
    """Whether a value's only reader is an affine map that continues its chain."""
    if len(value.uses) != 1:
        return False
    (reader,) = value.users
    if len(reader.outputs) != 1 or (inner := match_affine(value)) is None:
        return False
    outer = match_affine(reader.outputs[0])
    return outer is not None and outer[1].after(inner[1]) is not None
