"""Convolutions of each channel alone, with what follows as in `dense`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from qir.backends.native.instruction_set import InstructionSet
from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.depthwise import (
    CHANNELS,
    GEOMETRY,
    LINE_BYTES,
    PAIR_BYTES,
    DepthwiseKernel,
    FixedWindow,
)
from qir.backends.native.pattern import Match, Region
from qir.backends.native.patterns.dense import (
    MatchedEpilogue,
    folded_bias,
    spatial_parameters,
    unfit,
)
from qir.ir import Node
from qir.ops import Conv
from qir.types import Array, DType

CACHED_BYTES = 12 * 1024
"""What a task keeps in scratch; the first-level cache holds what it reads and writes as well."""
TASK_PRODUCTS = 100_000
"""Least products of a task, where threads get more than one."""
DIVIDED_PRODUCTS = 50_000
"""Least products that are divided among threads."""
TOGETHER = 7
"""Places of a row that are summed together, as a rule: widths of images are multiples of it."""
WRITTEN_TAPS = 32
"""Most pairs of taps of a window that is written into the code."""
COPY_COST, SUM_COST = 6, 14
"""Cycles that copying a pixel of a pair of lines takes, and summing and finishing a place."""
RANGE_BLOCKS = 4
"""Blocks of channels that fill a cache line: a range of fewer would share lines with another."""


@dataclass(frozen=True)
class Pairing:
    """How the lines that some rows read are paired, and which pairs a row reads.

    Attributes:
        lines: For each pair, the distances of its two lines from that of the first tap, in depth,
            height and width.
        rows: For each row, the pairs that it reads, as many as any row does.
        phases: For each row, the number of its weights.
        weights: For each phase, which line of the window meets each half of each pair; -1 for
            none.
    """

    lines: tuple[tuple[tuple[int, ...], ...], ...]
    rows: tuple[tuple[int, ...], ...]
    phases: tuple[int, ...]
    weights: tuple[tuple[tuple[int, int], ...], ...]


def paired(
    rows: int, window: Sequence[int], strides: Sequence[int], dilation: Sequence[int]
) -> Pairing:
    """Pairs the lines that adjacent rows of the result read.

    Args:
        rows: Number of the rows.
        window: Depth and height of the window.
        strides: Step in height from one row to the next, behind the one in depth.
        dilation: Distance between taps in depth and height.
    """
    taps = [
        [
            (z * dilation[0], row * strides[1] + y * dilation[1])
            for z, y in product(*map(range, window))
        ]
        for row in range(rows)
    ]
    # Lines of one remainder stand together: a row reads those that follow one another in it.
    lines = sorted(
        {line for row in taps for line in row},
        key=lambda line: (line[0], line[1] % dilation[1], line[1]),
    )
    place = {line: index for index, line in enumerate(lines)}
    needed = [sorted({place[line] // 2 for line in row}) for row in taps]
    most = max(map(len, needed))
    used = [tuple(pairs + [pairs[0]] * (most - len(pairs))) for pairs in needed]
    phases: dict[tuple[tuple[int, int], ...], int] = {}
    numbers = []
    for row, pairs in zip(taps, needed, strict=True):
        tap = {place[line]: index for index, line in enumerate(row)}
        meets = [(tap.get(2 * pair, -1), tap.get(2 * pair + 1, -1)) for pair in pairs]
        meets += [(-1, -1)] * (most - len(pairs))
        numbers.append(phases.setdefault(tuple(meets), len(phases)))
    whole = [(*line, 0) for line in lines]
    whole += whole[-1:] * (len(whole) % 2)
    return Pairing(
        tuple(zip(whole[::2], whole[1::2], strict=True)), tuple(used), tuple(numbers), tuple(phases)
    )


def depthwise(
    op: Conv, node: Node, epilogue: MatchedEpilogue, target: InstructionSet
) -> Match | str:
    """Matches a convolution in which each channel of the result reads one channel.

    Args:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
        target: The instruction set.
    """
    x, kernel, *bias = node.inputs
    if reason := unfit(x, kernel, bias):
        return reason
    inputs = (x,) if epilogue.residual is None else (x, epilogue.residual)
    code, weight_code = x.type.quant, kernel.type.quant
    assert code is not None
    assert weight_code is not None
    *window, _, columns = kernel.type.known_shape
    weights = kernel.array.astype(np.int32) - weight_code.zero_points
    tables = {
        "bias": folded_bias(weights.reshape(-1, columns), int(code.zero_points), bias),
        **{name: np.broadcast_to(array, columns) for name, array in epilogue.tables.items()},
    }
    result = (node, *epilogue.nodes)[-1].output
    window = [1] * (len(AXES) - len(window)) + window
    blocks = -(-columns // CHANNELS)
    # The last block overlaps the one before, so that no vector passes the end of a tensor.
    starts = [max(min(CHANNELS * block, columns - CHANNELS), 0) for block in range(blocks)]
    order = np.minimum(np.add.outer(starts, np.arange(CHANNELS)), columns - 1)
    multiplier = columns // op.groups
    narrow = columns < CHANNELS
    gathered = narrow or multiplier > 1

    def write(region: Region) -> None:
        batch = region.shape(x)[0]
        spatial = spatial_parameters(op, region.shape(x), region.shape(node.output), window)
        strides, dilation = (
            [spatial[f"{name}_{axis}"] for axis in AXES] for name in ("stride", "dilation")
        )
        places = [spatial[f"places_{axis}"] for axis in AXES]
        along = prod(window[:2]) == 1
        taps = -(-window[2] // 2) if along else window[2]
        step = dilation[2] * (2 if along else 1)
        tasks = _tasks(batch * prod(places) * kernel.array.size, region.plan.threads)

        def pairing(rows: int) -> Pairing:
            if along:
                lines = tuple(
                    tuple((0, row * strides[1], at) for at in (0, dilation[2]))
                    for row in range(rows)
                )
                alone = tuple((row,) for row in range(rows))
                return Pairing(lines, alone, (0,) * rows, (((0, 0),),))
            return paired(rows, window[:2], strides[:2], dilation[:2])

        def span(width: int) -> int:
            return (width - 1) * strides[2] + (taps - 1) * step + 1

        # Ranges of channels read no line twice; rows are divided where there are too few of them.
        finest = max(blocks // RANGE_BLOCKS, 1)
        most = max(-(-batch * prod(places[:2]) * finest // tasks), 2)
        most = min(most, places[1])
        together = _together(places[2])
        rows, width = _block(
            places,
            together,
            {rows: len(pairing(rows).lines) for rows in range(1, most + 1)},
            span,
        )
        groups = -(-places[1] // rows)
        found = pairing(rows)
        lines = len(found.lines)
        pieces = batch * places[0] * groups
        ranges = min(-(-tasks // pieces), finest)
        range_blocks = -(-blocks // ranges)
        ranges = -(-blocks // range_blocks)

        matrices = _phases(weights.reshape(prod(window[:2]), window[2], columns), found, along)
        phases, pairs = matrices.shape[:2]
        packed = matrices[..., order]  # [phase, pair, tap, line, block, channel]
        packed = np.ascontiguousarray(packed.transpose(4, 0, 1, 2, 5, 3).astype(np.int16))
        phase_bytes = pairs * taps * PAIR_BYTES
        line_bytes = span(width) * PAIR_BYTES
        table = [
            [phase * phase_bytes, *(pair * line_bytes for pair in used)]
            for phase, used in zip(found.phases, found.rows, strict=True)
        ]
        written = pairs * taps <= WRITTEN_TAPS
        parameters = {
            **{name: spatial[name] for name in GEOMETRY},
            **epilogue.parameters,
            "fill": int(code.zero_points),
            "pixel": region.shape(x)[-1],
            "group_rows": rows,
            "groups": groups,
            "ranges": ranges,
            "range_blocks": range_blocks,
            "blocks": blocks,
            "columns": columns,
            "pieces": -(-places[2] // width),
            "out_pixel": region.pitch(result),
            "block_width": width,
            "span": span(width),
            "lines": lines,
            "block_bytes": phases * phase_bytes,
            "pairs": pairs,
            "taps": taps,
            "step": step,
        }
        tensors = {
            "x": region.read(x),
            "weights": region.constant(packed),
            "lines": region.constant(np.asarray(found.lines, np.int64)),
            "rows": region.constant(np.asarray(table, np.int64)),
            **{name: region.constant(array[order]) for name, array in tables.items()},
            "out": region.write(result),
        }
        if gathered:
            tensors["sources"] = region.constant((order // multiplier).astype(np.int64))
        if epilogue.residual is not None:
            tensors["residual"] = region.read(epilogue.residual)
        region.plan.step(
            result.name,
            DepthwiseKernel(
                FixedWindow(pairs, taps, strides[2], step) if written else None,
                together,
                code.storage is DType.U8,
                gathered,
                narrow,
                epilogue.code,
            ),
            parameters,
            tensors,
            tasks=pieces * ranges,
            scratch=lines * (line_bytes + 2 * LINE_BYTES),
        )

    return Match((node, *epilogue.nodes), inputs, write, rows_apart=True)


def _tasks(products: int, threads: int) -> int:
    """Returns how many tasks are wanted: as many for each thread, where there is more than one."""
    if threads == 1 or products < DIVIDED_PRODUCTS:
        return 1
    return min(-(-products // TASK_PRODUCTS // threads), 8) * threads


def _together(width: int) -> int:
    """Returns how many places of a row are best summed together.

    Other numbers than the usual one must be worth code of their own.
    """

    def cost(count: int) -> tuple[float, int]:
        summed = -(-width // count) * count
        return summed * (1 if count == TOGETHER else 1.1), abs(count - TOGETHER)

    return min(range(min(width, 4), min(width, TOGETHER + 1) + 1), key=cost)


def _block(
    places: Sequence[int], together: int, lines: Mapping[int, int], span: Callable[[int], int]
) -> tuple[int, int]:
    """Returns how many rows, and how many places of each, are best summed after one copy.

    Args:
        places: Sizes of the result.
        together: Places that are summed together.
        lines: Pairs of lines that so many rows read, for each number of rows.
        span: Pixels of a line that so many places read.
    """
    _, height, width = places
    blocks = {
        (-(-height // -(-height // rows)), min(-(-width // pieces // together) * together, width))
        for rows in lines
        for pieces in range(1, -(-width // together) + 1)
    }

    def cost(block: tuple[int, int]) -> tuple[bool, int]:
        rows, width = block
        pieces = -(-places[2] // width)
        pixels = lines[rows] * span(width)
        copied = -(-height // rows) * pieces * pixels
        summed = height * pieces * -(-width // together) * together
        return pixels * PAIR_BYTES > CACHED_BYTES, COPY_COST * copied + SUM_COST * summed

    return min(sorted(blocks, reverse=True), key=cost)


def _phases(weights: Array, pairing: Pairing, along: bool) -> Array:
    """Returns weights [line, tap, column] as [phase, pair, tap, half, column]."""
    _, taps, columns = weights.shape
    if along:
        whole = np.zeros((taps + taps % 2, columns), weights.dtype)
        whole[:taps] = weights[0]
        alone: Array = whole.reshape(1, 1, -1, 2, columns)
        return alone
    known = np.concatenate([weights, np.zeros_like(weights[:1])])
    met: Array = known[np.asarray(pairing.weights)].transpose(0, 1, 3, 2, 4)
    return met
