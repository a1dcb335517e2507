"""recall: the share of a class that is predicted to be."""

from __future__ import annotations

from typing import ClassVar

from qir.metrics.averaged import Averaged
from qir.metrics.registry import metric


@metric("recall")
class Recall(Averaged):
    """Of what is of a class, the share that is predicted to be.

    The averages are those of `Averaged`.
    """

    function: ClassVar[str] = "recall_score"
