"""The words that users see: import, quantize, compile, evaluate, save. One subject a file."""

from qir.api.bisecting import bisect
from qir.api.comparing import compare
from qir.api.importing import from_jax, load
from qir.api.optimizing import calibrate, optimize
from qir.api.quantizing import quantize
from qir.api.running import compile, evaluate
from qir.api.saving import check_savable, save
from qir.api.scoring import score

__all__ = [
    "bisect",
    "calibrate",
    "check_savable",
    "compare",
    "compile",
    "evaluate",
    "from_jax",
    "load",
    "optimize",
    "quantize",
    "save",
    "score",
]
