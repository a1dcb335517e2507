"""The cast from real numbers to stored ones whose scale is found at run time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from qir.numbers.dynamic_scale import (
    ONNX_STEPS,
    onnx_quantization,
    symmetric_scale,
    symmetric_steps,
)
from qir.numbers.interval import Interval
from qir.ops.attributes import by_type
from qir.ops.op import Op, op
from qir.ops.orders import Order, Turned, turned_axes
from qir.ops.rules import Coded, KeepFloat
from qir.ops.traits import Carried, carried_in_place
from qir.ops.type_rules import check_axes
from qir.types import (
    Affine,
    Array,
    DType,
    Element,
    Size,
    TensorType,
)


def steps_code(largest: int, storage: DType = DType.I8) -> Affine:
    """Returns the code of numbers whose scale stands beside them: the steps -largest to largest.

    Args:
        largest: The largest step: 127 for 8 bits, 7 for 4.
        storage: The integer type that they are stored in.
    """
    return Affine.of(storage, 1.0, bounds=(-largest, largest))


def _element(result: TensorType) -> Element:
    return result.element


@op("quantize_dynamic")
class QuantizeDynamic(Op):
    """Real numbers to steps of a scale that is found at run time, with which these cover them.

    Two results: the steps, whose code has the scale 1, and what they are to be multiplied by, in
    float32 and in the rank of x with 1 for each of the axes. Per tensor is all axes, per row or
    token the last one. With a block, the last axis has a scale for each so many numbers.

        scale = max|x| / largest, in [2^-125, 2^125];    steps = clamp(rne(x * (1 / scale)))

    Both quotients are rounded once to float32, to nearest even, and integers on every backend
    form the same bits. NaN is no step and enters no scale; an infinity is the largest step, and
    counts as the greatest finite number; numbers of 0, and denormal ones, have the scale 2^-125.
    See `qir.numbers.dynamic_scale`.

    What is computed of the steps is exact. The scale then is a factor of floats, one rounding each,
    in this order: `dequantize` of the accumulator, which multiplies by the scale of the weights;
    times the scale of the first operand; times that of the second, where that has one; plus the
    bias. A product of scales alone could leave float32. XLA gives the bits of the reference there,
    denormal ones aside, as its lowerings of `mul` and `add` keep to the order.

    In mode `onnx` it is DynamicQuantizeLinear of ONNX, asymmetric and per tensor, with three
    results: plain u8 numbers, the scale and the zero point, a scalar of u8. Plain integers have
    no zero point that a type could tell: what is computed of the numbers subtracts its share, as
    MatMulInteger does, exactly. It divides by the scale, which XLA does exactly on CPU alone.

    Attributes:
        axes: The axes that share a scale, increasing.
        to: The code of the steps: scale 1, zero point 0, bounds -largest and largest, of at most 16
            bits; u8 in mode `onnx`. `steps_code` makes one.
        block: How many numbers along the last axis, which is one of the axes, share a scale.
        mode: Which definition it is.
    """

    axes: tuple[int, ...]
    to: Element = by_type(_element)
    block: int | None = None
    mode: Literal["symmetric", "onnx"] = "symmetric"

    quant = KeepFloat("a cast")

    def check(self) -> None:
        check_axes(self, self.axes)
        if self.block is not None and self.block < 1:
            raise self.error(f"expected a block of at least 1, got {self.block}")
        if self.mode == "onnx":
            if self.to is not DType.U8 or self.block is not None:
                raise self.error(
                    "expected plain u8 and no blocks in mode onnx, which is DynamicQuantizeLinear, "
                    f"got {TensorType((), self.to)} and block {self.block}"
                )
        elif not self._holds_steps():
            raise self.error(
                "expected a code of scale 1, zero point 0 and bounds [-n, n], of at most 16 bits, "
                f"got {TensorType((), self.to)}; qir.ops.quantize_dynamic.steps_code makes one"
            )

    def _holds_steps(self) -> bool:
        code = self.to
        return (
            isinstance(code, Affine)
            and code.storage.bits <= 16
            and code.per_tensor
            and float(code.scale.array) == 1
            and code.zero_point == 0
            and code.range[0] == -code.range[1]
            and code.expressed is DType.F32
        )

    @property
    def largest(self) -> int:
        """The largest step, in mode `onnx` the greatest stored number."""
        return self.to.range[1] if isinstance(self.to, Affine) else ONNX_STEPS

    def result(self, x: TensorType) -> tuple[TensorType, ...]:
        if x.element != DType.F32:
            raise self.error(f"expected an operand of f32, got {x}; cast it first")
        check_axes(self, self.axes, x.rank)
        if self.mode == "onnx":
            if len(self.axes) != x.rank:
                raise self.error(
                    f"expected all axes of {x} in mode onnx, which is per tensor, got "
                    f"{list(self.axes)}"
                )
            return x.with_element(DType.U8), TensorType((), DType.F32), TensorType((), DType.U8)
        return x.with_element(self.to), TensorType(self.scale_shape(x), DType.F32)

    def scale_shape(self, x: TensorType) -> tuple[Size, ...]:
        """Returns the shape of the scale.

        Raises:
            QirError: The blocks don't divide the last axis, or that is none of the axes.
        """
        shape = [1 if axis in self.axes else size for axis, size in enumerate(x.shape)]
        if self.block is None:
            return tuple(shape)
        last = x.rank - 1
        size = x.shape[last] if last in self.axes else None
        if not isinstance(size, int) or size % self.block:
            raise self.error(
                f"expected a last axis that is one of the axes and blocks of {self.block} divide, "
                f"got {x} and axes {list(self.axes)}"
            )
        return (*shape[:last], size // self.block)

    def interval(self, x: Interval) -> Interval:
        # Of all results, the scale and the zero point included.
        largest = float(self.largest)
        with np.errstate(over="ignore", invalid="ignore"):
            peak = float(np.max(np.abs(np.nan_to_num(np.asarray(x.bounds)))))
        # In mode onnx a range has two ends.
        scale = max(2 * peak / largest * (1 + 2.0**-23), 1.0)
        return Interval.of(-largest, max(largest, scale))

    def evaluate(self, x: Array) -> tuple[Array, ...]:
        numbers = np.asarray(x, np.float32)
        if self.mode == "onnx":
            return onnx_quantization(numbers)
        blocks, axes = self.blocks(numbers.shape)
        viewed = numbers.reshape(blocks)
        scale = symmetric_scale(viewed, axes, self.largest)
        steps = symmetric_steps(viewed, scale, self.largest)
        return steps.reshape(x.shape), scale if self.block is None else scale[..., 0]

    def blocks(self, shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Returns a shape in which a block is an axis of its own, and the axes that share a scale.

        Args:
            shape: The shape of x.
        """
        if self.block is None:
            return shape, self.axes
        parts = (*shape[:-1], shape[-1] // self.block, self.block)
        return parts, (*self.axes[:-1], len(shape))

    def integer(self, operands: Sequence[Coded], result: TensorType) -> tuple[Array, ...]:
        (x,) = operands
        steps, scale = self.evaluate(x.stored)
        return steps.astype(result.dtype.numpy), scale

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> list[Carried]:
        axes = [axis for axis in range(operands[0].rank) if axis not in self.axes]
        scaled = range(min(len(results), 2)) if results[1].rank else range(1)
        return [each for result in scaled for each in carried_in_place(axes, result=result)]

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        if self.block is not None and order[-1] != len(order) - 1:
            return None
        scalars: tuple[Order, ...] = ((), ()) if self.mode == "onnx" else (order,)
        axes = turned_axes(self.axes, order)
        return Turned(replace(self, axes=axes), (0,), (order, *scalars))
