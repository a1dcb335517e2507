"""A metric from outside: one class with its own option, by name in every score at once."""

from typing import Any

import numpy as np
import pytest

import qir
from tests.metrics.figures import floats
from tests.registries import restored


class Margin(qir.Metric):
    """The share of samples whose best class leads by at least a margin."""

    margin: float = 1.0

    reads_targets = False

    def check(self):
        if self.margin < 0:
            raise qir.QirError(f"margin: expected margin to be at least 0, got {self.margin}")

    def part(self, answers):
        best = np.sort(answers.output, -1)
        return int((best[:, -1] - best[:, -2] >= self.margin).sum()), len(best)

    def total(self, parts):
        return sum(part[0] for part in parts) / sum(part[1] for part in parts)


GRAPH = qir.parse("graph @f(%x: f32[B,3]) { %y = neg(%x) : f32[B,3] return %y }")
DATA = [floats([[0, 1, 2], [0, 4, 5]]), floats([[3, 3, 4]])]


@pytest.fixture(autouse=True, scope="module")
def entered():
    with restored():
        yield qir.metric("margin")(Margin)


def test_it_is_asked_for_by_name_with_its_options(entered):
    names = ["margin", "margin(margin=2)", "margin(margin=0)"]
    scores = qir.score(GRAPH, DATA, names, backend="reference")
    assert [scores[name] for name in names] == [2 / 3, 1 / 3, 1]
    objects = qir.score(GRAPH, DATA, [entered(), entered(margin=2)], backend="reference")
    assert (objects["margin"], objects["margin(margin=2.0)"]) == (2 / 3, 1 / 3)


def test_its_option_is_checked():
    with pytest.raises(qir.QirError, match="expected margin to be at least 0, got -1"):
        qir.score(GRAPH, DATA, "margin(margin=-1)", backend="reference")


def test_what_is_no_metric_is_refused():
    half: Any = type("Half", (qir.Metric,), {})
    with pytest.raises(qir.QirError, match="expected Half to define part, total"):
        qir.metric("mine")(half)
