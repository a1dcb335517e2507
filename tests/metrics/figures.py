"""Figures of metrics on batches that a test gives."""

from typing import Any

import numpy as np

from qir.metrics import Answers, Metric
from qir.metrics.asked import asked
from qir.types import Array


def floats(numbers: Any) -> Array:
    """An array of float32."""
    return np.asarray(numbers, np.float32)


def figure(metric: str | Metric, *batches: Answers) -> Any:
    """The figure of all batches."""
    (found,) = asked(metric).values()
    assert isinstance(found, Metric)
    return found.total([found.part(batch) for batch in batches])
