"""Plain numbers: what tensors hold, and what codes are stored in."""

from __future__ import annotations

from enum import Enum
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from qir.errors import QirError

Array: TypeAlias = NDArray[Any]


class DType(Enum):
    """A plain number: what a tensor without a code holds, and what a code is stored in."""

    BOOL = "bool"
    I2 = "i2"
    I4 = "i4"
    I8 = "i8"
    I16 = "i16"
    I32 = "i32"
    I64 = "i64"
    U4 = "u4"
    U8 = "u8"
    U16 = "u16"
    U32 = "u32"
    F16 = "f16"
    BF16 = "bf16"
    F32 = "f32"
    F64 = "f64"

    @property
    def is_float(self) -> bool:
        """Whether the numbers are floating point."""
        return self in (DType.F16, DType.BF16, DType.F32, DType.F64)

    @property
    def is_integer(self) -> bool:
        """Whether the numbers are integers; booleans are not."""
        return self.value[0] in "iu"

    @property
    def bits(self) -> int:
        """Bits that one element takes when packed."""
        return _BITS[self]

    @property
    def bounds(self) -> tuple[int, int]:
        """Smallest and largest integer; raises QirError for a floating-point type."""
        if not self.is_integer:
            raise QirError(f"type: expected an integer type, got {self.value}")
        if self.value[0] == "u":
            return 0, 2**self.bits - 1
        return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1

    @property
    def numpy(self) -> np.dtype[Any]:
        """The numpy type that carries the elements; below 8 bits that is one byte an element."""
        return _CARRIERS[self]

    @property
    def epsilon(self) -> float:
        """The distance from 1 to the next number; 0 for integers."""
        return _EPSILON.get(self, 0.0)

    def shortest(self, number: float) -> float:
        """Returns the number with the fewest digits that rounds to the same one of this type."""
        return float(str(self.numpy.type(number)))

    @staticmethod
    def of(dtype: Any) -> DType:
        """Returns the type of a numpy (or ml_dtypes) dtype; raises QirError where QIR has none."""
        found = _BY_NUMPY.get(np.dtype(dtype))
        if found is None:
            raise QirError(
                f"type: expected one of {', '.join(d.value for d in DType)}, got {np.dtype(dtype)}"
            )
        return found


_BITS = {dtype: 1 if dtype is DType.BOOL else int(dtype.value.lstrip("iubf")) for dtype in DType}


_CARRIERS: dict[DType, np.dtype[Any]] = {
    DType.BOOL: np.dtype(np.bool_),
    DType.I2: np.dtype(np.int8),
    DType.I4: np.dtype(np.int8),
    DType.I8: np.dtype(np.int8),
    DType.I16: np.dtype(np.int16),
    DType.I32: np.dtype(np.int32),
    DType.I64: np.dtype(np.int64),
    DType.U4: np.dtype(np.uint8),
    DType.U8: np.dtype(np.uint8),
    DType.U16: np.dtype(np.uint16),
    DType.U32: np.dtype(np.uint32),
    DType.F16: np.dtype(np.float16),
    DType.BF16: np.dtype(ml_dtypes.bfloat16),
    DType.F32: np.dtype(np.float32),
    DType.F64: np.dtype(np.float64),
}


_EPSILON = {DType.F16: 2.0**-10, DType.BF16: 2.0**-7, DType.F32: 2.0**-23, DType.F64: 2.0**-52}


_BY_NUMPY: dict[np.dtype[Any], DType] = {
    carrier: dtype for dtype, carrier in _CARRIERS.items() if dtype.bits >= 8 or dtype is DType.BOOL
} | {
    np.dtype(ml_dtypes.int4): DType.I4,
    np.dtype(ml_dtypes.uint4): DType.U4,
    np.dtype(ml_dtypes.int2): DType.I2,
}
