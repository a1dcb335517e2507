"""A calibration that goes on after an interrupt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from pathlib import Path

import numpy as np

from qir.errors import QirError, counted
from qir.observe.fingerprint import Fingerprint
from qir.observe.statistics import Statistics
from qir.observe.statistics_file import read, write
from qir.text.files import check_writable
from qir.types import Array


class Checkpoint:
    """The statistics of the batches counted so far, in a file that is replaced whole.

    An interrupted calibration is started again with the same data: the batches that the file counts
    are read and compared by a digest, not computed. As statistics merge exactly, what comes out is
    equal to the last byte to what an uninterrupted run gives. The file is one of statistics like
    any other (`Statistics.load`), and stays: started once more, a finished calibration only reads
    the data.

    Args:
        path: Where the file lies, or will.
        every: Batches between one writing and the next, at least 1.

    Attributes:
        scored: Batches that clip-scores looked at, whose bounds hold for all that is counted; None
            where it did not.

    Raises:
        QirError: The path can't be written, or `every` is no number of batches.
    """

    def __init__(self, path: Path, every: int) -> None:
        given: object = every
        if not isinstance(given, int) or isinstance(given, bool) or given < 1:
            raise QirError(f"checkpoint: expected every to be at least 1 batch, got {every!r}")
        check_writable(path)
        self.path = path
        self.every = every
        self.statistics = Statistics()
        self._wanted = ""
        self._bins = 0
        self._numbers = ""
        self.scored: int | None = None
        self._digests: dict[int, str] = {}
        if path.exists():
            try:
                found = read(path)
            except QirError as error:
                raise error.at(
                    "take the file away to begin anew, or choose another path"
                ) from error
            if found.progress is None:
                raise QirError(
                    f"checkpoint: expected {path} to be that of a calibration, got statistics "
                    "alone; choose another path"
                )
            self.statistics = Statistics.of(found)
            self._wanted = str(found.progress.get("read"))
            self._bins = int(found.progress.get("bins", 0))
            self._numbers = str(found.progress.get("numbers"))
            self.scored = found.progress.get("scored")

    @property
    def batches(self) -> int:
        """How many batches the file counts."""
        return self.statistics.batches

    def begin(
        self, model: Fingerprint | None, program: Fingerprint, numbers: str, bins: int
    ) -> None:
        """Checks that the file is of this calibration.

        Args:
            model: The float program as it was given.
            program: That which is observed.
            numbers: Digest of all its numbers, those that data decided among them.
            bins: Bins of the histograms.

        Raises:
            QirError: It is not.
        """
        if self.batches:
            known = self.statistics
            if model != known.model:
                raise self._refused("got one of another model")
            if program != known.observed or bins != self._bins or numbers != self._numbers:
                raise self._refused("got one of another pipeline")
        self._bins, self._numbers = bins, numbers

    def read(self, number: int, arrays: Sequence[Array]) -> bool:
        """Takes note of a batch that was read; returns whether the file counts it already.

        Args:
            number: Its number, from 0.
            arrays: An array for each input.

        Raises:
            QirError: The last batch that the file counts was read, and they are not what it counts,
                or the batch was not there when masked scores were looked at.
        """
        if self.scored is not None and number >= self.scored:
            raise self._other_scores("more")
        digest = _digest(self._digests.get(number, ""), arrays)
        self._digests[number + 1] = digest
        self._digests.pop(number, None) if number < self.batches else None
        if number + 1 == self.batches and digest != self._wanted:
            raise self._refused("got one of other data")
        return number < self.batches

    def end(self, batches: int) -> None:
        """Raises QirError where there were fewer batches than before."""
        if batches < self.batches:
            raise self._refused(
                f"which counts {counted(self.batches, 'batch')}, got data of {batches}"
            )
        if self.scored is not None and batches < self.scored:
            raise self._other_scores(str(batches))

    def write(self, statistics: Statistics) -> None:
        """Writes the file anew, unless it counts the same batches.

        Args:
            statistics: Those of all batches that were counted, from the first.
        """
        if statistics.batches == self.batches:
            return
        progress = {
            "read": self._digests[statistics.batches],
            "bins": self._bins,
            "numbers": self._numbers,
            "scored": self.scored,
        }
        write(statistics.stored(progress), self.path)
        for number in [number for number in self._digests if number < statistics.batches]:
            del self._digests[number]

    def _other_scores(self, got: str) -> QirError:
        return self._refused(
            f"whose masked scores are clipped as in {counted(self.scored or 0, 'batch')}, got data "
            f"of {got}"
        )

    def _refused(self, reason: str) -> QirError:
        return QirError(
            f"checkpoint: expected {self.path} to be that of this calibration, {reason}; take the "
            "file away to begin anew"
        )


def _digest(before: str, arrays: Iterable[Array]) -> str:
    digest = blake2b(before.encode(), digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype.name}{list(array.shape)}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
