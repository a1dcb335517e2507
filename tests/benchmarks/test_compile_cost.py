"""The benchmark of what compiling costs, on the smallest model."""

import sys

import pytest

import qir
from tests.benchmarks import compile_cost
from tests.benchmarks.compile_cost import cost, save

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def test_a_saved_program_is_compiled_and_run(tmp_path, monkeypatch):
    monkeypatch.setenv("QIR_CACHE_DIR", "")
    path = str(tmp_path / "digits.qir")
    size = save("digits", path)
    assert size == qir.summary(qir.load(path)).parameter_bytes
    seconds, peak = cost("digits", path, str(tmp_path))
    assert seconds > 0
    assert peak * 1024 > size


def test_a_row_for_each_model(monkeypatch, capsys):
    figures = iter([1024, 2**20, (2.0, 3072), (0.5, 9999)])
    monkeypatch.setattr(compile_cost, "afresh", lambda *_: next(figures))
    compile_cost.main(["digits"])
    _, row = capsys.readouterr().out.splitlines()
    assert row.split() == ["digits", "2.00", "0.50", "1.0", "2.0", "2.00"]


def test_an_unknown_model_is_named(capsys):
    with pytest.raises(SystemExit):
        compile_cost.main(["resnet"])
    assert "no model resnet; there are digits" in capsys.readouterr().err
