"""What holds for every test: jax on the CPU, the same examples each time, golden cases."""

import os
from collections.abc import Iterator

import pytest

# Imported to load the profile of hypothesis.
import tests.drawing  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests import layout

os.environ.setdefault("JAX_PLATFORMS", "cpu")

pytest_plugins = ["tests.golden_cases", "pytester"]


@pytest.fixture(scope="session", autouse=True)
def _no_cache_of_the_user(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keeps what was measured on this machine out of the tests, which then differ nowhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QIR_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        layout.link_tree()
