"""The lowerings of every op, one file a family as in `qir.ops`; importing one fills the table."""

from qir.backends.xla.lowering import LOWERINGS, legal_ways
from qir.backends.xla.rules import (
    cast,
    conv,
    conv_transpose,
    dot,
    elementwise,
    indexing,
    logic,
    lookup,
    norm,
    normalization,
    pool,
    quotient,
    reduce,
    resize,
    shape,
    softmax,
    unary,
)

__all__ = [
    "LOWERINGS",
    "cast",
    "conv",
    "conv_transpose",
    "dot",
    "elementwise",
    "indexing",
    "legal_ways",
    "logic",
    "lookup",
    "norm",
    "normalization",
    "pool",
    "quotient",
    "reduce",
    "resize",
    "shape",
    "softmax",
    "unary",
]
