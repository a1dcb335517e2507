"""Fixed-point requantization: the numpy definitions that every backend reproduces bit for bit.

Requantization maps an int32 accumulator to a stored integer, `clamp(round(acc * m) + zero_point)`,
where `m` is the ratio of the accumulator's scale to the output's. Runtimes disagree on how `m`
becomes a machine number and on how the product becomes an integer. Both belong to the *rounding
mode*, an attribute of the program, so that an imported model keeps the integers of its source.

The canonical mode is `fixed31`, which rounds once. gemmlowp, and TFLite as it is built by default,
round twice: first to the high word of the doubled product, then in the remaining right shift. A
fraction just below one half is carried up to the half by the first rounding and over it by the
second, which moves one output in eight at m = 0.2. Rounding once is what TFLite calls
TFLITE_SINGLE_ROUNDING, ruy documents and TOSA's RESCALE names SINGLE_ROUND.

References:
    Jacob et al., "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", arXiv:1712.05877, section 2.2.
    gemmlowp, doc/quantization.md. TOSA specification, RESCALE. ONNX operators, QLinearConv.
"""

from qir.numbers.rounding.dbl_away import DoubleAway
from qir.numbers.rounding.f32_rne import Float32NearestEven, check_float32_bounds
from qir.numbers.rounding.fixed31 import Fixed31
from qir.numbers.rounding.forms import Float32, HighWord, MachineForm, Scaled, Thresholds, Ties
from qir.numbers.rounding.half_away import HalfAway
from qir.numbers.rounding.mode import (
    ROUNDINGS,
    Multiplier,
    RoundingMode,
    register_rounding,
    requantize,
    rounding_mode,
)
from qir.numbers.rounding.pow2 import Pow2
from qir.numbers.rounding.q8 import Q8
from qir.numbers.rounding.significand import MAX_SHIFT
from qir.numbers.rounding.srdhm_up import SrdhmUp
from qir.numbers.rounding.tflite_double import TfliteDouble

__all__ = [
    "MAX_SHIFT",
    "Q8",
    "ROUNDINGS",
    "DoubleAway",
    "Fixed31",
    "Float32",
    "Float32NearestEven",
    "HalfAway",
    "HighWord",
    "MachineForm",
    "Multiplier",
    "Pow2",
    "RoundingMode",
    "Scaled",
    "SrdhmUp",
    "TfliteDouble",
    "Thresholds",
    "Ties",
    "check_float32_bounds",
    "register_rounding",
    "requantize",
    "rounding_mode",
]
