"""Claims: what an op says of the numbers that occur, which its type rule can't check.

The rewrite that puts a claim on an op has proved it. Whoever edits the text or the graph may make
it untrue, so that the verifier proves it again, and what acts on claims first has those taken back
that no longer hold (`qir.analysis.claims`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qir.numbers.int32 import Int64Array
from qir.types import TensorType

if TYPE_CHECKING:
    from qir.ops.op import Op


@dataclass(frozen=True, eq=False)
class BoundedOperand:
    """An operand as a proof knows it.

    Attributes:
        type: Its type.
        low: The least integers that its scale may multiply, int64, broadcasting to the operand; of
            one without a code, the least numbers that it stores.
        high: The greatest ones.
    """

    type: TensorType
    low: Int64Array
    high: Int64Array

    @property
    def hull(self) -> tuple[int, int]:
        """The least and the greatest of all; 0 where there is none."""
        if not self.low.size:
            return 0, 0
        return int(self.low.min()), int(self.high.max())


class Claim(ABC):
    """One thing that an op claims of its operands."""

    @abstractmethod
    def disproof(self, operands: Sequence[BoundedOperand]) -> str | None:
        """Says what is wrong with the claim.

        Args:
            operands: The operands of the op.

        Returns:
            A clause that follows the name of the op, or of its result; None where it is proved.
        """

    @abstractmethod
    def without(self, op: Any) -> Op:
        """Returns an op without this claim, and the same otherwise."""
