"""What an op adds to the error by itself: by its weights, by clipping and by rounding."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from qir.errors import QirError
from qir.ir import Graph, Node, Value
from qir.ir.named_shapes import in_sizes
from qir.ir.signature import Sizes
from qir.ops import Const, Quantize, QuantizeDynamic, Requantize, Return
from qir.ops.products import Products
from qir.ops.regions import Body, RegionOp
from qir.report.causes import code_of, is_exact
from qir.report.compare.counterparts import Counterparts, decoded, turned_to
from qir.report.compare.forcing import ForcedRun, ForcedValue
from qir.report.compare.read_forms import (
    ReadForm,
    ReadForms,
    computed_between,
    nearest,
    picked,
    rounds,
    sources_of,
)
from qir.types import Affine, Array, Code

LEAST_OF_A_CHANNEL = 4
"""Weights of a channel below which a factor for each fits whatever rounding makes of them."""


@dataclass
class Operands:
    """What an op of the integer program reads, told of the float program.

    Attributes:
        arrays: The numbers, by the float program's value.
        forms: In which form each of them is read.
    """

    arrays: dict[Value, Array] = field(default_factory=dict)
    forms: dict[Value, ReadForm] = field(default_factory=dict)


@dataclass(frozen=True)
class OwnParts:
    """The error that an op makes itself, where it reads what the float program's op reads.

    All arrays have the axes of the value in the integer program; the three parts add up to `error`.

    Args:
        error: What the integer op computes, less what the float op does of the same operands.
        numbers: What the float program would have with this error alone.
        unrounded: What the integer op computes before its result gets its code.
        weights: The part that the numbers of weights and biases make.
        clipping: The part of what lies outside of the code.
        rounding: What is left: the steps of the code, and those of tables and sums on the way.
        inner: What of `rounding` is made on the way: by the codes of values that stand for none of
            the float program, such as one that was rescaled.
    """

    error: Array
    numbers: Array
    unrounded: Array
    weights: Array
    clipping: Array
    rounding: Array
    inner: Array


class FloatOps:
    """Computes ops of the float program on what ops of the integer program have read.

    Args:
        counterparts: Which values stand for which.
        forms: In which forms values are read.
        sizes: The sizes of named dimensions.

    Attributes:
        edges: Where the float program reads what some form stands for: node and operand.
    """

    def __init__(self, counterparts: Counterparts, forms: ReadForms, sizes: Sizes) -> None:
        self._counterparts = counterparts
        self._forms = forms
        self._sizes = sizes
        self.edges: dict[tuple[Node, int], ReadForm] = {}

    def parts(self, met: ForcedValue, run: ForcedRun) -> OwnParts | None:
        """Returns what an op adds to the error; None for what another value has told already.

        That is what a region takes, and what a loop returns.

        Args:
            met: A value that was just computed of exact operands.
            run: The run that met it.
        """
        value, reference = met.value, met.reference
        if reference.node is None and value.node is None and met.trip is not None:
            return None
        if value.node is not None and value.node.regions:
            return None
        read = self.operands(met, run)
        if reference in read.arrays:  # the same numbers in another code
            exact_op = met.exact.astype(np.float64)
            unrounded, weights = exact_op, np.zeros_like(exact_op)
            inner = weights
        else:
            right = self.compute(reference, met, run, read)
            if right is None:
                return None
            exact_op = turned_to(right, reference, value).astype(np.float64)
            unrounded, weights, inner = self._unrounded(met, run, read, exact_op)
        code = code_of(value)
        with np.errstate(all="ignore"):
            inside = _clipped(code, unrounded)
            clipping = _finite(inside - unrounded)
            rounding = _finite(met.computed - inside)
            # What lies outside of the code is at its end, whatever is added to it; of a mask, such
            # as -3e38, a sum with the error would hold nothing of what is there instead.
            numbers = _clipped(code, met.exact + weights) + rounding
        error = weights + clipping + rounding
        return OwnParts(error, numbers, _finite(unrounded), weights, clipping, rounding, inner)

    def operands(self, met: ForcedValue, run: ForcedRun) -> Operands:
        """Returns what an op reads."""
        forms = self._forms.sources(met.value)
        found: dict[Value, list[tuple[Value, Array]]] = {}
        read = Operands()
        for source in sources_of(met.value, run.given):
            own = forms.get(self._forms.worth(source), (source,))
            for old, array in run.given[source].items():
                found.setdefault(old, []).append((source, array))
                read.forms[old] = own
        for old, each in found.items():
            exact = run.exact(old, met.trip)
            source, array = each[0]
            if len(each) > 1 and exact is not None:
                order = next(order for name, order in source.origins.items() if name in old.origins)
                arrays = [array for _, array in each]
                axis = -1 if order is None else order[-1]
                array = picked(arrays, nearest(arrays, exact, axis))
            read.arrays[old] = array
        return read

    def forms_read(self, value: Value) -> Collection[ReadForm]:
        """Returns the forms that an op reads."""
        return self._forms.sources(value).values()

    def coded_weights(self, value: Value, run: ForcedRun) -> list[Value]:
        """Returns the coded constants of rank 2 or more that an op reads."""
        found = {
            operand: None
            for each in computed_between(value, run.given)
            for operand in each.inputs
            if operand.is_constant and operand.type.quant is not None and operand.type.rank > 1
        }
        return list(found)

    def products(self, value: Value, run: ForcedRun) -> tuple[str, ...]:
        """Returns what the products with coded weights that an op reads stand for, by name."""
        found = (
            name
            for each in computed_between(value, run.given)
            if isinstance(each.op, Products)
            for name in each.origin[:1]
        )
        return tuple(dict.fromkeys(found))

    def compute(
        self,
        value: Value,
        met: ForcedValue,
        run: ForcedRun,
        read: Operands,
        weights: Mapping[Value, Array] | None = None,
    ) -> Array | None:
        """Computes a value of the float program from some others; None where some is not known.

        Args:
            value: The value.
            met: The value of the integer program that it is computed for.
            run: The run that met that one.
            read: Numbers of values of the float program.
            weights: Other numbers for some of its constants.
        """
        done: dict[Value, Array | None] = {}
        replaced = weights or {}

        def number(old: Value) -> Array | None:
            if old in read.arrays:
                return read.arrays[old]
            if old in replaced:
                return replaced[old]
            if old not in done:
                done[old] = computed(old)
            return done[old]

        def computed(old: Value) -> Array | None:
            node = old.node
            if old.is_constant:
                return old.array
            if node is None or not _is_plain(node):
                return run.exact(old, met.trip)
            for index, operand in enumerate(node.inputs):
                if operand in read.forms:
                    self.edges[node, index] = read.forms[operand]
            operands = [number(operand) for operand in node.inputs]
            known = [operand for operand in operands if operand is not None]
            if len(known) < len(operands):
                return run.exact(old, met.trip)
            return self._evaluated(node, known)[old.index]

        return number(value)

    def _evaluated(self, node: Node, operands: Sequence[Array]) -> list[Array]:
        if isinstance(node.op, RegionOp):
            shapes = [self._sizes.shape(value.type.shape) for value in node.outputs]
            bodies = list(map(self._body, node.regions))
            return [np.asarray(array) for array in node.op.run(bodies, operands, shapes)]
        wide = [
            array.astype(np.float32, copy=False) if operand.type.is_float else array
            for operand, array in zip(node.inputs, operands, strict=True)
        ]
        with np.errstate(all="ignore"):
            found = in_sizes(node.op, self._sizes).evaluate(*wide)
        return [np.asarray(array) for array in (found if isinstance(found, tuple) else (found,))]

    def _body(self, region: Graph) -> Body:
        def compute(*arrays: Array) -> list[Array]:
            known = dict(zip(region.inputs, map(np.asarray, arrays), strict=True))
            for node in region.nodes:
                if isinstance(node.op, Return):
                    break
                if isinstance(node.op, Const):
                    known[node.output] = node.op.array.array
                    continue
                results = self._evaluated(node, [known[operand] for operand in node.inputs])
                known |= zip(node.outputs, results, strict=True)
            return [known[value] for value in region.outputs]

        return compute

    def _unrounded(
        self, met: ForcedValue, run: ForcedRun, read: Operands, exact_op: Array
    ) -> tuple[Array, Array, Array]:
        """Returns what an op computes before its result gets its code, and two parts of that.

        These are what weights make, and what codes on the way do.
        """
        value, node = met.value, met.value.node
        none = np.zeros_like(exact_op)
        if node is None:
            return exact_op, none, none
        between: list[Value] = []
        if isinstance(node.op, Quantize | Requantize):
            before = self._before_code(met, run, read)
            between = list(filter(rounds, computed_between(node.inputs[0], run.given)))
        elif value.type.quant is None:
            before = met.computed
            between = list(filter(rounds, computed_between(value, run.given)))
        else:
            before = self._of_coded_constants(met, node, run)
        fits = before is not None and before.shape == exact_op.shape
        with np.errstate(all="ignore"):
            real = before.astype(np.float64) if before is not None and fits else exact_op
            if not between:
                return real, _finite(real - exact_op), none
            weights = self._matched_weights(met, run, read, exact_op)
            # A range at run time is the op's own.
            is_own = any(isinstance(each.op, QuantizeDynamic) for each in between)
            inner = none if is_own or not fits else _finite(real - exact_op - weights)
        return exact_op + weights, weights, inner

    def _before_code(self, met: ForcedValue, run: ForcedRun, read: Operands) -> Array | None:
        """Returns the operand of a rounding in real numbers, with what a clamp does to it."""
        assert met.value.node is not None
        operand = met.value.node.inputs[0]
        if operand not in run.arrays:
            return None
        real = decoded(operand, run.arrays[operand])
        names = self._counterparts.references(operand) or self._counterparts.references(met.value)
        if not names or (met.reference in names and len(names) == 1):
            return real
        *_, last = names if operand.origin else list(names)[:1]
        if last is met.reference:
            return real
        source = operand if last in self._counterparts.references(operand) else met.value
        turned = turned_to(real, source, last)
        more = Operands({**read.arrays, last: turned}, read.forms)
        found = self.compute(met.reference, met, run, more)
        return None if found is None else turned_to(found, met.reference, met.value)

    def _matched_weights(
        self, met: ForcedValue, run: ForcedRun, read: Operands, exact_op: Array
    ) -> Array:
        """Returns the part of weights by the float op, where they are those of the integer one."""
        own = [each for each in met.reference.inputs if each.is_constant and each.type.rank > 1]
        coded = self.coded_weights(met.value, run)
        if len(own) == len(coded) == 1 and is_like((real := coded[0].real), own[0].real):
            real = without_scales(real, own[0].real)
            found = self.compute(met.reference, met, run, read, {own[0]: real})
            if found is not None:
                return _finite(turned_to(found, met.reference, met.value) - exact_op)
        return np.zeros_like(exact_op)

    def _of_coded_constants(self, met: ForcedValue, node: Node, run: ForcedRun) -> Array | None:
        """Returns what an op that rounds by itself makes of constants as they are coded."""
        coded = [each for each in node.inputs if each.is_constant and each.type.quant is not None]
        if type(node.op) is not type(met.reference.op):
            return None  # It is a table of the float program's op.
        if not coded or any(operand not in run.arrays for operand in _varying(node)):
            return None
        operands = [
            each.real if each.is_constant else decoded(each, run.arrays[each])
            for each in node.inputs
        ]
        try:
            return self._evaluated(node, operands)[met.value.index]
        except (QirError, ValueError, IndexError, NotImplementedError):
            return None  # It has no meaning on real numbers.


def is_like(coded: Array, real: Array) -> bool:
    """Whether weights are the rounded ones of others, not those multiplied by something."""
    if coded.shape != real.shape:
        return False
    return bool(np.sum((coded - real) ** 2.0) < 0.5 * np.sum(real**2.0))


def without_scales(coded: Array, real: Array) -> Array:
    """Returns rounded weights without what a pass multiplied channels by, as smooth-quant does.

    The factors make up for numbers of another size, of what is read or of what comes out. A single
    channel may be another one by a fault, and keeps its own.

    Args:
        coded: The weights as they are coded, inputs along the last axis but one.
        real: The weights of the float program.
    """
    for axis in (-2, -1):
        others = tuple(index for index in range(real.ndim) if index != axis % real.ndim)
        if real.size < LEAST_OF_A_CHANNEL * real.shape[axis]:
            continue
        squares = np.sum(real**2.0, others, keepdims=True)
        products = np.sum(coded * real, others, keepdims=True)
        factors = np.divide(products, squares, out=np.ones_like(squares), where=squares > 0)
        error = np.sum((coded - real) ** 2.0, others)
        left = np.sum((coded - factors * real) ** 2.0, others)
        usual = error < error.max(initial=0.0)
        if left[usual].sum() < 0.25 * error[usual].sum():
            return np.asarray(coded / np.where(factors > 0, factors, 1))
    return coded


def _varying(node: Node) -> Iterator[Value]:
    return (each for each in node.inputs if not each.is_constant)


def _is_plain(node: Node) -> bool:
    return not any(value.type.quant for value in (*node.inputs, *node.outputs))


def _clipped(code: Code | None, real: Array) -> Array:
    """Returns real numbers moved to the ends of a code."""
    if not isinstance(code, Affine) or is_exact(code):
        return real
    ends = [
        code.decode(np.full(real.shape, end).astype(code.storage.numpy)).astype(np.float64)
        for end in code.range
    ]
    return np.asarray(np.clip(real, np.minimum(*ends), np.maximum(*ends)))


def _finite(array: Array) -> Array:
    return np.where(np.isfinite(array), array, 0)
