"""What would make the own error of a value smaller, and what of the error each leaves.

Each remedy is worked out on the numbers of the value itself: the error that is left is the same one
with other weights, or rounded in another code.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

import numpy as np

from qir.ir import Node, Value
from qir.ops import Concat
from qir.ops.products import Products
from qir.ops.rules import SharedCode
from qir.report.causes import code_of, is_exact
from qir.report.compare.codes import best_clip, in_code, of_parts, two_groups
from qir.report.compare.counterparts import turned_to
from qir.report.compare.effects import WrongNumbers
from qir.report.compare.forcing import ForcedRun, ForcedValue
from qir.report.compare.own_errors import FloatOps, OwnParts
from qir.report.compare.result import RemedyName
from qir.types import Affine, Array

STRENGTH = 0.5
"""The exponent of smooth-quant: how much of what channels differ by goes into the weights."""


@dataclass(frozen=True)
class LeftError:
    """What a remedy leaves of a value's own error.

    Args:
        name: The remedy.
        wrong: The error, with the axes of the integer program's value.
        detail: What was done, with the numbers that show why.
        rule: What a rule of a recipe says to have it; None where no rule does.
        selected: The values that the rule selects, by the names of imported values.
        moved: What readers have, with the axes of the float program: by the error of their weights
            now, and with the remedy.
    """

    name: RemedyName
    wrong: WrongNumbers
    detail: str
    rule: Mapping[str, Any] | None = None
    selected: tuple[str, ...] = ()
    moved: tuple[tuple[Value, Array, Array], ...] = field(default=())


def left_errors(
    met: ForcedValue, parts: OwnParts, run: ForcedRun, ops: FloatOps, known: Container[str]
) -> Iterator[LeftError]:
    """Yields what each remedy that a value may have leaves of its own error.

    Args:
        met: The value, just computed of exact operands.
        parts: Its own error.
        run: The run that met it.
        ops: Computes ops of the float program.
        known: The names by which rules know values.
    """
    if (found := _per_channel(met, parts, run, ops)) is not None:
        yield found
    code = code_of(met.value)
    if isinstance(code, Affine) and not is_exact(code) and code.per_tensor:
        if code.storage.bits < 16:
            steps = (parts.rounding - parts.inner) / 2 ** (16 - code.storage.bits)
            rest = parts.weights + parts.clipping + parts.inner + steps
            yield LeftError(
                "16 bits",
                wrong_numbers(met, parts, rest),
                f"steps of {code.greatest_scale / 2 ** (16 - code.storage.bits):.3g} in place of "
                f"{code.greatest_scale:.3g}",
                {"activations": "i16"},
                (name_of(met.reference),),
            )
        if not _shares_code(met.value):
            yield _clipped(met, parts, code)
        if met.exact.ndim:
            yield _separate(met, parts, code)
        if (smoothed := _smoothed(met, parts, code)) is not None:
            yield smoothed
    kept = _kept_float(met, known)
    yield LeftError(
        "keep float",
        wrong_numbers(met, parts, parts.inner),
        f"{', '.join(f'%{name}' for name in kept)} on floating-point numbers",
        {"keep_float": True} if kept else None,
        kept,
    )


def name_of(value: Value) -> str:
    """Returns the name by which selectors know a value of the float program in later ones."""
    return next(iter(value.origin), value.name)


def _kept_float(met: ForcedValue, known: Container[str]) -> tuple[str, ...]:
    """Returns the op with what is one with it in codes, and those that read it and round it again.

    An op that passes made part of another goes by the name of that one.
    """
    reference = met.reference
    kept = [] if reference.node is None else [*met.value.origin, name_of(reference)]
    line, done = [*_results(reference)], set[Value]()
    while line:
        reader = line.pop(0)
        if reader in done:
            continue
        done.add(reader)
        if name_of(reader) in known:
            kept.append(name_of(reader))
        else:
            line += _results(reader)
    return tuple(dict.fromkeys(kept))


def _results(value: Value) -> Iterator[Value]:
    """Yields what the ops compute that read a value."""
    for node in value.users:
        if node.outputs and not node.regions and node.outputs[0].type.is_float:
            yield node.outputs[0]


def wrong_numbers(met: ForcedValue, parts: OwnParts, error: Array) -> WrongNumbers:
    """Returns what a value has with another error of its own."""
    numbers = parts.numbers + (error - parts.error)
    return WrongNumbers(
        numbers.astype(np.float32), None if met.trip is None else error.astype(np.float32)
    )


def product_of(value: Value, run: ForcedRun, ops: FloatOps, met: ForcedValue) -> Node | None:
    """Returns the product with constant weights that a value of the float program is made by."""
    given, stack, done = ops.operands(met, run).arrays, [value], set[Value]()
    while stack:
        last = stack.pop()
        node = last.node
        if node is None or last in done or (last in given and last is not value):
            continue
        done.add(last)
        if isinstance(node.op, Products) and _has_weights(node):
            return node
        stack += [operand for operand in node.inputs if not operand.is_constant]
    return None


def _has_weights(node: Node) -> bool:
    return node.inputs[1].is_constant and node.inputs[1].type.is_float


def _per_channel(
    met: ForcedValue, parts: OwnParts, run: ForcedRun, ops: FloatOps
) -> LeftError | None:
    product = product_of(met.reference, run, ops, met)
    coded = ops.coded_weights(met.value, run)
    if product is None or not coded or not parts.weights.any():
        return None
    if not all(weights.type.code.per_tensor for weights in coded):
        return None
    kernel = product.inputs[1]
    bits = max(weights.type.dtype.bits for weights in coded)
    found = ops.compute(
        met.reference,
        met,
        run,
        ops.operands(met, run),
        {kernel: in_channels(kernel.real, bits)},
    )
    exact = ops.compute(met.reference, met, run, ops.operands(met, run))
    if found is None or exact is None:
        return None
    weights = turned_to(found - exact, met.reference, met.value)
    peaks = np.abs(kernel.real).reshape(-1, kernel.real.shape[-1]).max(0)
    spread = float(peaks.max() / max(float(np.median(peaks)), 1e-30))
    return LeftError(
        "per channel",
        wrong_numbers(met, parts, weights + parts.clipping + parts.rounding),
        f"the peak of one channel of %{kernel.name} is {spread:.3g} times that of the middle one",
        {"per": "channel"},
        ops.products(met.value, run),
    )


def in_channels(kernel: Array, bits: int) -> Array:
    """Returns weights rounded to a symmetric code with a scale for each output channel.

    Args:
        kernel: The weights, outputs along the last axis.
        bits: The width.
    """
    parts = (*(1,) * (kernel.ndim - 1), kernel.shape[-1])
    code = Affine.fit(kernel, parts, bits)
    return np.asarray(code.decode(code.encode(kernel)))


def _clipped(met: ForcedValue, parts: OwnParts, code: Affine) -> LeftError:
    low, high = best_clip(parts.unrounded, code)
    error = in_code(parts.unrounded, code, low, high) - parts.unrounded
    return LeftError(
        "another clip",
        wrong_numbers(met, parts, parts.weights + parts.inner + error),
        f"a range of [{low:.4g}, {high:.4g}]",
        {"method": "mse"},
        (name_of(met.reference),),
    )


def _shares_code(value: Value) -> bool:
    """Whether a value has the code that it has together with what it is put beside."""
    return any(
        isinstance(node.op.quant, SharedCode) and len(node.inputs) > 1 for node in value.users
    )


def _ends_of_parts(node: Node) -> list[int]:
    """Returns where the parts of a concat end; nothing for another op, or unknown sizes."""
    if not isinstance(node.op, Concat):
        return []
    sizes = [operand.type.shape[node.op.axis] for operand in node.inputs]
    known = [size for size in sizes if isinstance(size, int)]
    return list(accumulate(known)) if len(known) == len(sizes) else []


def _separate(met: ForcedValue, parts: OwnParts, code: Affine) -> LeftError:
    node = met.reference.node
    if _shares_code(met.value):
        axis, groups = 0, [np.arange(met.exact.shape[0])]
        what = f"steps of its own in place of {code.greatest_scale:.3g}, which it shares"
    elif node is not None and isinstance(node.op, Concat) and (ends := _ends_of_parts(node)):
        order = next(
            (order for name, order in met.value.origins.items() if name in met.reference.origins),
            None,
        )
        axis = node.op.axis if order is None else order.index(node.op.axis)
        groups = np.split(np.arange(met.exact.shape[axis]), ends[:-1])
        what = "a code for each part"
    else:
        axis, groups = two_groups(parts.unrounded)
        what = f"a code for each of two groups along axis {axis}"
    peaks = [
        float(np.abs(np.take(parts.unrounded, group, axis)).max(initial=0)) for group in groups
    ]
    error = of_parts(parts.unrounded, code, axis, groups) - parts.unrounded
    listed = ", ".join(f"{peak:.3g}" for peak in peaks[:4])
    left = wrong_numbers(met, parts, parts.weights + parts.inner + error)
    return LeftError("separate codes", left, f"{what}, whose peaks are {listed}")


def _smoothed(met: ForcedValue, parts: OwnParts, code: Affine) -> LeftError | None:
    """Divides channels by what makes them as large as their weights are.

    As SmoothQuant does (Xiao et al., 2023, arXiv:2211.10438).
    """
    value, rank = met.reference, met.exact.ndim
    readers = [
        node
        for node in value.users
        if isinstance(node.op, Products) and node.inputs[0] is value and _has_weights(node)
    ]
    grouped = any(isinstance(n.op, Products) and n.op.channel_groups > 1 for n in readers)
    turned = any(order is not None for order in met.value.origins.values())
    if rank < 2 or not readers or turned or grouped:
        return None
    kernels = [np.asarray(node.inputs[1].real, np.float64) for node in readers]
    channels = met.exact.shape[-1]
    if any(kernel.shape[-2] != channels or kernel.ndim != 2 for kernel in kernels):
        return None
    peaks = np.abs(parts.unrounded).reshape(-1, channels).max(0)
    of_weights = np.max([np.abs(kernel).max(-1) for kernel in kernels], axis=0)
    if not peaks.any() or not of_weights.any():
        return None
    sizes = np.maximum(peaks, peaks.max() * 2**-10) ** STRENGTH
    sizes /= np.maximum(of_weights, of_weights.max() * 2**-10) ** (1 - STRENGTH)
    small = parts.unrounded / sizes
    error = in_code(small, code, float(small.min()), float(small.max())) * sizes - parts.unrounded
    exact = np.asarray(met.exact, np.float64)
    moved = []
    for node, kernel in zip(readers, kernels, strict=True):
        bias = node.inputs[2].real if node.inputs[2:] else 0.0
        now = exact @ in_channels(kernel, 8) + bias
        then = exact @ (in_channels(kernel * sizes[:, None], 8) / sizes[:, None]) + bias
        moved.append((node.outputs[0], now, then))
    spread = float(peaks.max() / max(float(np.median(peaks)), 1e-30))
    return LeftError(
        "smooth-quant",
        wrong_numbers(met, parts, parts.weights + parts.inner + error),
        f"the peak of one channel is {spread:.3g} times that of the middle one",
        moved=tuple(moved),
    )
