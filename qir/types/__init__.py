"""Element types, codes and tensor types: quantization is an element type, not a kind of tensor."""

from qir.types.arrays import (
    FrozenArray,
    aligned,
    array_digest,
    expand,
    format_number,
    format_numbers,
    on_one_grid,
)
from qir.types.codes.affine import Affine
from qir.types.codes.code import (
    CODES,
    Code,
    code,
    code_kind,
    in_text,
    own_fields,
    written_fields,
)
from qir.types.codes.codebook import Codebook
from qir.types.codes.float8 import Float8, Float8E4M3, Float8E5M2
from qir.types.codes.level_code import LevelCode
from qir.types.codes.mxfp4 import MXFP4
from qir.types.codes.nvfp4 import NVFP4
from qir.types.codes.parts import SMALLEST_NORMAL, SMALLEST_SCALE
from qir.types.codes.power_of_two import PowerOfTwo
from qir.types.dims import Dim, Shape, Size, divide, format_shape, known, product
from qir.types.dtype import Array, DType
from qir.types.factored import FactoredArray, multiplied
from qir.types.tensor import Element, TensorType, tensor

__all__ = [
    "CODES",
    "MXFP4",
    "NVFP4",
    "SMALLEST_NORMAL",
    "SMALLEST_SCALE",
    "Affine",
    "Array",
    "Code",
    "Codebook",
    "DType",
    "Dim",
    "Element",
    "FactoredArray",
    "Float8",
    "Float8E4M3",
    "Float8E5M2",
    "FrozenArray",
    "LevelCode",
    "PowerOfTwo",
    "Shape",
    "Size",
    "TensorType",
    "aligned",
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
    "multiplied",
    "on_one_grid",
    "own_fields",
    "product",
    "tensor",
    "written_fields",
]
