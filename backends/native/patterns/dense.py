"""Convolutions and matrix products, with the requantize, sum or dequantize behind them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import TypeAlias

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.dense import AXES, SLACK_BYTES, UNROLLED, DenseKernel
from qir.backends.native.pattern import Match, Placement, pattern
from qir.backends.native.patterns.epilogue import BYTES, MatchedEpilogue, is_bytes, matched_epilogue
from qir.backends.native.plan import BufferView
from qir.ir import Node, Value
from qir.ops import Conv, Dot
from qir.types import Array, DType

Geometry: TypeAlias = Callable[[Placement], tuple[int, dict[str, int], tuple[slice, ...]]]
"""Returns the number of places, the parameters of their windows, and which taps are summed; no
parameters for single pixels."""
CACHED_BYTES = 128 * 1024
"""What a task copies at most, so that it stays in the second-level cache."""
TASK_PRODUCTS = 200_000
"""Least products of a task; a smaller one is not worth handing out."""


def convolution(op: Conv, node: Node, epilogue: MatchedEpilogue) -> Match | str:
    """Matches a convolution over all channels, or over groups of them: a step for each.

    Args:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
    """
    x, kernel, *bias = node.inputs
    if reason := unfit(x, kernel, bias) or _wide(kernel):
        return reason
    *window, _, _ = kernel.type.known_shape

    def geometry(placement: Placement) -> tuple[int, dict[str, int], tuple[slice, ...]]:
        shape, result = placement.shape(x), placement.shape(node.output)
        rows = prod(result[:-1])
        strides, _, padding = op.geometry(shape[1:-1], window)
        if prod(window) == 1 and set(strides) == {1} and not any(map(any, padding)):
            return rows, {}, ()
        parameters = spatial_parameters(op, shape, result, window)
        size = [parameters[f"size_{axis}"] for axis in AXES]
        for index, axis in enumerate(AXES):
            parameters[f"bytes_{axis}"] = prod(size[index + 1 :]) * shape[-1]
        parameters["images_bytes"] = prod(size) * shape[-1]
        code = x.type.affine
        parameters["fill"] = int(code.zero_points)
        taps = [trim(parameters, axis) for axis in AXES[-len(window) :]]
        return rows, parameters, tuple(taps)

    return _match(node, epilogue, geometry, op.groups)


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
        lambda placement: (prod(placement.shape(x)[:-1]), {}, ()),
    )


def unfit(x: Value, weights: Value, bias: Sequence[Value]) -> str:
    """Returns why operands don't suit the kernel; nothing where they do."""
    code = weights.type.quant
    if not is_bytes(x):
        return "activations without one code of 8 bits"
    if code is None or not weights.is_constant:
        return "weights that are no constants"
    if code.storage not in (*BYTES, DType.I4, DType.I2, DType.U4):
        return f"weights of {code}"
    if bias and not bias[0].is_constant:
        return "a bias that is no constant"
    return ""


def _wide(weights: Value) -> str:
    code = weights.type.affine
    centred = weights.array.astype(np.int32) - code.zero_points
    if centred.size and (centred.min() < -128 or centred.max() > 127):
        return "weights further than a byte from their zero point"
    return ""


def _match(node: Node, epilogue: MatchedEpilogue, geometry: Geometry, parts: int = 1) -> Match:
    writer = DenseWriter(node, epilogue, geometry, parts)
    inputs = epilogue.inputs(node.inputs[0])
    return Match((node, *epilogue.nodes), inputs, writer.write, rows_apart=True)


@dataclass(frozen=True, eq=False)
class DenseWriter:
    """Writes the steps of sums over all channels, or over groups of them.

    Attributes:
        node: The node of the sums.
        epilogue: What follows them.
        geometry: What the sums run over.
        parts: Groups of channels, each a step.
    """

    node: Node
    epilogue: MatchedEpilogue
    geometry: Geometry
    parts: int

    def write(self, placement: Placement) -> None:
        """Adds the steps."""
        x, weights, *bias = self.node.inputs
        code, weight_code = x.type.affine, weights.type.affine
        rows, window, taps = self.geometry(placement)
        columns = int(weights.type.known_shape[-1])
        matrix = (weights.array[taps].astype(np.int32) - weight_code.zero_points).astype(np.int8)
        matrix = matrix.reshape(-1, columns)
        point = int(code.zero_points) + placement.target.shift(code.storage is DType.U8)
        tables = self.epilogue.columns(folded_bias(matrix, point, bias))
        size = columns // self.parts
        for part in range(self.parts):
            chosen = slice(part * size, (part + 1) * size)
            own = {name: table[chosen] for name, table in tables.items()}
            self._write_part(placement, part, rows, window, matrix[:, chosen], own)

    def _write_part(
        self,
        placement: Placement,
        part: int,
        rows: int,
        window: Mapping[str, int],
        matrix: Array,
        tables: Mapping[str, Array],
    ) -> None:
        """Adds the step of a group.

        Args:
            placement: Where to write.
            part: Number of the group.
            rows: Number of places.
            window: The parameters of their windows.
            matrix: Centred weights [k, columns].
            tables: The tables, of as many columns.
        """
        x, target = self.node.inputs[0], placement.target
        result = self.epilogue.result(self.node)
        depth, columns = matrix.shape
        channels = placement.shape(x)[-1]
        length = channels // self.parts
        panels = -(-columns // target.columns)
        groups = -(-depth // (target.group * UNROLLED)) * UNROLLED
        row_bytes = _row_bytes(groups, bool(window))
        block_rows, ranges = _split(rows, panels, matrix.size, row_bytes, placement)
        parameters = {
            **window,
            **self.epilogue.parameters,
            "rows": rows,
            "block_rows": block_rows,
            "ranges": ranges,
            "panels": panels,
            "range_panels": -(-panels // ranges),
            "columns": columns,
            "groups": groups,
            "row_bytes": row_bytes,
            "x_bytes": prod(placement.shape(x)) - part * length,
            "pixel": channels,
            "length": length,
            "out_pixel": placement.pitch(result),
            "residual_pixel": self.parts * columns,
        }
        tensors = {
            "x": placement.read(x).further(part * length),
            "weights": placement.constant(packed(matrix, target)),
            **_constants(placement, tables, panels * target.columns),
            "out": placement.write(result).further(part * columns * self.epilogue.code.size),
        }
        if self.epilogue.residual is not None:
            tensors["residual"] = placement.read(self.epilogue.residual).further(part * columns)
        unsigned = x.type.dtype is DType.U8
        placement.plan.step(
            result.name,
            DenseKernel(bool(window), unsigned, self.epilogue.code),
            parameters,
            tensors,
            tasks=-(-rows // block_rows) * ranges,
            scratch=block_rows * row_bytes + SLACK_BYTES,
        )


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


def _split(
    rows: int, panels: int, weights: int, row_bytes: int, placement: Placement
) -> tuple[int, int]:
    """Returns how many rows a task takes, and into how many ranges the panels are split."""
    target = placement.target
    wanted = min(max(rows * weights // TASK_PRODUCTS, 1), 8 * placement.plan.threads)
    most = max(CACHED_BYTES // row_bytes // target.rows, 1) * target.rows
    blocks = max(-(-rows // most), min(wanted, -(-rows // target.rows)))
    ranges = min(panels, max(1, round(wanted / blocks)))
    # A range copies its rows again: it should have enough columns to be worth it.
    while ranges > 1 and blocks * ranges > 2 * placement.plan.threads and panels // ranges < 4:
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


def _row_bytes(groups: int, windowed: bool) -> int:
    """Returns the bytes of a row in scratch."""
    size = -(-(4 * groups + SLACK_BYTES * windowed) // 64) * 64
    # Rows a multiple of the cache's way apart would displace each other.
    return size + 64 * (size % 1024 == 0)


def _constants(
    placement: Placement, tables: Mapping[str, Array], size: int
) -> dict[str, BufferView]:
    """Returns where tables lie, filled up to whole panels."""
    return {
        name: placement.constant(np.pad(table, (0, size - table.size)))
        for name, table in tables.items()
    }
