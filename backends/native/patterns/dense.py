"""Convolutions and matrix products, with the requantize, sum or dequantize behind them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from qir.backends.native.epilogue import Epilogue, Form
from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.dense import AXES, SLACK_BYTES, UNROLLED, DenseKernel
from qir.backends.native.pattern import Match, Region, pattern, sole_reader
from qir.ir import Node, Value
from qir.numbers.rounding import Float32, MachineForm, Scaled
from qir.ops import Add, Conv, Dequantize, Dot, Requantize
from qir.types import Array, DType

BYTES = (DType.I8, DType.U8)
Geometry: TypeAlias = Callable[[Region], tuple[int, dict[str, int], tuple[slice, ...]]]
"""Returns the number of places, the parameters of their windows, and which taps are summed; no
parameters for single pixels."""
CACHED_BYTES = 128 * 1024
"""What a task copies at most, so that it stays in the second-level cache."""
TASK_PRODUCTS = 200_000
"""Least products of a task; a smaller one is not worth handing out."""


def is_bytes(value: Value) -> bool:
    """Whether a value has an affine code of 8 bits for the whole tensor."""
    code = value.type.quant
    return (
        code is not None
        and code.levels is None
        and code.storage in BYTES
        and code.per_tensor
        and code.zero_points.ndim == 0
    )


@dataclass(frozen=True, eq=False)
class MatchedEpilogue:
    """What follows sums in the same step.

    Attributes:
        nodes: The nodes, perhaps none.
        code: What the kernel does with the sums.
        tables: The tables of that for each column, without the bias.
        parameters: Its parameters.
        residual: The tensor that is added.
    """

    nodes: tuple[Node, ...]
    code: Epilogue
    tables: Mapping[str, Array]
    parameters: Mapping[str, int]
    residual: Value | None = None


def matched_epilogue(sums: Value) -> MatchedEpilogue:
    """Returns what can be computed before the sums of a node leave the registers."""
    stored = MatchedEpilogue((), Epilogue("accumulator"), {}, {})
    node = sole_reader(sums)
    if node is None:
        return stored
    if isinstance(node.op, Dequantize):
        code = sums.type.quant
        if code is None or code.expressed is not DType.F32 or np.any(code.zero_points):
            return stored
        return MatchedEpilogue(
            (node,), Epilogue("real"), {"multiplier": _per_column(code.scale.array)}, {}
        )
    if not isinstance(node.op, Requantize):
        return stored
    scaled = _requantize(node)
    return stored if scaled is None else _with_sum(node, scaled)


def _per_column(array: Array) -> Array:
    return np.asarray(array, np.float32).reshape(-1)


def _requantize(node: Node) -> MatchedEpilogue | None:
    op, output = node.op, node.output
    assert isinstance(op, Requantize)
    if not is_bytes(output):
        return None
    point = int(op.to.zero_points)
    low, high = op.bounds
    parameters = {"low": low, "high": high, "point": point}
    unsigned = op.to.storage is DType.U8
    bounded = (low, high) != op.to.storage.bounds
    forms = in_order(op.machine_forms(node.inputs[0].type))
    found = next(filter(None, (_tables(form, point) for form in forms)), None)
    if found is None:
        return None
    form, tables = found
    return MatchedEpilogue((node,), Epilogue(form, unsigned, "", bounded), tables, parameters)


def in_order(forms: Iterable[tuple[str, MachineForm]]) -> list[MachineForm]:
    """Returns machine forms without the names of their modes, the fastest ones first."""
    return sorted((form for _, form in forms), key=lambda form: not isinstance(form, Float32))


def _tables(form: MachineForm, point: int) -> tuple[Form, dict[str, Array]] | None:
    """Returns how an epilogue computes a machine form, and its tables.

    Args:
        form: The form.
        point: The zero point, which epilogues add together with what rounds.

    Returns:
        None where 32 bits don't hold it, or no epilogue computes the form.
    """
    if isinstance(form, Float32):
        factors = form.value.reshape(-1)
        return "f32_rne" if np.all(factors <= 0.5) else "f32_rne_wide", {"multiplier": factors}
    terms = form.high_word(point) if isinstance(form, Scaled) else None
    if terms is None or terms.lifted:
        return None
    tables = {"multiplier": terms.value, "addend": terms.addend, "shift": terms.places}
    return "fixed31", {name: table.reshape(-1) for name, table in tables.items()}


def _with_sum(requantize: Node, epilogue: MatchedEpilogue) -> MatchedEpilogue:
    """Adds the sum with another tensor, where it alone reads the requantized numbers."""
    node = sole_reader(requantize.output)
    if node is None or not isinstance(node.op, Add) or not is_bytes(node.output):
        return epilogue
    if not node.op.rounds_half_up:
        return epilogue
    first, second = node.inputs
    if second is requantize.output and _ends_sums(first):
        return epilogue
    other = second if first is requantize.output else first
    if not is_bytes(other) or other.type.shape != requantize.output.type.shape:
        return epilogue
    (own, others), shift = node.op.factors(first.type, second.type)
    if other is first:
        own, others = others, own
    stored, mine, theirs = (value.type.quant for value in (node.output, requantize.output, other))
    assert stored is not None
    assert mine is not None
    assert theirs is not None
    addend = (1 << (shift - 1)) - own * int(mine.zero_points) - others * int(theirs.zero_points)
    low, high = stored.range
    parameters = {
        **epilogue.parameters,
        "own": own,
        "other": others,
        "sum_addend": _wrapped(addend),
        "sum_shift": shift,
        "sum_point": int(stored.zero_points),
        "sum_low": low,
        "sum_high": high,
    }
    code = Epilogue(
        epilogue.code.form,
        stored.storage is DType.U8,
        "unsigned" if theirs.storage is DType.U8 else "signed",
        stored.range != stored.storage.bounds,
    )
    return MatchedEpilogue((*epilogue.nodes, node), code, epilogue.tables, parameters, other)


def _ends_sums(value: Value) -> bool:
    """Whether a value is itself requantized sums, behind which the addition will be computed."""
    return (
        isinstance(value.op, Requantize)
        and value.node is not None
        and isinstance(value.node.inputs[0].op, Conv | Dot)
        and sole_reader(value.node.inputs[0]) is not None
        and sole_reader(value) is not None
    )


def _wrapped(value: int) -> int:
    """Returns an integer modulo 2^32: sums wrap, and only the whole one is in range."""
    return (value + 2**31) % 2**32 - 2**31


def convolution(
    op: Conv, node: Node, epilogue: MatchedEpilogue, target: InstructionSet
) -> Match | str:
    """Matches a convolution over all channels, or over groups of them: a step for each.

    Args:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
        target: The instruction set.
    """
    x, kernel, *bias = node.inputs
    if reason := unfit(x, kernel, bias) or _wide(kernel):
        return reason
    *window, _, _ = kernel.type.known_shape

    def geometry(region: Region) -> tuple[int, dict[str, int], tuple[slice, ...]]:
        shape, result = region.shape(x), region.shape(node.output)
        rows = prod(result[:-1])
        strides, _, padding = op.geometry(shape[1:-1], window)
        if prod(window) == 1 and set(strides) == {1} and not any(map(any, padding)):
            return rows, {}, ()
        parameters = spatial_parameters(op, shape, result, window)
        size = [parameters[f"size_{axis}"] for axis in AXES]
        for index, axis in enumerate(AXES):
            parameters[f"bytes_{axis}"] = prod(size[index + 1 :]) * shape[-1]
        parameters["images_bytes"] = prod(size) * shape[-1]
        code = x.type.quant
        assert code is not None
        parameters["fill"] = int(code.zero_points)
        taps = [trim(parameters, axis) for axis in AXES[-len(window) :]]
        return rows, parameters, tuple(taps)

    return _match(node, epilogue, target, geometry, op.groups)


def spatial_parameters(
    op: Conv, shape: Sequence[int], result: Sequence[int], window: Sequence[int]
) -> dict[str, int]:
    """Returns the geometry of a convolution for each axis; a missing one has size 1.

    Args:
        op: The convolution.
        shape: Sizes of x.
        result: Sizes of the result.
        window: Spatial sizes of the kernel, with or without missing axes.
    """
    sizes = shape[1:-1]
    missing = len(AXES) - len(sizes)
    window = window[-len(sizes) :]
    strides, dilation, padding = op.geometry(tuple(sizes), window)
    per_axis: dict[str, Sequence[int]] = {
        "size": [1] * missing + list(sizes),
        "places": [1] * missing + list(result[1:-1]),
        "window": [1] * missing + list(window),
        "stride": [1] * missing + list(strides),
        "dilation": [1] * missing + list(dilation),
        "before": [0] * missing + [before for before, _ in padding],
    }
    return {
        f"{name}_{axis}": values[index]
        for name, values in per_axis.items()
        for index, axis in enumerate(AXES)
    }


def trim(parameters: dict[str, int], axis: str) -> slice:
    """Leaves taps that meet nothing but padding out of a window.

    Args:
        parameters: What `spatial_parameters` returns; those of the axis change.
        axis: Name of the axis.

    Returns:
        The taps that remain.
    """
    size, places, window, stride, dilation, before = (
        parameters[f"{name}_{axis}"]
        for name in ("size", "places", "window", "stride", "dilation", "before")
    )
    met = np.add.outer(np.arange(places) * stride - before, np.arange(window) * dilation)
    (inside,) = np.nonzero(((met >= 0) & (met < size)).any(axis=0))
    taps = slice(int(inside[0]), int(inside[-1]) + 1) if inside.size else slice(0, 1)
    parameters[f"window_{axis}"] = taps.stop - taps.start
    parameters[f"before_{axis}"] -= taps.start * dilation
    return taps


@pattern(Dot)
def product(op: Dot, node: Node, target: InstructionSet) -> Match | str:
    """A product with a constant matrix."""
    x, weights, *bias = node.inputs
    if weights.type.rank != 2:
        return "batched"
    if reason := unfit(x, weights, bias) or _wide(weights):
        return reason
    return _match(
        node,
        matched_epilogue(node.output),
        target,
        lambda region: (prod(region.shape(x)[:-1]), {}, ()),
    )


def unfit(x: Value, weights: Value, bias: Sequence[Value]) -> str:
    """Returns why operands don't suit the kernel; nothing where they do."""
    code = weights.type.quant
    if not is_bytes(x):
        return "activations without a code of 8 bits"
    if code is None or not weights.is_constant:
        return "weights that are no constants"
    if code.levels is not None or code.storage not in (*BYTES, DType.I4, DType.I2, DType.U4):
        return f"weights of {code}"
    if bias and not bias[0].is_constant:
        return "a bias that is no constant"
    return ""


def _wide(weights: Value) -> str:
    code = weights.type.quant
    assert code is not None
    centred = weights.array.astype(np.int32) - code.zero_points
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        return "weights further than a byte from their zero point"
    return ""


def _match(
    node: Node,
    epilogue: MatchedEpilogue,
    target: InstructionSet,
    geometry: Geometry,
    parts: int = 1,
) -> Match:
    x, weights, *bias = node.inputs
    inputs = (x,) if epilogue.residual is None else (x, epilogue.residual)
    code, weight_code = x.type.quant, weights.type.quant
    assert code is not None
    assert weight_code is not None
    everything = int(weights.type.known_shape[-1])
    point = int(code.zero_points)
    unsigned = code.storage is DType.U8
    shift = target.shift(unsigned)
    columns = everything // parts
    panels = -(-columns // target.columns)
    # A code of the tensor makes tables of one number.
    ends = {name: np.broadcast_to(array, everything) for name, array in epilogue.tables.items()}
    step = target.group * UNROLLED
    result = (node, *epilogue.nodes)[-1].output

    def write(region: Region) -> None:
        rows, window, taps = geometry(region)
        channels, x_bytes = region.shape(x)[-1], prod(region.shape(x))
        matrix = (weights.array[taps].astype(np.int32) - weight_code.zero_points).astype(np.int8)
        matrix = matrix.reshape(-1, everything)
        tables = {"bias": folded_bias(matrix, point + shift, bias), **ends}
        groups = -(-matrix.shape[0] // step) * UNROLLED
        for part in range(parts):
            chosen = slice(part * columns, (part + 1) * columns)
            own = matrix[:, chosen]
            row_bytes = -(-(4 * groups + SLACK_BYTES * bool(window)) // 64) * 64
            if row_bytes % 1024 == 0:
                # Rows a multiple of the cache's way apart would displace each other.
                row_bytes += 64
            block_rows, ranges = _split(rows, panels, own.size, row_bytes, region)
            kernel = DenseKernel(bool(window), unsigned, epilogue.code)
            size = 1 if epilogue.code.stores_bytes else 4
            parameters = {
                **window,
                **epilogue.parameters,
                "rows": rows,
                "block_rows": block_rows,
                "ranges": ranges,
                "panels": panels,
                "range_panels": -(-panels // ranges),
                "columns": columns,
                "groups": groups,
                "row_bytes": row_bytes,
                "x_bytes": x_bytes - part * (channels // parts),
                "pixel": channels,
                "length": channels // parts,
                "out_pixel": region.pitch(result),
                "residual_pixel": parts * columns,
            }
            tensors = {
                "x": region.read(x).further(part * (channels // parts)),
                "weights": region.constant(packed(own, target)),
                **{
                    name: region.constant(_padded(table[chosen], panels * target.columns))
                    for name, table in tables.items()
                },
                "out": region.write(result).further(part * columns * size),
            }
            if epilogue.residual is not None:
                tensors["residual"] = region.read(epilogue.residual).further(part * columns)
            region.plan.step(
                result.name,
                kernel,
                parameters,
                tensors,
                tasks=-(-rows // block_rows) * ranges,
                scratch=block_rows * row_bytes + SLACK_BYTES,
            )

    return Match((node, *epilogue.nodes), inputs, write, rows_apart=True)


def folded_bias(weights: Array, point: int, bias: Sequence[Value]) -> Array:
    """Returns what is added to sums with stored numbers, modulo 2^32.

    Args:
        weights: Centred weights [k, columns].
        point: What every stored number exceeds the number that it stands for by.
        bias: The bias, if there is one.
    """
    offset = -point * weights.sum(axis=0, dtype=np.int64)
    if bias:
        offset = offset + bias[0].array
    wrapped: Array = ((offset + 2**31) % 2**32 - 2**31).astype(np.int32)
    return wrapped


def _split(rows: int, panels: int, weights: int, row_bytes: int, region: Region) -> tuple[int, int]:
    """Returns how many rows a task takes, and into how many ranges the panels are split."""
    target = region.target
    wanted = min(max(rows * weights // TASK_PRODUCTS, 1), 8 * region.plan.threads)
    most = max(CACHED_BYTES // row_bytes // target.rows, 1) * target.rows
    blocks = max(-(-rows // most), min(wanted, -(-rows // target.rows)))
    ranges = min(panels, max(1, round(wanted / blocks)))
    # A range copies its rows again: it should have enough columns to be worth it.
    while ranges > 1 and blocks * ranges > 2 * region.plan.threads and panels // ranges < 4:
        ranges -= 1
    if ranges > 1:
        blocks = max(-(-rows // most), min(blocks, -(-wanted // ranges)))
    return -(-rows // blocks), -(-panels // -(-panels // ranges))


def packed(matrix: Array, target: InstructionSet) -> Array:
    """Returns weights [k, columns] as the kernel reads them: [panel, group, column, neighbour]."""
    step = target.group * UNROLLED
    depth = -(-matrix.shape[0] // step) * step
    panels = -(-matrix.shape[1] // target.columns)
    whole = np.zeros((depth, panels * target.columns), np.int8)
    whole[: matrix.shape[0], : matrix.shape[1]] = matrix
    parts = whole.reshape(depth // target.group, target.group, panels, target.columns)
    return np.ascontiguousarray(parts.transpose(2, 0, 3, 1))


def _padded(table: Array, size: int) -> Array:
    """Returns a table for whole panels."""
    whole = np.zeros(size, table.dtype)
    whole[: table.size] = table
    return whole
