"""Named pipelines, as text."""

from qir.pipeline import PIPELINES

RAISE = (
    "unroll-loops, raise-activations, raise-reductions, raise-resizes, raise-lookups, raise-norms, "
    "raise-layout, raise-biases, raise-softmax, raise-shares, raise-kept-powers, raise-masks, "
    "raise-logarithms, raise-affines, raise-layout"
)
"""What `qir.from_jax` and `qir.load` do with what a frontend has translated."""

FOLD = (
    "widen-floats, unroll-loops, canonicalize, move-transposes, fold-batch-norm, fold-scales, "
    "hoist-projections, canonicalize"
)
SCORES = "defer-division, clip-scores"
RANGES = "split-concats, smooth-quant, split-outliers, propagate-ranges"
INTEGER = "cancel-casts, lookup-tables, fuse-requantize, canonicalize, check-overflow"

FINE = "clip-scores, calibrate, split-concats, propagate-ranges(bits=16)"
"""What comes before 16 bits, of which no part of a tensor is in want."""

ACTIVATIONS = f"{FOLD}, {SCORES}, calibrate, {RANGES}"
"""What comes before activations of 8 bits."""

WEIGHTS = f"{FOLD}, calibrate(optional=true)"
"""What comes before codes of weights alone, which need no data; where there is some, biases take in
what rounding the weights costs on average."""

PIPELINES |= {
    "w8a8": f"{FOLD}, {SCORES}, calibrate, equalize(when=better), {RANGES}, quantize, {INTEGER}",
    "w4a8": f"{ACTIVATIONS}, quantize(weights=i4, per=block:32), {INTEGER}",
    "log4": f"{ACTIVATIONS}, quantize(weights=i4, scheme=log2), {INTEGER}",
    "w8a16": f"{FOLD}, {FINE}, quantize(activations=i16), {INTEGER}",
    "w4a16": f"{FOLD}, {FINE}, quantize(weights=i4, activations=i16, per=block:32), {INTEGER}",
    "w16a16": f"{FOLD}, {FINE}, quantize(weights=i16, activations=i16), {INTEGER}",
    "w8-dynamic": f"{FOLD}, quantize-dynamic, canonicalize, check-overflow",
    "w8": f"{WEIGHTS}, quantize(activations=float), canonicalize",
    "fp8": f"{WEIGHTS}, quantize(activations=float, scheme=fp8), canonicalize",
    "w4": f"{WEIGHTS}, quantize(weights=i4, activations=float, per=block:32), canonicalize",
    "nf4": f"{WEIGHTS}, quantize(weights=i4, activations=float, per=block:64, scheme=nf4), "
    "canonicalize",
    "raise": RAISE,
    "fold": FOLD,
    "scores": SCORES,
    "ranges": RANGES,
    "fine": FINE,
    "integer": INTEGER,
}
