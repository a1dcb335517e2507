"""What was measured is measured once, and kept between runs."""

import json
import time

import pytest

from qir.errors import QirError
from qir.search.measurements import OutOfTime, SearchedFigures


def measurements(path=None, identity="a", seconds=None):
    return SearchedFigures(identity, path, seconds, time.monotonic())


def fail():
    raise AssertionError("expected no second measurement")


def test_each_is_measured_once_whatever_the_order(tmp_path):
    path = tmp_path / "search.json"
    first = measurements(path)
    assert first.get("real", [2, 1], lambda: [0.1]) == [0.1]
    assert first.get("real", [1, 2], fail) == [0.1]
    assert first.get("simulated", [1, 2], lambda: [0.2]) == [0.2]
    assert not first.known("real", [1])
    first.save()
    again = measurements(path)
    assert again.get("real", [1, 2], fail) == [0.1]


def test_what_is_known_takes_no_time(tmp_path):
    path = tmp_path / "search.json"
    first = measurements(path)
    first.get("real", [], lambda: [1.0])
    first.save()
    late = measurements(path, seconds=1e-9)
    assert late.get("real", [], fail) == [1.0]
    with pytest.raises(OutOfTime):
        late.get("real", [1], fail)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "can't read .*take the file away"),
        ("[]", "expected .* to be that of a search"),
        (json.dumps({"search": 1, "of": "b", "figures": {}}), "search with another program"),
        (json.dumps({"search": 1, "of": "a", "figures": {"x": [""]}}), "expected numbers"),
        (json.dumps({"search": 1, "of": "a"}), "expected numbers"),
    ],
)
def test_another_file_is_refused(tmp_path, content, message):
    path = tmp_path / "search.json"
    path.write_text(content)
    with pytest.raises(QirError, match=message):
        measurements(path)
    assert path.read_text() == content
