"""From one code to another as quantize(dequantize(x)) does it, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from math import lcm

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Value
from qir.ops import Lookup, Quantize, Recode, Requantize
from qir.ops.lookup import index_bits
from qir.ops.op import Op, infer
from qir.ops.rules import Coded, ExactSum
from qir.ops.sums import rounded
from qir.passes.shared.plan import KeptFloat
from qir.types import Affine, Array, Code, FrozenArray, TensorType, expand

MOST_CELLS = 4096
"""Pairs of scales that are compared at most, each at every number of a code."""


def requantized(total: Value, to: Affine, rounding: str) -> Requantize:
    """Returns what rounds an accumulator to a code; raises QirError as `qir.ops.sums.rounded`."""
    op = total.op
    if op is not None and isinstance(op.quant, ExactSum):
        return rounded(op, [operand.type for operand in total.inputs], to, rounding)
    return Requantize(to, rounding)


def recoded(x: Value, to: Code, mode: str, rounding: str, builder: Builder) -> Value:
    """Returns what quantize(dequantize(x)) is, without either.

    The stored numbers as they are, or under another zero point; a constant computed; a requantize
    where its rounding gives every stored number what float does, else a table. What has more than
    16 bits is requantized: its steps are too many to compare.

    Args:
        x: Stored numbers.
        to: The code of the result.
        mode: The rounding mode of the quantize.
        rounding: The rounding mode of a requantize.
        builder: Where to build.

    Raises:
        KeptFloat: No integer op gives the same.
        QirError: The scales or kinds can't be requantized.
    """
    own = x.type.code
    if own == to and _is_kept(own):
        return x
    quantize = Quantize(to, mode)
    if x.is_constant:
        return builder.const(quantize.encode(own.decode(x.array)), x.name, to)
    if not isinstance(to, Affine):
        raise KeptFloat(f"a code of kind {to.kind} has no requantize")
    if (op := _turned(x.type, to)) is not None:
        return builder.emit(op, x)
    if own.storage.bits > 16:
        return builder.emit(requantized(x, to, rounding), x)
    requantize = Requantize(to, rounding)
    if _agree(requantize, quantize, own):
        return builder.emit(requantize, x)
    if not own.per_tensor or not to.per_tensor:
        raise KeptFloat(
            f"rounding {rounding} takes numbers of %{x.name} to others than quantize does, and no "
            "table serves scales that vary"
        )
    return builder.emit(Lookup(), x, builder.const(_table(x.type, quantize), f"{x.name}.table", to))


def holds(code: Code, number: float) -> bool:
    """Whether a code has a stored number that means just this one, in every part."""
    real = np.full(code.grid, number, code.expressed.numpy)
    return bool(np.array_equal(code.decode(code.encode(real)), real))


def _is_kept(code: Code) -> bool:
    """Whether every stored number is what its real number is stored as.

    Some kinds have two stored numbers for one real one, such as those of 0 and -0.
    """
    if isinstance(code, Affine):
        return True
    every = np.arange(code.range[0], code.range[1] + 1).astype(code.storage.numpy)
    sizes = np.unique(code.step_sizes)
    if every.size * sizes.size > 256 * MOST_CELLS:
        return False
    parts = (replace(code, scale=FrozenArray(size), multipliers=None) for size in sizes)
    return all(np.array_equal(part.encode(part.decode(every)), every) for part in parts)


def _turned(x: TensorType, to: Affine) -> Op | None:
    """Returns the recode between i8 and u8 whose zero points differ by 128, if it is one."""
    own = x.quant
    if not isinstance(own, Affine) or own.scale != to.scale or own.storage is to.storage:
        return None
    try:
        infer(Recode(to), [x])
    except QirError:
        return None
    return Recode(to)


def _agree(requantize: Requantize, quantize: Quantize, own: Code) -> bool:
    """Whether a requantize gives every number that is stored in a code what float makes of it."""
    to = requantize.to
    every = np.arange(own.range[0], own.range[1] + 1).reshape(-1, 1)
    if not isinstance(own, Affine) or own.multipliers is not None:
        # Levels: all numbers there are, of a code per tensor.
        if not own.per_tensor:
            return False
        pairs = [(own, to)]
        shape: tuple[int, ...] = (every.size, 1)
    else:
        pairs = [_cells(own, to)]
        shape = (every.size, max(pairs[0][0].scale.array.size, pairs[0][1].scale.array.size))
        if shape[1] > MOST_CELLS:
            return False
    for source, target in pairs:
        stored = np.broadcast_to(every, shape)
        encoded = Quantize(target, quantize.rounding).encode(source.decode(stored))
        op = Requantize(target, requantize.rounding)
        operand = TensorType(shape, source)
        try:
            found = op.integer([Coded(stored, operand)], TensorType(shape, target))
        except QirError:  # The rounding does not take this ratio of scales.
            return False
        if not np.array_equal(found, encoded):
            return False
    return True


def _cells(own: Affine, to: Affine) -> tuple[Affine, Affine]:
    """Spreads two codes over the places where either varies, as codes of one row."""
    rank = max(len(own.scale.shape), len(to.scale.shape))
    grids = [code.scale.shape or (1,) * rank for code in (own, to)]
    whole = tuple(map(lcm, *grids))

    def spread(code: Affine) -> Affine:
        scale, points = (
            np.broadcast_to(expand(part, whole) if part.ndim else part, whole).reshape(1, -1)
            for part in (code.scale.array, code.zero_points)
        )
        return Affine.of(code.storage, scale, points, bounds=code.bounds, expressed=code.expressed)

    return spread(own), spread(to)


def _table(x: TensorType, quantize: Quantize) -> Array:
    """Returns quantize(dequantize(x)) of all bit patterns; those outside of a code as its ends."""
    code, bits = x.code, index_bits(x)
    patterns = np.arange(2**bits)
    if x.dtype.bounds[0] < 0:
        patterns = (patterns + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
    return quantize.encode(code.decode(np.clip(patterns, *code.range).astype(x.dtype.numpy)))
