"""The places where a program gives numbers codes."""

from __future__ import annotations

from dataclasses import dataclass

from qir.ir import Graph, Node, Value
from qir.ir.places import placed_name, regions_placed
from qir.ops import Clip, Const, Lookup, Lookup2, Pad, QuantizeDynamic, Recode, Requantize
from qir.ops.elementwise import Sum
from qir.ops.regions import RegionOp
from qir.ops.rules import Accumulate, ExactSum, SameCode
from qir.types import Affine

NUMBERS = 3
"""How many numbers a site has there: its step, then the least and the greatest real number."""


@dataclass(frozen=True, eq=False)
class Site:
    """One place where a program gives numbers a code.

    Attributes:
        value: The value of the program that has the code.
        name: Its name, with those of the ops around it where it is inside of regions.
        code: The code.
        clamp: The bounds of stored numbers where an op narrows those of the code.
    """

    value: Value
    name: str
    code: Affine
    clamp: tuple[int, int]

    @property
    def numbers(self) -> tuple[float, float, float]:
        """The step, the greatest one where it varies, and the bounds in real numbers."""
        return numbers_of(self.code, self.clamp)


def numbers_of(code: Affine, clamp: tuple[int, int] | None = None) -> tuple[float, float, float]:
    """Returns what the input `codes` has for a site of some code.

    Args:
        code: The code; of scales that vary by place the greatest one counts.
        clamp: Narrower bounds of its stored numbers.
    """
    low, high = clamp or code.range
    step, points = code.greatest_scale, code.zero_points
    return step, (low - int(points.max())) * step, (high - int(points.min())) * step


def sites_of(graph: Graph, around: str = "") -> list[Site]:
    """Returns the sites of a program or a region, in order, those of regions among them.

    Args:
        graph: The program.
        around: What stands around it; see `qir.ir.places`.
    """
    found: list[Site] = []
    if not around:
        found += [site_of(value, "") for value in graph.inputs if has_steps(value)]
    for node in graph.nodes:
        if rounds(node):
            found += [site_of(value, around) for value in node.outputs if has_steps(value)]
        for region, place in regions_placed(node, around):
            found += sites_of(region, place)
    return found


def site_of(value: Value, around: str = "") -> Site:
    """Returns the site that gives a value its code."""
    code = value.type.affine
    clamp = value.op.bounds if isinstance(value.op, Requantize) else code.range
    return Site(value, placed_name(value, around), code, clamp)


def has_steps(value: Value) -> bool:
    """Whether a value has a code of which each number is a whole number of steps of its scale."""
    code = value.type.quant
    return isinstance(code, Affine) and code.multipliers is None


def rounds(node: Node) -> bool:
    """Whether an op gives its results codes by a rounding that has a meaning in real numbers."""
    op = node.op
    if isinstance(op, Const | RegionOp) or is_on_codes(node):
        return False
    if isinstance(op.quant, SameCode):
        # These put a number of their own among those of the code.
        return isinstance(op, Clip | Pad)
    if isinstance(op.quant, Accumulate | ExactSum):
        return all(value.type.dtype.bits <= 16 for value in node.outputs)
    if isinstance(op, Sum) and op.is_exact:
        return False
    return not isinstance(op, Recode)


def is_on_codes(node: Node) -> bool:
    """Whether an op's meaning is one of stored numbers."""
    if isinstance(node.op, Recode):
        return not (has_steps(node.inputs[0]) and has_steps(node.output))
    return isinstance(node.op, Lookup | Lookup2 | QuantizeDynamic)
