"""Golden cases: a small program in, the whole text that must come out (``golden/**/*.qir``).

Cases are separated by lines ``// -----``; one reads::

    // a clamped requantize stays
    // RUN: canonicalize, fuse-requantize
    graph @chain(%a: i32[4]{scale=0.5}) { ... }
    // =>
    graph @chain(%a: i32[4]{scale=0.5}) { ... }

An empty RUN line parses and prints. ``// RUN: quantize | explain`` prints what `qir.explain` says
of the program that comes out, as comment lines. Where a QirError must come out, its message is
expected so, the first line beginning ``// error:``; line 1 of the program is the one below the RUN
line.
``pytest --update-golden`` rewrites in place what is expected.
"""

import os
import re
from collections.abc import Iterator
from difflib import unified_diff
from pathlib import Path

import pytest

import qir
from qir.errors import QirError

SEPARATOR = re.compile(r"^// -----\n", re.MULTILINE)
CASE = re.compile(
    r"\s*(?P<head>(?:// (?!RUN:).*\n)*// RUN:(?P<pipeline>.*)\n)"
    r"(?P<source>(?:(?!// =>).*\n)*)"
    r"(?:// =>\n(?P<expected>(?:.*\n)*))?"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the golden cases")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("update_golden") and config.getoption("numprocesses", None):
        raise pytest.UsageError("--update-golden rewrites a file case by case: leave out -n")


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    # Those in golden/version1 are whole programs, which tests/text/test_version1.py reads.
    if (
        file_path.suffix == ".qir"
        and "golden" in file_path.parts[:-1]
        and (file_path.parent.name != "version1")
    ):
        return GoldenFile.from_parent(parent, path=file_path)
    return None


class GoldenFile(pytest.File):
    """One file of cases."""

    def collect(self) -> Iterator[pytest.Item]:
        line = 0
        for index, text in enumerate(SEPARATOR.split(self.path.read_text())):
            if not (case := CASE.fullmatch(text)):
                place = f"{self.path}:{line + 1}"
                raise self.CollectError(f"{place}: expected a RUN line and a program")
            title = case["head"].splitlines()[0].removeprefix("// ").removeprefix("RUN:").strip()
            name = f"{index} {title}".strip()
            item = GoldenCase.from_parent(self, name=name)
            item.index, item.line, item.case = index, line, case
            yield item
            line += text.count("\n") + 1


class GoldenCase(pytest.Item):
    """One program, the pipeline to run over it, and the text expected."""

    index: int
    line: int
    case: re.Match[str]

    def runtest(self) -> None:
        actual = outcome(self.case["pipeline"].strip(), self.case["source"])
        expected = (self.case["expected"] or "").rstrip() + "\n"
        if actual == expected:
            return
        if self.config.getoption("update_golden"):
            self.rewrite(actual)
            return
        diff = unified_diff(
            expected.splitlines(), actual.splitlines(), "expected", "actual", lineterm=""
        )
        pytest.fail("\n".join(diff), pytrace=False)

    def rewrite(self, actual: str) -> None:
        cases = SEPARATOR.split(self.path.read_text())
        cases[self.index] = f"{self.case['head']}{self.case['source'].rstrip()}\n// =>\n{actual}"
        temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        temporary.write_text("// -----\n".join(cases))
        temporary.replace(self.path)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.line, f"{self.path.stem}: {self.name}"


def outcome(pipeline: str, source: str) -> str:
    """The program that the pipeline makes of the source, or the message of the error, as text."""
    pipeline, _, view = (part.strip() for part in pipeline.partition("|"))
    try:
        graph = qir.parse(source)
        if pipeline not in ("", "parse"):
            graph = qir.optimize(graph, pipeline)
        if view == "explain":
            return commented(str(qir.explain(graph)))
        text = str(graph)
        again = str(qir.parse(text, qir.to_program(graph).arrays))
    except QirError as error:
        return commented(f"error: {error}")
    assert again == text, "the text that came out reads back as another program"
    return text.rstrip() + "\n"


def commented(text: str) -> str:
    """The text as comment lines."""
    return "".join(f"// {line}".rstrip() + "\n" for line in text.splitlines())
