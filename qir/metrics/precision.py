"""precision: the share of those predicted to be of a class that are."""

from __future__ import annotations

from typing import ClassVar

from qir.metrics.averaged import Averaged
from qir.metrics.registry import metric


@metric("precision")
class Precision(Averaged):
    """Of what is predicted to be of a class, the share that is.

    The averages are those of `Averaged`.
    """

    function: ClassVar[str] = "precision_score"
