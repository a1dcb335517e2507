"""Statistics as text: tables, files that read back equal, and what a damaged file is told."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from qir.errors import QirError
from qir.observe.statistics import MovingAverage, Statistic, observe
from qir.statistics_text import (
    load_averages,
    load_statistics,
    save_statistics,
    statistics_table,
)

finite = st.floats(width=32, allow_nan=False, allow_infinity=False)
arrays = hnp.arrays(np.float32, st.integers(0, 30), elements=finite)

EXAMPLE = {
    "conv1": observe(np.array([-1, -0.5, 0, 0, 2], np.float32), bins=16),
    "relu/1": observe(np.array([0, 0.1], np.float32), bins=16),
    "unseen": Statistic.empty(16),
}
AVERAGES = {"conv1": MovingAverage(0.9).update(EXAMPLE["conv1"])}
FILE = """\
{
"format": "qir statistics 1",
"tensors": {
"conv1": {"count": 5, "zeros": 2, "minimum": -1.0, "maximum": 2.0, "bins": 16, "exponent": -2, \
"counts": {"-5": [1], "-3": [1], "0": [2], "8": [1]}},
"relu/1": {"count": 2, "zeros": 1, "minimum": 0.0, "maximum": 0.10000000149011612, "bins": 16, \
"exponent": -7, "counts": {"0": [1], "12": [1]}},
"unseen": {"count": 0, "zeros": 0, "minimum": null, "maximum": null, "bins": 16, \
"exponent": -126, "counts": {}}
},
"moving averages": {
"conv1": {"momentum": 0.9, "low": -1.0, "high": 2.0, "batches": 1}
}
}
"""


@given(st.dictionaries(st.text(max_size=8), arrays, max_size=4), st.sampled_from([16, 4096]))
def test_what_was_saved_loads_back_equal(
    tmp_path_factory: pytest.TempPathFactory, tensors: dict[str, NDArray[Any]], bins: int
) -> None:
    path = tmp_path_factory.mktemp("statistics") / "s.json"
    statistics = {name: observe(array, bins) for name, array in tensors.items()}
    averages = {name: MovingAverage(0.1).update(each) for name, each in statistics.items()}
    save_statistics(path, statistics, averages)
    assert load_statistics(path) == statistics
    assert load_averages(path) == averages
    assert [each.name for each in path.parent.iterdir()] == ["s.json"]


def test_a_file_reads_as_one_line_a_tensor(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    save_statistics(path, EXAMPLE, AVERAGES)
    assert path.read_text() == FILE


def test_a_table_aligns_its_columns() -> None:
    assert statistics_table(EXAMPLE).splitlines() == [
        "conv1   count 5  zeros 40.0%  min -1  max 2    |▆ ▆  █       ▆|",
        "relu/1  count 2  zeros 50.0%  min 0   max 0.1  |█           █|",
        "unseen  count 0",
    ]
    assert statistics_table({}) == ""


def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    for length in range(len(FILE.rstrip())):
        path.write_text(FILE[:length])
        with pytest.raises(QirError, match=r"s\.json: expected a whole file of statistics, got"):
            load_statistics(path)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("statistics 1", "statistics 2", "expected a file with format 'qir statistics 1'"),
        ("tensors", "tensor", "expected a section 'tensors'"),
        ('"count": 5', '"count": 6', "'conv1': expected 6 values in its bins, got 5"),
        ('"count": 5', '"count": "5"', "'conv1': expected an integer count, got '5'"),
        ('"count": 5, ', "", "'conv1': expected an integer count, got None"),
        ('"minimum": -1.0', '"minimum": NaN', "'conv1': statistic: expected normal float32"),
        ('"minimum": -1.0', '"minimum": "a"', "'conv1': expected a number minimum, got 'a'"),
        ('"maximum": 2.0', '"maximum": 9.0', "'conv1': expected exponent 0 for its extremes"),
        ('"zeros": 2', '"zeros": 3', "'conv1': statistic: expected zeros among bin 0, got 3"),
        ('"bins": 16', '"bins": 0', "'conv1': statistics: expected 16 to 1048576 bins, got 0"),
        ('"8": [1]', '"9": [1]', "'conv1': expected counts of bins -5 to 8, got some from bin 9"),
        ('"8": [1]', '"8.0": [1]', "'conv1': expected counts of bins -5 to 8, got some from bin"),
        ('"8": [1]', '"8": [1.5]', "'conv1': expected a list of positive counts at bin 8"),
        ('"8": [1]', '"8": [9]', "'conv1': expected 5 values in all, got 9 from bin 8"),
        ('"-5": [1], ', "", "'conv1': statistic: expected counts >= 0, and > 0 at the extremes"),
        (json.dumps({"0": [1], "12": [1]}), "[2]", "'relu/1': expected counts by bin"),
    ],
)
def test_a_damaged_file_is_told_what_is_wrong(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    path = tmp_path / "s.json"
    assert old in FILE
    path.write_text(FILE.replace(old, new, 1))
    with pytest.raises(QirError) as error:
        load_statistics(path)
    assert str(error.value).startswith(f"{path}: {message}")


def test_a_damaged_moving_average_is_told_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text(FILE.replace('"momentum": 0.9', '"momentum": 2'))
    with pytest.raises(QirError, match=r"s\.json: 'conv1': moving average: expected momentum in"):
        load_averages(path)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    absent = tmp_path / "absent" / "s.json"
    with pytest.raises(QirError, match=r"s\.json: cannot read statistics: No such file"):
        load_statistics(absent)
    with pytest.raises(QirError, match=r"file: can.t write .*s\.json: No such file"):
        save_statistics(absent, EXAMPLE)
    binary = tmp_path / "s.bin"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(QirError, match=r"s\.bin: expected statistics as text, got other bytes"):
        load_statistics(binary)


def test_a_failed_save_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "s.json"
    save_statistics(path, EXAMPLE)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(QirError, match="No space left on device"):
        save_statistics(path, {})
    assert load_statistics(path) == EXAMPLE
    assert [each.name for each in tmp_path.iterdir()] == ["s.json"]
