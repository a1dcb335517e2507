"""peak-memory: bytes that a call takes."""

from __future__ import annotations

from typing import ClassVar

from qir.metrics.registry import CostMetric, Measured, metric


@metric("peak-memory")
class PeakMemory(CostMetric):
    """Bytes that a call on the first batch takes: inputs, parameters, outputs, temporary tensors.

    They are what XLA has planned for the compiled program, and the memory that generated kernels
    keep for themselves. What the process holds beside it is not counted, as machine code, Python
    and the arrays of the program as it was loaded.
    """

    unit: ClassVar[str] = "bytes"
    form: ClassVar[str] = ",.0f"
    meaning: ClassVar[str] = (
        "inputs, parameters, outputs and temporary tensors of a call as XLA has planned them, and "
        "what generated kernels keep"
    )

    def cost(self, program: Measured) -> int:
        """Asks the compiled program."""
        return program.peak_bytes()
