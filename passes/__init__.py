"""Passes: one file each, named in pipelines by its register name."""

from qir.passes import (
    agree_roundings,
    calibrate,
    canonicalize,
    check_overflow,
    equalize,
    fold_batch_norm,
    fold_scales,
    fuse_requantize,
    lookup_tables,
    lower_requantize,
    move_requantize,
    move_transposes,
    pipelines,
    propagate_ranges,
    quantize,
    widen_floats,
)

__all__ = [
    "agree_roundings",
    "calibrate",
    "canonicalize",
    "check_overflow",
    "equalize",
    "fold_batch_norm",
    "fold_scales",
    "fuse_requantize",
    "lookup_tables",
    "lower_requantize",
    "move_requantize",
    "move_transposes",
    "pipelines",
    "propagate_ranges",
    "quantize",
    "widen_floats",
]
