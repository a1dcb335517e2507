"""What theory says of each kind of code is what Gaussian weights have."""

import numpy as np
import pytest

from tests.benchmarks.kinds_of_weights import Row, decibels, gaussian, rows, weight_table

NORMAL = gaussian((256, 64))
FEW_POWERS = ("powers of 2, 3", "powers of 2, 4", "powers of 2^(1/2), 4")
"""Their theory is of powers without bounds: numbers below the least power are lost to it."""


@pytest.mark.parametrize("row", list(rows()), ids=lambda row: f"{row.name} {row.block or ''}")
def test_weights_have_the_ratio_of_the_theory(row: Row) -> None:
    found = decibels(row.code(NORMAL), NORMAL)
    assert np.isfinite(found)
    if row.theory is None:
        return
    expected = row.theory(row.block or len(NORMAL))
    assert found < expected + 0.7
    # Significands of normal numbers are not quite uniform in the logarithm: 0.6 dB.
    assert found > expected - 0.7 or row.name in FEW_POWERS


def test_the_table_has_a_line_for_each() -> None:
    head, *lines = weight_table(NORMAL, [NORMAL[:64]])
    assert head.split() == ["kind", "a", "scale", "for", "bits", "Gaussian", "theory", "MiniLM"]
    assert [line.split("  ")[0] for line in lines] == [row.name for row in rows()]
