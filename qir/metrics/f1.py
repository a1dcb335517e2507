"""f1: the harmonic mean of precision and recall."""

from __future__ import annotations

from typing import ClassVar

from qir.metrics.averaged import Averaged
from qir.metrics.registry import metric


@metric("f1")
class F1(Averaged):
    """The harmonic mean of precision and recall of each class.

    The averages are those of `Averaged`.
    """

    function: ClassVar[str] = "f1_score"
