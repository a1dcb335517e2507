from importlib import import_module

import pytest

import_module("qir.api")  # pytester forgets what a run imports, and numpy loads only once

CASE = """\
// the names stay
// RUN:
graph @same(%x: f32[2]) {
  return %x
}
// =>
"""


@pytest.fixture
def golden(pytester):
    folder = pytester.mkdir("golden")
    path = folder / "case.qir"

    def run(text, *options):
        path.write_text(text)
        return pytester.runpytest_inprocess("-p", "tests.golden_cases", *options, path), path

    return run


def test_a_difference_fails_with_a_diff(golden):
    result, _ = golden(CASE + "graph @other\n")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["-graph @other", "+graph @same(%x: f32?2?) {"])


def test_update_writes_what_came_out_and_nothing_else(golden):
    broken = "// -----\n// RUN: no-such-pass\n" + "graph @g(%x: f32[2]) {\n  return %x\n}\n"
    _, path = golden(CASE + "wrong\n" + broken, "--update-golden")
    first, second = path.read_text().split("// -----\n")
    assert first == CASE + CASE.split("\n", 2)[2].removesuffix("// =>\n")
    assert second.startswith(broken.removeprefix("// -----\n") + "// =>\n// error: ")
    result, _ = golden(path.read_text())
    result.assert_outcomes(passed=2)


def test_a_case_without_a_run_line_is_refused(golden):
    result, _ = golden("graph @g() {\n}\n")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*case.qir:1: expected a RUN line and a program"])
