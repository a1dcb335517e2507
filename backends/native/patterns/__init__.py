"""The patterns of every family of ops; importing one fills the table of `match`."""

from qir.backends.native.patterns import (
    cast,
    conv,
    dense,
    elementwise,
    lookup,
    loop,
    movement,
    pad,
    pointwise,
    pool,
    reduce,
)

__all__ = [
    "cast",
    "conv",
    "dense",
    "elementwise",
    "lookup",
    "loop",
    "movement",
    "pad",
    "pointwise",
    "pool",
    "reduce",
]
