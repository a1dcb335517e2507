"""What holds for every test: jax on the CPU, the same examples each time, golden cases."""

import os

import pytest
from hypothesis import HealthCheck, settings

from tests import layout

os.environ.setdefault("JAX_PLATFORMS", "cpu")

pytest_plugins = ["tests.golden_cases", "pytester"]

# A loaded machine is slow to draw and to compile; that says nothing about the code.
settings.register_profile(
    "ci",
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "explore", parent=settings.get_profile("ci"), derandomize=False, max_examples=2000
)
settings.load_profile("ci")


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        layout.link_tree()
