"""Named pipelines, as text."""

from qir.pipeline import PIPELINES

FOLD = "widen-floats, canonicalize, fold-batch-norm, fold-scales, canonicalize"
SCORES = "defer-division, clip-scores"
RANGES = "split-concats, smooth-channels, split-outliers, propagate-ranges"
INTEGER = "fold-scales, lookup-tables, fuse-requantize, canonicalize, check-overflow"

PIPELINES |= {
    "w8a8": f"{FOLD}, {SCORES}, calibrate, {RANGES}, quantize, {INTEGER}",
    "w8-dynamic": f"{FOLD}, quantize-dynamic, canonicalize, check-overflow",
    "fold": FOLD,
    "scores": SCORES,
    "ranges": RANGES,
    "integer": INTEGER,
}
