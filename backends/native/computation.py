"""Computations: parts of a program as functions of arrays, and the ways to compute an op."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from qir.ir import Node, Value
from qir.ops.op import Op
from qir.types import Array, Shape


@dataclass(frozen=True, eq=False)
class Parameter:
    """An array, computed on the host at compile time, that the program gets as an argument.

    Args:
        name: Name among the parameters; made unique by a number where another array has it.
        array: The array.
    """

    name: str
    array: Array


@dataclass(frozen=True)
class AllSizes:
    """Stands for the sizes of all named dimensions, as `qir.ir.signature.Sizes`."""


Argument: TypeAlias = Value | Parameter | Shape | Array | AllSizes
"""What a computation's function gets: a value's array, a parameter, a shape in actual sizes, a
literal, all named sizes."""


@dataclass(frozen=True, eq=False)
class Computation:
    """A part of a program: a function of arrays, and what it is applied to.

    Args:
        function: Pure and traceable by jax; returns the result, or a tuple of several.
        arguments: What the function gets, in order.
    """

    function: Callable[..., Any]
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Lowering:
    """One way to compute an op.

    Args:
        name: Name of the way, unique among those of the op.
        legal: Whether it computes this application of the op, bit for bit where codes are involved.
        preferred: Whether it is the one to take where nothing was measured, unless a way before it
            is.
        build: Returns the computation.
        why_not: Says of an application that is not legal what is wrong with it and what to do; None
            to name the types.
    """

    name: str
    legal: Callable[[Any, Node], bool]
    preferred: Callable[[Any, Node], bool]
    build: Callable[[Any, Node], Computation]
    why_not: Callable[[Any, Node], str] | None = None

    @property
    def summary(self) -> str:
        """What it does, in a sentence; empty where its function has no docstring."""
        return (self.build.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True, eq=False)
class Group:
    """Nodes that one computation gives together.

    Args:
        outputs: The values that it returns.
        computation: The computation.
        nodes: The nodes, each with the name of the way and a sentence about it.
        paths: What stands before the names of values in loops: those of the loops, outermost first.
    """

    outputs: tuple[Value, ...]
    computation: Computation
    nodes: Mapping[Node, Lowering]
    paths: Mapping[Node, str] = field(default_factory=dict)


def always(op: Op, node: Node) -> bool:
    """Says yes: a lowering for every application of its op."""
    return True
