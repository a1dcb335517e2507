"""Conditions of loops that codes can't decide: a loop that converges in floats may never end."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from qir.ir import Node, Value
from qir.ops.logic import Comparison
from qir.ops.regions import RegionOp
from qir.types import Affine

LEAST_STEPS = 16
"""How many steps of its code away from 0 what ends a loop must be: rounding errors of the values
that it is computed from are a few steps, and below them a loop may go round in circles."""


def coarse_condition(node: Node, code_for: Callable[[Value], Affine]) -> str | None:
    """Says why the codes of a loop are too coarse for what ends it; None where they are not.

    Args:
        node: The loop, in a float program with ranges.
        code_for: Returns the code that a value's range asks for.
    """
    assert isinstance(node.op, RegionOp)
    for index in node.op.conditions:
        region = node.regions[index]
        for compared in region.cone(region.outputs):
            if not isinstance(compared.op, Comparison):
                continue
            for x, y in (compared.inputs, reversed(compared.inputs)):
                if x.is_constant or not y.is_constant or not x.type.is_float:
                    continue
                bound = float(np.abs(y.real).min(initial=np.inf))
                if bound == 0 or x.range is None or not x.range.is_finite:
                    continue
                # Also of what is carried in 16 bits, as what it is made of has fewer.
                step = float(code_for(x).scale.array.max())
                if bound < LEAST_STEPS * step:
                    return (
                        f"it ends as %{x.name} comes to {bound:.3g}, and codes of it have steps of "
                        f"{step:.3g}: expected at least {LEAST_STEPS} steps, or it may never end; "
                        "let it end sooner, or take activations of 16 bits"
                    )
    return None
