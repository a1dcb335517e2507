"""Borders around stored numbers."""

from __future__ import annotations

from math import prod

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.movement import OUTER, PadKernel
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns.flat import lies, variables
from qir.backends.native.patterns.movement import (
    element_bytes,
    row_strides,
    task_count,
    unmovable,
)
from qir.ir import Node
from qir.ops import Pad
from qir.types import Array


@pattern(Pad)
def pad(op: Pad, node: Node, target: InstructionSet) -> Match | str:
    """Rows between borders of one number."""
    (x,) = node.inputs
    if reason := unmovable(node):
        return reason
    if x.type.rank > OUTER + 1:
        return "more axes than a kernel counts through"
    code = x.type.quant
    if code is None:
        number = np.asarray(op.value, np.float32)
    elif code.per_tensor:
        number = op.stored_value(code)
    else:
        return "a code that varies"

    def write(placement: Placement) -> None:
        _surround(placement, node, op, number)

    return Match((node,), variables(x), write)


def _surround(placement: Placement, node: Node, op: Pad, number: Array) -> None:
    (x,) = node.inputs
    element = element_bytes(x)
    if 0 in placement.shape(node.output):
        return
    # [low, kept, size] of each axis in elements; an axis without borders joins the one above.
    axes: list[list[int]] = []
    for low, high, kept in reversed(list(zip(op.low, op.high, placement.shape(x), strict=True))):
        if axes and axes[-1][0] == 0 and axes[-1][1] == axes[-1][2]:
            _, inside, _ = axes.pop()
            low, high, kept = low * inside, high * inside, kept * inside
        axes.append([low, kept, low + kept + high])
    low, kept, size = axes[0] if axes else [0, 1, 1]
    rows = axes[:0:-1]
    rows = [[0, 1, 1]] * (OUTER - len(rows)) + rows
    source = row_strides([kept for _, kept, _ in rows] + [kept], element)
    outer = prod(size for _, _, size in rows)
    block = -(-outer // task_count(outer * size * element, placement))
    parameters = {
        "outer": outer,
        "block": block,
        "low_run": low * element,
        "run": kept * element,
        "high_run": (size - low - kept) * element,
        "fill": int.from_bytes(number.tobytes() * (4 // element), "little", signed=True),
    }
    for axis, (low, kept, size) in enumerate(rows):
        parameters |= {
            f"low{axis}": low,
            f"kept{axis}": kept,
            f"size{axis}": size,
            f"source{axis}": source[axis],
        }
    tensors = {"x": lies(placement, x), "out": placement.write(node.output)}
    placement.plan.step(
        node.output.name, PadKernel(), parameters, tensors, tasks=-(-outer // block)
    )
