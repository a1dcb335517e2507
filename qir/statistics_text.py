"""Calibration statistics as text: a table to read, and a file that keeps them for another solver.

The file is JSON with one tensor to a line. Counts are runs of occupied bins, each under the index
of its first bin, so that a long empty tail takes no room and a line can be read and edited.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from itertools import zip_longest
from pathlib import Path
from re import fullmatch
from typing import TypeVar

import numpy as np

from qir.errors import QirError
from qir.observe.statistics import MovingAverage, Statistic, bin_span
from qir.text.files import write_atomically

_FORMAT = "qir statistics 1"
_TENSORS = "tensors"
_AVERAGES = "moving averages"
_T = TypeVar("_T")


def statistics_table(statistics: Mapping[str, Statistic]) -> str:
    """Returns one line for each tensor: its name, count, share of zeros, extremes and histogram."""
    rows = [[name, *statistic.columns()] for name, statistic in statistics.items()]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    )


def save_statistics(
    path: str | os.PathLike[str],
    statistics: Mapping[str, Statistic],
    averages: Mapping[str, MovingAverage] | None = None,
) -> None:
    """Writes statistics, and moving averages where there are any, by the names of their tensors.

    The file appears whole or not at all.

    Raises:
        QirError: If the file cannot be written.
    """
    parts = [
        f'"format": "{_FORMAT}"',
        _section(_TENSORS, {name: _record(each) for name, each in statistics.items()}),
        _section(_AVERAGES, {name: dict(vars(each)) for name, each in (averages or {}).items()}),
    ]
    text = "{\n" + ",\n".join(parts) + "\n}\n"
    write_atomically({Path(path): lambda file: file.write(text.encode())})


def load_statistics(path: str | os.PathLike[str]) -> dict[str, Statistic]:
    """Reads the statistics that `save_statistics` wrote.

    Raises:
        QirError: If the file is missing, cut short or contradicts itself.
    """
    return _load(path, _TENSORS, _statistic)


def load_averages(path: str | os.PathLike[str]) -> dict[str, MovingAverage]:
    """Reads the moving averages that `save_statistics` wrote.

    Raises:
        QirError: If the file is missing, cut short or contradicts itself.
    """
    return _load(path, _AVERAGES, _average)


def _section(title: str, entries: Mapping[str, dict[str, object]]) -> str:
    lines = [f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items()]
    return f"{json.dumps(title)}: {{\n" + ",\n".join(lines) + "\n}"


def _record(statistic: Statistic) -> dict[str, object]:
    occupied = np.flatnonzero(statistic.counts)
    runs = np.split(occupied, np.flatnonzero(np.diff(occupied) > 1) + 1) if occupied.size else []
    return {
        "count": statistic.count,
        "zeros": statistic.zeros,
        "minimum": statistic.minimum if occupied.size else None,
        "maximum": statistic.maximum if occupied.size else None,
        "bins": statistic.bins,
        "exponent": statistic.exponent,
        "counts": {
            str(statistic.first + int(run[0])): statistic.counts[run].tolist() for run in runs
        },
    }


def _load(
    path: str | os.PathLike[str], title: str, read: Callable[[dict[str, object]], _T]
) -> dict[str, _T]:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise QirError(f"{path}: cannot read statistics: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise QirError(f"{path}: expected statistics as text, got other bytes") from error
    try:
        file = json.loads(text)
    except json.JSONDecodeError as error:
        raise QirError(
            f"{path}: expected a whole file of statistics, "
            f"got text that breaks off or is no JSON at line {error.lineno} ({error.msg})"
        ) from error
    except (ValueError, RecursionError) as error:
        raise QirError(f"{path}: expected statistics, got JSON with {error}") from error
    if not isinstance(file, dict) or file.get("format") != _FORMAT:
        raise QirError(f"{path}: expected a file with format '{_FORMAT}'")
    entries = file.get(title)
    if not isinstance(entries, dict):
        raise QirError(f"{path}: expected a section '{title}'")
    result = {}
    for name, entry in entries.items():
        try:
            if not isinstance(entry, dict):
                raise QirError("expected an object with named fields")
            result[name] = read(entry)
        except QirError as error:
            raise QirError(f"{path}: {name!r}: {error.message}") from error
    return result


def _statistic(entry: dict[str, object]) -> Statistic:
    bins, count, zeros = (_integer(entry, key) for key in ("bins", "count", "zeros"))
    runs = entry.get("counts")
    if not isinstance(runs, dict):
        raise QirError("expected counts by bin")
    if not runs:
        statistic = Statistic.empty(bins)
    else:
        minimum, maximum = _number(entry, "minimum"), _number(entry, "maximum")
        exponent, first, last = bin_span(minimum, maximum, bins)
        if exponent != _integer(entry, "exponent"):
            raise QirError(
                f"expected exponent {exponent} for its extremes and bins, got {entry['exponent']}"
            )
        counts = np.zeros(last - first + 1, np.int64)
        for key, run in runs.items():
            if not isinstance(run, list) or not all(type(each) is int and each > 0 for each in run):
                raise QirError(f"expected a list of positive counts at bin {key}")
            if not fullmatch("-?[0-9]{1,7}", key) or not first <= int(key) <= last + 1 - len(run):
                raise QirError(
                    f"expected counts of bins {first} to {last}, got some from bin {key}"
                )
            if sum(run) > count:
                raise QirError(f"expected {count} values in all, got {sum(run)} from bin {key}")
            counts[int(key) - first :][: len(run)] += run
        statistic = Statistic(minimum, maximum, zeros, counts, bins)
    if statistic.count != count:
        raise QirError(f"expected {count} values in its bins, got {statistic.count}")
    return statistic


def _average(entry: dict[str, object]) -> MovingAverage:
    momentum, low, high = (_number(entry, key) for key in ("momentum", "low", "high"))
    return MovingAverage(momentum, low, high, _integer(entry, "batches"))


def _integer(entry: dict[str, object], key: str) -> int:
    value = entry.get(key)
    if type(value) is not int or abs(value) >= 2**63:
        raise QirError(f"expected an integer {key}, got {value!r}")
    return value


def _number(entry: dict[str, object], key: str) -> float:
    value = entry.get(key)
    if not isinstance(value, int | float) or abs(value) >= 2**128:
        raise QirError(f"expected a number {key}, got {value!r}")
    return float(value)
