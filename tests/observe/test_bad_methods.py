"""Calibration methods that are none, or that give no range: sentences with the name and place."""

from typing import Any

import numpy as np
import pytest

import qir
from qir.numbers.interval import Interval
from qir.observe.methods import METHODS
from tests.registries import restored

GRAPH = qir.parse("graph @g(%x: f32[4]) { %y = relu(%x) : f32[4] return %y }")
DATA = [np.linspace(-1, 1, 4, dtype=np.float32)]


@pytest.fixture
def method():
    """Registers a method that gives something, for a test."""

    def enter(give: Any, name: str = "given") -> None:
        class Given(qir.CalibrationMethod):
            """Gives what the test says."""

            def range(self, seen):
                return give()

        qir.calibration_method(name)(Given)

    with restored():
        yield enter


@pytest.mark.parametrize(
    ("give", "sentence"),
    [
        (lambda: 1 / 0, "failed: ZeroDivisionError: division by zero"),
        (lambda: None, ": expected two finite numbers of float32, .*, got None"),
        (lambda: 3.0, ": expected two finite .*, got 3.0"),
        (lambda: (1, 2, 3), r": expected two finite .*, got \(1, 2, 3\)"),
        (lambda: ("a", "b"), ": expected two finite .*, the lower one first, got"),
        (lambda: (np.nan, 1.0), ": expected two finite"),
        (lambda: (1.0, -1.0), ": expected two finite"),
        (lambda: (-1e39, 1e39), ": expected two finite"),
    ],
)
def test_a_method_that_gives_no_range_is_named_with_the_value(method, give, sentence):
    method(give)
    with pytest.raises(qir.QirError) as refused:
        qir.optimize(GRAPH, "calibrate(method=given)", data=DATA)
    assert refused.match(f"calibrate: method given ?{sentence}")
    assert refused.value.places == ["at %x", "in pass calibrate(method=given)"]


@pytest.mark.parametrize("give", [lambda: (-1, 2), lambda: np.array([-1, 2], np.float32)])
def test_any_two_numbers_in_order_are_a_range(method, give):
    method(give)
    found = qir.optimize(GRAPH, "calibrate(method=given)", data=DATA)
    assert str(found.value("x").range) == str(Interval.of(-1, 2))


@pytest.mark.parametrize("name", ["nan", "inf", "true", "a b", 5])
def test_a_name_that_no_pipeline_can_hold_is_refused(method, name):
    with pytest.raises(qir.QirError, match="calibration method: expected a name of letters"):
        method(lambda: (0, 1), name)


def test_what_is_no_class_is_not_registered():
    registers: list[Any] = [qir.calibration_method("given"), qir.op("given"), qir.register]
    for register in registers:
        with pytest.raises(
            qir.QirError, match=r"expected a class that derives from qir\..*, got a"
        ):
            register(lambda x: x)


def test_a_class_of_the_users_does_not_take_the_place_of_one_of_qirs():
    class MinMax(qir.CalibrationMethod):
        """Of the name and the class name of QIR's own."""

        def range(self, seen):
            return 0.0, 1.0

    MinMax.__qualname__ = METHODS["minmax"].__qualname__
    with pytest.raises(qir.QirError, match="minmax: the name is already registered"):
        qir.calibration_method("minmax")(MinMax)
