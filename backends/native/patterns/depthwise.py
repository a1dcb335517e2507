"""Convolutions of each channel alone, with what follows as in `dense`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import prod

import numpy as np

from qir.backends.native.kernels.dense import AXES
from qir.backends.native.kernels.depthwise import (
    CHANNELS,
    GEOMETRY,
    LINE_BYTES,
    PAIR_BYTES,
    DepthwiseKernel,
    FixedWindow,
)
from qir.backends.native.pattern import Match, Placement
from qir.backends.native.patterns.dense import folded_bias, spatial_parameters, unfit
from qir.backends.native.patterns.epilogue import MatchedEpilogue
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

    def table(self, phase_bytes: int, line_bytes: int) -> Array:
        """Returns for each row where its weights lie, and the pairs that it reads, as int64.

        Args:
            phase_bytes: Bytes of the weights of a phase.
            line_bytes: Bytes of a pair of lines.
        """
        rows = zip(self.phases, self.rows, strict=True)
        return np.array(
            [[phase * phase_bytes, *(pair * line_bytes for pair in used)] for phase, used in rows],
            np.int64,
        )


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


@dataclass(frozen=True)
class DepthwiseGeometry:
    """The lines that rows of the result read, and the taps along them.

    Attributes:
        window: Depth, height and width of the window.
        strides: Steps from one place of the result to the next.
        dilation: Distances between taps.
    """

    window: tuple[int, ...]
    strides: tuple[int, ...]
    dilation: tuple[int, ...]

    @staticmethod
    def of(window: tuple[int, ...], spatial: Mapping[str, int]) -> DepthwiseGeometry:
        """Returns the geometry of a window with what `spatial_parameters` found of it."""
        strides, dilation = (
            tuple(spatial[f"{name}_{axis}"] for axis in AXES) for name in ("stride", "dilation")
        )
        return DepthwiseGeometry(window, strides, dilation)

    @property
    def along(self) -> bool:
        """Whether the window is one line, whose pixels are paired in place of lines."""
        return prod(self.window[:2]) == 1

    @property
    def taps(self) -> int:
        """Places of the window along the width, of which a pair of pixels is one."""
        return -(-self.window[2] // 2) if self.along else self.window[2]

    @property
    def step(self) -> int:
        """Pixels between two taps."""
        return self.dilation[2] * (2 if self.along else 1)

    def span(self, width: int) -> int:
        """Returns how many pixels of a line so many places of a row read."""
        return (width - 1) * self.strides[2] + (self.taps - 1) * self.step + 1

    def pairing(self, rows: int) -> Pairing:
        """Pairs the lines that so many rows read."""
        if not self.along:
            return paired(rows, self.window[:2], self.strides[:2], self.dilation[:2])
        lines = tuple(
            tuple((0, row * self.strides[1], at) for at in (0, self.dilation[2]))
            for row in range(rows)
        )
        alone = tuple((row,) for row in range(rows))
        return Pairing(lines, alone, (0,) * rows, (((0, 0),),))


@dataclass(frozen=True)
class Division:
    """How the result is divided among tasks.

    Attributes:
        pairing: The lines that the rows of a task read.
        together: Places of a row that are summed together.
        width: Places of a row that are summed after one copy.
        groups: Tasks of a plane along the height.
        ranges: Ranges of blocks of channels.
        range_blocks: Blocks of each.
    """

    pairing: Pairing
    together: int
    width: int
    groups: int
    ranges: int
    range_blocks: int


def divided(
    geometry: DepthwiseGeometry, places: Sequence[int], planes: int, blocks: int, tasks: int
) -> Division:
    """Divides a result.

    Ranges of channels read no line twice; rows are divided where there are too few of them.

    Args:
        geometry: What the rows read.
        places: Depth, height and width of the result.
        planes: Planes of all images.
        blocks: Blocks of channels.
        tasks: How many tasks are wanted.
    """
    finest = max(blocks // RANGE_BLOCKS, 1)
    most = max(-(-planes * places[1] * finest // tasks), 2)
    most = min(most, places[1])
    together = _together(places[2])
    lines = {rows: len(geometry.pairing(rows).lines) for rows in range(1, most + 1)}
    rows, width = _block(places, together, lines, geometry.span)
    groups = -(-places[1] // rows)
    ranges = min(-(-tasks // (planes * groups)), finest)
    range_blocks = -(-blocks // ranges)
    return Division(
        geometry.pairing(rows), together, width, groups, -(-blocks // range_blocks), range_blocks
    )


@dataclass(frozen=True, eq=False)
class DepthwiseWriter:
    """Writes the step of a convolution in which each channel of the result reads one channel.

    Attributes:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
    """

    op: Conv
    node: Node
    epilogue: MatchedEpilogue

    @property
    def window(self) -> tuple[int, ...]:
        """Depth, height and width of the window."""
        window = self.node.inputs[1].type.known_shape[:-2]
        return (*[1] * (len(AXES) - len(window)), *window)

    @property
    def columns(self) -> int:
        """Channels of the result."""
        return self.node.inputs[1].type.known_shape[-1]

    @property
    def multiplier(self) -> int:
        """Channels of the result that read the same channel."""
        return self.columns // self.op.groups

    @property
    def narrow(self) -> bool:
        """Whether there are fewer columns than a block has."""
        return self.columns < CHANNELS

    @property
    def gathered(self) -> bool:
        """Whether a table says which channel each column reads."""
        return self.narrow or self.multiplier > 1

    def order(self) -> Array:
        """Returns the columns of each block [block, channel].

        The last block overlaps the one before, so that no vector passes the end of a tensor.
        """
        starts = np.arange(-(-self.columns // CHANNELS)) * CHANNELS
        starts = np.maximum(np.minimum(starts, self.columns - CHANNELS), 0)
        found: Array = np.minimum(np.add.outer(starts, np.arange(CHANNELS)), self.columns - 1)
        return found

    def packed(self, weights: Array, pairing: Pairing, geometry: DepthwiseGeometry) -> Array:
        """Returns weights as the kernel reads them: [block, phase, pair, tap, channel, line].

        Args:
            weights: Centred weights [tap, columns].
            pairing: The lines that the rows of a task read.
            geometry: The taps along them.
        """
        taps = weights.reshape(prod(self.window[:2]), self.window[2], self.columns)
        matrices = _phases(taps, pairing, geometry.along)[..., self.order()]
        return np.ascontiguousarray(matrices.transpose(4, 0, 1, 2, 5, 3).astype(np.int16))

    def write(self, placement: Placement) -> None:
        """Adds the step."""
        x, kernel, *bias = self.node.inputs
        code, weight_code = x.type.affine, kernel.type.affine
        columns, order = self.columns, self.order()
        result = self.epilogue.result(self.node)
        spatial = spatial_parameters(
            self.op, placement.shape(x), placement.shape(self.node.output), self.window
        )
        geometry = DepthwiseGeometry.of(self.window, spatial)
        places = [spatial[f"places_{axis}"] for axis in AXES]
        batch = placement.shape(x)[0]
        tasks = _tasks(batch * prod(places) * kernel.array.size, placement.plan.threads)
        division = divided(geometry, places, batch * places[0], len(order), tasks)
        pairing, width = division.pairing, division.width

        weights = (kernel.array.astype(np.int32) - weight_code.zero_points).reshape(-1, columns)
        packed = self.packed(weights, pairing, geometry)
        _, phases, pairs, *_ = packed.shape
        phase_bytes = pairs * geometry.taps * PAIR_BYTES
        line_bytes = geometry.span(width) * PAIR_BYTES
        tables = self.epilogue.columns(folded_bias(weights, int(code.zero_points), bias))
        parameters = {
            **{name: spatial[name] for name in GEOMETRY},
            **self.epilogue.parameters,
            "fill": int(code.zero_points),
            "pixel": placement.shape(x)[-1],
            "group_rows": len(pairing.rows),
            "groups": division.groups,
            "ranges": division.ranges,
            "range_blocks": division.range_blocks,
            "blocks": len(order),
            "columns": columns,
            "pieces": -(-places[2] // width),
            "out_pixel": placement.pitch(result),
            "block_width": width,
            "span": geometry.span(width),
            "lines": len(pairing.lines),
            "block_bytes": phases * phase_bytes,
            "pairs": pairs,
            "taps": geometry.taps,
            "step": geometry.step,
        }
        tensors = {
            "x": placement.read(x),
            "weights": placement.constant(packed),
            "lines": placement.constant(np.asarray(pairing.lines, np.int64)),
            "rows": placement.constant(pairing.table(phase_bytes, line_bytes)),
            **{name: placement.constant(table[order]) for name, table in tables.items()},
            "out": placement.write(result),
        }
        if self.gathered:
            tensors["sources"] = placement.constant((order // self.multiplier).astype(np.int64))
        if self.epilogue.residual is not None:
            tensors["residual"] = placement.read(self.epilogue.residual)
        written = FixedWindow(pairs, geometry.taps, geometry.strides[2], geometry.step)
        placement.plan.step(
            result.name,
            DepthwiseKernel(
                written if pairs * geometry.taps <= WRITTEN_TAPS else None,
                division.together,
                code.storage is DType.U8,
                self.gathered,
                self.narrow,
                self.epilogue.code,
            ),
            parameters,
            tensors,
            tasks=batch * places[0] * division.groups * division.ranges,
            scratch=len(pairing.lines) * (line_bytes + 2 * LINE_BYTES),
        )


def depthwise(op: Conv, node: Node, epilogue: MatchedEpilogue) -> Match | str:
    """Matches a convolution in which each channel of the result reads one channel.

    Args:
        op: The convolution.
        node: Its node.
        epilogue: What follows it.
    """
    x, kernel, *bias = node.inputs
    if reason := unfit(x, kernel, bias):
        return reason
    writer = DepthwiseWriter(op, node, epilogue)
    return Match((node, *epilogue.nodes), epilogue.inputs(x), writer.write, rows_apart=True)


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
