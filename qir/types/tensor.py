"""Tensor types: quantization is an element type, not a kind of tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qir.types.arrays import FrozenArray
from qir.types.codes.affine import Quant
from qir.types.dims import Shape, Size, format_shape, known, product
from qir.types.dtype import Array, DType

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
