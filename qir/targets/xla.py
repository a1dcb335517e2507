"""XLA: all that QIR's backend `xla` runs."""

from qir.targets.target import Target
from qir.types import DType

_NARROW = tuple(dtype for dtype in DType if dtype not in (DType.I64, DType.F64))

TARGET = Target(
    name="xla",
    runtime="XLA by QIR's backend xla, on CPU, CUDA and TPU",
    sums=(DType.I32, DType.I64),
    numbers=_NARROW,
    outputs=_NARROW,
)
"""Every code and rounding mode, and sums in i64 between ops, where they are two words of 32 bits;
no plain numbers of 64 bits, which XLA has no fast form of."""
