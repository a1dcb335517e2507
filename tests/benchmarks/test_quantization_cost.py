"""The program that measures what quantizing costs: its parts, on the smallest model."""

import pytest

from tests.benchmarks import quantization_cost
from tests.benchmarks.quantization_cost import medians, multiple, peak, searched, seconds, table


def test_every_step_is_timed_once():
    taken = seconds("digits")
    steps = list(taken)
    assert steps[0] == "import"
    assert steps[-5:] == ["compile", "first call", "total", "processor", "check/passes"]
    assert {"canonicalize", "calibrate", "quantize", "accuracy-check", "checks"} < set(steps)
    assert all(value >= 0 for value in taken.values())
    assert taken["total"] == pytest.approx(sum(taken[step] for step in steps[:-3]))
    assert taken["check/passes"] > 0


def test_the_peak_is_that_of_this_process():
    assert peak("digits", 1) <= peak("digits", 2)


def test_the_program_prints_medians_and_the_ratio_of_peaks(monkeypatch, capsys):
    figures = iter([{"total": 3.0}, {"total": 1.0}, {"total": 2.0}, 2048, 3072])
    monkeypatch.setattr(quantization_cost, "afresh", lambda *_: next(figures))
    quantization_cost.main(["digits", "--memory", "digits"])
    *lines, last = capsys.readouterr().out.splitlines()
    assert [line.split() for line in lines] == [["seconds", "digits"], ["total", "2.00"]]
    assert last == (
        "calibration of digits peaks at 2 MiB on 8 batches and 3 MiB on 256 batches: ratio 1.50"
    )


def test_auto_is_told_as_a_multiple_of_calibration(monkeypatch):
    figures = iter([(1.0, 4.0), (2.0, 6.0), (1.5, 7.5)])
    monkeypatch.setattr(quantization_cost, "afresh", lambda *_: next(figures))
    assert multiple("digits", 3) == ("auto of digits takes 6.0 s, 4.0 times its calibration, 1.5 s")


def test_auto_of_the_smallest_model_is_measured():
    plain, auto = searched("digits")
    assert 0 < plain < auto


def test_models_have_columns():
    columns = {"a": medians([{"import": 1.0}, {"import": 2.0}]), "b": {"calibrate": 1.0}}
    assert [line.split() for line in table(columns).splitlines()] == [
        ["seconds", "a", "b"],
        ["import", "1.50", "nan"],
        ["calibrate", "nan", "1.00"],
    ]
