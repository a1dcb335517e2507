"""What the XLA backend asks of a backend that generates kernels; `kernel_choice` finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from typing import TYPE_CHECKING, Protocol

from qir.ir import Node, Value
from qir.ir.signature import Sizes
from qir.types import Array

if TYPE_CHECKING:  # Calibration runs without kernels and need not load what they take.
    from qir.backends.native.computation import Group
    from qir.backends.native.partition import Cluster
    from qir.backends.native.plan import Plan
    from qir.bench.profile import Ceilings


class Kernels(Protocol):
    """What computes parts of a program by machine code of its own."""

    def divide(
        self, nodes: Sequence[Node], outputs: Iterable[Value]
    ) -> tuple[Sequence[Node | Group], Mapping[Node, str]]:
        """Divides the nodes of a program into groups of its own and nodes for XLA.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.

        Returns:
            The parts in an order of computation, and why nodes are left to XLA.
        """
        ...

    def computed(self, nodes: Sequence[Node], outputs: Iterable[Value]) -> Set[Node]:
        """Returns the nodes that the groups of `divide` compute.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.
        """
        ...

    def describe(self, nodes: Sequence[Node], outputs: Iterable[Value], sizes: Sizes) -> str:
        """Returns what `divide` makes of a program and what the groups do, as text.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.
            sizes: The sizes of named dimensions.
        """
        ...

    def memory(self, nodes: Sequence[Node], outputs: Iterable[Value], sizes: Sizes) -> int:
        """Returns the bytes that the groups of `divide` keep: temporary tensors and scratch.

        Args:
            nodes: The nodes in an order of computation, constants left out.
            outputs: The values that the program returns.
            sizes: The sizes of named dimensions.
        """
        ...

    def without(self, refused: Callable[[Node], str]) -> Kernels:
        """Returns the same without kernels for some nodes.

        Args:
            refused: Why no kernel may compute a node; nothing where one may.
        """
        ...

    def check_process(self) -> None:
        """Raises QirError where this process can't run them: it is a fork."""
        ...


class Clock(Protocol):
    """The times of the latest call of a cluster's kernels."""

    @property
    def cluster(self) -> Cluster:
        """The nodes that the call computes."""
        ...

    @property
    def plan(self) -> Plan:
        """The steps of the call."""
        ...

    def seconds(self) -> Array:
        """Returns the seconds of each step, waits of threads included."""
        ...


class TimedKernels(Kernels, Protocol):
    """Kernels whose calls are timed, step by step."""

    @property
    def clocks(self) -> Sequence[Clock]:
        """The clock of each call that was compiled."""
        ...

    def peaks(self) -> Mapping[int, float]:
        """Returns 10^9 multiplications and additions a second, by the number of threads."""
        ...

    def ceilings(self, threads: int) -> Ceilings:
        """Measures what the machine does at most with so many threads."""
        ...
