"""Every kind of code under every op of the table in `qir/README.md`."""

import pytest

from qir.types import CODES
from tests.exact.kinds_by_op import CASES, OPS, SHAPE, attempt, lines
from tests.layout import ROOT

FAST = ("const", "dot", "store")


@pytest.mark.parametrize(
    "op", [pytest.param(op, marks=() if op in FAST else pytest.mark.slow) for op in OPS]
)
def test_a_code_under_an_op_is_exact_or_refused(op):
    """Where integers are refused, what floating point makes of it is within its bounds."""
    for name in CASES:
        verdict = attempt(op, name)
        assert verdict.word in ("exact", "float", "refused")
        assert bool(verdict.reason) == (verdict.word != "exact")


def test_every_kind_has_a_row():
    assert {case(SHAPE).kind for case in CASES.values()} == set(CODES)


@pytest.mark.slow
def test_the_table_of_the_page_is_what_trying_gives():
    page = (ROOT / "qir" / "README.md").read_text()
    assert "\n".join(lines()) in page
