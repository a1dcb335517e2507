"""A quantization compiler: float models in, exact integer programs out.

`from qir import *` leaves out the words that Python or the importing file has for something else,
such as `compile`, `op` and `rule`; say `qir.compile`.
"""

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "passes/__init__.py").exists() and (_checkout / "pyproject.toml").exists():
    # Here qir.passes, qir.backends and qir.frontends lie beside this folder, not in it.
    __path__.append(str(_checkout))

_HOMES = {
    "qir.api": (
        "bisect",
        "calibrate",
        "compare",
        "compile",
        "evaluate",
        "from_jax",
        "load",
        "optimize",
        "quantize",
        "save",
        "score",
    ),
    "qir.errors": (
        "ParseError",
        "PassError",
        "QirAccuracyWarning",
        "QirError",
        "UnsupportedError",
        "VerifyError",
    ),
    "qir.report.explain": ("explain",),
    "qir.numbers.interval": ("Interval",),
    "qir.ir": ("Builder", "Graph", "Node", "Value"),
    "qir.metrics": ("Metric", "metric"),
    "qir.observe.methods": ("CalibrationMethod", "calibration_method"),
    "qir.observe.statistics": ("Statistics",),
    "qir.ops.op": ("Op", "op"),
    "qir.pipeline": (
        "Context",
        "Pass",
        "PassManager",
        "Pipeline",
        "Recipe",
        "RecipeRule",
        "register",
    ),
    "qir.pipeline.rewrite": ("Skip", "near_misses", "rewrite", "rule"),
    "qir.report.summary": ("summary",),
    "qir.text": ("parse", "to_program", "to_text"),
    "qir.types": ("Affine", "Code", "Codebook", "Dim", "DType", "TensorType"),
    "qir.analysis.verify": ("verify",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
_QUALIFIED = {
    "bisect",
    "calibrate",
    "compare",
    "compile",
    "explain",
    "load",
    "metric",
    "op",
    "parse",
    "register",
    "rewrite",
    "rule",
    "save",
    "score",
    "summary",
    "verify",
}
"""Words that are builtins or that a file is likely to have of its own: `qir.op`, never starred."""

__version__ = "0.1.0"
"""The only place that holds the version; the distribution's metadata is built from it."""


if TYPE_CHECKING:
    from qir.analysis.verify import verify as verify
    from qir.api import bisect as bisect
    from qir.api import calibrate as calibrate
    from qir.api import compare as compare
    from qir.api import compile as compile
    from qir.api import evaluate as evaluate
    from qir.api import from_jax as from_jax
    from qir.api import load as load
    from qir.api import optimize as optimize
    from qir.api import quantize as quantize
    from qir.api import save as save
    from qir.api import score as score
    from qir.errors import ParseError as ParseError
    from qir.errors import PassError as PassError
    from qir.errors import QirAccuracyWarning as QirAccuracyWarning
    from qir.errors import QirError as QirError
    from qir.errors import UnsupportedError as UnsupportedError
    from qir.errors import VerifyError as VerifyError
    from qir.ir import Builder as Builder
    from qir.ir import Graph as Graph
    from qir.ir import Node as Node
    from qir.ir import Value as Value
    from qir.metrics import Metric as Metric
    from qir.metrics import metric as metric
    from qir.numbers.interval import Interval as Interval
    from qir.observe.methods import CalibrationMethod as CalibrationMethod
    from qir.observe.methods import calibration_method as calibration_method
    from qir.observe.statistics import Statistics as Statistics
    from qir.ops.op import Op as Op
    from qir.ops.op import op as op
    from qir.pipeline import Context as Context
    from qir.pipeline import Pass as Pass
    from qir.pipeline import PassManager as PassManager
    from qir.pipeline import Pipeline as Pipeline
    from qir.pipeline import Recipe as Recipe
    from qir.pipeline import RecipeRule as RecipeRule
    from qir.pipeline import register as register
    from qir.pipeline.rewrite import Skip as Skip
    from qir.pipeline.rewrite import near_misses as near_misses
    from qir.pipeline.rewrite import rewrite as rewrite
    from qir.pipeline.rewrite import rule as rule
    from qir.report.explain import explain as explain
    from qir.report.summary import summary as summary
    from qir.text import parse as parse
    from qir.text import to_program as to_program
    from qir.text import to_text as to_text
    from qir.types import Affine as Affine
    from qir.types import Code as Code
    from qir.types import Codebook as Codebook
    from qir.types import Dim as Dim
    from qir.types import DType as DType
    from qir.types import TensorType as TensorType
else:
    __all__ = ["__version__", *(name for name in _HOME_OF if name not in _QUALIFIED)]

    def __getattr__(name: str) -> Any:
        """Loads a public name on first use, so that `import qir` is quick and loads no jax."""
        if name not in _HOME_OF:
            raise AttributeError(f"module 'qir' has no attribute '{name}'")
        if _HOME_OF[name] == "qir.pipeline":
            import_module("qir.passes")  # Pipelines are made of passes, which register themselves.
        return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(["__version__", *_HOME_OF])
