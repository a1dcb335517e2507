"""What becomes of the ops and values of a float program on codes, decided before it is changed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from math import prod

from qir.errors import PassError
from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.observe.statistics import Statistics
from qir.ops import Dequantize, Dot, ExpBelowMax, Mul, Quantize, Return
from qir.ops.elementwise import Sum
from qir.ops.rules import Accumulate, FixedCode, KeepFloat, Normalize, SameCode, Table
from qir.passes.shared.boundary import Boundary
from qir.passes.shared.codes import activation_code, fine_code, reach, score_code
from qir.passes.shared.comparisons import unseen_comparisons
from qir.passes.shared.divisors import coarse_divisions
from qir.passes.shared.functions import elementwise_functions
from qir.passes.shared.islands import islands, may_have_codes
from qir.passes.shared.kept import KEPT
from qir.passes.shared.multiplied import multiplied_sums
from qir.passes.shared.periods import coarse_periods
from qir.passes.shared.positions import uneven_codes
from qir.passes.shared.scores import is_two_sided, score_factors, score_terms
from qir.passes.shared.wide import (
    SMOOTH,
    WIDE_BITS,
    divided_sums,
    head_codes,
    moved_sums,
    unmoved,
    wide_code,
    wide_values,
)
from qir.targets import Target
from qir.types import Affine, Code, DType, TensorType

FINE_HEADROOM = 2
"""How far a code of 16 bits reaches beyond its range: a bit of 16 costs little, and numbers beyond
those of the calibration data would be cut off by far more than a step."""

_FINE = Affine.of(DType.I16, 1.0, 1, bounds=(-(2**11), 2**11 - 1))
"""A code like those that scores, gates and quotients get beside 8 bits."""


class KeptFloat(Exception):
    """Why an op can't be computed on codes."""


class CodePlan:
    """Which ops stay float, which values are summed in i32, and the code that each value gets.

    Args:
        graph: A float program with ranges.
        excluded: The ops that a selector keeps in floating point.
        statistics: What calibration observed.
        storage: Storage of activations.
        chosen: That of values for which it is chosen otherwise.
        symmetric: Whether activations have their zero point in the middle.
        boundary: What the program or region takes and returns.
        given: The codes that values have already.
        fine: The values that a loop adds up, which have 16 bits.
        target: The runtime that the program is for; None for all that QIR has.

    Attributes:
        cones: For the last value of each function of one other value, that value.
        inside: The values inside of such functions.
        coarse: The divisions, sines, cosines and comparisons that no code serves, and what
            computes what they divide by or take, with reasons.
        islands: The ops between ops of floating point.
        equal: The codes of operands that the target wants results to have.
        wide: The values that are better not rounded to 8 bits.
        narrow: Those for which no more is chosen: they are rounded before anything reads them.
        moved: The moves that are better done on sums.
        divided: The sums of products that a division reads.
    """

    def __init__(
        self,
        graph: Graph,
        excluded: set[Node],
        statistics: Statistics,
        *,
        storage: DType = DType.I8,
        chosen: Mapping[Value, DType] | None = None,
        symmetric: bool = False,
        boundary: Boundary | None = None,
        given: Mapping[Value, Affine] | None = None,
        fine: Collection[Value] = (),
        target: Target | None = None,
    ) -> None:
        self.storage = storage
        self._chosen = chosen or {}
        self.narrow = {value for value, own in self._chosen.items() if own.bits <= 8}
        self.symmetric = symmetric
        self.target = target
        self.fine = fine
        self._given = given or {}
        self._lacking = lacking(graph, target)
        excluded = excluded | self._lacking.keys()
        self._excluded = excluded
        self._factors = score_factors(graph)
        self._heads = {} if self.one_width else self._accepted(head_codes(graph, statistics))
        self._multiplied = set() if self.one_width else multiplied_sums(graph)
        self._scores = set() if self.one_width else score_terms(graph)
        self._uneven = (
            {} if self.one_width else self._accepted(uneven_codes(graph, statistics, excluded))
        )
        self.equal: dict[Value, Affine] = {}
        self.islands: set[Node] = set()
        self.cones, self.inside = self._functions(graph, excluded)
        self.coarse = coarse_periods(graph, self.code_for) | coarse_divisions(
            graph, self._divisor_code
        )
        self.coarse |= unseen_comparisons(graph)
        kept = excluded | self.coarse.keys()
        self.cones, self.inside = self._functions(graph, kept)
        self.islands = islands(
            graph,
            {node for node in graph.nodes if self._stays_float(node)},
            boundary or Boundary(),
        )
        kept |= self.islands
        self.cones, self.inside = self._functions(graph, kept)
        ranges = {value: value.range for value in graph.values() if value.range is not None}
        wide = target is None or target.has_wide_sums
        self.wide = wide_values(graph, kept, ranges, fine) if wide else set()
        self.moved = moved_sums(graph, ranges, self._heads) if wide else set()
        self.divided = divided_sums(graph) if wide else set()

    def _functions(self, graph: Graph, kept: set[Node]) -> tuple[dict[Value, Value], set[Value]]:
        """Returns the functions of one value, none where the target has no lookup for them."""
        if self.target is not None and not self.target.lookup:
            return {}, set()
        # A table would round what a loop adds up before it has done so.
        adding = {value.node for value in self.fine if value.node is not None}
        return elementwise_functions(graph, kept | adding)

    @property
    def is_fine(self) -> bool:
        """Whether activations have so many bits that nothing is in want of more."""
        return self.storage.bits > 8

    @property
    def one_width(self) -> bool:
        """Whether all activations have codes of one width: the target's, or one that is enough."""
        if self.is_fine or self.target is None:
            return self.is_fine
        # Codes of 12 bits have any zero point.
        return not self.target.has_wide_sums or not self.accepts(_FINE)

    def accepts(self, code: Affine) -> bool:
        """Whether the target, if there is one, accepts a code of an activation."""
        return self.target is None or self.target.broken_by_activation(code) is None

    def _accepted(self, codes: Mapping[Value, Affine]) -> dict[Value, Affine]:
        return {value: code for value, code in codes.items() if self.accepts(code)}

    def equal_to_operand(self, node: Node, code: Affine) -> None:
        """Gives a result the code of its operand where the target wants them equal."""
        if self.target is not None and node.op.name in self.target.equal_codes:
            self.equal[node.output] = code

    def why_float(self, node: Node) -> str | None:
        """Says why an op that could be an integer one stays in floating point, if it does."""
        if node in self._lacking:
            return self._lacking[node]
        if node in self.islands:
            return "it stands between ops of floating point, where codes only cost accuracy"
        if node in self._excluded or node in self.coarse:
            return self.coarse.get(node, KEPT)
        return None

    def _stays_float(self, node: Node) -> bool:
        """Whether an op keeps floating point, by a selector or by its rule."""
        if node in self._excluded or node in self.coarse:
            return True
        if isinstance(node.op, Dequantize | Quantize):
            return False
        if node.regions:
            return not may_have_codes(node)
        known = any(output in self.cones or output in self.inside for output in node.outputs)
        rule = node.op.quant
        return isinstance(rule, KeepFloat) or (isinstance(rule, Table) and not known)

    def has_code(self, value: Value) -> bool:
        """Whether a value has a code of its own, or a range that asks for one."""
        return value in self._given or value.range is not None

    def code_for(self, value: Value, storage: DType | None = None) -> Affine:
        """Returns the code that a value's range asks for; the op's own where it is fixed."""
        chosen = self._chosen.get(value)
        storage, asked = storage or chosen, storage
        given = self._given.get(value)
        if given is not None and storage in (None, given.storage):
            return given
        if value in self.equal:
            return self.equal[value]
        if (wanted := self._fixed_by_target(value)) is not None:
            return wanted
        rule = value.op.quant if value.op is not None else None
        if (
            isinstance(rule, FixedCode)
            and (
                isinstance(value.op, ExpBelowMax)
                or ((storage or self.storage).bits <= 8 and chosen in (None, rule.code.storage))
            )
            and rule.serves(value.range)
            and self.accepts(rule.code)
        ):
            return replace(rule.code, expressed=expressed_type(value.type))
        code = self._heads.get(value) or self._uneven.get(value)
        if asked is None and code is not None and chosen in (None, code.storage):
            return code
        observed, expressed = self.range_of(value), expressed_type(value.type)
        if storage is None and value in self._multiplied:
            return fine_code(observed, expressed=expressed)
        if storage is None and value in self._scores:
            return score_code(observed, expressed=expressed)
        storage = storage or self.storage
        if storage.bits > 8:
            return self.code_of(observed, expressed, storage)
        symmetric = self.symmetric or (value in self._factors and is_two_sided(observed))
        inside = self.target is not None and self.target.zero_point_inside
        if not symmetric and not inside:
            far = activation_code(observed, storage, expressed=expressed, needs_zero=False)
            if not far.holds_zero and not self._needs_zero(value, reach(far)):
                return far
        return activation_code(observed, storage, symmetric=symmetric, expressed=expressed)

    def code_of(self, observed: Interval, expressed: DType, storage: DType | None = None) -> Affine:
        """Returns the code that a range asks for, of numbers of which nothing else is known."""
        storage = storage or self.storage
        if storage.bits > 8:
            observed = Interval.of(*(FINE_HEADROOM * bound for bound in observed.bounds))
        return activation_code(observed, storage, symmetric=self.symmetric, expressed=expressed)

    def _divisor_code(self, value: Value) -> Affine:
        """Returns the code in which a value divides: a wide one where a loop adds it up."""
        has_wide_sums = self.target is None or self.target.has_wide_sums
        if isinstance(value.op, Sum) and value in self.fine and has_wide_sums:
            return self.wide_code(value)
        return self.code_for(value)

    def operand_code(self, value: Value, bits: int = 8) -> Affine | None:
        """Returns the code in which an op reads what a loop adds up in 16 bits; None for its own.

        Args:
            value: The operand.
            bits: The bits that the op reads, 8 or 12.
        """
        if self.is_fine or unmoved(value) not in self.fine or value in self._chosen:
            return None
        if bits > 8 and not self.one_width:
            return fine_code(self.range_of(value), expressed=expressed_type(value.type))
        return self.code_for(value, self.storage)

    def storage_of(self, value: Value) -> DType:
        """Returns the storage that a value's code has where nothing is known of its kind."""
        return self._chosen.get(value, self.storage)

    def fine_storage(self, value: Value) -> DType | None:
        """Returns that storage where it has more than 8 bits."""
        storage = self.storage_of(value)
        return storage if storage.bits > 8 else None

    def is_chosen(self, value: Value) -> bool:
        """Whether a storage is chosen for a value, which its code then has or is finer than."""
        return value in self._chosen

    def check_weight(self, code: Code, op: str) -> None:
        """Raises KeptFloat where the target does not accept a code of an op's weights."""
        broken = None if self.target is None else self.target.broken_by_weight(code, op)
        if broken is not None:
            raise KeptFloat(f"expected {broken.expected}, got {code}")

    def _fixed_by_target(self, value: Value) -> Affine | None:
        """Returns the code that the target wants the result of an op to have, if it does."""
        if self.target is None or value.op is None:
            return None
        fixed = self.target.fixed_codes.get(value.op.name)
        return None if fixed is None else replace(fixed, expressed=expressed_type(value.type))

    def result_code(self, value: Value) -> Affine:
        """Returns the code of a value whose op can give a wide one as well."""
        wide = value in self.wide and value not in self.narrow
        return self.wide_code(value) if wide else self.code_for(value)

    def function_code(self, output: Value) -> Affine:
        """Returns the code of a function: of 12 bits where smooth ones of sums gate other sums."""
        gates = all(
            isinstance(node.op, Mul) and not any(value.is_constant for value in node.inputs)
            for node in output.users
        )
        gates = gates and bool(output.uses) and output not in self._chosen
        if gates and self.smooth_code(self.cones[output], output) is not None:
            return fine_code(self.range_of(output), expressed=expressed_type(output.type))
        return self.code_for(output)

    def norm_code(self, value: Value) -> Affine:
        """Returns the code of a norm, of 12 bits where only smooth functions read it."""
        readers = [output for node in value.users for output in node.outputs]
        ends = [output for output, source in self.cones.items() if source is value]
        if (
            value not in self.wide
            and ends
            and all(output in self.inside or output in ends for output in readers)
        ):
            codes = [self.smooth_code(value, output) for output in ends]
            if (code := codes[0]) is not None and None not in codes:
                return code
        return self.result_code(value)

    def range_of(self, value: Value) -> Interval:
        """Returns what a value ranges over; raises where that is not finite."""
        observed = value.range
        if value.is_constant:
            observed = Interval.of(value.array.min(initial=0), value.array.max(initial=0))
            if not observed.is_finite:
                raise KeptFloat(
                    f"the constant %{value.name} is not finite; for a mask, choose by jnp.where "
                    "with a finite number such as -1e9, or give the mask as an operand"
                )
        if observed is None or not observed.is_finite:
            raise PassError(f"quantize: %{value.name} has no finite range", [value.place()])
        return observed

    def wide_code(self, value: Value, bits: int = WIDE_BITS) -> Affine:
        """Returns the code in which a value is summed without a loss that 8 bits would show."""
        terms = value.inputs if isinstance(value.op, Sum) else ()
        ranges = [self.range_of(term) for term in terms]
        return wide_code(self.range_of(value), ranges, expressed_type(value.type), bits)

    def smooth_code(self, source: Value, output: Value) -> Affine | None:
        """Returns the code of 12 bits of what a smooth function is wanted of: a sum or a norm."""
        if source.op is None or source.range is None or self.one_width or source in self._chosen:
            return None
        if not isinstance(source.op, Dot | Sum) and not isinstance(source.op.quant, Normalize):
            return None
        between, stack = set[Value](), [output]
        while stack:
            value = stack.pop()
            if value is not source and value not in between and not value.is_constant:
                between.add(value)
                stack.extend(value.inputs)
        if not any(isinstance(value.op, SMOOTH) for value in between):
            return None
        return fine_code(source.range, expressed=expressed_type(source.type))

    def _needs_zero(self, value: Value, steps: int) -> bool:
        """Whether the op that computes a value, or one that reads it, needs a code that holds 0.

        Args:
            value: A value of the float program.
            steps: How many steps from 0 a code without it reaches.
        """
        if value.is_constant or (value.op is not None and value.op.needs_zero(*_types(value))):
            return True
        return any(self._reads_zero(node, steps) for node in value.users)

    def _reads_zero(self, node: Node, steps: int) -> bool:
        rule = node.op.quant
        if node.regions:
            return True
        if isinstance(node.op, Return) or isinstance(rule, KeepFloat):
            return False
        if node in self._excluded or node in self.islands:
            return False
        if any(output in self.cones or output in self.inside for output in node.outputs):
            return False
        if node.op.needs_zero(*(value.type for value in node.inputs)):
            return True
        if isinstance(rule, Accumulate):
            kernel = node.inputs[rule.right]
            # A quarter of int32 is left to the bias, which has to be as large.
            return not kernel.is_constant or (
                prod(kernel.type.known_shape[:-1]) * 127 * steps > 2**29
            )
        if isinstance(rule, SameCode):
            return any(self._needs_zero(output, steps) for output in node.outputs)
        return False


def lacking(graph: Graph, target: Target | None) -> dict[Node, str]:
    """Returns the nodes that a target can't compute on codes, with reasons."""
    if target is None:
        return {}
    reasons = ((node, target.why_float(node)) for node in graph.nodes)
    return {node: reason for node, reason in reasons if reason is not None}


def expressed_type(type: TensorType) -> DType:
    """Returns the floating-point type of numbers, or of what a code stands for."""
    return type.quant.expressed if type.quant is not None else type.dtype


def _types(value: Value) -> list[TensorType]:
    """Returns the types of the operands of the op that computes a value."""
    return [operand.type for operand in value.inputs]
