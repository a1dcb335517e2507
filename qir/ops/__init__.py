"""The meaning of every op, numpy only. One class an op, one file a family."""

from qir.ops.cast import Dequantize, Lookup, Quantize, Requantize
from qir.ops.conv import Conv
from qir.ops.core import Const, Return
from qir.ops.dot import Dot
from qir.ops.elementwise import Add, Clip, Mul, Relu, Sub
from qir.ops.norm import BatchNorm, Softmax
from qir.ops.pool import AvgPool, MaxPool
from qir.ops.reduce import Mean
from qir.ops.shape import Concat, Reshape, Transpose
from qir.ops.unary import (
    Abs,
    Elu,
    Erf,
    Exp,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Logistic,
    Neg,
    Rsqrt,
    Silu,
    Softplus,
    Sqrt,
    Square,
    Tanh,
)

__all__ = [
    "Abs",
    "Add",
    "AvgPool",
    "BatchNorm",
    "Clip",
    "Concat",
    "Const",
    "Conv",
    "Dequantize",
    "Dot",
    "Elu",
    "Erf",
    "Exp",
    "Gelu",
    "HardSigmoid",
    "HardSwish",
    "LeakyRelu",
    "Log",
    "Logistic",
    "Lookup",
    "MaxPool",
    "Mean",
    "Mul",
    "Neg",
    "Quantize",
    "Relu",
    "Requantize",
    "Reshape",
    "Return",
    "Rsqrt",
    "Silu",
    "Softmax",
    "Softplus",
    "Sqrt",
    "Square",
    "Sub",
    "Tanh",
    "Transpose",
]
