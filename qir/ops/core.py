"""The ops that every graph has: constants and the return."""

from __future__ import annotations

from qir.ops.attributes import by_type
from qir.ops.op import Op, op
from qir.ops.rules import KeepFloat
from qir.types import FrozenArray, TensorType


@op("const")
class Const(Op):
    """Stored numbers: those beside the text that have the value's name, or `@another`; few inline.

    Attributes:
        array: The stored numbers, of the carrier of the type's element; shared by reference.
    """

    array: FrozenArray
    type: TensorType = by_type(lambda result: result)

    quant = KeepFloat("constants are encoded by the ops that use them")

    def check(self) -> None:
        array, dtype = self.array.array, self.type.dtype
        if array.dtype != dtype.numpy:
            raise self.error(
                f"expected an array of {dtype.numpy} for {self.type}, got {array.dtype}"
            )
        if dtype.is_integer and dtype.bits < 8 and array.size:
            low, high = dtype.bounds
            if array.min() < low or array.max() > high:
                raise self.error(
                    f"expected numbers in [{low}, {high}] for {self.type}, got "
                    f"[{array.min()}, {array.max()}]"
                )

    def result(self) -> TensorType:
        return self.type


@op("return")
class Return(Op):
    """Ends a graph: its operands are the graph's outputs."""

    quant = KeepFloat("the end of the program")

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, *outputs: TensorType) -> tuple[TensorType, ...]:
        return ()
