"""What the pages show is run: Python blocks and `qir` commands; so are docstrings' examples."""

import doctest
import importlib
import re
import shlex
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from qir.__main__ import main
from qir.ops.op import OPS
from qir.pipeline import PASSES
from tests.layout import ROOT, modules
from tests.registries import restored

PAGES = [
    ROOT / page
    for page in (
        "README.md",
        "CHANGELOG.md",
        "qir/README.md",
        "passes/README.md",
        "backends/README.md",
        "frontends/README.md",
        ".github/CONTRIBUTING.md",
        "tests/benchmarks/README.md",
    )
]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
LANGUAGES = {"python", "console", "sh", "text", "qir"}


class Block(NamedTuple):
    """A fenced block of a page.

    Args:
        language: What the fence says.
        text: The lines between the fences.
        line: The number of the first of them.
    """

    language: str
    text: str
    line: int


def name(page: Path) -> str:
    """The page's path from the root."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order."""
    text = page.read_text()
    for match in FENCE.finditer(text):
        yield Block(match[1], match[2], text.count("\n", 0, match.start(2)) + 1)


def run(page: Path, block: Block, names: dict[str, Any]) -> None:
    """Runs a block as a reader would, its errors at the page's own lines."""
    if block.language == "python":
        code = compile("\n" * (block.line - 1) + block.text, page, "exec")
        exec(code, names)
    elif block.language == "console":
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:2] == ["$", "qir"]:
                assert main(words[2:]) == 0, f"{name(page)}:{block.line}: {line}"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_the_examples_of_a_page_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    with restored():
        for block in blocks(page):
            run(page, block, names)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_a_page_says_of_each_block_what_it_is(page):
    assert [f"line {block.line}" for block in blocks(page) if block.language not in LANGUAGES] == []


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_into_the_tree_lead_to_something(page):
    prose = FENCE.sub("", page.read_text())
    places = [link.partition("#")[0] for link in LINK.findall(prose) if "://" not in link]
    assert [place for place in places if place and not (page.parent / place).exists()] == []


@pytest.mark.parametrize(
    ("page", "names"), [("README.md", OPS), ("passes/README.md", PASSES)], ids=["ops", "passes"]
)
def test_a_page_lists_everything_that_is_registered(page, names):
    listed = set(re.findall(r"`([\w-]+)`", (ROOT / page).read_text()))
    assert set(names) - listed == set()


def test_the_extra_examples_installs_what_the_start_page_and_the_examples_import():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["examples"]]
    installed = {re.split(r"[^\w-]", each)[0] for each in wanted}
    sources = [block.text for block in blocks(ROOT / "README.md") if block.language == "python"]
    sources += [path.read_text() for path in (ROOT / "examples").glob("*.py")]
    imports = re.findall(r"^(?:import|from) (\w+)", "\n".join(sources), re.MULTILINE)
    distributions = {"scikit-learn" if name == "sklearn" else name for name in imports}
    assert distributions - set(sys.stdlib_module_names) - {"qir"} <= installed
    assert "flatbuffers" in installed  # what jax.export imports


def test_the_start_page_says_what_every_extra_is_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = set(project["optional-dependencies"]) - {"lint"}
    page = (ROOT / "README.md").read_text()
    start = page[page.index("Its extras:") : page.index("## Your model")]
    assert extras <= set(re.findall(r"`(\w+)`", start))


@pytest.mark.parametrize(
    "name", [name for name, path in modules().items() if ">>> " in path.read_text()]
)
def test_docstrings(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
