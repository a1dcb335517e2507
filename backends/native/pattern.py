"""Patterns: which nodes kernels compute, in a table keyed by the op's class.

A pattern looks at a node and at what alone reads its result, and matches as many nodes as one step
(or a few) can compute: a convolution with its requantize and the sum behind it. What no pattern
matches is left to XLA.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, TypeAlias

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.plan import BufferView, Plan
from qir.ir import Node, Value
from qir.ir.signature import Sizes
from qir.ops.op import Op, OpT
from qir.types import Affine, Array, Code


class Placement:
    """Where matches write their steps: a plan, and where the values of the graph lie in it.

    Args:
        plan: The plan.
        views: Where values lie that exist before, or that the call returns.
        sizes: The sizes of named dimensions.
        target: The instruction set.
    """

    def __init__(
        self, plan: Plan, views: Mapping[Value, BufferView], sizes: Sizes, target: InstructionSet
    ) -> None:
        self.plan = plan
        self.target = target
        self.sizes = sizes
        self._views = dict(views)
        self._pitches: dict[Value, int] = {}

    def shape(self, value: Value) -> tuple[int, ...]:
        """Returns the sizes of a value."""
        return tuple(self.sizes.shape(value.type.shape))

    def bytes(self, value: Value) -> int:
        """Returns the bytes of a value."""
        size = value.type.dtype.numpy.itemsize
        for extent in self.shape(value):
            size *= extent
        return size

    def pitch(self, value: Value) -> int:
        """Returns the bytes from one row of a value, along its last axis, to the next."""
        if value in self._pitches:
            return self._pitches[value]
        return prod(self.shape(value)[-1:]) * value.type.dtype.numpy.itemsize

    def is_apart(self, value: Value) -> bool:
        """Returns whether something else lies between the rows of a value."""
        return value in self._pitches

    def strides(self, value: Value) -> list[int]:
        """Returns the bytes from place to place along each axis of a value."""
        shape, pitch = self.shape(value), self.pitch(value)
        outer = [pitch * prod(shape[axis + 1 : -1]) for axis in range(len(shape) - 1)]
        return [*outer, value.type.dtype.numpy.itemsize][: len(shape)]

    def is_assigned(self, value: Value) -> bool:
        """Returns whether it is settled where a value lies."""
        return value in self._views

    def assign(self, value: Value, view: BufferView, pitch: int | None = None) -> None:
        """Settles where a value will be written.

        Args:
            value: The value.
            view: Where it begins.
            pitch: Bytes from one row to the next, where something else lies between; such a value
                is read as a part of that alone.
        """
        self._views[value] = view
        if pitch is not None:
            self._pitches[value] = pitch

    def read(self, value: Value) -> BufferView:
        """Returns where a value lies that earlier steps or the caller made."""
        return self._views[value]

    def write(self, value: Value) -> BufferView:
        """Returns where to put a value."""
        if value not in self._views:
            self._views[value] = self.plan.temporary(self.bytes(value))
        return self._views[value]

    def alias(self, value: Value, other: Value) -> bool:
        """Says that a value has the bytes of another, where it need not have a view of its own.

        Returns:
            Whether that could be done; otherwise the bytes must be copied.
        """
        if value in self._views:
            return False
        self._views[value] = self._views[other]
        return True

    def constant(self, array: Array) -> BufferView:
        """Returns where a constant array lies."""
        return self.plan.constant(array)


@dataclass(frozen=True, eq=False)
class Match:
    """Nodes that a step, or a few, compute.

    Args:
        nodes: The nodes, in order.
        inputs: The values that the steps read, constants left out.
        write: Adds the steps.
        pattern: The pattern that made it.
        rows_apart: Whether the steps can write the last result with its rows apart, as
            `Placement.pitch` says.
        inside: The matches of a region that the steps run.
        outputs: What may be read elsewhere of what the nodes give; None for the results of the last
            node.
    """

    nodes: tuple[Node, ...]
    inputs: tuple[Value, ...]
    write: Callable[[Placement], None]
    pattern: Callable[..., Any] | None = None
    rows_apart: bool = False
    inside: tuple[Match, ...] = ()
    outputs: tuple[Value, ...] | None = None

    @property
    def results(self) -> tuple[Value, ...]:
        """The values that may be read elsewhere."""
        return self.nodes[-1].outputs if self.outputs is None else self.outputs

    def all_nodes(self) -> Iterator[Node]:
        """Yields the nodes, those of regions included."""
        yield from self.nodes
        for match in self.inside:
            yield from match.all_nodes()


Pattern: TypeAlias = Callable[[Any, Node, Any], Match | str]
PATTERNS: dict[type[Op], Pattern] = {}
"""The pattern of each op; it returns a match, or why there is none."""


def pattern(
    *classes: type[OpT],
) -> Callable[[Callable[[OpT, Node, Any], Match | str]], Pattern]:
    """Declares the pattern of some ops.

    Args:
        classes: The classes of the ops.
    """

    def declare(function: Callable[[OpT, Node, Any], Match | str]) -> Pattern:
        for cls in classes:
            PATTERNS[cls] = function
        return function

    return declare


WIDE_PATTERNS: dict[type[Op], Pattern] = {}
"""What is tried after the pattern of an op: passes over numbers of more than a byte too."""


def wide_pattern(
    *classes: type[Op],
) -> Callable[[Callable[[Any, Node, Any], Match | str]], Pattern]:
    """Declares the pattern to try where that of an op does not match.

    Args:
        classes: The classes of the ops.
    """

    def declare(function: Callable[[Any, Node, Any], Match | str]) -> Pattern:
        WIDE_PATTERNS.update(dict.fromkeys(classes, function))
        return function

    return declare


@dataclass(frozen=True)
class Joining:
    """How matches become one.

    Attributes:
        pattern: The pattern of matches that are worth it.
        joins: Whether a node can be part of such a match.
        match: Returns the match of nodes in order and of what of their results is read elsewhere.
        most: Most nodes of a match.
    """

    pattern: Pattern
    joins: Callable[[Node], bool]
    match: Callable[[Sequence[Node], Sequence[Value]], Match]
    most: int


JOININGS: list[Joining] = []
"""All of them."""


def declare_joining(fusion: Joining) -> None:
    """Adds a fusion."""
    JOININGS.append(fusion)


def match(node: Node, target: InstructionSet) -> Match | str:
    """Returns the match that begins at a node, or why there is none."""
    function = PATTERNS.get(type(node.op))
    if function is None:
        return f"no kernel for {node.op.name}"
    if any(0 in value.type.shape for value in (*node.inputs, *node.outputs)):
        return "a tensor without numbers"
    found = _far(node) or function(node.op, node, target)
    if isinstance(found, str) and type(node.op) in WIDE_PATTERNS and not _far(node):
        function = WIDE_PATTERNS[type(node.op)]
        wide = function(node.op, node, target)
        found = wide if isinstance(wide, Match) else found
    if isinstance(found, Match):
        return next(filter(None, map(_far, found.nodes)), replace(found, pattern=function))
    return found


def _far(node: Node) -> str:
    """Says which code of a node kernels don't reckon with; empty where they do with all."""
    elements = [value.type.element for value in (*node.inputs, *node.outputs)]
    codes = [element for element in elements if isinstance(element, Code)]
    for code in codes:
        if not isinstance(code, Affine) or code.multipliers is not None:
            levels = "" if code.multipliers is None else " with scales of two levels"
            return (
                f"a code of kind {code.kind}{levels}, where kernels know affine ones of one level"
            )
    if all(code.holds_zero for code in codes):
        return ""
    # Differences from such a zero point leave the 9 bits that kernels reckon with.
    return "a zero point outside of the stored numbers"


def sole_reader(value: Value) -> Node | None:
    """Returns the node that alone reads a value, once; None where there are others or none."""
    if len(value.uses) != 1:
        return None
    ((reader, _),) = value.uses
    return reader
