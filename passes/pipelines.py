"""Named pipelines, as text."""

from qir.pipeline import PIPELINES

FOLD = "widen-floats, canonicalize, fold-batch-norm, fold-scales, canonicalize"
SCORES = "defer-division, clip-scores"
RANGES = "split-concats, smooth-channels, split-outliers, propagate-ranges"
INTEGER = "fold-scales, lookup-tables, fuse-requantize, canonicalize, check-overflow"

FINE = "clip-scores, calibrate, split-concats, propagate-ranges"
"""What comes before 16 bits, of which no part of a tensor is in want."""

PIPELINES |= {
    "w8a8": f"{FOLD}, {SCORES}, calibrate, {RANGES}, quantize, {INTEGER}",
    "w8a16": f"{FOLD}, {FINE}, quantize(activations=i16), {INTEGER}",
    "w16a16": f"{FOLD}, {FINE}, quantize(weights=i16, activations=i16), {INTEGER}",
    "fold": FOLD,
    "scores": SCORES,
    "ranges": RANGES,
    "fine": FINE,
    "integer": INTEGER,
}
