"""Networks of many architectures in eight bits, by default options, causal and padded."""

import pytest

from tests.models.accuracy import LEAST, LEAST_OF_ROWS, measure, wide_products
from tests.models.library_networks import LIBRARY_NETWORKS
from tests.models.transformers import NETWORKS

ALL = {**NETWORKS, **LIBRARY_NETWORKS}
FAST = ("llama, padded", "equinox, causal")
"""Those that every run of the tests takes."""

SAMPLES = range(1, 9)
"""Seeds of the batches to calibrate on; the one that is measured has seed 0."""


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in ALL]
)
def test_a_network_keeps_its_accuracy(name):
    network = ALL[name]()
    found = measure(network.function, [network.inputs(seed) for seed in SAMPLES], network.inputs(0))
    line = f"{name}: {found}"
    print(line)
    assert found.differing == 0, line
    assert wide_products(found.graph) == [], line
    assert found.decibels >= LEAST, line
    assert found.rows >= LEAST_OF_ROWS, line
