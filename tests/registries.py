"""What ops, passes and rules a test registers is taken back after it."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

# Imported to register QIR's own passes, which stay.
import qir.passes  # noqa: F401  # pyright: ignore[reportUnusedImport]
from qir.backends import RUNNERS, WRITERS
from qir.backends.xla.rules import LOWERINGS
from qir.frontends import READERS
from qir.frontends.jaxpr.primitives import PRIMITIVES
from qir.interop.registry import Registry
from qir.metrics import METRICS
from qir.observe.methods import METHODS
from qir.ops.op import OPS
from qir.pipeline import PASSES, PIPELINES
from qir.targets import TARGETS
from qir.types import CODES
from tests.strategies import STRATEGIES


@contextmanager
def restored() -> Generator[None]:
    """Leaves the registries as they were; new ways of an op that was there stay."""
    tables: list[dict[Any, Any]] = [
        CODES,
        OPS,
        LOWERINGS,
        METHODS,
        METRICS,
        PRIMITIVES,
        PASSES,
        PIPELINES,
        STRATEGIES,
    ]
    before = [dict(table) for table in tables]
    named: list[Registry[Any]] = [READERS, RUNNERS, TARGETS, WRITERS]
    names = [set(registry) for registry in named]
    try:
        yield
    finally:
        for table, entries in zip(tables, before, strict=True):
            table.clear()
            table.update(entries)
        for registry, own in zip(named, names, strict=True):
            for name in set(registry) - own:
                registry.remove(name)
