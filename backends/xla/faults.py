"""Ways to compute an op that gave wrong numbers on this machine, kept in the cache to be avoided.

Whatever fuses with an op can be at fault too. So behind the ways of an op comes each of them set
apart: what enters and leaves it is stored, and XLA fuses it with nothing.
"""

from __future__ import annotations

from typing import Any

import jax
from jax import lax

from qir.backends.native.computation import Computation, Lowering
from qir.backends.xla.choice import Choice, Chooser
from qir.backends.xla.fusion import Fusion
from qir.backends.xla.lowering import legal_ways
from qir.backends.xla.materialize import stored
from qir.backends.xla.regions import IN_REGIONS
from qir.bench.cache import CacheTable
from qir.ir import Node
from qir.ops.op import Op

KERNEL = "kernel_"
"""What the names of the ways of generated kernels begin with."""

_ENTRY = "wrong: "
"""What the keys of the entries in the cache begin with."""


class Faults:
    """The ways that are known to be wrong, by the kind of op.

    Args:
        table: Where they are kept, beside the times of ways.
    """

    def __init__(self, table: CacheTable) -> None:
        self._table = table
        self._wrong: dict[str, list[str]] = {
            key.removeprefix(_ENTRY): [name for name in entry if isinstance(name, str)]
            for key, entry in table.read().items()
            if key.startswith(_ENTRY) and isinstance(entry, list)
        }

    def __bool__(self) -> bool:
        return bool(self._wrong)

    @property
    def count(self) -> int:
        """How many ways are known to be wrong."""
        return sum(map(len, self._wrong.values()))

    def of(self, node: Node) -> list[str]:
        """Returns the names of the ways that are wrong for a node."""
        return self._wrong.get(Fusion.around(node).key, []) if self._wrong else []

    def add(self, node: Node, way: str) -> None:
        """Adds a way that is wrong for a node, and for nodes like it."""
        self._wrong.setdefault(Fusion.around(node).key, []).append(way)

    def left(self, node: Node) -> list[Lowering]:
        """Returns the ways that are not known to be wrong, those to take first before others."""
        wrong = self.of(node)
        if node.regions:
            return [way for way in [IN_REGIONS] if way.name not in wrong]
        ways = legal_ways(node)
        return [way for way in (*ways, *map(apart, ways)) if way.name not in wrong]

    def refused(self, node: Node) -> str:
        """Returns why no kernel may compute a node, or nothing."""
        wrong = any(name.startswith(KERNEL) for name in self.of(node))
        return "it computed wrong numbers" if wrong else ""

    def avoiding(self, otherwise: Chooser) -> Chooser:
        """Returns a chooser that takes no way that is known to be wrong.

        Args:
            otherwise: Chooses where none is, and wins where what it chooses is not wrong.
        """

        def choose(node: Node) -> Choice:
            choice, wrong = otherwise(node), self.of(node)
            left = self.left(node) if wrong else []
            if not left:
                return choice
            way = left[0] if choice.way.name in wrong else choice.way
            return Choice(way, f"lowering {', '.join(wrong)} computed wrong numbers, so {way.name}")

        return choose

    def keep(self) -> None:
        """Writes them into the cache."""
        self._table.merge({_ENTRY + key: names for key, names in self._wrong.items()})


def apart(way: Lowering) -> Lowering:
    """Returns a way whose operands and results are stored, so that it is fused with nothing."""

    def build(op: Op, node: Node) -> Computation:
        computation = way.build(op, node)

        def run(*arguments: Any) -> Any:
            held = [_held(each) if isinstance(each, jax.Array) else each for each in arguments]
            return jax.tree.map(_held, computation.function(*held))

        return Computation(run, computation.arguments)

    build.__doc__ = f"{way.summary} Its operands and results are stored: XLA fuses it with nothing."
    return Lowering(f"{way.name}_apart", way.legal, way.preferred, build)


def _held(x: jax.Array) -> jax.Array:
    held: jax.Array = lax.optimization_barrier(stored(x))  # type: ignore[no-untyped-call]
    return held
