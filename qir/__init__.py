"""A quantization compiler: float models in, exact integer programs out."""

from pathlib import Path

_checkout = Path(__file__).resolve().parent.parent
if (_checkout / "passes/__init__.py").exists() and (_checkout / "pyproject.toml").exists():
    # Here qir.passes, qir.backends and qir.frontends lie beside this folder, not in it.
    __path__.append(str(_checkout))
