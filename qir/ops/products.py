"""Sums of products with weights: what matrix products and convolutions share."""

from __future__ import annotations

from collections.abc import Sequence

from qir.numbers.affine_map import AffineMap
from qir.ops.op import Op
from qir.ops.rules import Accumulate
from qir.ops.traits import Inward
from qir.types import TensorType


class Products(Op):
    """Base of the sums of products, into whose weights and bias affine maps of either side go.

    Operands: x […, channels], kernel […, channels / groups, outputs], bias [outputs], which may be
    left out. Each output is linear in x and in the kernel, and each number of the kernel meets
    numbers of one channel and makes those of one output.
    """

    quant = Accumulate()

    @property
    def channel_groups(self) -> int:
        """Into how many groups channels and outputs are split."""
        return 1

    def cannot_shift(self, operands: Sequence[TensorType]) -> str | None:
        """Says why an offset of each channel of x is no offset of the outputs; None where it is.

        Args:
            operands: The operand types.
        """
        return None

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        # What varies by output is for the weights alone, of which passes make new ones.
        if affine.varies or affine.shifts:
            return f"a factor of {self.name} is one number"
        bias = (affine,) * (len(operands) - 2)
        return [Inward(self, (affine, None, *bias)), Inward(self, (None, affine, *bias))]
