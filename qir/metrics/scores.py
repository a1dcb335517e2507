"""What metrics say of programs: a table, and JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from math import isfinite
from typing import Any

import numpy as np

from qir.errors import QirError, counted, did_you_mean
from qir.metrics.registry import AnyMetric, CostMetric, Figure
from qir.report.tables import table

MOST_COLUMNS = 20
"""Classes up to which arrays of figures are printed."""


@dataclass(frozen=True, repr=False)
class Scores:
    """Figures of programs, side by side: `scores["accuracy"]`, `scores["w8a8", "accuracy"]`.

    Attributes:
        metrics: The metrics by what they are called here.
        figures: Of each program, a number for each metric, or an array; NaN where there is none.
        samples: Samples of the data; 0 where none was read.
        batches: Batches of the data.
        batch_size: Samples of the batch that latency, throughput and memory are of.
        reference: The program that the others are compared with; empty where none is.
        notes: What is to be known of the figures, as outputs that are NaN.
    """

    metrics: Mapping[str, AnyMetric]
    figures: Mapping[str, Mapping[str, Figure]]
    samples: int
    batches: int
    batch_size: int
    reference: str = ""
    notes: tuple[str, ...] = ()

    def __getitem__(self, key: str | tuple[str, str]) -> Any:
        """Returns a figure: of a program and a metric, or of a metric where one program is there.

        Raises:
            QirError: There is no such program or metric.
        """
        program, name = key if isinstance(key, tuple) else (next(iter(self.figures)), key)
        if not isinstance(key, tuple) and len(self.figures) > 1:
            raise QirError(
                f"scores: expected a program and a metric, as scores['{program}', '{name}'], got "
                f"a metric for {counted(len(self.figures), 'program')}"
            )
        if program not in self.figures:
            hint = did_you_mean(program, self.figures) or f"; there are {', '.join(self.figures)}"
            raise QirError(f"scores: no program '{program}'{hint}")
        if name not in self.metrics:
            hint = did_you_mean(name, self.metrics) or f"; there are {', '.join(self.metrics)}"
            raise QirError(f"scores: no metric '{name}'{hint}")
        return self.figures[program][name]

    def to_json(self) -> str:
        """Returns all of it as JSON; what is no finite number is null."""
        content = {
            "programs": {
                program: {name: _plain(figure) for name, figure in figures.items()}
                for program, figures in self.figures.items()
            },
            "units": {name: each.unit for name, each in self.metrics.items()},
            "samples": self.samples,
            "batches": self.batches,
            "batch_size": self.batch_size,
            "reference": self.reference or None,
            "notes": list(self.notes),
        }
        return json.dumps(content, indent=2, allow_nan=False)

    def __str__(self) -> str:
        single = [
            name
            for name in self.metrics
            if all(np.ndim(figures[name]) == 0 for figures in self.figures.values())
        ]
        header = ["program", *(self._title(name) for name in single)]
        rows = [header]
        for program, figures in self.figures.items():
            rows.append([program, *(self._cell(name, figures[name]) for name in single)])
        lines = table(rows, right=range(1, len(header))) if single else []
        for name in self.metrics:
            if name not in single:
                for program, figures in self.figures.items():
                    lines += ["", f"{self._title(name)}, {program}:"]
                    lines += self._block(name, figures[name])
        return "\n".join([*lines, *self._legend()]).lstrip("\n")

    def __repr__(self) -> str:
        """Returns the table: it is what a notebook shows of the last expression of a cell."""
        return str(self)

    def _title(self, name: str) -> str:
        unit = self.metrics[name].unit
        return f"{name} {unit}".rstrip()

    def _cell(self, name: str, figure: Any) -> str:
        return format(float(figure), self.metrics[name].form)

    def _block(self, name: str, figure: Figure) -> list[str]:
        array = np.atleast_2d(np.asarray(figure))
        if array.shape[1] > MOST_COLUMNS:
            return [f"{' by '.join(map(str, np.shape(figure)))} numbers; to_json has them"]
        rows = [[""] + [str(index) for index in range(array.shape[1])]]
        first = [str(index) for index in range(len(array))] if np.ndim(figure) > 1 else [""]
        for label, row in zip(first, array, strict=True):
            rows.append([label, *(self._cell(name, number) for number in row)])
        return table(rows, right=range(len(rows[0])))

    def _legend(self) -> list[str]:
        lines = []
        if self.samples:
            data = f"{counted(self.samples, 'sample')} in {counted(self.batches, 'batch')}"
            lines.append(f"data: {data}")
        costs = [each for each in self.metrics.values() if isinstance(each, CostMetric)]
        meant = dict.fromkeys((each.name, each.meaning) for each in costs)
        lines += [f"{name}: {meaning}" for name, meaning in meant]
        if any(each.is_of_a_call for each in costs):
            lines.append(f"a call: {counted(self.batch_size, 'sample')}")
        if self.reference:
            lines.append(f"compared with: {self.reference}")
        return [*lines, *self.notes]


def _plain(figure: Any) -> Any:
    """Returns a figure as JSON has it."""
    if isinstance(figure, np.ndarray):
        return [_plain(part) for part in figure.tolist()]
    if isinstance(figure, list):
        return [_plain(part) for part in figure]
    return figure if isfinite(figure) else None
