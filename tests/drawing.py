"""How many examples tests draw: all in the slow tier, some in the fast one, many in a campaign."""

from __future__ import annotations

from itertools import chain
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")

PACK = 12

# A loaded machine is slow to draw and to compile, and what is drawn depends on the modules that are
# loaded; that says nothing about the code.
settings.register_profile(
    "slow",
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=100,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
settings.register_profile("fast", parent=settings.get_profile("slow"), max_examples=25)
settings.register_profile(
    "campaign", parent=settings.get_profile("slow"), derandomize=False, max_examples=2000
)
settings.load_profile("fast")


def examples(count: int, **options: Any) -> settings:
    """Returns the settings of a test that draws a number of examples of its own.

    A test that searches, for what fires every rule, say, has the same number in each tier instead.

    Args:
        count: How many in the slow tier. Other profiles draw as many percent of them as they draw
            examples for tests that have no number, at least two: the first is the simplest.
        options: Further settings.
    """
    share = max(2, round(count * settings().max_examples / 100))
    return settings(max_examples=share, **options)


def drawn(strategy: SearchStrategy[T], count: int, pack: int = PACK) -> list[T]:
    """Draws examples to try together, as what compiles them takes much longer for each alone.

    Args:
        strategy: What to draw from.
        count: How many in the slow tier. At least a pack is drawn, and the simplest example.
        pack: How many at a time.
    """
    packs: list[list[T]] = []

    # Those of a pack are independent; from one to the next, hypothesis likes to change little.
    @examples(-(-count // pack) + 1, phases=[Phase.generate])
    @given(st.lists(strategy, min_size=pack, max_size=pack))
    def collect(examples: list[T]) -> None:
        packs.append(examples)

    collect()
    simplest, *others = packs
    return [simplest[0], *chain.from_iterable(others)]
