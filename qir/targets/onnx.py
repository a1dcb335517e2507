"""ONNX as ONNX Runtime's CPU provider runs it: quantized operators, and QDQ around float ones.

The facts are of opset 21 and ONNX Runtime 1.32. Each op of `integer_ops` has the same integers when
it is written so:

- conv and dot: QLinearConv and QLinearMatMul, or ConvInteger and MatMulInteger with a sum in i32.
  Activations are i8 or u8, weights have a scale per tensor or per channel.
- requantize: Cast to f32, Mul, Round, Clip and Cast, which is also what QLinear kernels compute:
  mode f32_rne, one float32 product and ties to even.
- add, sub, mul, mean, reduce_sum, avg_pool: integers of 32 bits, then a requantize. QLinearAdd and
  QLinearMul round in another order and differ by a step in about one number of a hundred; a window
  is summed by ConvInteger with ones, as AveragePool takes no i32.
- lookup, lookup2: Gather from a constant table.
- embedding: Gather, Cast, Mul; rows leave as floats, since their coded form rounds by fixed31.
- moves, comparisons, relu and clip take i8 and u8 as they are. No arithmetic takes i16, for which
  there are casts alone.

On x86 without VNNI, kernels of u8 by i8 saturate pairs of products in 16 bits unless the session's
`session.x64quantprecision` is 1; i8 by i8 is exact everywhere.
"""

import qir.ops
from qir.targets.target import Target
from qir.types import DType

_MOVES = (
    "broadcast concat gather pad reshape resize_nearest reverse select slice split tile transpose"
)
_COMPARISONS = (
    "argmax equal greater greater_equal less less_equal max_pool maximum minimum not_equal "
    "reduce_max reduce_min"
)
_SUMS = "add avg_pool conv dot mean mul reduce_sum sub"
_TABLES = "lookup lookup2 embedding"
_INTEGER = frozenset(f"{_MOVES} {_COMPARISONS} {_SUMS} {_TABLES} relu clip".split())
_LOOPS = {"cond", "scan", "while"}
_NO_FLOAT = {"lookup", "lookup2", "quantize_dynamic", "recode", "requantize"} | _LOOPS
"""What there is on codes alone, and what has no form there yet. Others are an operator or a few:
log1p is Log of 1 + x."""

_FLOAT_ONLY = "ONNX Runtime computes it in floating point"

TARGET = Target(
    name="onnx",
    runtime="ONNX Runtime 1.32, CPU provider",
    opset=21,
    activations=(DType.I8, DType.U8),
    weights=(DType.I8,),
    casts=(DType.I16, DType.U16, DType.I4, DType.U4),
    sums=(DType.I32,),
    numbers=(DType.BOOL, DType.I8, DType.U8, DType.I32, DType.I64, DType.F32, DType.F64),
    outputs=(DType.BOOL, DType.I8, DType.U8, DType.I32, DType.I64, DType.F32, DType.F64),
    kinds=("affine",),
    symmetric_weights=True,
    zero_point_inside=True,
    activation_scales=("tensor",),
    weight_scales=("tensor", "channel"),
    weight_scales_by_op={"embedding": ("tensor", "channel", "row")},
    wide_sums=False,
    roundings=("f32_rne",),
    quantize_modes=("divide",),
    dynamic_modes=("onnx",),
    integer_ops=_INTEGER,
    float_ops=frozenset(getattr(qir.ops, name).name for name in qir.ops.__all__) - _NO_FLOAT,
    reasons={
        "softmax": _FLOAT_ONLY,
        "exp_below_max": _FLOAT_ONLY,
        "exp_below_max_high": _FLOAT_ONLY,
        "exp_below_max_low": _FLOAT_ONLY,
        "layer_norm": _FLOAT_ONLY,
        "rms_norm": _FLOAT_ONLY,
        "group_norm": _FLOAT_ONLY,
        "l2_norm": _FLOAT_ONLY,
        "div": _FLOAT_ONLY,
        "resize_linear": _FLOAT_ONLY,
        **dict.fromkeys(_LOOPS, "loops and branches have no form for ONNX Runtime yet"),
        "conv_transpose": "ONNX Runtime has no ConvTranspose of integers",
    },
)
"""The target."""
