"""What `import qir` offers."""

import ast
import builtins
import importlib
import subprocess
import sys
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


def test_a_star_import_takes_no_common_word():
    names: dict[str, object] = {"rule": "mine", "op": "mine"}
    exec("from qir import *", names)
    assert names["rule"] == names["op"] == "mine"
    assert names["quantize"] is qir.quantize
    starred = names.keys() - {"__builtins__", "rule", "op"}
    assert starred.isdisjoint(dir(builtins))
    assert starred <= set(dir(qir))


def test_words_that_a_star_import_leaves_out_are_there_by_their_full_name():
    assert set(qir._HOME_OF) - set(vars(qir)["__all__"]) == qir._QUALIFIED
    for name in qir._QUALIFIED:
        assert callable(getattr(qir, name))


@pytest.mark.parametrize("name", ["Pipeline", "PassManager", "Pass", "register"])
def test_passes_are_known_to_whoever_asks_for_pipelines_first(name):
    script = f"import qir; qir.{name}; print(qir.Pipeline.parse('w8a8').steps[0].name)"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, "widen-floats", "")
