"""perplexity: how many tokens a language model is torn between."""

from __future__ import annotations

from collections.abc import Sequence
from math import exp, inf, nan

import numpy as np

from qir.errors import QirError
from qir.metrics.classes import ids, numbers
from qir.metrics.registry import Answers, Metric, metric
from qir.types import Array

BLOCK = 2**22
"""Numbers of logits that are looked at in one go."""
LEAST_SUM, GREATEST_SUM = 0.9, 1.1
"""Between these are the sums of rows of probabilities, however coarse their code."""


@metric("perplexity")
class Perplexity(Metric):
    """The exponential of the mean of -ln p(token), over all tokens that count, in nats.

    Outputs are logits [..., vocabulary], or logarithms of probabilities; targets are token ids
    [...], those that the model is to predict.

    Args:
        ignore: The id of tokens that don't count, as those of padding.
        shift: Whether logits at one place are to predict the token at the next one: targets are
            then the very ids that the model reads.
        probabilities: Whether outputs are probabilities.
    """

    ignore: int = -100
    shift: bool = False
    probabilities: bool = False

    def part(self, answers: Answers) -> tuple[float, int]:
        """Keeps the sum of -ln p over a batch, and the count of tokens."""
        logits, given = answers.output, numbers(answers.targets)
        if self.shift:
            if given.ndim < 2 or logits.ndim != given.ndim + 1:
                raise QirError(
                    "expected logits [samples, places, vocabulary] and ids [samples, places] to "
                    f"shift, got {list(logits.shape)} and {list(given.shape)}"
                )
            logits, given = logits[..., :-1, :], given[..., 1:]
        right = ids(given, logits, self.ignore).reshape(-1)
        kept = right != self.ignore
        rows = logits.reshape(right.size, -1)
        step, total = max(1, BLOCK // rows.shape[1]), 0.0
        for start in range(0, right.size, step):
            chosen = kept[start : start + step]
            block = rows[start : start + step][chosen].astype(np.float64)
            total += self._costs(block, right[start : start + step][chosen])
        return total, int(kept.sum())

    def _costs(self, rows: Array, right: Array) -> float:
        own = np.take_along_axis(rows, right[:, None], 1)[:, 0]
        with np.errstate(all="ignore"):
            if self.probabilities:
                return float(-np.log(own).sum())
            sums = rows.sum(1)
            if (
                len(rows)
                and rows.min() >= 0
                and LEAST_SUM < sums.min() <= sums.max() < GREATEST_SUM
            ):
                raise QirError(
                    "expected logits, got probabilities, as each row of the output sums to 1; "
                    "perplexity(probabilities=true) takes them"
                )
            most = rows.max(1, initial=-inf)
            return float((np.log(np.exp(rows - most[:, None]).sum(1)) + most - own).sum())

    def total(self, parts: Sequence[tuple[float, int]]) -> float:
        """Returns the exponential of the mean."""
        count = sum(part[1] for part in parts)
        if not count:
            return nan
        mean = sum(part[0] for part in parts) / count
        return exp(mean) if mean < 700 else mean * inf
