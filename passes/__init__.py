"""Passes: one file each, named in pipelines by its register name."""

from qir.passes import (
    calibrate,
    check_overflow,
    fuse_requantize,
    lookup_tables,
    lower_requantize,
    pipelines,
    propagate_ranges,
    quantize,
)

__all__ = [
    "calibrate",
    "check_overflow",
    "fuse_requantize",
    "lookup_tables",
    "lower_requantize",
    "pipelines",
    "propagate_ranges",
    "quantize",
]
