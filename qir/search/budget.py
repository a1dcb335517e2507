"""What is asked of an integer program: a measure of its outputs, and a bound."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite
from numbers import Real
from types import MappingProxyType
from typing import TypeAlias

import numpy as np

from qir.errors import QirError, did_you_mean, kind_of
from qir.metrics.accuracy import ClassAccuracy
from qir.metrics.cosine import CosineSimilarity
from qir.metrics.registry import Answers, Metric
from qir.metrics.sqnr import SignalToNoise
from qir.types import Array, DType

OutputMetric: TypeAlias = Callable[[Sequence[Array], Sequence[Array]], float]
"""Tells how good outputs are: of the float program's outputs and the integer program's, both in
real numbers, an array for each, it makes a number that is greater where they are better."""


def least_of(metric: Metric, exact: Sequence[Array], found: Sequence[Array]) -> float:
    """Returns a metric of the float outputs, that of the output where it is the least.

    What is right, where it asks for that, is where each row's greatest number stands in float; of
    outputs that are integers or booleans the numbers themselves.

    Raises:
        QirError: It has a meaning for none of the outputs.
    """
    figures = []
    for right, got in zip(exact, found, strict=True):
        if is_real(right):
            right, got = (each.astype(np.float64) for each in (right, got))
            targets = right.argmax(axis=-1) if metric.reads_targets else None
            part = metric.part(Answers((got,), targets, (right,)))
            figures.append(float(metric.total([part])))
        elif metric.reads_targets and right.size:
            figures.append(float(np.mean(right == got)))
    if not figures:
        types = ", ".join(sorted({DType.of(each.dtype).value for each in exact})) or "none"
        raise QirError(
            f"budget: expected an output of real numbers for {metric.name} to measure, got "
            f"{types}; 'accuracy 0.99' is the share of integers that are equal, or give metric="
        )
    return min(figures)


def is_real(array: Array) -> bool:
    """Whether an array holds floating-point numbers of any width."""
    return DType.of(array.dtype).is_float


signal_to_noise: OutputMetric = partial(least_of, SignalToNoise())

BUDGETS: Mapping[str, OutputMetric] = MappingProxyType(
    {
        "sqnr": signal_to_noise,
        "cosine": partial(least_of, CosineSimilarity()),
        "accuracy": partial(least_of, ClassAccuracy()),
    }
)
"""The measures that a budget can name."""

SHARES = ("cosine", "accuracy")
"""Those that are 1 at most."""


@dataclass(frozen=True)
class Budget:
    """A bound of a measure, which the outputs of an integer program are to reach.

    Attributes:
        name: What is measured.
        bound: The least that will do.
        metric: How it is measured.
    """

    name: str
    bound: float
    metric: OutputMetric

    @staticmethod
    def of(given: object, metric: OutputMetric | None = None) -> Budget:
        """Returns a budget that may be given as text.

        Args:
            given: A name and a bound, such as `"sqnr 30"`; beside a metric the bound alone, as text
                or a number, will do.
            metric: An `OutputMetric` of the user's, or None for the one that the text names.

        Raises:
            QirError: There is no measure of that name, no bound, or the metric is no function.
        """
        own: object = metric
        if own is not None and not callable(own):
            raise QirError(
                "budget: expected metric to be a function of the float program's outputs and the "
                f"integer program's, got {kind_of(own)}; a name stands in the budget itself"
            )
        words = given.split() if isinstance(given, str) else [given]
        name = getattr(metric, "__name__", "metric") if metric is not None else ""
        if len(words) == 2:
            name = str(words[0])
        bound = _number(words[-1]) if words else None
        if bound is None or len(words) not in (1, 2) or not name:
            raise QirError(
                "budget: expected a measure and the least that it is to be, such as 'sqnr 30', got "
                f"{given!r}"
            )
        if metric is not None:
            return Budget(name, bound, metric)
        if name not in BUDGETS:
            hint = did_you_mean(name, BUDGETS)
            raise QirError(
                f"budget: expected a measure among {', '.join(BUDGETS)}, got '{name}'{hint}; "
                "metric= takes a function of your own"
            )
        if name in SHARES and bound > 1:
            raise QirError(f"budget: expected {name} of at most 1, got {given!r}")
        return Budget(name, bound, BUDGETS[name])

    @property
    def is_own(self) -> bool:
        """Whether it is measured by a function of the user's."""
        return self.metric not in BUDGETS.values()

    def measure(self, exact: Sequence[Array], found: Sequence[Array]) -> float:
        """Returns how good outputs are.

        Raises:
            QirError: The metric returns no number.
        """
        if self.is_own:  # It may change the arrays that it gets.
            exact, found = ([np.array(each) for each in arrays] for arrays in (exact, found))
        try:
            figure = self.metric(exact, found)
        except QirError:
            raise
        except Exception as error:  # of a function of the user's
            error.add_note(f"qir.quantize: in the metric {self.name} of the budget")
            raise
        number = np.asarray(figure)
        if number.ndim or number.dtype.kind not in "biuf" or np.isnan(number):
            raise QirError(f"budget: expected {self.name} to return a number, got {figure!r}")
        return float(number)

    def figure(self, number: float) -> str:
        """Returns a number of the measure as text."""
        return f"{number:.1f} dB" if self.metric is signal_to_noise else f"{number:.4g}"

    def __str__(self) -> str:
        return f"{self.name} {self.bound:g}"


def _number(given: object) -> float | None:
    if isinstance(given, bool) or not isinstance(given, str | Real):
        return None
    try:
        found = float(given)
    except ValueError:
        return None
    return found if isfinite(found) else None
