"""What a runtime accepts, as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal, NamedTuple, TypeAlias

from qir.errors import QirError
from qir.ir import Graph, Node
from qir.ops.rules import KeepFloat, Table
from qir.targets.fields import checked_fields
from qir.targets.obstacles import Obstacle, names_of, obstacles
from qir.types import Affine, Code, DType

Granularity: TypeAlias = Literal["tensor", "channel", "row", "block"]
"""What of a tensor has one scale: all of it, a place along its last axis, or along its first one,
or anything finer, scales of two levels among it."""


class Broken(NamedTuple):
    """A rule of a target that a code breaks.

    Args:
        rule: The field of `Target`.
        expected: What the target accepts, as it goes on behind "expected".
    """

    rule: str
    expected: str


@dataclass(frozen=True, eq=False, kw_only=True)
class Target:
    """What a runtime accepts; `None` for a field means all that QIR has.

    `qir.quantize(…, target=)` chooses within it, `qir.explain(…, target=)` says what of a program
    is outside, and `qir.save(…, target=)` refuses that.

    Attributes:
        name: What options call it.
        runtime: The runtime and the release that the facts are of, for people.
        opset: The version of the operators that the facts are of, where they have one.
        activations: Storage of activations; the first one is what quantize takes.
        weights: Storage of the weights of products, convolutions and tables of rows; likewise.
        casts: Storage that casts between floats and codes take too.
        sums: Storage of exact sums.
        numbers: Types of plain numbers.
        outputs: Storage that outputs may have.
        kinds: Kinds of code, by their names in the text.
        symmetric_activations: Whether the zero point of activations has to be the middle number.
        symmetric_weights: Whether that of weights has to be.
        zero_point_inside: Whether some stored number has to mean 0.
        narrow_weights: Whether weights have to leave out the least number, as -128.
        activation_scales: What of an activation may have a scale of its own.
        weight_scales: What of weights may.
        weight_scales_by_op: The same for ops that accept something else, by name.
        wide_sums: Whether values between ops may have codes in i32 with bounds, and of 9 to 16 bits
            where a step of 8 would show.
        roundings: Rounding modes of requantizes and of ops that round their own sum; the first one
            is what quantize takes.
        quantize_modes: Modes of op quantize; likewise.
        dynamic_modes: Modes of op quantize_dynamic.
        lookup: Whether functions of one tensor can be tables.
        integer_ops: Ops that it computes on codes, by name, casts aside.
        float_ops: Ops that it computes on plain numbers.
        equal_codes: Ops of integer_ops whose result has to have the code of the first operand,
            beyond those whose meaning says so.
        fixed_codes: The codes that results of ops have to have, by name.
        reasons: Why an op is not in integer_ops, by name.

    Raises:
        QirError: A field holds what no program has, such as an op or a mode that there is not, or
            fixes a code that another one rules out.
    """

    name: str
    runtime: str
    opset: int | None = None
    activations: tuple[DType, ...] | None = None
    weights: tuple[DType, ...] | None = None
    casts: tuple[DType, ...] = ()
    sums: tuple[DType, ...] | None = None
    numbers: tuple[DType, ...] | None = None
    outputs: tuple[DType, ...] | None = None
    kinds: tuple[str, ...] | None = None
    symmetric_activations: bool = False
    symmetric_weights: bool = False
    zero_point_inside: bool = False
    narrow_weights: bool = False
    activation_scales: tuple[Granularity, ...] | None = None
    weight_scales: tuple[Granularity, ...] | None = None
    weight_scales_by_op: Mapping[str, tuple[Granularity, ...]] = field(default_factory=dict)
    wide_sums: bool = True
    roundings: tuple[str, ...] | None = None
    quantize_modes: tuple[str, ...] | None = None
    dynamic_modes: tuple[str, ...] | None = None
    lookup: bool = True
    integer_ops: frozenset[str] | None = None
    float_ops: frozenset[str] | None = None
    equal_codes: frozenset[str] = frozenset()
    fixed_codes: Mapping[str, Affine] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given = {spec.name: getattr(self, spec.name) for spec in fields(self)}
        for name, value in checked_fields(self.name, given).items():
            object.__setattr__(self, name, value)
        for op, code in self.fixed_codes.items():
            if (broken := self.broken_by_activation(code)) is not None:
                raise QirError(
                    f"target {self.name}: fixed_codes: {op}: expected {broken.expected}, as "
                    f"{broken.rule} says, got {code}"
                )

    def obstacles(self, graph: Graph) -> tuple[Obstacle, ...]:
        """Returns what of a program the runtime does not accept, in order; empty for nothing."""
        return tuple(obstacles(graph, self))

    @property
    def has_wide_sums(self) -> bool:
        """Whether values between ops may have wide codes, to which `fixed31` rounds."""
        return self.wide_sums and (self.roundings is None or "fixed31" in self.roundings)

    def computes(self, op: str) -> bool:
        """Whether it computes an op on codes."""
        return self.integer_ops is None or op in self.integer_ops

    def why_float(self, node: Node) -> str | None:
        """Says why a node of a float program can't be computed on codes, or returns None."""
        name, rule = node.op.name, node.op.quant
        if isinstance(rule, KeepFloat) or self.computes(name):
            return None
        if isinstance(rule, Table) and self.lookup:
            return None
        if isinstance(rule, Table) and name not in self.reasons:
            return f"target {self.name} has no lookup and no {name} on codes"
        return f"target {self.name}: {self.reasons.get(name, f'it has no {name} on codes')}"

    def broken_by_activation(self, code: Code) -> Broken | None:
        """Returns the rule that a code of an activation breaks, or None."""
        if self.kinds is not None and code.kind not in self.kinds:
            return Broken("kinds", f"activations of kind {' or '.join(self.kinds)}")
        if self.activations is not None and code.storage not in self.activations:
            return Broken("activations", f"activations of {names_of(self.activations)}")
        if self.symmetric_activations and not _is_symmetric(code):
            return Broken("symmetric_activations", "a zero point that is the middle number")
        if self.zero_point_inside and not code.holds_zero:
            return Broken("zero_point_inside", "a zero point that is a stored number")
        accepted = self.activation_scales
        if accepted is not None and granularity(code) not in accepted:
            return Broken(
                "activation_scales", f"activations with a scale per {' or '.join(accepted)}"
            )
        return None

    def broken_by_weight(self, code: Code, op: str) -> Broken | None:
        """Returns the rule that a code of the weights of an op breaks, or None."""
        if self.kinds is not None and code.kind not in self.kinds:
            return Broken("kinds", f"weights of kind {' or '.join(self.kinds)}")
        if self.weights is not None and code.storage not in self.weights:
            return Broken("weights", f"weights of {names_of(self.weights)}")
        if self.symmetric_weights and not _is_symmetric(code):
            return Broken("symmetric_weights", "weights whose zero point is the middle number")
        accepted = self.weight_scales_by_op.get(op, self.weight_scales)
        if accepted is not None and granularity(code) not in accepted:
            return Broken("weight_scales", f"weights with a scale per {' or '.join(accepted)}")
        return None


def granularity(code: Code) -> Granularity:
    """Returns what of a tensor has one scale in a code."""
    if code.multipliers is not None:
        return "block"
    if code.per_tensor:
        return "tensor"
    axis = code.axis
    if axis is None:
        return "block"
    rank = len(code.grid)
    return "channel" if axis == rank - 1 else "row" if axis == 0 else "block"


def _is_symmetric(code: Code) -> bool:
    if not isinstance(code, Affine):
        return True
    low, high = code.storage.bounds
    return bool((code.zero_points == (low + high + 1) // 2).all())
