"""Element types, codes and tensor types: quantization is an element type, not a kind of tensor."""

from qir.types.arrays import (
    FrozenArray,
    array_digest,
    expand,
    format_number,
    format_numbers,
)
from qir.types.codes.affine import SMALLEST_SCALE, Quant
from qir.types.dims import Dim, Shape, Size, divide, format_shape, known, product
from qir.types.dtype import Array, DType
from qir.types.tensor import Element, TensorType, tensor

__all__ = [
    "SMALLEST_SCALE",
    "Array",
    "DType",
    "Dim",
    "Element",
    "FrozenArray",
    "Quant",
    "Shape",
    "Size",
    "TensorType",
    "array_digest",
    "divide",
    "expand",
    "format_number",
    "format_numbers",
    "format_shape",
    "known",
    "product",
    "tensor",
]
