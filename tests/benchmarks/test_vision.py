"""The benchmark program of the vision models: what it compares, and what it writes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from tests.benchmarks.models import MODELS
from tests.benchmarks.vision import (
    PAUSE,
    Row,
    Runner,
    float_jax,
    main,
    measure,
    prepare,
    qir_int8,
    sqnr,
)


@pytest.fixture(scope="module")
def case():
    return prepare(MODELS["digits"])


def test_the_integers_are_those_of_the_reference_and_near_the_floats(case):
    result = measure(case, rounds=1, turn=0)
    float_row, *int8_rows = result.rows
    assert (float_row.library, float_row.ratio, float_row.differing) == ("float JAX", 1, None)
    assert result.exact
    for row in int8_rows:
        assert row.differing == 0
        # Rounding to 8 bits leaves 35 dB and more; a wrong scale leaves less than 10.
        assert row.sqnr_db is not None
        assert row.sqnr_db > 30
        assert 3.5 < float_row.weight_bytes / row.weight_bytes < 4.5


def test_a_wrong_number_is_counted(case):
    def wrong(case):
        runner = qir_int8(case)
        output = runner.output.copy()
        output[0, :2] += 1
        return replace(runner, output=output)

    result = measure(case, rounds=1, libraries=(float_jax, wrong), turn=0)
    assert result.rows[1].differing == 2
    assert not result.exact


def test_all_pause_where_a_library_has_threads_of_its_own(case, monkeypatch):
    seen = []

    def interleave(contenders, rounds, turn):
        seen.append([contender.pause for contender in contenders])
        raise InterruptedError

    def peer(case):
        return Runner("peer", lambda: None, 0, np.zeros((256, 10)), 1, own_threads=True)

    monkeypatch.setattr("tests.benchmarks.vision.interleave", interleave)
    for libraries in ((qir_int8,), (qir_int8, peer)):
        with pytest.raises(InterruptedError):
            measure(case, rounds=1, libraries=libraries)
    assert seen == [[0], [PAUSE, PAUSE]]


def test_decibels():
    signal = np.array([3, 4], np.float32)
    assert sqnr(signal, signal + np.array([0.5, 0], np.float32)) == pytest.approx(20)


def test_the_figures_are_written(tmp_path, capsys):
    path = tmp_path / "figures.json"
    assert main(["digits", "--rounds", "1", "--json", str(path)]) == 0
    written = json.loads(path.read_text())
    assert {"machine", "jax", "rounds", "models"} == written.keys()
    (model,) = written["models"]
    rows = [Row(**row) for row in model["rows"]]
    printed = capsys.readouterr().out
    for row in rows:
        (line,) = (line for line in printed.splitlines() if row.library in line)
        assert f"{row.median_ms:.3f}" in line


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("digit", f"no model digit: expected one of {', '.join(MODELS)}"),
        ("--rounds 0", "--rounds: expected at least 1, got 0"),
    ],
)
def test_wrong_words(line, message, capsys):
    with pytest.raises(SystemExit):
        main(line.split())
    assert capsys.readouterr().err.endswith(f"error: {message}\n")
