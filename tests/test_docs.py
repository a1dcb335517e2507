"""What the documentation shows is run: the README's Python blocks and the docstrings' examples."""

import doctest
import importlib
import re

import pytest

from tests.layout import ROOT, modules

README = (ROOT / "README.md").read_text()
BLOCKS = [
    pytest.param(match, id=f"line {README.count(chr(10), 0, match.start()) + 1}")
    for match in re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("block", BLOCKS)
def test_readme(block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    above = README.count("\n", 0, block.start(1))
    exec(compile("\n" * above + block[1], ROOT / "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.parametrize(
    "name", [name for name, path in modules().items() if ">>> " in path.read_text()]
)
def test_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
