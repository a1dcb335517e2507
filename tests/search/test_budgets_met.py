"""Budgets of whole networks: met, and of few choices by hardly more than an exhaustive search."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import combinations
from unittest import mock

import pytest

import qir
from qir.ir import Graph
from qir.search import greedy
from qir.search.budget import Budget
from qir.search.greedy import Found, Greedy
from qir.types import Array
from tests.models import recurrent, transformers
from tests.models.small_networks import NETWORKS
from tests.models.transformers import Network
from tests.search.test_search import chain, decibels, uncompiled


def exhaustive(graph: Graph, data: list[tuple[Array, ...]], budget: Budget, most: int) -> int:
    """The least number of tensors in 16 bits that meet a budget, `most` where fewer do not.

    Every set of units is made and computed, those of the fewest tensors first.
    """
    seen: list[int] = []

    def all_sets(self: Greedy) -> Found:
        units = self.prepared.units
        sets = [
            each for count in range(len(units)) for each in combinations(range(len(units)), count)
        ]
        for chosen in sorted(sets, key=self.cost):
            if self.cost(chosen) >= most:
                break
            if self.real(chosen) >= budget.bound:
                seen.append(self.cost(chosen))
                return Found(chosen, self.real(chosen))
        seen.append(most)
        return Found((), None)

    with mock.patch.object(Greedy, "meet", all_sets), uncompiled():
        qir.quantize(graph, data, budget=str(budget), accuracy_check=False)
    return seen[0]


def judged(network: Network, more: float) -> None:
    """A budget that lies above what the plain program has is met with hardly a tensor too many."""
    data = [network.inputs(0), network.inputs(1)]
    graph = qir.from_jax(network.function, *data[0])
    with uncompiled():
        plain = qir.quantize(graph, data, accuracy_check=False)
        asked = decibels(graph, plain, data[1]) + more
        budget = Budget.of(f"sqnr {asked:.4f}")
        costs, few = list[int](), list[bool]()
        meet = Greedy.meet

        def noted(self: Greedy) -> Found | None:
            found = meet(self)
            assert found is not None
            costs.append(self.cost(found.chosen))
            few.append(len(self.prepared.units) <= greedy.FEW)
            return found

        with mock.patch.object(Greedy, "meet", noted):
            integer = qir.quantize(graph, data, budget=str(budget), accuracy_check=False)
    assert decibels(graph, integer, data[1]) >= budget.bound
    (cost,) = costs
    assert cost > 0
    if few == [True]:
        assert cost <= 1.1 * exhaustive(graph, data, budget, cost)


SMALL: dict[str, Callable[[], Network]] = {
    **{f"dense {seed}": partial(chain, seed) for seed in range(5)},
    **{f"deep {seed}": partial(chain, seed, (8, 12, 12, 6)) for seed in range(4)},
}


MODELS: dict[str, tuple[Callable[[], Network], float]] = {
    **{f"dense {seed}": (partial(chain, seed), 5) for seed in range(5)},
    **{f"deep {seed}": (partial(chain, seed, (8, 12, 12, 6)), 3) for seed in range(4)},
    "mlp": (NETWORKS["mlp"], 3),
    "cnn": (NETWORKS["cnn"], 1.5),
    "gru": (recurrent.linen_cell("GRUCell"), 1.5),
    "rwkv": (recurrent.rwkv, 1),
    "linear attention": (recurrent.linear_attention, 0.05),
    "lstm": (recurrent.linen_cell("LSTMCell"), 2),
    "transformer": (NETWORKS["transformer"], 6),
    "swin": (transformers.swin, 2),
    "graph attention": (transformers.graph_attention, 12),
    "decoding step": (transformers.decoding_step, 12),
    "conformer": (transformers.conformer, 6),
}
"""Networks, and how many dB more than the plain program's are asked of each."""


def test_no_smaller_set_meets_a_budget():
    judged(chain(1), 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_budget_is_met_with_hardly_a_tensor_too_many(name):
    make, more = MODELS[name]
    judged(make(), more)
