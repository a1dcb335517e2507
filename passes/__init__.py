"""Passes: one file each, named in pipelines by its register name."""

from qir.passes import pipelines
from qir.passes.float import (
    canonicalize,
    clip_scores,
    defer_division,
    equalize,
    fold_batch_norm,
    fold_scales,
    move_transposes,
    widen_floats,
)
from qir.passes.integer import (
    agree_roundings,
    check_overflow,
    fuse_requantize,
    lookup_tables,
    lower_requantize,
    move_requantize,
)
from qir.passes.quantize import lift_qdq, quantize, quantize_dynamic
from qir.passes.ranges import (
    calibrate,
    propagate_ranges,
    smooth_channels,
    split_concats,
    split_outliers,
)

__all__ = [
    "agree_roundings",
    "calibrate",
    "canonicalize",
    "check_overflow",
    "clip_scores",
    "defer_division",
    "equalize",
    "fold_batch_norm",
    "fold_scales",
    "fuse_requantize",
    "lift_qdq",
    "lookup_tables",
    "lower_requantize",
    "move_requantize",
    "move_transposes",
    "pipelines",
    "propagate_ranges",
    "quantize",
    "quantize_dynamic",
    "smooth_channels",
    "split_concats",
    "split_outliers",
    "widen_floats",
]
