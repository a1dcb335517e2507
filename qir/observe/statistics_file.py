"""Statistics on disk: an `.npz` of raw numbers with an index; nothing is pickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Protocol, TypeAlias, TypeVar

import numpy as np

from qir.errors import QirError
from qir.observe.channels import ChannelMoments, ChannelStatistic, RowPeaks
from qir.observe.exact_sums import ExactSums
from qir.observe.extremes import BatchExtremes
from qir.observe.fingerprint import Fingerprint
from qir.observe.histograms import Histogram
from qir.text.files import write_atomically
from qir.text.storage import Npy, reading, write_arrays
from qir.types import Array

FORMAT = "qir statistics 1"
"""How the index says what the file is."""

POOLS = ("int64", "float32", "uint32")
"""The types of the numbers, each of which is one array of the file."""

INDEX = "index"
"""The array of bytes that holds the index, a text of JSON."""


StatisticT = TypeVar("StatisticT", bound="Statistic")


class Statistic(Protocol):
    """One kind of statistic of a tensor; `merge` is exactly associative and commutative."""

    def merge(self: StatisticT, other: StatisticT) -> StatisticT:
        """Returns the statistic of what both were taken of."""
        ...


@dataclass(frozen=True, eq=False)
class StatisticsFile:
    """What a file of statistics holds.

    Args:
        tensors: The parts of what was seen of each tensor, by kind, by the name of the tensor.
        model: The float program, where it is known.
        observed: What passes have made of it, likewise.
        batches: How many batches were seen.
        progress: Where in the data, for a checkpoint; see `qir.observe.checkpoint`.
    """

    tensors: Mapping[str, Mapping[str, Statistic]]
    model: Fingerprint | None
    observed: Fingerprint | None
    batches: int
    progress: Mapping[str, Any] | None = None


_Facts: TypeAlias = Sequence[Any]
"""Numbers of a part that are in the index."""


def encode(stored: StatisticsFile) -> dict[str, Array]:
    """Returns the arrays of a file: equal ones for equal statistics, whatever they share."""
    pools: dict[str, list[Array]] = {name: [np.zeros(0, name)] for name in POOLS}
    listed: list[Any] = []
    by_content: dict[Any, int] = {}
    by_part: dict[int, int] = {}
    tensors: dict[str, dict[str, int]] = {}
    for name in sorted(stored.tensors):
        tensors[name] = {}
        for kind, part in stored.tensors[name].items():
            if id(part) not in by_part:
                facts, arrays = _encoded(part)
                described = [type(part).__name__, facts, [list(array.shape) for array in arrays]]
                key = (json.dumps(described), *(array.tobytes() for array in arrays))
                if key not in by_content:
                    by_content[key] = len(listed)
                    listed.append(described)
                    for array in arrays:
                        pools[array.dtype.name].append(array.reshape(-1))
                by_part[id(part)] = by_content[key]
            tensors[name][kind] = by_part[id(part)]
    index = {
        "format": FORMAT,
        "model": None if stored.model is None else asdict(stored.model),
        "observed": None if stored.observed is None else asdict(stored.observed),
        "batches": stored.batches,
        "progress": stored.progress,
        "tensors": tensors,
        "parts": listed,
    }
    text = json.dumps(index, separators=(",", ":"), sort_keys=True)
    whole: dict[str, Array] = {INDEX: np.frombuffer(text.encode(), np.uint8)}
    for name, parts in pools.items():
        whole[name] = np.concatenate(parts).astype(np.dtype(name).newbyteorder("<"), copy=False)
    return whole


def write(stored: StatisticsFile, path: Path) -> None:
    """Writes a file, whole or not at all; raises QirError where the path can't be written."""
    arrays = encode(stored)
    write_atomically({path: lambda file: write_arrays(file, arrays)})


def read(path: Path) -> StatisticsFile:
    """Reads a file.

    Raises:
        QirError: It is missing, damaged, or holds something else.
    """
    if not path.exists():
        raise QirError(
            f"statistics: {path} does not exist; qir.calibrate makes statistics, which their save "
            "writes"
        )
    with reading(f"statistics: {path} is damaged, or no file of statistics"):
        with zipfile.ZipFile(path) as archive:
            arrays: dict[str, Array] = {}
            for name, dtype in ((INDEX, "uint8"), *((name, name) for name in POOLS)):
                with Npy.of_member(archive, name) as member:
                    if member.dtype.newbyteorder("=") != np.dtype(dtype) or len(member.shape) != 1:
                        raise ValueError(f"expected '{name}' to be numbers of {dtype} in a row")
                    arrays[name] = member.read()
        index = json.loads(arrays.pop(INDEX).tobytes())
        if index["format"] != FORMAT:
            raise ValueError(f"expected the format '{FORMAT}', got '{index['format']}'")
        return _decoded(index, arrays)


def _decoded(index: Mapping[str, Any], pools: Mapping[str, Array]) -> StatisticsFile:
    reader = _Reader(pools)
    parts = [reader.part(*described) for described in index["parts"]]
    reader.finish()
    tensors = {
        str(name): {str(kind): parts[place] for kind, place in kinds.items()}
        for name, kinds in index["tensors"].items()
    }
    model, observed = (
        None if index[key] is None else Fingerprint(**index[key]) for key in ("model", "observed")
    )
    return StatisticsFile(tensors, model, observed, int(index["batches"]), index["progress"])


def _encoded(part: Statistic) -> tuple[_Facts, list[Array]]:
    """Returns the numbers of a part for the index, and its arrays."""
    match part:
        case Histogram():
            return [part.minimum, part.maximum, part.zeros, part.bins], [part.counts]
        case BatchExtremes():
            return [], [part.numbers, part.minimum, part.maximum]
        case ChannelStatistic():
            arrays = [part.minimum, part.maximum, part.squares.words]
            return [list(part.axes), part.squares.low, part.count], arrays
        case ChannelMoments():
            lows = [part.sums.low, part.squares.low]
            return [*lows, part.count], [part.sums.words, part.squares.words]
        case RowPeaks():
            return [list(part.axes), part.least], []
        case _:
            raise QirError(f"statistics: expected a known kind, got {type(part).__name__}")


class _Reader:
    """Makes parts of what the index says, and of numbers that follow one another in the pools."""

    def __init__(self, pools: Mapping[str, Array]) -> None:
        self._pools = pools
        self._places = dict.fromkeys(pools, 0)

    def part(self, kind: str, facts: _Facts, shapes: Sequence[Sequence[int]]) -> Statistic:
        """Returns the next part; raises ValueError or QirError where it makes no sense."""
        sizes = iter(shapes)
        match kind:
            case "Histogram":
                low, high, zeros, bins = facts
                return Histogram(float(low), float(high), zeros, self._take("int64", sizes), bins)
            case "BatchExtremes":
                numbers = self._take("int64", sizes)
                return BatchExtremes(
                    numbers, self._take("float32", sizes), self._take("float32", sizes)
                )
            case "ChannelStatistic":
                axes, low, count = facts
                bounds = self._take("float32", sizes), self._take("float32", sizes)
                squares = ExactSums(int(low), self._take("uint32", sizes))
                return ChannelStatistic(tuple(axes), *bounds, squares, count)
            case "ChannelMoments":
                low, squared_low, count = facts
                sums = ExactSums(int(low), self._take("uint32", sizes))
                squares = ExactSums(int(squared_low), self._take("uint32", sizes))
                return ChannelMoments(sums, squares, count)
            case "RowPeaks":
                axes, least = facts
                return RowPeaks(tuple(axes), float(least))
            case _:
                raise ValueError(f"no kind of statistics '{kind}'")

    def _take(self, pool: str, sizes: Iterator[Sequence[int]]) -> Array:
        shape = tuple(next(sizes))
        if not all(type(size) is int and size >= 0 for size in shape):
            raise ValueError(f"expected sizes, got {list(shape)}")
        start = self._places[pool]
        end = self._places[pool] = start + prod(shape)
        return self._pools[pool][start:end].reshape(shape)

    def finish(self) -> None:
        """Raises ValueError where numbers are left over."""
        for pool, place in self._places.items():
            if place != len(self._pools[pool]):
                raise ValueError(
                    f"expected {place} numbers of {pool}, got {len(self._pools[pool])}"
                )
