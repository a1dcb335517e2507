"""The packages of the extra `bench`, which are loaded when they are used.

They are not typed, or not installed where types are checked: what they return is Any.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from qir.errors import QirError


def load(name: str) -> Any:
    """Returns a module of one of the packages.

    Raises:
        QirError: It is not installed.
    """
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise QirError(
            f"peers: expected the package {error.name}, which pip install -e '.[bench]' installs"
        ) from error
