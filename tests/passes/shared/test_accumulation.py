"""Which values a loop adds up, and what their roundings cost."""

import numpy as np
import pytest

import qir
from qir.numbers.interval import Interval
from qir.observe.statistics import Statistics
from qir.passes.shared.accumulation import accumulations, gathered, mean_square
from qir.types import Affine, DType

CELL = """qir 2
graph @cell(%c: f32[2], %h: f32[2], %x: f32[2]) {{
  %k = const 0.5 : f32[2]
  %f = logistic(%x) : f32[2]
  {body}
}}
"""


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("%a = mul(%f, %c) : f32[2]\n  %b = add(%a, %x) : f32[2]\n  return %b, %x", ["a b c", ""]),
        ("%a = tanh(%c) : f32[2]\n  %b = add(%a, %x) : f32[2]\n  return %b, %x", ["", ""]),
        ("%a = add(%c, %h) : f32[2]\n  return %h, %a", ["h", "a c h"]),
        ("return %h, %c", ["", ""]),
        ("%a = mul(%h, %k) : f32[2]\n  return %c, %a", ["", "a h"]),
    ],
    ids=["scaled and added to", "made anew", "one of the other", "moved only", "decays"],
)
def test_what_is_added_up(body: str, wanted: list[str]) -> None:
    graph = qir.parse(CELL.format(body=body))
    found = accumulations(graph, graph.inputs[:2], graph.outputs)
    assert [" ".join(sorted(value.name for value in path)) for path in found] == wanted


def test_noise_gathers_with_trips() -> None:
    code = Affine.of(DType.I8, 2 / 255)
    assert gathered(1 / 3, code, 1) == pytest.approx(10 * np.log10((1 / 3) * 12 * 255**2 / 4))
    assert gathered(1 / 3, code, 100) == pytest.approx(gathered(1 / 3, code, 1) - 20)
    assert gathered(1 / 3, code, None) == gathered(1 / 3, code, 100)


def test_what_is_unknown_is_spread_evenly() -> None:
    graph = qir.parse(CELL.format(body="return %c, %h"))
    square = mean_square(graph.inputs[:1], Interval.of(-1.0, 2.0), Statistics())
    assert square == pytest.approx((1 - 2 + 4) / 3)
