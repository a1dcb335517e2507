"""What a plan knows of the kernels whose steps it holds."""

from __future__ import annotations

from typing import Protocol


class Kernel(Protocol):
    """Code for one kind of step."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it."""
        ...

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that it reads and writes."""
        ...

    @property
    def saving(self) -> float:
        """How many times fewer multiplications it needs than the op is defined by."""
        ...

    @property
    def symbol(self) -> str:
        """Name of the function, the same for equal kernels only."""
        ...
