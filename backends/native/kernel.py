"""Kernels: what a plan knows of the code that computes a step; a backend writes the code."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Kernel(ABC):
    """A kernel for one kind of step; its fields are what the code is specialised to."""

    @property
    @abstractmethod
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors that it reads and writes."""

    @property
    def saving(self) -> float:
        """How many times fewer multiplications it needs than the op is defined by."""
        return 1.0

    @property
    def name(self) -> str:
        """Name of the class, for people: `Dense` of a `DenseKernel`."""
        return type(self).__name__.removesuffix("Kernel")

    @property
    def symbol(self) -> str:
        """Name of the function, the same for equal kernels only."""
        values = "_".join(f"{field.name}_{getattr(self, field.name)}" for field in fields(self))
        return f"qir_{self.name}_{values}".lower()
