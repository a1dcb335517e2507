"""What metrics take from the libraries of the extra `score`, loaded when first asked for."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qir.errors import QirError


def library(module: str, distribution: str) -> Any:
    """Returns a module of a library.

    Args:
        module: The module, such as `sklearn.metrics`.
        distribution: What installs it, such as `scikit-learn`.

    Raises:
        QirError: It is not installed; says what installs it.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise QirError(
            f"expected {distribution}, which is not installed; pip install 'qir-compiler[score]'"
        ) from error
