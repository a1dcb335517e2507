"""Movements of bytes: from strides to strides, between borders, and with two axes exchanged."""

from __future__ import annotations

from dataclasses import dataclass

from qir.backends.native.kernel import Kernel

OUTER = 6
"""Axes that are counted through outside the innermost loops."""


def each_axis(name: str, count: int = OUTER) -> tuple[str, ...]:
    """Returns the names of a parameter that each axis has."""
    return tuple(f"{name}{axis}" for axis in range(count))


@dataclass(frozen=True)
class CopyKernel(Kernel):
    """Copies runs of bytes from strides to strides."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers, all in bytes but the sizes of axes.

        The axis that is named inner lies inside the outer ones. block_outer, block_inner and
        block_run are of a task; ranges of inner and runs of a run are as many blocks.
        """
        return (
            *("outer", "inner", "run", "block_outer", "block_inner", "block_run", "ranges", "runs"),
            *each_axis("size"),
            *each_axis("source"),
            *each_axis("out"),
            *("source_inner", "out_inner"),
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "out")


@dataclass(frozen=True)
class PadKernel(Kernel):
    """Surrounds a tensor by a number."""

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers.

        outer, block: rows of the result, in all and of a task. low_run, run, high_run: bytes of the
        border, of a row of x, and of the border again. size, low, kept: places of an axis in the
        result, before x and of x. source: bytes from place to place in x. fill: the number.
        """
        return (
            *("outer", "block", "low_run", "run", "high_run", "fill"),
            *each_axis("size"),
            *each_axis("low"),
            *each_axis("kept"),
            *each_axis("source"),
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "out")


@dataclass(frozen=True)
class TransposeKernel(Kernel):
    """Transposes two axes: the last one of the operand and the last one of the result.

    Attributes:
        element: Bytes of an element, 1 or 4.
    """

    element: int

    @property
    def tile(self) -> int:
        """Elements of a row of a tile."""
        return 16 // self.element

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of the integers; strides are in bytes.

        across: places of the result's last axis, source_across bytes apart in x. along: those of
        x's last axis, out_along bytes apart in the result. block, ranges: of along, as tasks are.
        """
        return (
            *("across", "along", "block", "ranges", "source_across", "out_along"),
            *each_axis("size"),
            *each_axis("source"),
            *each_axis("out"),
        )

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors."""
        return ("x", "out")
