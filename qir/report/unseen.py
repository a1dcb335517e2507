"""What calibration has not seen and the program was made without: all that is warned of."""

from __future__ import annotations

from collections.abc import Iterator

from qir.ir import Graph
from qir.report.constant_inputs import constant_inputs, inputs_left_out

NO_DATA = "calibrate: no data ran "
"""How the pass calibrate begins what it says of a region; the remedy follows a semicolon."""


def unseen(reference: Graph, program: Graph) -> Iterator[str]:
    """Yields what a program makes of input that calibration has not seen, a sentence each.

    Args:
        reference: The float program.
        program: The integer program that was made of it.
    """
    yield from constant_inputs(program)
    yield from inputs_left_out(reference, program)
    if any(value.type.quant for node in program.walk() if node.regions for value in node.outputs):
        for told in program.diagnostics:
            if told.startswith(NO_DATA):
                yield told.removeprefix("calibrate: ").rpartition("; ")[0]
