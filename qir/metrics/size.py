"""size: bytes of the program's files."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import ClassVar

from qir.metrics.registry import CostMetric, Measured, metric
from qir.text.storage import WRITER


@metric("size")
class SavedSize(CostMetric):
    """Bytes of the `.qir` file and of the `.npz` beside it, as `qir.save` writes them."""

    unit: ClassVar[str] = "bytes"
    form: ClassVar[str] = ",.0f"
    meaning: ClassVar[str] = "the program and its arrays as saved"
    is_of_a_call: ClassVar[bool] = False

    def cost(self, program: Measured) -> int:
        """Writes the files into memory."""
        total = 0
        for write in WRITER.files(program.graph, Path("program.qir")).values():
            file = BytesIO()
            write(file)
            total += len(file.getvalue())
        return total
