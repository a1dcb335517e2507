"""Where files of trained models lie that no package holds: a folder that the user names.

`QIR_TEST_DATA` is the path of a folder with `models/efficientnet_lite0.onnx`; tests that need a
file skip where it is absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "QIR_TEST_DATA"


def trained_file(name: str) -> Path:
    """The path of a file; skips the test where it is absent."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.skip(f"{VARIABLE} names no folder with {name}")
    path = Path(folder) / name
    if not path.is_file():
        pytest.skip(f"{path} is absent")
    return path
