"""The figures of one value, from sums over batches: memory does not grow with the data."""

from __future__ import annotations

import numpy as np

from qir.ir import OutputAccuracy
from qir.report.causes import far_middle
from qir.report.compare.own_errors import OwnParts
from qir.report.compare.result import Subject, ValueAccuracy
from qir.report.decibels import decibels, least_of, of_rows, squares
from qir.types import Affine, Array, Code

MOST_ROWS = 2**18
"""Rows of a value whose figures are kept for the percentile: 2 MB."""


class ErrorSums:
    """What is summed up of a value's errors, batch by batch.

    Attributes:
        own_noise: The sum of the squares of the errors that the value's op makes itself.
    """

    def __init__(self) -> None:
        self.own_noise = 0.0
        self._middle: float | None = None
        self._signal = self._noise = self._about_middle = 0.0
        self._product = self._found = self._largest = self._peak = 0.0
        self._saturated = self._stored = 0
        self._nonfinite = 0
        self._rows: list[Array] = []
        self._kept = 0
        self._own = self._inherited = 0.0
        self._parts = {"weights": 0.0, "clipping": 0.0, "rounding": 0.0}

    def add(self, exact: Array, found: Array) -> None:
        """Adds the numbers of a batch.

        Args:
            exact: The numbers of the float program.
            found: The real numbers of the integer program, of the same shape.
        """
        if self._middle is None:
            self._middle = far_middle(np.asarray(exact))
        signal, noise = squares(exact, found)
        right = np.asarray(exact, np.float64)
        self._nonfinite += int(np.count_nonzero(np.isfinite(right) & ~np.isfinite(found)))
        known = np.isfinite(right) & np.isfinite(found)
        right, other = right[known], np.asarray(found, np.float64)[known]
        self._signal += float(signal.sum())
        self._noise += float(noise.sum())
        self._about_middle += float(((right - self._middle) ** 2).sum())
        self._product += float((right * other).sum())
        self._found += float((other**2).sum())
        self._largest = max(self._largest, float(np.sqrt(noise.max(initial=0))))
        self._peak = max(self._peak, float(np.abs(right).max(initial=0)))
        if self._kept < MOST_ROWS:
            by_row = decibels(*of_rows(signal, noise))[: MOST_ROWS - self._kept]
            self._rows.append(by_row)
            self._kept += by_row.size

    def add_stored(self, stored: Array, code: Code) -> None:
        """Counts stored numbers at the ends of their code, but for an end that means 0."""
        if not isinstance(code, Affine) or not stored.size:
            return
        self._stored += stored.size
        for end in code.range:
            at_end = stored == end
            if at_end.any() and np.any(code.decode(stored)[at_end] != 0):
                self._saturated += int(np.count_nonzero(at_end))

    def add_own(self, exact: Array, found: Array, parts: OwnParts | None) -> None:
        """Adds what of a batch's error is the op's own, and what it was made of.

        Each part is what the error has in its direction, so that own and inherited errors add up to
        the whole, and the parts of the own error to that.

        Args:
            exact: The numbers of the float program.
            found: The real numbers of the integer program.
            parts: The own error; None for a value whose error is all inherited.
        """
        with np.errstate(all="ignore"):
            total = np.asarray(found, np.float64) - np.asarray(exact, np.float64)
        total = np.where(np.isfinite(total), total, 0)
        if parts is None:
            self._inherited += float((total * total).sum())
            return
        own = parts.error
        self._inherited += float(((total - own) * total).sum())
        self._own += float((own * total).sum())
        self.own_noise += float((own * own).sum())
        for name in self._parts:
            self._parts[name] += float((getattr(parts, name) * own).sum())

    def figures(self, subject: Subject) -> ValueAccuracy:
        """Returns the figures.

        Args:
            subject: What they are of.
        """
        signal = self._about_middle if self._middle else self._signal
        length = np.sqrt(self._signal * self._found)
        cosine = self._product / length if length else float(self._signal == self._found)
        whole = self.own_noise or 1.0
        return ValueAccuracy(
            subject.value,
            subject.op,
            subject.loc,
            subject.stands,
            subject.code,
            sqnr=_ratio(signal, self._noise),
            rows=self._percentile,
            cosine=float(np.clip(cosine, -1, 1)),
            largest=self._largest,
            peak=self._peak,
            saturation=self._saturated / self._stored if self._stored else None,
            noise=self._noise,
            own=self._own,
            inherited=self._inherited,
            own_sqnr=_ratio(signal, self.own_noise),
            weights=self._parts["weights"] / whole,
            clipping=self._parts["clipping"] / whole,
            rounding=self._parts["rounding"] / whole,
        )

    def output(self, name: str) -> OutputAccuracy:
        """Returns the figures of an output."""
        signal = self._about_middle if self._middle else self._signal
        return OutputAccuracy(name, _ratio(signal, self._noise), self._percentile, self._nonfinite)

    @property
    def _percentile(self) -> float:
        return least_of(np.concatenate(self._rows) if self._rows else np.empty(0))


def _ratio(signal: float, noise: float) -> float:
    return float(decibels(np.array([signal]), np.array([noise]))[0])
