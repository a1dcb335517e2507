"""A simulation in stages gives what it gives as a whole."""

from __future__ import annotations

import numpy as np
import pytest

import qir
from qir.analysis.simulation import simulate
from qir.search.staged import StagedSimulation
from tests.models import recurrent
from tests.models.random_programs import NumpyExecutor
from tests.models.small_networks import NETWORKS
from tests.models.transformers import Network

UP_TO_CODES = "canonicalize, calibrate, propagate-ranges, quantize"


@pytest.mark.parametrize(
    "make", [NETWORKS["transformer"], recurrent.linen_cell("GRUCell")], ids=["blocks", "loop"]
)
def test_a_change_gives_what_it_gives_in_the_whole_program(make):
    network: Network = make()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    simulation = simulate(qir.optimize(graph, UP_TO_CODES, data=[inputs]))
    staged = StagedSimulation(simulation, NumpyExecutor(), inputs)

    def whole(changed):
        return qir.evaluate(simulation.graph, *inputs, simulation.codes(changed))

    floats = dict.fromkeys(simulation.sites)
    for found, right in zip(staged.run({}), whole({}), strict=True):
        np.testing.assert_array_equal(found, right)
    for site in simulation.sites[::4]:
        rounded = {other: None for other in floats if other is not site}
        for found, right in zip(staged.run_alone([site]), whole(rounded), strict=True):
            np.testing.assert_array_equal(found, right)
    for found, right in zip(staged.run_alone([]), whole(floats), strict=True):
        np.testing.assert_array_equal(found, right)


def test_a_change_behind_is_computed_from_there():
    network: Network = NETWORKS["transformer"]()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    simulation = simulate(qir.optimize(graph, UP_TO_CODES, data=[inputs]))
    staged = StagedSimulation(simulation, NumpyExecutor(), inputs)
    staged.run_alone([])
    calls = []
    staged._stages = [
        type(stage)(
            stage.read,
            stage.made,
            lambda *given, one=stage: calls.append(one) or one.compute(*given),
        )
        for stage in staged._stages
    ]
    staged.run_alone([simulation.sites[-1]])
    last = len(calls)
    staged.run_alone([simulation.sites[0]])
    assert 1 <= last < len(calls) - last == len(staged._stages)
