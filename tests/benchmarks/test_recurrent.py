"""The benchmark program of recurrent layers: what it compares."""

import pytest

pytest.importorskip("flax")

from tests.benchmarks.recurrent import CELLS, main, model_of
from tests.benchmarks.vision import float_jax, measure, prepare, qir_int8


@pytest.mark.parametrize("cell", CELLS)
def test_the_integers_are_those_of_the_reference_and_near_the_floats(cell):
    case = prepare(model_of(cell, 2, trips=6))
    result = measure(case, rounds=1, libraries=(float_jax, qir_int8), turn=0)
    assert result.exact
    assert (result.rows[1].sqnr_db or 0) > 28


def test_unknown_cells_are_refused(capsys):
    with pytest.raises(SystemExit):
        main(["elman"])
    assert "expected one of lstm, gru" in capsys.readouterr().err
