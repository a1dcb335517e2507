"""A quantization compiler: float models in, exact integer programs out."""

from importlib import import_module
from pathlib import Path
from typing import Any

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "passes/__init__.py").exists() and (_checkout / "pyproject.toml").exists():
    # Here qir.passes, qir.backends and qir.frontends lie beside this folder, not in it.
    __path__.append(str(_checkout))

_HOMES = {
    "qir.api": ("compile", "evaluate", "from_jax", "optimize", "quantize"),
    "qir.errors": ("ParseError", "PassError", "QirError", "UnsupportedError", "VerifyError"),
    "qir.explain": ("explain",),
    "qir.interval": ("Interval",),
    "qir.ir": ("Builder", "Graph", "Node", "Value"),
    "qir.op": ("Op", "op"),
    "qir.pipeline": ("Context", "Pass", "PassManager", "Pipeline", "register"),
    "qir.rewrite": ("Skip", "near_misses", "rewrite", "rule"),
    "qir.storage": ("load", "save"),
    "qir.text": ("parse",),
    "qir.types": ("Dim", "DType", "Quant", "TensorType"),
    "qir.verify": ("verify",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__version__ = "0.1.0"
__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    """Loads a public name on first use, so that `import qir` is quick and loads no jax."""
    if name not in _HOME_OF:
        raise AttributeError(f"module 'qir' has no attribute '{name}'")
    return getattr(import_module(_HOME_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
