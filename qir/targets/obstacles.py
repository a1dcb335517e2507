"""What of a program a target does not accept: each node with the rule that it breaks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from qir.analysis.properties import is_float_op
from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.ir.places import placed_name, walk_places
from qir.numbers.rounding import rounding_mode
from qir.ops import (
    Const,
    Dequantize,
    Embedding,
    Lookup,
    Lookup2,
    Quantize,
    QuantizeDynamic,
    Recode,
    Requantize,
    Return,
)
from qir.ops.op import Op
from qir.ops.rules import Accumulate, ExactSum, RescaledRows, SameCode
from qir.types import Affine, Code, DType

if TYPE_CHECKING:
    from qir.targets.target import Target

_CASTS = (Quantize, QuantizeDynamic, Dequantize, Requantize, Recode)
_SUMS = (DType.I32, DType.I64)


@dataclass(frozen=True)
class Obstacle:
    """A rule of a target that a node breaks.

    Args:
        op: The op's name; `input` for an input of the program.
        value: The name of its first result, or of the input.
        loc: Where in the user's model it comes from.
        rule: The field of `qir.targets.Target` that is broken.
        expected: What the target accepts, what was found, and what to do.
    """

    op: str
    value: str
    loc: str | None
    rule: str
    expected: str

    def __str__(self) -> str:
        place = f" at {self.loc}" if self.loc else ""
        return f"{self.op} of %{self.value}{place}: {self.rule}: {self.expected}"


def names_of(dtypes: Iterable[DType]) -> str:
    """Returns the names of storage or of plain numbers, as a sentence lists them."""
    return " or ".join(dtype.value for dtype in dtypes)


def obstacles(graph: Graph, target: Target) -> Iterator[Obstacle]:
    """Yields what of a program a target does not accept, in the order of the program."""
    for value in graph.inputs:
        for rule, expected in _of_value(value, target):
            yield Obstacle("input", value.name, None, rule, expected)
    for node, around in walk_places(graph):
        if isinstance(node.op, Const):
            continue
        named = node.outputs[0] if node.outputs else node.inputs[0] if node.inputs else None
        if around and isinstance(node.op, Return):
            continue
        for rule, expected in _of_node(node, target):
            name = placed_name(named, around) if named else ""
            yield Obstacle(node.op.name, name, node.loc, rule, expected)


def _of_node(node: Node, target: Target) -> Iterator[tuple[str, str]]:
    op = node.op
    if isinstance(op, Return):
        yield from _of_return(node, target)
        return
    for value in node.outputs:
        yield from _of_value(value, target)
    if isinstance(op, _CASTS):
        yield from _of_cast(node, target)
    elif is_float_op(node):
        if target.float_ops is not None and op.name not in target.float_ops:
            yield "float_ops", f"expected an op that {target.name} has, got {op.name}"
        return
    elif isinstance(op, Lookup | Lookup2) and not target.lookup:
        yield (
            "lookup",
            f"expected no table, got one; quantize with target='{target.name}', which leaves "
            "functions in floating point",
        )
    elif not _has_code(node):
        known = (target.float_ops, target.integer_ops)
        if None not in known and not any(op.name in names for names in known if names is not None):
            yield "float_ops", f"expected an op that {target.name} has, got {op.name}"
        return
    elif not isinstance(op, Lookup | Lookup2) and not target.computes(op.name):
        reason = target.reasons.get(op.name, f"{target.name} has no {op.name} on codes")
        yield "integer_ops", f"{reason}; quantize(keep_float=[op:{op.name}]) keeps it a float op"
    yield from _of_rounding(node, target)
    yield from _of_constants(node, target)
    yield from _of_result_code(node, target)


def _has_code(node: Node) -> bool:
    return any(value.type.quant is not None for value in (*node.inputs, *node.outputs))


def _of_value(value: Value, target: Target) -> Iterator[tuple[str, str]]:
    """Checks what is computed or given: an activation, an exact sum, or plain numbers."""
    code = value.type.quant
    if code is None:
        dtype = value.type.dtype
        if target.numbers is not None and dtype not in target.numbers:
            known = names_of(target.numbers)
            yield "numbers", f"expected numbers of {known}, got {value.type}; cast them"
    elif code.storage in _SUMS:
        if isinstance(code, Affine) and code.bounds is not None and not target.wide_sums:
            yield (
                "wide_sums",
                f"expected no code in {code.storage.value} with bounds, got {value.type}; quantize "
                f"with target='{target.name}', which rounds it to 8 bits",
            )
        elif target.sums is not None and code.storage not in target.sums:
            known = names_of(target.sums)
            yield "sums", f"expected sums in {known}, got {value.type}; use fewer bits"
    elif isinstance(value.op, Quantize | QuantizeDynamic) and code.storage in target.casts:
        return
    elif (broken := target.broken_by_activation(code)) is not None:
        remedy = f"quantize with target='{target.name}'"
        yield broken.rule, f"expected {broken.expected}, got {value.type}; {remedy}"


def _of_return(node: Node, target: Target) -> Iterator[tuple[str, str]]:
    if target.outputs is None:
        return
    for value in node.inputs:
        if value.type.dtype not in target.outputs:
            known = names_of(target.outputs)
            yield "outputs", f"expected outputs stored in {known}, got %{value.name}: {value.type}"


def _of_cast(node: Node, target: Target) -> Iterator[tuple[str, str]]:
    op = node.op
    if isinstance(op, Quantize) and _lacks(target.quantize_modes, op.rounding):
        known = " or ".join(target.quantize_modes or ())
        yield (
            "quantize_modes",
            f"expected quantize to round by {known}, got {op.rounding}; quantize with "
            f"target='{target.name}'",
        )
    if isinstance(op, QuantizeDynamic) and _lacks(target.dynamic_modes, op.mode):
        known = " or ".join(target.dynamic_modes or ()) or "no scales found at run time"
        yield "dynamic_modes", f"expected {known}, got mode {op.mode}; calibrate, as by w8a8"
    if isinstance(op, Dequantize) and node.inputs[0].is_constant:
        code = node.inputs[0].type.code
        broken = target.broken_by_weight(code, op.name)
        if broken is not None and code.storage not in (*target.casts, *_SUMS):
            yield broken.rule, f"expected {broken.expected}, got {node.inputs[0].type}"


def _lacks(names: tuple[str, ...] | None, name: str) -> bool:
    return names is not None and name not in names


def own_rounding(op: Op) -> str | None:
    """Returns the mode in which an op rounds its own sum; None where it rounds none.

    Norms, quotients and shares are rounded as their op says, in no mode.
    """
    code = getattr(op, "to", None)
    if isinstance(op, Quantize | QuantizeDynamic) or code is None:
        return None
    if isinstance(op.quant, RescaledRows):
        return "fixed31"
    if getattr(op, "is_exact", False):
        return None
    return getattr(op, "rounding", None)


def _of_rounding(node: Node, target: Target) -> Iterator[tuple[str, str]]:
    rounding = own_rounding(node.op)
    if rounding is None:
        return
    if _lacks(target.roundings, rounding):
        known = " or ".join(target.roundings or ())
        yield (
            "roundings",
            f"expected {known}, got {rounding}; quantize with target='{target.name}', or with "
            f"quantize(rounding={(target.roundings or ('fixed31',))[0]})",
        )
    elif isinstance(node.op, Requantize) and not _has_form(node.op, node.inputs[0]):
        yield (
            "roundings",
            f"expected a mode that backends have a form of, got {rounding} to {node.output.type}; "
            "quantize(rounding=fixed31) has one for all",
        )


def _has_form(op: Requantize, x: Value) -> bool:
    mode = rounding_mode(op.rounding)
    if op.to.storage.bits <= 8 and mode.bisects:
        return mode.has_machine_form
    try:
        found = mode.machine_form(op.factors(x.type), op.to.zero_points, *op.to.range)
    except QirError:
        return False
    return found is not None


def _of_constants(node: Node, target: Target) -> Iterator[tuple[str, str]]:
    """Checks the constants that an op on codes reads: weights by their role, others as numbers."""
    if isinstance(node.op, Dequantize):
        return
    rule = node.op.quant
    for index, value in enumerate(node.inputs):
        code = value.type.quant
        if not value.is_constant or code is None or code.storage in _SUMS:
            continue
        weight = isinstance(rule, Accumulate) or (isinstance(node.op, Embedding) and index == 0)
        broken = (
            target.broken_by_weight(code, node.op.name)
            if weight
            else target.broken_by_activation(code)
        )
        if broken is not None:
            yield (
                broken.rule,
                f"expected {broken.expected}, got %{value.name}: {value.type}; quantize with "
                f"target='{target.name}'",
            )
        elif weight and target.narrow_weights and value.array.min(initial=0) == _least(code):
            yield (
                "narrow_weights",
                f"expected weights above {_least(code)}, got one of it in %{value.name}",
            )


def _least(code: Code) -> int:
    return code.storage.bounds[0]


def _of_result_code(node: Node, target: Target) -> Iterator[tuple[str, str]]:
    """Checks codes that the target fixes, or wants to be those of operands."""
    op = node.op
    fixed = target.fixed_codes.get(op.name)
    equal = node.inputs[0].type.quant if op.name in target.equal_codes else None
    if isinstance(op.quant, SameCode) or (fixed is None and equal is None):
        return
    for code in _rounded_codes(node):
        if fixed is not None and code != fixed:
            yield "fixed_codes", f"expected a result coded as {fixed}, got {code}"
        if equal is not None and code != equal:
            yield (
                "equal_codes",
                f"expected a result with the code of its operand, {equal}, got {code}; quantize "
                f"with target='{target.name}'",
            )


def _rounded_codes(node: Node) -> Iterator[Code]:
    """Yields the codes that a result is rounded to: its own, or those of the requantizes."""
    for value in node.outputs:
        if isinstance(node.op.quant, ExactSum) and value.type.dtype in _SUMS:
            for user in value.users:
                if isinstance(user.op, Requantize):
                    yield user.op.to
        elif value.type.quant is not None:
            yield value.type.code
