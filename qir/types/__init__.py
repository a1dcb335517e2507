"""Element types, codes and tensor types: quantization is an element type, not a kind of tensor."""

from qir.types.arrays import (
    FrozenArray,
    array_digest,
    expand,
    format_number,
    format_numbers,
)
from qir.types.codes.affine import Affine
from qir.types.codes.code import (
    CODES,
    SMALLEST_SCALE,
    Code,
    code,
    code_kind,
    in_text,
    own_fields,
    written_fields,
)
from qir.types.codes.codebook import Codebook
from qir.types.codes.level_code import LevelCode
from qir.types.dims import Dim, Shape, Size, divide, format_shape, known, product
from qir.types.dtype import Array, DType
from qir.types.tensor import Element, TensorType, tensor

__all__ = [
    "CODES",
    "SMALLEST_SCALE",
    "Affine",
    "Array",
    "Code",
    "Codebook",
    "DType",
    "Dim",
    "Element",
    "FrozenArray",
    "LevelCode",
    "Shape",
    "Size",
    "TensorType",
    "array_digest",
    "code",
    "code_kind",
    "divide",
    "expand",
    "format_number",
    "format_numbers",
    "format_shape",
    "in_text",
    "known",
    "own_fields",
    "product",
    "tensor",
    "written_fields",
]
