"""Inputs that held one number only in calibration: what the program makes of others."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from qir.ir import Graph, Value
from qir.ops import Quantize


def constant_inputs(program: Graph) -> Iterator[str]:
    """Yields what a code makes of the numbers that calibration has not seen of a constant input."""
    for value in program.inputs:
        if (seen := _only_number(value)) is None:
            continue
        # With quantize(inputs=i8) the caller quantizes by the code of the input itself.
        codes = (
            [value.type.quant]
            if value.type.quant is not None
            else [node.output.type.quant for node in value.users if isinstance(node.op, Quantize)]
        )
        for code in codes[:1]:
            if code is not None and code.per_tensor and value.uses:
                low, high = (float(code.decode(np.array(end)).reshape(-1)[0]) for end in code.range)
                yield f"{seen}: other numbers are clamped to [{low:.4g}, {high:.4g}]"


def inputs_left_out(reference: Graph, program: Graph) -> Iterator[str]:
    """Yields which constant inputs nothing reads any more, as terms that were only ever 0.

    Args:
        reference: The float program.
        program: The integer program that was made of it.
    """
    for old, value in zip(reference.inputs, program.inputs, strict=True):
        if old.uses and not value.uses and (seen := _only_number(value)) is not None:
            yield f"{seen}: it is left out, so that other numbers make no difference"


def _only_number(value: Value) -> str | None:
    if value.observed is None or len(set(value.observed.bounds)) > 1 or 0 in value.type.shape:
        return None
    number = value.observed.bounds[0]
    return f"input %{value.name} was {number:.4g} in all of the calibration data"
