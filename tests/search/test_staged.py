"""A simulation in stages gives what it gives as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pytest

import qir
from qir.analysis.simulation import simulate
from qir.analysis.sites import Site
from qir.search.staged import StagedSimulation
from qir.types import Array
from tests.models.random_programs import NumpyExecutor
from tests.models.small_networks import NETWORKS
from tests.models.transformers import Network, Weights, reals

UP_TO_CODES = "canonicalize, calibrate, propagate-ranges, quantize"


EXECUTOR: Any = NumpyExecutor()


def looped() -> Network:
    """A recurrent layer between two dense ones: roundings inside of a loop and outside of it."""
    draw = Weights(0)
    first, again, last = draw.dense(8, 8), draw.dense(8, 8), draw.dense(8, 4)

    def function(x: jax.Array) -> jax.Array:
        def step(state: jax.Array, row: jax.Array) -> tuple[jax.Array, jax.Array]:
            state = jax.nn.tanh(row + state @ again)
            return state, state

        _, states = jax.lax.scan(step, x[0], x @ first)
        return jax.nn.relu(states @ last)

    return Network(function, lambda seed: (reals(seed, 5, 3, 8),))


@pytest.mark.parametrize("make", [NETWORKS["transformer"], looped])
def test_a_change_gives_what_it_gives_in_the_whole_program(make: Callable[[], Network]) -> None:
    network = make()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    simulation = simulate(qir.optimize(graph, UP_TO_CODES, data=[inputs]))
    staged = StagedSimulation(simulation, EXECUTOR, inputs)

    def whole(changed: dict[Site, Any]) -> tuple[Array, ...]:
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


def test_a_change_behind_is_computed_from_there() -> None:
    network: Network = NETWORKS["transformer"]()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    simulation = simulate(qir.optimize(graph, UP_TO_CODES, data=[inputs]))
    staged = StagedSimulation(simulation, EXECUTOR, inputs)
    staged.run_alone([])
    calls = []

    def noted(compute: Callable[..., Any]) -> Callable[..., Any]:
        def run(*given: Any) -> Any:
            calls.append(compute)
            return compute(*given)

        return run

    staged._stages = [replace(stage, compute=noted(stage.compute)) for stage in staged._stages]
    staged.run_alone([simulation.sites[-1]])
    last = len(calls)
    staged.run_alone([simulation.sites[0]])
    assert 1 <= last < len(calls) - last == len(staged._stages)
