"""Element types, codes and tensor types: quantization is an element type, not a kind of tensor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import cached_property
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from qir.errors import QirError
from qir.names import check_dimension

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
_BY_NUMPY: dict[np.dtype[Any], DType] = {
    carrier: dtype for dtype, carrier in _CARRIERS.items() if dtype.bits >= 8 or dtype is DType.BOOL
} | {
    np.dtype(ml_dtypes.int4): DType.I4,
    np.dtype(ml_dtypes.uint4): DType.U4,
    np.dtype(ml_dtypes.int2): DType.I2,
}


@dataclass(frozen=True, slots=True)
class Dim:
    """A size that is not known yet: an integer times a product of names, such as `128*B`.

    Args:
        factor: The integer, at least 1.
        names: The names, sorted; a name that stands twice is squared.
    """

    factor: int
    names: tuple[str, ...]

    @staticmethod
    def named(name: str) -> Dim:
        """Returns the size called `name`; raises QirError for what can't be a name."""
        return Dim(1, (check_dimension(name),))

    def __mul__(self, other: Size) -> Size:
        factor, names = (other.factor, other.names) if isinstance(other, Dim) else (other, ())
        return _size(self.factor * factor, (*self.names, *names))

    __rmul__ = __mul__

    def __floordiv__(self, other: Size) -> Size:
        """Divides exactly, or raises QirError when the quotient is not a size."""
        factor, names = (other.factor, other.names) if isinstance(other, Dim) else (other, ())
        rest = list(self.names)
        for name in names:
            if name not in rest:
                raise QirError(f"dimension: {self} is not a multiple of {other}")
            rest.remove(name)
        if factor == 0 or self.factor % factor:
            raise QirError(f"dimension: {self} is not a multiple of {other}")
        return _size(self.factor // factor, tuple(rest))

    def __str__(self) -> str:
        return "*".join([*([str(self.factor)] if self.factor != 1 else []), *self.names])


Size: TypeAlias = int | Dim
Shape: TypeAlias = tuple[Size, ...]


def _size(factor: int, names: Sequence[str]) -> Size:
    return Dim(factor, tuple(sorted(names))) if names and factor else factor


def product(sizes: Sequence[Size]) -> Size:
    """Returns the number of elements of a shape; exact for named sizes too."""
    result: Size = 1
    for size in sizes:
        result = result * size
    return result


def divide(size: Size, by: Size) -> Size:
    """Divides two sizes exactly, or raises QirError when the quotient is not a size."""
    if isinstance(size, Dim):
        return size // by
    if isinstance(by, Dim) or by == 0 or size % by:
        raise QirError(f"dimension: {size} is not a multiple of {by}")
    return size // by


def known(size: Size, what: str) -> int:
    """Returns a size as an integer, or raises QirError where a name would be used as a value."""
    if isinstance(size, Dim):
        raise QirError(f"{what}: expected a known size, got the named dimension {size}")
    return size


def format_shape(shape: Shape) -> str:
    """Spells a shape as in the text: `[B,32,32,3]`."""
    return "[" + ",".join(map(str, shape)) + "]"


def format_number(value: Any) -> str:
    """Returns the shortest text that reads back to the same number of the value's own type."""
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating):
        return str(value)
    return str(np.float32(value))


def format_numbers(array: Array) -> str:
    """Spells an array as nested lists."""
    if array.ndim == 0:
        return format_number(array[()])
    return "[" + ", ".join(map(format_numbers, array)) + "]"


class FrozenArray:
    """An array that can't change, equal and hashed by its content; what types and attributes hold.

    Args:
        array: Anything numpy makes an array of; it is copied.
        dtype: The numpy type to convert to.
    """

    __slots__ = ("__dict__", "array")

    def __init__(self, array: ArrayLike, dtype: Any = None) -> None:
        self.array: Array = np.array(array, dtype=dtype, order="C", copy=True)
        self.array.flags.writeable = False

    @cached_property
    def digest(self) -> str:
        """A hexadecimal name of the content: dtype, shape and bytes."""
        return array_digest(self.array)

    @cached_property
    def _hash(self) -> int:
        return hash((self.array.dtype.str, self.array.shape, self.array.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, FrozenArray):
            return NotImplemented
        return (
            self.array.dtype == other.array.dtype
            and self.array.shape == other.array.shape
            and self.array.tobytes() == other.array.tobytes()
        )

    def __repr__(self) -> str:
        if self.array.size <= 8:
            return format_numbers(self.array)
        return f"<{self.array.size} values>"


class ArrayKey:
    """An array as a key of a dict: equal by its content, hashed by its type and a few numbers.

    Args:
        array: The array; it is not copied and must not change.
    """

    __slots__ = ("_hash", "array")

    def __init__(self, array: Array) -> None:
        self.array = array
        some = array.flat[:: max(1, array.size // 16)]
        self._hash = hash((array.dtype.str, array.shape, some.tobytes()))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ArrayKey):
            return NotImplemented
        one, two = self.array, other.array
        if one is two:
            return True
        return (
            one.dtype == two.dtype
            and one.shape == two.shape
            and np.ascontiguousarray(one).tobytes() == np.ascontiguousarray(two).tobytes()
        )


def array_digest(array: Array) -> str:
    """Returns 16 hexadecimal digits that name an array by its dtype, shape and bytes (BLAKE2b)."""
    digest = hashlib.blake2b(digest_size=8)
    digest.update(f"{array.dtype.name}{array.shape}".encode())
    digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def expand(factors: Array, shape: tuple[int, ...]) -> Array:
    """Stretches scales or zero points until they broadcast against a tensor.

    Args:
        factors: A scalar, or an array of the tensor's rank in which each dimension divides the
            tensor's.
        shape: The tensor's shape.

    Returns:
        An array that broadcasts against `shape`; dimensions of size 1 stay 1.
    """
    for axis, (count, size) in enumerate(zip(factors.shape, shape, strict=factors.ndim > 0)):
        if count not in (1, size):
            factors = np.repeat(factors, size // count, axis=axis)
    return factors


SMALLEST_SCALE = 2.0**-125
"""See constraint C7 of Quant."""


@dataclass(frozen=True)
class Quant:
    """A code: real = (stored - zero_point) * scale, or (levels[stored] - zero_point) * scale.

    A scale is a scalar (per tensor) or has the tensor's rank with each dimension dividing the
    tensor's: 1 in all but one dimension is per channel, anything else is per block. The
    constraints, by the numbers that errors name:

    - C1: every scale is finite and greater than 0.
    - C2: every zero point lies inside the bounds; 32-bit and wider storage has zero point 0.
    - C3: the bounds lie inside the storage type, the lower one below the upper one.
    - C4: the scale is a scalar or has the tensor's rank, and each of its dimensions divides the
      tensor's.
    - C5: an array of zero points has the shape of the scale.
    - C6: the storage type is an integer type, the expressed type a floating-point one.
    - C7: scales of storage of at most 16 bits lie between 2^-125 and 2^125: their inverses are
      normal float32 numbers and every denormal number encodes as 0, so that a machine that flushes
      denormals agrees.
    - C8: levels are distinct increasing integers, no more of them than the storage has codes;
      bounds don't go with them.

    Args:
        storage: The integer type of the stored numbers.
        scale: Real size of one step. Kept as float32; as float64 for storage of 32 bits and more,
            where it is the product of two float32 scales, which float64 holds exactly.
        zero_point: The stored number that means 0.
        bounds: Smallest and largest stored number, where narrower than the storage type.
        expressed: The floating-point type that the code stands for.
        levels: For a codebook, the integer level of each code, int32.

    Raises:
        QirError: A constraint is broken; the message names its number.
    """

    storage: DType
    scale: FrozenArray
    zero_point: int | FrozenArray = 0
    bounds: tuple[int, int] | None = None
    expressed: DType = DType.F32
    levels: FrozenArray | None = None

    @staticmethod
    def of(
        storage: DType,
        scale: ArrayLike,
        zero_point: ArrayLike = 0,
        *,
        bounds: tuple[int, int] | None = None,
        expressed: DType = DType.F32,
        levels: ArrayLike | None = None,
    ) -> Quant:
        """Builds a code from numbers or arrays; the scale is rounded to the type it is kept in."""
        zero_points = _int32(zero_point, "C2: expected zero points")
        return Quant(
            storage,
            FrozenArray(scale, _scale_type(storage)),
            FrozenArray(zero_points) if zero_points.ndim else int(zero_points),
            bounds,
            expressed,
            None if levels is None else FrozenArray(_int32(levels, "C8: expected levels")),
        )

    def __post_init__(self) -> None:
        scale = self.scale.array
        if scale.ndim and scale.size == 1:
            object.__setattr__(self, "scale", FrozenArray(scale.reshape(())))
        if isinstance(self.zero_point, FrozenArray):
            points = self.zero_point.array
            if points.shape != scale.shape:
                raise QirError(
                    f"code: C5: expected zero points of the scale's shape {list(scale.shape)}, "
                    f"got {list(points.shape)}"
                )
            if np.all(points == points.flat[0]):
                object.__setattr__(self, "zero_point", int(points.flat[0]))
        if self.storage.is_integer and self.bounds == self.storage.bounds:
            object.__setattr__(self, "bounds", None)
        self._check()

    def _check(self) -> None:
        if not self.storage.is_integer or not self.expressed.is_float:
            raise QirError(
                "code: C6: expected an integer storage type and a floating-point expressed type, "
                f"got {self.storage.value} and {self.expressed.value}"
            )
        low, high = self.storage.bounds
        if self.bounds and not (low <= self.bounds[0] < self.bounds[1] <= high):
            raise QirError(
                f"code: C3: expected bounds inside [{low}, {high}], lower before upper, "
                f"got {list(self.bounds)}"
            )
        scale = self.scale.array
        if not np.all(np.isfinite(scale) & (scale > 0)):
            bad = scale[~(np.isfinite(scale) & (scale > 0))].flat[0]
            raise QirError(f"code: C1: expected finite scales greater than 0, got {bad!s}")
        if self.storage.bits <= 16:
            outside = (scale < SMALLEST_SCALE) | (scale > 1 / SMALLEST_SCALE)
            if np.any(outside):
                raise QirError(
                    "code: C7: expected scales between 2^-125 and 2^125, "
                    f"got {scale[outside].flat[0]!s}"
                )
        low, high = self.range
        points = self.zero_points
        inside = points == 0 if self.storage.bits >= 32 else (points >= low) & (points <= high)
        if self.levels is None and not np.all(inside):
            bad = points[~inside].flat[0]
            allowed = "of 0" if self.storage.bits >= 32 else f"in [{low}, {high}]"
            raise QirError(f"code: C2: expected a zero point {allowed}, got {bad}")
        if self.levels is not None:
            levels = self.levels.array
            if (
                self.bounds
                or levels.ndim != 1
                or not 2 <= levels.size <= 2**self.storage.bits
                or not np.all(np.diff(levels) > 0)
            ):
                raise QirError(
                    f"code: C8: expected 2 to {2**self.storage.bits} increasing levels and "
                    f"no bounds, got {self.levels!r}"
                )

    @property
    def range(self) -> tuple[int, int]:
        """Smallest and largest number that may be stored."""
        if self.levels is not None:
            return self.storage.bounds[0], self.storage.bounds[0] + len(self.levels.array) - 1
        return self.bounds or self.storage.bounds

    @property
    def zero_points(self) -> Array:
        """The zero points as an int32 array, 0-d where all are equal."""
        if isinstance(self.zero_point, FrozenArray):
            return self.zero_point.array
        return np.asarray(self.zero_point, np.int32)

    @property
    def per_tensor(self) -> bool:
        """Whether one scale and one zero point serve the whole tensor."""
        return self.scale.array.ndim == 0

    @property
    def axis(self) -> int | None:
        """The only axis along which the scale varies; None where there is none or several."""
        varying = [axis for axis, size in enumerate(self.scale.array.shape) if size > 1]
        return varying[0] if len(varying) == 1 else None

    @property
    def inverse_scale(self) -> Array:
        """The float32 reciprocal of the scale, by which `quantize` multiplies; of its shape."""
        return (1.0 / self.scale.array.astype(np.float64)).astype(np.float32)

    def encode(self, real: ArrayLike) -> Array:
        """Returns the stored numbers of real ones: the definition that backends are tested against.

        Codes of at most 16 bits: `clamp(rint(float32(real) * inverse_scale), low - zp, high - zp) +
        zp`, one float32 multiplication, ties to even. Wider ones: `rint(real / scale)` in float64.
        Codebooks: the nearest level, the lower one of two. NaN becomes the zero point.

        Args:
            real: An array of the tensor's shape.

        Returns:
            An array of the same shape and of the storage's numpy type.
        """
        real = np.asarray(real)
        scale, points = expand(self.scale.array, real.shape), expand(self.zero_points, real.shape)
        low, high = self.range
        if self.levels is not None:
            steps = real.astype(np.float64) / scale + points
            levels = self.levels.array.astype(np.float64)
            steps = np.where(np.isnan(steps), points, steps)
            nearest = np.searchsorted((levels[1:] + levels[:-1]) / 2, steps, side="left")
            return (nearest + low).astype(self.storage.numpy)
        with np.errstate(over="ignore", invalid="ignore"):
            if self.storage.bits <= 16:
                steps = np.rint(real.astype(np.float32) * expand(self.inverse_scale, real.shape))
            else:
                steps = np.rint(real.astype(np.float64) / scale)
        steps = np.where(np.isnan(steps), steps.dtype.type(0), steps)
        high = min(high, 2**63 - 1024)  # the greatest that float64 holds in 64 bits
        # Bounds and zero points of at most 16 bits are exact in float32 as well.
        wide = points.astype(np.int64)
        bounds = ((bound - wide).astype(steps.dtype) for bound in (low, high))
        return (np.clip(steps, *bounds) + wide.astype(steps.dtype)).astype(self.storage.numpy)

    def decode(self, stored: ArrayLike) -> Array:
        """Returns the real numbers of stored ones, in the expressed type; one float32 product."""
        stored = np.asarray(stored)
        steps = stored.astype(np.int64)
        if self.levels is not None:
            steps = self.levels.array.astype(np.int64)[steps - self.range[0]]
        steps = steps - expand(self.zero_points, stored.shape)
        scale = expand(self.scale.array, stored.shape).astype(np.float32)
        with np.errstate(over="ignore"):
            return (steps.astype(np.float32) * scale).astype(self.expressed.numpy)

    def check(self, shape: Shape) -> None:
        """Raises QirError unless the code fits a tensor of this shape (constraint C4)."""
        counts = self.scale.array.shape
        fits = not counts or len(counts) == len(shape)
        for count, size in zip(counts, shape, strict=False):
            whole = count > 0 and not isinstance(size, Dim) and size % count == 0
            fits = fits and (count == 1 or whole)
        if not fits:
            raise QirError(
                "code: C4: expected a scalar scale or one whose dimensions divide "
                f"{format_shape(shape)}, got a scale of shape {list(counts)}"
            )

    def map_arrays(self, change: Callable[[Array], Array]) -> Quant:
        """Applies a change of layout to scales and zero points that are not scalars."""
        if self.per_tensor:
            return self
        point = self.zero_point
        return replace(
            self,
            scale=FrozenArray(change(self.scale.array)),
            zero_point=FrozenArray(change(point.array))
            if isinstance(point, FrozenArray)
            else point,
        )


def _int32(numbers: ArrayLike, expectation: str) -> Array:
    array = np.asarray(numbers)
    with np.errstate(invalid="ignore"):
        narrow = (
            array.astype(np.int32) if array.dtype.kind in "iuf" else np.zeros_like(array, np.int32)
        )
    if not np.array_equal(narrow, array):
        raise QirError(f"code: {expectation} that are integers of 32 bits, got {array}")
    return narrow


def _scale_type(storage: DType) -> type[np.float32] | type[np.float64]:
    return np.float32 if storage.bits <= 16 else np.float64


Element: TypeAlias = DType | Quant


@dataclass(frozen=True)
class TensorType:
    """The type of a value: a shape, and an element that is a plain number or a code.

    Raises:
        QirError: The code does not fit the shape (constraint C4).
    """

    shape: Shape
    element: Element

    def __post_init__(self) -> None:
        if isinstance(self.element, Quant):
            self.element.check(self.shape)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> DType:
        """The plain type of the stored numbers."""
        return self.element.storage if isinstance(self.element, Quant) else self.element

    @property
    def quant(self) -> Quant | None:
        """The code, or None for plain numbers."""
        return self.element if isinstance(self.element, Quant) else None

    @property
    def is_float(self) -> bool:
        """Whether the elements are plain floating-point numbers."""
        return isinstance(self.element, DType) and self.element.is_float

    @property
    def size(self) -> Size:
        """Number of elements."""
        return product(self.shape)

    @property
    def known_shape(self) -> tuple[int, ...]:
        """The shape in integers; raises QirError where a dimension is named."""
        return tuple(known(size, "shape") for size in self.shape)

    def with_shape(self, *shape: Size) -> TensorType:
        """Returns the type with another shape, which the code must fit too."""
        return TensorType(shape, self.element)

    def with_element(self, element: Element) -> TensorType:
        """Returns the type with another element."""
        return TensorType(self.shape, element)

    def __str__(self) -> str:
        text = f"{self.dtype.value}{format_shape(self.shape)}"
        if self.quant is None:
            return text
        code = [f"scale={_flat(self.quant.scale)}"]
        if not self.quant.per_tensor:
            parts = self.quant.scale.array.shape
            axis = self.quant.axis
            whole = axis is not None and parts[axis] == self.shape[axis]
            code.append(f"axis={axis}" if whole else f"parts={list(parts)}")
        if self.quant.zero_point != 0:
            code.append(f"zp={_flat(self.quant.zero_point)}")
        if self.quant.bounds is not None:
            code.append(f"bounds={list(self.quant.bounds)}")
        if self.quant.levels is not None:
            code.append(f"levels={self.quant.levels!r}")
        if self.quant.expressed is not DType.F32:
            code.append(f"as={self.quant.expressed.value}")
        return text + "{" + ", ".join(code) + "}"


def _flat(numbers: int | FrozenArray) -> str:
    if isinstance(numbers, int) or not numbers.array.ndim:
        return repr(numbers)
    return repr(FrozenArray(numbers.array.reshape(-1)))


def tensor(array: Array) -> TensorType:
    """Returns the type of a numpy array of plain numbers."""
    return TensorType(tuple(array.shape), DType.of(array.dtype))
