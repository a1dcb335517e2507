"""Passes: one file each, named in pipelines by its register name."""

from qir.passes import (
    check_overflow,
    fuse_requantize,
    lookup_tables,
    lower_requantize,
    pipelines,
    quantize,
)

__all__ = [
    "check_overflow",
    "fuse_requantize",
    "lookup_tables",
    "lower_requantize",
    "pipelines",
    "quantize",
]
