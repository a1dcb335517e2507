"""What integers may be that are computed from floats of which bounds are known.

Each float lies anywhere within its bounds, whatever the others do: in quantize_dynamic a number may
round up while the one that its scale is from rounds down, and a row of nothing but roundings has
any steps. So an integer's bounds are those of its op over the whole box, not what some moves of the
floats happened to make of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import TypeAlias

import numpy as np

from qir.backends.reference.interpreter import compute_node
from qir.ir import Node, Value
from qir.numbers.dynamic_scale import (
    LARGEST_FLOAT,
    ONNX_SMALLEST_SCALE,
    ONNX_STEPS,
    onnx_quantization,
    symmetric_scale,
    symmetric_steps,
)
from qir.ops import ArgMax, QuantizeDynamic
from qir.ops.logic import Comparison
from qir.types import Array

Bounds: TypeAlias = tuple[Array, Array]
"""The least and the greatest numbers, place by place."""

MIXED = 4
"""How often each float is one of its ends at random, for ops that put several together."""


def cut_bounds(
    node: Node,
    operands: Mapping[Value, Bounds],
    found: Mapping[Value, Array],
    generator: np.random.Generator,
) -> dict[Value, Bounds]:
    """Bounds the integers, booleans and jumping floats that a node computes.

    They are exact for symmetric quantize_dynamic, comparisons and argmax, and for each op that is
    monotone in every number it reads, or that besides jumps at 0; in mode `onnx` they hold all
    numbers that may be, and perhaps a step more. Those of other ops are numbers that occur.

    Args:
        node: The node, without regions.
        operands: Bounds of the numbers that each operand holds, floats in float64.
        found: What was computed, at least what argmax gave: the places that it may give are no
            range.
        generator: Where ends are mixed at random.

    Returns:
        The bounds of each result, but for a float that is no function with jumps.
    """
    op = node.op
    if isinstance(op, QuantizeDynamic):
        low, high = map(_as_floats, operands[node.inputs[0]])
        every = _onnx(low, high) if op.mode == "onnx" else {0: _steps(op, low, high)}
        return {node.outputs[result]: bounds for result, bounds in every.items()}
    if isinstance(op, ArgMax):
        return {node.output: _places(op, *operands[node.inputs[0]], found[node.output])}
    runs = [
        compute_node(node, [picked[value] for value in node.inputs], np.float64)
        for picked in _corners(node, operands, generator)
    ]
    every_run = zip(node.outputs, zip(*runs, strict=True), strict=True)
    return {value: _hull([array.astype(np.float64) for array in run]) for value, run in every_run}


def _hull(arrays: Sequence[Array]) -> Bounds:
    return np.fmin.reduce(arrays), np.fmax.reduce(arrays)


def _corners(
    node: Node, operands: Mapping[Value, Bounds], generator: np.random.Generator
) -> Iterator[dict[Value, Array]]:
    """Yields arrays for the operands: ends of their bounds, what lies nearest to 0, the middle."""
    ends = [
        [low] if low is high else [low, high, np.clip(0.0, low, high)]
        for low, high in operands.values()
    ]
    for picked in product(*ends):
        yield dict(zip(operands, picked, strict=True))
    yield {value: _middle(low, high) for value, (low, high) in operands.items()}
    if isinstance(node.op, Comparison):
        # Two floats are equal somewhere where their bounds overlap.
        both = np.maximum(*(low for low, _ in map(operands.__getitem__, node.inputs)))
        yield {value: np.clip(both, low, high) for value, (low, high) in operands.items()}
    elif not node.op.elementwise:
        for _ in range(MIXED):
            yield {
                value: low
                if low is high
                else np.where(generator.integers(0, 2, low.shape), low, high)
                for value, (low, high) in operands.items()
            }


def _middle(low: Array, high: Array) -> Array:
    if low is high:
        return low
    with np.errstate(invalid="ignore"):
        middle = low + (high - low) / 2
    return np.where(np.isfinite(middle), middle, np.clip(0.0, low, high))


def _places(op: ArgMax, low: Array, high: Array, found: Array) -> Bounds:
    """Bounds places by themselves where their numbers may be the greatest, else by one that may.

    NaN counts as the greatest, as in the op.
    """
    low, high = (np.where(np.isnan(array), np.inf, array) for array in (low, high))
    kept = found if op.keep_axes else np.expand_dims(found, op.axis)
    inside = np.clip(kept, 0, low.shape[op.axis] - 1)
    most = np.take_along_axis(high, inside, op.axis)
    possible = (most >= low.max(axis=op.axis, keepdims=True)) & (inside == kept)
    right = np.where(possible.reshape(found.shape), found, op.evaluate(low))
    return right, right


def _as_floats(array: Array) -> Array:
    """Rounds to float32, with 0 for NaN, as quantize_dynamic reads numbers."""
    with np.errstate(over="ignore"):
        floats = array.astype(np.float32)
    return np.where(np.isnan(floats), np.float32(0), floats)


def _steps(op: QuantizeDynamic, low: Array, high: Array) -> Bounds:
    """Bounds the steps of symmetric scales.

    A step grows with its own number, and shrinks as the others that share its scale grow: its
    bounds lie where the number is at one end, and the others are all as near to 0 as they may be,
    or all as far.
    """
    blocks, axes = op.blocks(low.shape)
    ends = low.reshape(blocks), high.reshape(blocks)
    near, far = np.abs(np.clip(np.float32(0), *ends)), np.maximum(*map(np.abs, ends))
    found = []
    for others in (_of_others(near, axes), _of_others(far, axes)):
        for end in ends:
            scale = symmetric_scale(np.maximum(np.abs(end), others), (), op.largest)
            found.append(symmetric_steps(end, scale, op.largest).astype(np.float64))
    least, most = _hull(found)
    return least.reshape(low.shape), most.reshape(low.shape)


def _of_others(sizes: Array, axes: tuple[int, ...]) -> Array:
    """Returns for each number the greatest of the others along some axes; 0 where there is none."""
    greatest = sizes.max(axis=axes, keepdims=True, initial=0)
    here = sizes == greatest
    alone = here & (here.sum(axis=axes, keepdims=True) == 1)
    second = np.where(alone, np.float32(0), sizes).max(axis=axes, keepdims=True, initial=0)
    return np.asarray(np.where(alone, second, greatest))


def _onnx(low: Array, high: Array) -> dict[int, Bounds]:
    """Bounds the stored numbers and the zero point of mode `onnx`.

    The zero point falls as either end of the range rises. A stored number is the sum of it and of
    the quotient by the scale, each at its own bound.
    """
    lows = [end.min(initial=np.float32(0)) for end in (low, high)]
    highs = [end.max(initial=np.float32(0)) for end in (low, high)]
    points = [
        onnx_quantization(np.asarray(ends, np.float32))[2].astype(np.float64)
        for ends in ((lows[1], highs[1]), (lows[0], highs[0]))
    ]
    quotients = []
    with np.errstate(over="ignore", invalid="ignore"):
        for bottom, top in ((lows[1], highs[0]), (lows[0], highs[1])):
            span = np.minimum(top - bottom, LARGEST_FLOAT) / np.float32(ONNX_STEPS)
            scale = np.maximum(span, ONNX_SMALLEST_SCALE)
            quotients += [np.nan_to_num(np.rint(end / scale), nan=0.0) for end in (low, high)]
    least, most = _hull(quotients)
    stored = least.astype(np.float64) + points[0], most.astype(np.float64) + points[1]
    return {
        0: (np.clip(stored[0], 0, ONNX_STEPS), np.clip(stored[1], 0, ONNX_STEPS)),
        2: (points[0], points[1]),
    }
