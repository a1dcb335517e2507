"""Tensor types: quantization is an element type, not a kind of tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from qir.errors import QirError
from qir.types.arrays import FrozenArray
from qir.types.codes.affine import Affine
from qir.types.codes.code import Code, written_fields
from qir.types.dims import Shape, Size, format_shape, known, product
from qir.types.dtype import Array, DType

Element: TypeAlias = DType | Code


@dataclass(frozen=True)
class TensorType:
    """The type of a value: a shape, and an element that is a plain number or a code.

    Raises:
        QirError: The code does not fit the shape (constraint C4).
    """

    shape: Shape
    element: Element

    def __post_init__(self) -> None:
        if isinstance(self.element, Code):
            self.element.check(self.shape)

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def dtype(self) -> DType:
        """The plain type of the stored numbers."""
        return self.element.storage if isinstance(self.element, Code) else self.element

    @property
    def quant(self) -> Code | None:
        """The code, or None for plain numbers."""
        return self.element if isinstance(self.element, Code) else None

    @property
    def code(self) -> Code:
        """The code; raises QirError for plain numbers."""
        if not isinstance(self.element, Code):
            raise QirError(f"type: expected a code, got {self}; quantize the numbers first")
        return self.element

    @property
    def affine(self) -> Affine:
        """The affine code; raises QirError for plain numbers and other kinds of code."""
        if not isinstance(self.element, Affine):
            raise QirError(f"type: expected an affine code, got {self}")
        return self.element

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
        code = self.quant
        shown = [] if code.kind == Affine.kind else [f"kind={code.kind}"]
        shown.append(f"scale={_flat(code.scale)}")
        if len(factors := code.scale.factors) > 1:
            shown.append(f"parts={[list(factor.shape) for factor in factors]}")
        elif parts := code.scale.shape:
            axis = code.axis
            whole = axis is not None and parts[axis] == self.shape[axis]
            shown.append(f"axis={axis}" if whole else f"parts={list(parts)}")
        for name, _, value in written_fields(code):
            spelled = _flat(value) if isinstance(value, FrozenArray) else value
            spelled = list(value) if isinstance(value, tuple) else spelled
            shown.append(f"{name}={spelled}")
        if code.expressed is not DType.F32:
            shown.append(f"as={code.expressed.value}")
        return text + "{" + ", ".join(shown) + "}"


def _flat(numbers: FrozenArray) -> str:
    return "*".join(
        repr(FrozenArray(factor.array.reshape(-1)) if factor.shape else factor)
        for factor in numbers.factors
    )


def tensor(array: Array) -> TensorType:
    """Returns the type of a numpy array of plain numbers."""
    return TensorType(tuple(array.shape), DType.of(array.dtype))
