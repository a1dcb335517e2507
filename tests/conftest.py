"""What holds for every test: jax on the CPU, the same examples each time, golden cases."""

import os
from collections.abc import Iterator

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


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what was measured on this machine out of the tests, which then differ nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QIR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        layout.link_tree()
