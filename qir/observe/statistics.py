"""Statistics: all that calibration keeps of a model, by the imported names of values."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, MutableMapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from qir.errors import QirError, counted, did_you_mean, kind_of
from qir.ir import Graph
from qir.observe.channels import ChannelMoments, ChannelStatistic, RowPeaks
from qir.observe.extremes import BatchExtremes
from qir.observe.fingerprint import Fingerprint
from qir.observe.histograms import Histogram
from qir.observe.statistics_file import Statistic, StatisticsFile, encode, read, write


@dataclass(frozen=True, eq=False)
class TensorStatistics:
    """What was seen of one tensor; None where a pass asked for nothing of the kind.

    Attributes:
        histogram: The extremes and the histogram of its values.
        extremes: The extremes of each batch, of which moving averages are made.
        channels: The extremes and mean squares of its channels, where a product reads them.
        moments: Mean and variance of its channels, where products or convolutions with constant
            weights read them; where a sum is split, of the parts too.
        positions: The extremes and mean squares of each position of a sequence, for what is divided
            row by row, as attention is.
        rows: The least row maximum, where a softmax reads the tensor.
        scores: The same with masks left aside, where clip-scores asked for it.
    """

    histogram: Histogram | None = None
    extremes: BatchExtremes | None = None
    channels: ChannelStatistic | None = None
    moments: ChannelMoments | None = None
    positions: ChannelStatistic | None = None
    rows: RowPeaks | None = None
    scores: RowPeaks | None = None

    @property
    def parts(self) -> dict[str, Statistic]:
        """The statistics that there are, by the names of the attributes."""
        found = {kind: getattr(self, kind) for kind in PARTS}
        return {kind: part for kind, part in found.items() if part is not None}


PARTS = tuple(spec.name for spec in fields(TensorStatistics))
"""The attributes of `TensorStatistics`."""


def key_of_imported(name: str) -> str:
    """Returns the key in statistics of an imported value: its name, which may be any text."""
    return f"%{name}" if name.startswith("%") else name


def is_key_of_made(key: str) -> bool:
    """Whether a key is that of a value that passes made: its name behind one %."""
    return key.startswith("%") and not key.startswith("%%")


class Statistics(MutableMapping[str, TensorStatistics]):
    """What calibration saw of a model: a mapping from names of values to `TensorStatistics`.

    A name is that of the imported model (`Value.origin`), or `%name` for a value that passes made.
    One more % stands before an imported name that begins with one.
    Memory does not grow with the data. `merge` is exactly associative and commutative: statistics
    that were taken of parts of the data, merged in any order, are equal and save as equal bytes.
    A copy shares the statistics of the tensors, which are immutable.

    Args:
        tensors: What was seen, by name.
        model: The float program as it was imported; None where that is not known.
        observed: The program that was observed, which passes have made of it; likewise.
        batches: How many batches were seen.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorStatistics] | None = None,
        model: Fingerprint | None = None,
        observed: Fingerprint | None = None,
        batches: int = 0,
    ) -> None:
        self._tensors = dict(tensors or {})
        self.model = model
        self.observed = observed
        self.batches = batches

    def __getitem__(self, name: str) -> TensorStatistics:
        return self._tensors[name]

    def __setitem__(self, name: str, tensor: TensorStatistics) -> None:
        if not isinstance(tensor, TensorStatistics):
            raise QirError(
                f"statistics: expected TensorStatistics of '{name}', got {kind_of(tensor)}"
            )
        self._tensors[name] = tensor

    def __delitem__(self, name: str) -> None:
        del self._tensors[name]

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def copy(self) -> Statistics:
        """Returns statistics of their own that begin as these are."""
        return Statistics(self._tensors, self.model, self.observed, self.batches)

    def add(self, name: str, **parts: Any) -> None:
        """Sets some of the statistics of a tensor, by the attributes of `TensorStatistics`."""
        self._tensors[name] = replace(self._tensors.get(name, TensorStatistics()), **parts)

    def merge(self, other: Statistics) -> Statistics:
        """Returns the statistics of the data of both.

        Raises:
            QirError: They are of different models, of different programs made of one, or of a
                tensor of another shape; or the other is none.
        """
        expect_statistics(other)
        model = _same(self.model, other.model, "model")
        observed = _same(self.observed, other.observed, "prepared program")
        known: dict[tuple[int, int], Any] = {}

        def merged(mine: Any, theirs: Any) -> Any:
            # Tensors that hold the same numbers share what was seen of them, merged as well.
            key = id(mine), id(theirs)
            if key not in known:
                known[key] = mine.merge(theirs)
            return known[key]

        whole = dict(self._tensors)
        for name, theirs in other.items():
            mine = whole.get(name, TensorStatistics())
            parts: dict[str, Any] = dict(mine.parts)
            for kind, part in theirs.parts.items():
                try:
                    parts[kind] = merged(parts[kind], part) if kind in parts else part
                except QirError as error:
                    raise error.at(f"in the statistics of '{name}'") from error
            whole[name] = TensorStatistics(**parts)
        return Statistics(whole, model, observed, self.batches + other.batches)

    def of_program(self, graph: Graph) -> Statistics:
        """Returns those that hold of a program that is to be calibrated.

        The name of a value that passes made says what it is only in the program that was observed:
        in any other the statistics of such values are left out.

        Args:
            graph: The program, as passes have prepared it.
        """
        if self.observed is None or self.observed.structure == Fingerprint.of(graph).structure:
            return self
        imported = {name: seen for name, seen in self.items() if not is_key_of_made(name)}
        return Statistics(imported, self.model, self.observed, self.batches)

    def check(self, graph: Graph, *, unchanged: bool = False) -> None:
        """Raises QirError where a program is of another model than the statistics.

        Args:
            graph: The program.
            unchanged: Whether passes can't have changed it.
        """
        reason = self.difference(graph)
        if unchanged and not reason and self.model not in (None, Fingerprint.of(graph)):
            reason = "it has other ops"
        if reason:
            raise QirError(
                f"statistics: expected those of @{graph.name}, got those of another model: "
                f"{reason}; qir.calibrate takes those of a model on data"
            )

    def difference(self, graph: Graph) -> str:
        """Says how a program differs from the model of the statistics; empty where it may be it.

        A program that passes have changed is known by its inputs and outputs, and as long as it is
        not calibrated by the values that were observed: passes make new values of those that a
        model has, so that what stands in the prepared program stands in all that lead to it. One
        that passes have taken observed values from can't be told from another model.

        Args:
            graph: The program.
        """
        if not self or self.model is None:
            return ""
        return self.model.difference(graph) or self._unknown_to(graph)

    def _unknown_to(self, graph: Graph) -> str:
        """Says which value was observed that a program can't have had; empty where it may be."""
        structures = [known.structure for known in (self.model, self.observed) if known is not None]
        values = list(graph.values_inside())
        if Fingerprint.of(graph).structure in structures or any(
            value.observed is not None or value.type.quant is not None for value in values
        ):
            return ""
        recorded = any(value.origin for value in values)
        names = {name for value in values for name in (value.origin if recorded else (value.name,))}
        unknown = [name for name in self if name not in names and not name.startswith("%")]
        if not unknown:
            return ""
        more = f", and of {len(unknown) - 1} more" if len(unknown) > 1 else ""
        return (
            f"they are of '{unknown[0]}', which it does not have{more}; where passes have taken "
            "that out, give the program that was calibrated"
        )

    def __eq__(self, other: object) -> bool:
        """Whether both would be saved as equal bytes."""
        if not isinstance(other, Statistics):
            return NotImplemented
        mine, theirs = (
            {name: array.tobytes() for name, array in encode(each.stored()).items()}
            for each in (self, other)
        )
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<statistics of {len(self)} tensors on {counted(self.batches, 'batch')}>"

    def stored(self, progress: Mapping[str, Any] | None = None) -> StatisticsFile:
        """Returns what a file holds of it.

        Args:
            progress: As for `StatisticsFile`.
        """
        tensors = {name: seen.parts for name, seen in self.items()}
        return StatisticsFile(tensors, self.model, self.observed, self.batches, progress)

    @staticmethod
    def of(stored: StatisticsFile) -> Statistics:
        """Reverses `stored`; raises QirError for a kind of statistic that there is not."""
        for kind in {kind for parts in stored.tensors.values() for kind in parts}:
            if kind not in PARTS:
                raise QirError(f"statistics: no kind '{kind}'{did_you_mean(kind, PARTS)}")
        tensors = {
            name: TensorStatistics(**dict[str, Any](parts))
            for name, parts in stored.tensors.items()
        }
        return Statistics(tensors, stored.model, stored.observed, stored.batches)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes an `.npz` of raw bytes, whole or not at all; equal statistics give equal bytes.

        Raises:
            QirError: The path can't be written.
        """
        write(self.stored(), Path(path))

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Statistics:
        """Reads what `save` wrote.

        Raises:
            QirError: The file is missing, damaged, or holds something else.
        """
        return Statistics.of(read(Path(path)))


def expect_statistics(given: object) -> None:
    """Raises QirError for what a user handed in instead of statistics."""
    if not isinstance(given, Statistics):
        raise QirError(
            f"statistics: expected what qir.calibrate returns, got {kind_of(given)}; "
            "qir.Statistics.load reads a file, and a context has them as context.statistics"
        )


def _same(mine: Fingerprint | None, theirs: Fingerprint | None, what: str) -> Fingerprint | None:
    if mine is not None and theirs is not None and mine != theirs:
        raise QirError(f"statistics: expected those of one {what}, got those of two")
    return mine or theirs
