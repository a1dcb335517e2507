"""bias-correction: the mean error of each output of a quantized product goes into its bias."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from qir.analysis.equivalence import Interpreter, turned_like
from qir.analysis.properties import QUANTIZED
from qir.errors import PassError
from qir.ir import Graph, Node, Value
from qir.observe.observations import Observations
from qir.observe.sample import batch_name, few_rows
from qir.ops import Add, Dot, Requantize
from qir.ops.products import Products
from qir.ops.rules import Accumulate
from qir.passes.shared.calibration_data import read_batches
from qir.passes.shared.codes import bias_code, bias_room, reach
from qir.pipeline import Context, Pass, register
from qir.types import Affine, Array

LEAST_SAMPLES = 4
"""Samples of which the spread of a mean can be told."""

LEAST_RATIO = 2.0
"""The least ratio of the squares of what a layer's biases take in to those that chance makes."""

_FARTHEST = 4
"""Ops between an accumulator and the value of the float program that it is a part of."""


@register
class BiasCorrection(Pass):
    """Corrects the biases of quantized products by what their outputs lose on data.

    Rounding and clipping shift the mean of each output channel. The float and the quantized program
    are computed on calibration data, one product behind the other, and the mean difference of each
    channel goes into the bias of the accumulator, before what reads it is computed: so that what
    earlier layers shift is corrected too (arXiv:1906.04721, section 4.2, the empirical form; NNCF's
    bias correction). Pass quantize has taken in what rounding the weights shifts, if
    `correct_bias` is true; this pass sees the rest.

    Few samples tell a mean by chance. With m the mean difference over n samples and s^2 the
    variance between them, a bias takes in the part 1 - s^2 / (n m^2) of m, or nothing: what keeps
    the expected square of what is left least (James and Stein). Where the
    squares of these of all channels are not twice those of chance, s^2 / n, the layer stays as it
    is.

    It needs data, the float program and an interpreter, and products with constant weights whose
    result stands for a value of the float program. A bias takes no more than the accumulator has
    room for. Products inside of loops and branches stay as they are.

    Attributes:
        samples: How many samples are computed at most.
        report: Whether the diagnostics say what was corrected.
    """

    samples: int = 64
    report: bool = False

    name = "bias-correction"
    requires = (QUANTIZED,)
    whole_program = True
    keeps = "approximate"

    def check(self) -> None:
        if self.samples < LEAST_SAMPLES:
            raise PassError(
                f"bias-correction: expected at least {LEAST_SAMPLES} samples, of which the spread "
                f"can be told, got {self.samples}"
            )

    def run(self, graph: Graph, context: Context) -> None:
        reference, data = context.reference, context.observations
        if reference is None or data is None or context.interpreter is None:
            missing = "the float program" if reference is None else "data that can be read again"
            context.diagnostics.append(f"bias-correction: biases stay: expected {missing}")
            return
        targets = _targets(graph, reference)
        inputs = _samples(reference, data, self.samples)
        if not targets or inputs is None:
            return
        wanted = _means(reference, inputs, targets, context.interpreter)
        correction = _Correction(graph, wanted, {target.value: target for target in targets})
        context.interpreter(
            graph,
            *[
                array if value.type.quant is None else value.type.quant.encode(array)
                for value, array in zip(graph.inputs, inputs, strict=True)
            ],
            hook=correction,
        )
        for target in targets:
            if target.value in correction.added:
                _add_to_bias(target.product, correction.added[target.value])
        if self.report:
            context.diagnostics += correction.told


@dataclass(frozen=True, eq=False)
class _Target:
    """A result of products that stands for a value of the float program.

    Attributes:
        value: The result.
        product: The sum of products whose bias it has.
        exact: The value of the float program.
        name: The imported value that both stand for.
    """

    value: Value
    product: Node
    exact: Value
    name: str

    @property
    def channels(self) -> int:
        return int(self.product.inputs[1].array.shape[-1])


def _targets(graph: Graph, reference: Graph) -> list[_Target]:
    """Finds the results whose error a bias can take in, in the order of the program."""
    exact = {name: value for value in reference.values() for name in value.origins}
    found: dict[Value, _Target] = {}
    for node in graph.nodes:
        if not _has_bias(node):
            continue
        for value in _results(node.output):
            name = next((name for name in value.origins if name in exact), None)
            if name is None:
                continue
            if _is_by_channel(value) and (
                value not in found or len(found[value].product.inputs) < len(node.inputs)
            ):
                found[value] = _Target(value, node, exact[name], name)
            break
    return list(found.values())


def _has_bias(node: Node) -> bool:
    """Whether a node sums coded products with constant weights, and has or may get a bias."""
    if not isinstance(node.op, Products) or (isinstance(node.op, Dot) and node.op.batch):
        return False
    constants = all(value.is_constant for value in node.inputs[1:])
    return constants and _is_by_channel(node.output) and node.inputs[0].type.quant is not None


def _is_by_channel(value: Value) -> bool:
    """Whether the code of a value is affine, with one scale or one for each channel."""
    code, shape = value.type.quant, value.type.shape
    return (
        isinstance(code, Affine)
        and code.scale.array.size in (1, shape[-1])
        and all(size == 1 for size in code.scale.shape[:-1])
    )


def _results(value: Value) -> Iterator[Value]:
    """Yields an accumulator and the sums that it goes into alone."""
    for _ in range(_FARTHEST):
        yield value
        users = list(value.users)
        if len(users) != 1 or not isinstance(users[0].op, Requantize | Add):
            return
        value = users[0].output


def _samples(graph: Graph, data: Observations, most: int) -> list[Array] | None:
    """Returns samples of the first batches, an array for each input; None where there are none."""
    if not data.repeatable:
        return None
    found: list[tuple[Array, ...]] = []
    count, name = 0, batch_name(graph)
    for arrays, sizes in read_batches(graph, data):
        if sizes.empty:
            continue
        rows = few_rows(graph, arrays, most - count)
        found.append(rows)
        count += len(rows[0]) if rows and rows[0].ndim else most
        # A batch of a fixed size is computed whole.
        if name is None or count >= most or any(array.ndim == 0 for array in rows):
            break
    if not found:
        return None
    if len({tuple(array.shape[1:] for array in rows) for rows in found}) > 1:
        return list(found[0])
    return [
        np.concatenate(arrays) if found[1:] else arrays[0] for arrays in zip(*found, strict=True)
    ]


def _means(
    reference: Graph, inputs: Sequence[Array], targets: Sequence[_Target], interpreter: Interpreter
) -> dict[Value, Array]:
    """Returns the mean of each channel [samples, channels] of what each target stands for."""
    of: dict[Value, list[_Target]] = {}
    for target in targets:
        of.setdefault(target.exact, []).append(target)
    found: dict[Value, Array] = {}

    def look(value: Value, array: Array) -> Array:
        for target in of.get(value, ()):
            turned = turned_like(array, value, target.value, target.name)
            if turned.ndim == target.value.type.rank and turned.shape[-1] == target.channels:
                found[target.value] = _mean_of_samples(turned)
        return array

    interpreter(reference, *inputs, hook=look)
    return found


def _mean_of_samples(array: Array) -> Array:
    return np.asarray(array.mean(axis=tuple(range(1, array.ndim - 1)), dtype=np.float64))


class _Correction:
    """Corrects results while a program is computed; called with each value that is.

    Args:
        graph: The program.
        wanted: The means that results are to have [samples, channels].
        targets: The results.

    Attributes:
        added: What each is to get in steps of its accumulator [channels].
        told: A sentence for each.
    """

    def __init__(
        self, graph: Graph, wanted: Mapping[Value, Array], targets: Mapping[Value, _Target]
    ) -> None:
        self.wanted = wanted
        self.targets = targets
        self.added: dict[Value, Array] = {}
        self.told: list[str] = []

    def __call__(self, value: Value, array: Array) -> Array:
        target, wanted = self.targets.get(value), self.wanted.get(value)
        if target is None or wanted is None or len(wanted) != len(array):
            return array
        code = value.type.affine
        scale = code.scale.array.reshape(-1).astype(np.float64)
        found = (_mean_of_samples(array) - code.zero_points.reshape(-1)) * scale
        errors = wanted - found
        steps = _within_room(target.product, _sure_mean(errors))
        if not steps.any():
            return array
        self.added[value] = steps
        own = target.product.output.type.affine.scale.array.reshape(-1).astype(np.float64)
        moved = steps * own
        mean = errors.mean(axis=0)
        self.told.append(
            f"bias-correction: %{value.name}: the mean error of channels falls from "
            f"{np.sqrt(np.square(mean).mean()):.3g} to "
            f"{np.sqrt(np.square(mean - moved).mean()):.3g}"
        )
        return np.asarray(
            np.clip(array + np.rint(moved / scale).astype(np.int64), *code.range), array.dtype
        )


def _sure_mean(errors: Array) -> Array:
    """Returns the mean over samples, shrunk by what chance makes of it.

    Args:
        errors: The error of each channel in each sample [samples, channels].
    """
    count = len(errors)
    mean = errors.mean(axis=0)
    if count < LEAST_SAMPLES:
        return np.zeros_like(mean)
    chance = errors.var(axis=0, ddof=1) / count
    square = np.square(mean)
    sure = np.divide(square - chance, square, out=np.zeros_like(mean), where=square > chance)
    found = sure * mean
    is_sure = np.square(found).sum() > LEAST_RATIO * chance.sum()
    return np.asarray(found) if is_sure else np.zeros_like(mean)


def _within_room(node: Node, correction: Array) -> Array:
    """Returns a correction in steps of an accumulator, as far as its bias has room for it."""
    rule = node.op.quant
    assert isinstance(rule, Accumulate)
    x, kernel = node.inputs[rule.left], node.inputs[rule.right]
    code = node.output.type.affine
    bounds = kernel.type.code.step_bounds
    if bounds is None:
        return np.zeros(correction.shape, np.int64)
    scale = code.scale.array.reshape(-1).astype(np.float64)
    is_long = code.storage.bits > 32
    room = bias_room(
        kernel.array, max(map(abs, bounds)), max(reach(x.type.code), 255), long=is_long
    )
    own = node.inputs[rule.bias].array.astype(np.int64) if len(node.inputs) > rule.bias else 0
    wished = np.rint(correction / scale)
    most = np.maximum(room, np.abs(own))
    return np.asarray(np.clip(own + wished, -most, most).astype(np.int64) - own)


def _add_to_bias(node: Node, steps: Array) -> None:
    """Adds steps to the bias of a sum of products, which gets one if it has none."""
    rule = node.op.quant
    assert isinstance(rule, Accumulate)
    graph, builder = node.graph, node.graph.before(node)
    builder.loc = node.loc
    if len(node.inputs) > rule.bias:
        old = node.inputs[rule.bias]
        stored = (old.array + steps).astype(old.array.dtype)
        node.set_input(rule.bias, builder.const(stored, old.name, old.type.element))
        if old.node is not None and not old.uses:
            graph.erase(old.node)
        return
    code = bias_code(node.output.type.code, len(steps))
    layer = node.inputs[rule.right].name.rpartition(".")[0] or node.output.name
    bias = builder.const(steps.astype(code.storage.numpy), f"{layer}.bias", code)
    new = builder.emit(node.op, *node.inputs[: rule.bias], bias)
    node.output.replace_with(new)
    graph.erase(node)
