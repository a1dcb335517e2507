"""What `import qir` offers."""

import ast
import importlib
from pathlib import Path

import pytest

import qir
from tests.layout import modules


@pytest.mark.parametrize("name", dir(qir))
def test_a_public_name_is_never_a_module(name):
    for module in modules():
        if module.startswith("qir.") and "xla" not in module and "frontends" not in module:
            importlib.import_module(module)
    assert not isinstance(getattr(qir, name), type(qir))


def test_a_misspelt_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'quantise'"):
        getattr(qir, "quantise")  # noqa: B009 - the type checker would be right


def test_type_checkers_see_every_public_name():
    imports = [
        (node.module, *(alias.name for alias in node.names))
        for node in ast.walk(ast.parse(Path(qir.__file__).read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    typed = {(home, name) for home, *names in imports for name in names}
    assert {(home, name) for name, home in qir._HOME_OF.items()} <= typed
