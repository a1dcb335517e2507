"""Hypothesis strategies: programs of one op, with the arrays to run them on, by the op's class."""

from tests.strategies import (
    casts,
    choices,
    elementwise,
    indexing,
    linear,
    moves,
    normalization,
    pools,
    quantize_dynamic,
    reduces,
    regions,
    resampling,
    softmaxes,
    unary,
)
from tests.strategies.base import STRATEGIES, Case

__all__ = [
    "STRATEGIES",
    "Case",
    "casts",
    "choices",
    "elementwise",
    "indexing",
    "linear",
    "moves",
    "normalization",
    "pools",
    "quantize_dynamic",
    "reduces",
    "regions",
    "resampling",
    "softmaxes",
    "unary",
]
