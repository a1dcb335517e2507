"""The fake-quantized twin of a program of codes: real numbers, rounded where it rounds.

After Jacob et al. 2018 (arXiv:1712.05877), section 3, but of a program that is quantized already:
what is fused, shared or summed exactly there is so here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from qir.errors import QirError
from qir.ir import Builder, Graph, Node, Value
from qir.ir.places import placed_name, regions_placed
from qir.ops import (
    Add,
    Cast,
    Clip,
    Cond,
    Const,
    Dequantize,
    Div,
    Equal,
    Lookup,
    Lookup2,
    Maximum,
    Minimum,
    Mul,
    Pad,
    Quantize,
    QuantizeDynamic,
    Recode,
    Requantize,
    Reshape,
    Return,
    Round,
    Select,
    Slice,
)
from qir.ops.attributes import attribute_fields
from qir.ops.elementwise import Sum
from qir.ops.op import Op
from qir.ops.regions import RegionOp
from qir.ops.rules import Accumulate, ExactSum, SameCode
from qir.types import Affine, Array, Code, DType, TensorType

CODES = "codes"
"""The name of the input that has the codes of all sites; a number makes it unique."""

NUMBERS = 3
"""How many numbers a site has there: its step, then the least and the greatest real number."""

FINEST = 80
"""How many bits below the greatest number of a code a step is that rounds no number of any use."""


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


@dataclass(frozen=True)
class Simulation:
    """A float program that gives what a program of codes gives, but for ties of roundings.

    Its inputs are those of the program, in real numbers where these have codes, and then `codes`,
    f32 with `NUMBERS` numbers for each site: step, least and greatest number. Its outputs are the
    program's in real numbers. At each site

        min(max(round(x / step) * step, least), greatest)

    is taken of float32 numbers, halves going to the even step. Whatever has no code is computed as
    in the program. Sums that are exact integers there are float32 sums here, within (n + 2) * 2^-24
    of the sum of the magnitudes of their n products; tables of exponentials, reciprocals and norms,
    which are integers there, are within their own bounds of the real function, 2^-20 of the largest
    number. A number may be one step off where it lies that near to the middle of two steps, which
    few do: twice that distance over a step, of numbers spread evenly.

    Ops that have a meaning on codes alone, such as lookups, are computed on these as they are.

    Attributes:
        graph: The float program.
        sites: The sites, in the order of `codes`.
        twins: The value of `graph`, or of a region of it, for each value of the program.
    """

    graph: Graph
    sites: tuple[Site, ...]
    twins: Mapping[Value, Value]

    def codes(self, changed: Mapping[Site, Affine | None] | None = None) -> Array:
        """Returns what the input `codes` takes: float32[3 * sites], of 1 site where there is none.

        Args:
            changed: For some sites another code per tensor, or None for no rounding at all. Of a
                site whose scale varies by place, all scales change in proportion, and the bounds
                stay.
        """
        found = np.zeros((max(1, len(self.sites)), NUMBERS), np.float32)
        for index, site in enumerate(self.sites):
            numbers = site.numbers
            if changed is not None and site in changed:
                code = changed[site]
                if code is None:
                    _, exponent = np.frexp(max(map(abs, numbers)))
                    numbers = 2.0 ** (int(exponent) - FINEST), -np.inf, np.inf
                else:
                    numbers = numbers_of(code)
            found[index] = numbers
        return found.reshape(-1)


def simulate(program: Graph, weights: Mapping[Value, Array] | None = None) -> Simulation:
    """Builds the fake-quantized twin of a program as it is right after pass quantize.

    Args:
        program: The program of codes; it stays as it is.
        weights: Constants of it with codes, each with real numbers that count instead of its own.

    Raises:
        QirError: An op has no meaning in real numbers, and an operand that is an exact sum.
    """
    sites = tuple(_sites(program, ""))
    twin = _Twin(program, sites, weights or {})
    return Simulation(twin.graph, sites, twin.twins)


def _sites(graph: Graph, around: str) -> list[Site]:
    found: list[Site] = []
    if not around:
        found += [_site(value, "") for value in graph.inputs if _has_steps(value)]
    for node in graph.nodes:
        if _rounds(node):
            found += [_site(value, around) for value in node.outputs if _has_steps(value)]
        for region, place in regions_placed(node, around):
            found += _sites(region, place)
    return found


def _site(value: Value, around: str) -> Site:
    code = value.type.affine
    clamp = value.op.bounds if isinstance(value.op, Requantize) else code.range
    return Site(value, placed_name(value, around), code, clamp)


def _has_steps(value: Value) -> bool:
    code = value.type.quant
    return isinstance(code, Affine) and code.multipliers is None


def _rounds(node: Node) -> bool:
    """Whether an op gives its results codes by a rounding that has a meaning in real numbers."""
    op = node.op
    if isinstance(op, Const | RegionOp) or _is_on_codes(node):
        return False
    if isinstance(op.quant, SameCode):
        # These put a number of their own among those of the code.
        return isinstance(op, Clip | Pad)
    if isinstance(op.quant, Accumulate | ExactSum):
        return all(value.type.dtype.bits <= 16 for value in node.outputs)
    if isinstance(op, Sum) and op.is_exact:
        return False
    return not isinstance(op, Recode)


def _is_on_codes(node: Node) -> bool:
    """Whether an op's meaning is one of stored numbers."""
    if isinstance(node.op, Recode):
        return not (_has_steps(node.inputs[0]) and _has_steps(node.output))
    return isinstance(node.op, Lookup | Lookup2 | QuantizeDynamic)


def _real_type(type: TensorType) -> TensorType:
    return type if type.quant is None else type.with_element(DType.F32)


class _Scope:
    """A graph or region that is built.

    Args:
        graph: The graph.
        codes: The input that has the codes; None where they can't be handed in.
    """

    def __init__(self, graph: Graph, codes: Value | None) -> None:
        self.graph = graph
        self.codes = codes

    def number(self, index: int, builder: Builder, otherwise: float, rank: int) -> Value:
        """Returns one number of the codes, [1], or [] beside a scalar."""
        if self.codes is None:
            return builder.const(np.full((1,) * min(rank, 1), otherwise, np.float32))
        one = builder.emit(Slice((0,), (index,), (index + 1,)), self.codes)
        return one if rank else builder.emit(Reshape(()), one)


class _Twin:
    """One run over a program.

    Attributes:
        graph: What is built.
        twins: The value built for each value of the program.
    """

    def __init__(
        self, program: Graph, sites: Sequence[Site], weights: Mapping[Value, Array]
    ) -> None:
        self.graph = Graph(program.name)
        self.twins: dict[Value, Value] = {}
        self._weights = weights
        self._sites = {site.value: (index, site) for index, site in enumerate(sites)}
        self._codes = TensorType((NUMBERS * max(1, len(sites)),), DType.F32)
        given = [self.graph.add_input(each.name, _real_type(each.type)) for each in program.inputs]
        scope = _Scope(self.graph, self.graph.add_input(CODES, self._codes))
        for value, twin in zip(program.inputs, given, strict=True):
            twin.origins = value.origins
            self.twins[value] = self._rounded(value, twin, scope, Builder(self.graph))
        self._build(program, scope)

    def _build(self, source: Graph, scope: _Scope) -> None:
        for node in source.nodes:
            if isinstance(node.op, Return):
                continue
            builder = Builder(scope.graph, loc=node.loc)
            results = self._results(node, builder, scope)
            for value, twin in zip(node.outputs, results, strict=True):
                if node.regions or not _rounds(node):
                    found = twin
                else:
                    found = self._rounded(value, twin, scope, builder)
                found.origins = value.origins
                scope.graph.name_after(found, value.name)
                self.twins[value] = found
        scope.graph.set_outputs([self.twins[value] for value in source.outputs])

    def _results(self, node: Node, builder: Builder, scope: _Scope) -> Sequence[Value]:
        match node.op:
            case Const():
                return [self._constant(node.output, builder)]
            case _ if _is_on_codes(node):
                return self._on_codes(node, builder)
            case Quantize() | Dequantize() | Requantize():
                x = self.twins[node.inputs[0]]
                wanted = _real_type(node.output.type)
                return [builder.emit(Cast(wanted.dtype), x)]
            case Recode() as recode:
                return [self._recoded(node, recode, builder)]
            case RegionOp() as op:
                return self._regions(node, op, builder, scope)
            case op:
                return self._computed(node, op, builder)

    def _constant(self, value: Value, builder: Builder) -> Value:
        if value.type.quant is None:
            assert isinstance(value.op, Const)
            return builder.const(value.op.array, element=value.type.element)
        real = self._weights.get(value)
        return builder.const(np.asarray(value.real if real is None else real, np.float32))

    def _recoded(self, node: Node, op: Recode, builder: Builder) -> Value:
        """Returns what the same stored numbers mean under another code: an affine map."""
        (x,), shape = node.inputs, node.output.type.shape
        old, new = x.type.affine, node.output.type.affine
        scale = new.scale.array.astype(np.float64)
        factor = scale / old.scale.array
        offset = (old.zero_points + op.offset(x.type) - new.zero_points) * scale
        scaled = builder.emit(Mul(), self.twins[x], _spread(factor, shape, builder))
        return builder.emit(Add(), scaled, _spread(offset, shape, builder))

    def _on_codes(self, node: Node, builder: Builder) -> Sequence[Value]:
        """Computes an op on stored numbers, between casts."""
        operands = []
        for value in node.inputs:
            code = value.type.quant
            if isinstance(value.op, Const):
                operands.append(builder.const(value.op.array, element=value.type.element))
            elif code is None:
                operands.append(self.twins[value])
            elif code.storage.bits > 16:
                raise QirError(
                    f"simulation: {node.op.name} of %{node.outputs[0].name} has no meaning in real "
                    f"numbers, and %{value.name} is an exact sum; simulate the program as it is "
                    "right after pass quantize",
                    [node.outputs[0].place()],
                )
            else:
                to = _in_float32(code)
                operands.append(builder.emit(Quantize(to), self.twins[value]))
        results = builder.emit_node(node.op, operands).outputs
        return [
            value if value.type.quant is None else self._decoded(value, builder)
            for value in results
        ]

    @staticmethod
    def _decoded(value: Value, builder: Builder) -> Value:
        real = builder.emit(Dequantize(), value)
        return real if real.type.dtype is DType.F32 else builder.emit(Cast(DType.F32), real)

    def _computed(self, node: Node, op: Op, builder: Builder) -> Sequence[Value]:
        operands = [self.twins[value] for value in node.inputs]
        is_coded = any(value.type.quant for value in (*node.inputs, *node.outputs))
        if is_coded:
            tables = op.integer_tables([value.type for value in node.inputs])
            if tables:
                operands = operands[: -len(tables)]
            # Parameters of norms, in the type that the codes stand for.
            wide = [value.type.is_float and value.type.dtype is not DType.F32 for value in operands]
            operands = [
                builder.emit(Cast(DType.F32), value) if is_other else value
                for value, is_other in zip(operands, wide, strict=True)
            ]
            if isinstance(op, Div):
                operands[1] = self._divisor(op, node.inputs[1], operands[1], builder)
            op = _without_code(op)
        results = builder.emit_node(op, operands).outputs
        return [
            twin
            if (wanted := _real_type(value.type).dtype) is twin.type.dtype
            else builder.emit(Cast(wanted), twin)
            for value, twin in zip(node.outputs, results, strict=True)
        ]

    @staticmethod
    def _divisor(op: Div, value: Value, twin: Value, builder: Builder) -> Value:
        """Returns a divisor with the step next to 0 in the place of 0, as the op has it."""
        low, high = op.divisor_steps(value.type)
        if not low <= 0 <= high:
            return twin
        step = value.type.code.greatest_scale * op.never_zero(value.type)
        zero, least = (builder.const(np.asarray(number, np.float32)) for number in (0, step))
        return builder.emit(Select(), builder.emit(Equal(), twin, zero), least, twin)

    def _regions(
        self, node: Node, op: RegionOp, builder: Builder, scope: _Scope
    ) -> Sequence[Value]:
        operands = [self.twins[value] for value in node.inputs]
        place = 1 if isinstance(op, Cond) else 0
        handed = scope.codes is not None and self._takes_codes(node, op, place)
        if handed:
            assert scope.codes is not None
            operands.insert(place, scope.codes)
        regions = []
        for region in node.regions:
            twin = Graph("")
            inner = _Scope(twin, twin.add_input(CODES, self._codes) if handed else None)
            for value in region.inputs:
                self.twins[value] = twin.add_input(value.name, _real_type(value.type))
                self.twins[value].origins = value.origins
            self._build(region, inner)
            regions.append(twin)
        return builder.emit_node(op, operands, regions).outputs

    @staticmethod
    def _takes_codes(node: Node, op: RegionOp, place: int) -> bool:
        """Whether an operand more goes into all regions, as their first input, and nowhere else."""
        count = len(node.regions)
        passages = op.passages(len(node.inputs) + 1, len(node.outputs), count)
        wanted = tuple((region, 0) for region in range(count))
        return any(
            each.kind == "invariant" and each.operand == place and each.inputs == wanted
            for each in passages
        )

    def _rounded(self, value: Value, twin: Value, scope: _Scope, builder: Builder) -> Value:
        """Returns numbers rounded to a value's code."""
        code = value.type.quant
        if code is None:
            return twin
        if value not in self._sites:
            return self._decoded(builder.emit(Quantize(_in_float32(code)), twin), builder)
        index, site = self._sites[value]
        rank, first = value.type.rank, NUMBERS * index
        step, low, high = (
            scope.number(first + offset, builder, number, rank)
            for offset, number in enumerate(site.numbers)
        )
        points, shape = site.code.zero_points, value.type.shape
        if site.code.scale.shape:
            ratios = site.code.scale.array / site.code.greatest_scale
            step = builder.emit(Mul(), step, _spread(ratios, shape, builder))
        if site.code.scale.shape or points.shape:
            # One number can't tell all of the bounds.
            scales = site.code.scale.array.astype(np.float64)
            least, greatest = ((bound - points) * scales for bound in site.clamp)
            low, high = (_spread(bound, shape, builder) for bound in (least, greatest))
        steps = builder.emit(Round(), builder.emit(Div(), twin, step))
        rounded = builder.emit(Mul(), steps, step)
        return builder.emit(Minimum(), builder.emit(Maximum(), rounded, low), high)


def _spread(numbers: Array, shape: Sequence[Any], builder: Builder) -> Value:
    """Returns numbers whose dimensions divide those of a shape as a constant that broadcasts."""
    found = np.asarray(numbers, np.float32)
    for axis, count in enumerate(found.shape):
        if count != 1 and count != shape[axis]:
            found = np.repeat(found, shape[axis] // count, axis)
    return builder.const(found)


def _in_float32(code: Code) -> Code:
    return replace(code, expressed=DType.F32)


def _without_code(op: Op) -> Op:
    """Returns an op that rounds by itself as one of real numbers."""
    names = {spec.name for spec in attribute_fields(type(op))}
    if "to" not in names:
        return op
    changes: dict[str, Any] = {"to": None}
    if isinstance(op, Sum):
        changes |= {"rounding": "fixed31", "multipliers": None, "shift": None}
    return replace(op, **changes)
