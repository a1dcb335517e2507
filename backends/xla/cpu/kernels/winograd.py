"""Convolutions with windows of 3 x 3 in 2.25 times fewer products, exactly.

F(2x2, 3x3) of Lavin and Gray, Fast Algorithms for Convolutional Neural Networks, 2015, in integers.
A patch of 4 x 4 pixels gives 2 x 2 places: both the patch and the weights are transformed, the 16
numbers of each are multiplied and summed over the channels, and the sums are transformed back. The
patch's transform has factors of 1 and -1; that of the weights has halves, so twice of it is taken
in each direction, and the sums come out four times too large. They may wrap on the way: whoever
gives the weights sees to it that four times a sum fits in 32 bits.

Only instruction sets whose dot instruction reads 16-bit numbers can hold what is transformed. The
window may have a third dimension, depth, which is summed like channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from qir.backends.xla.cpu.emitter import (
    I8,
    I16,
    I32,
    I64,
    Value,
    constant,
    vector,
)
from qir.backends.xla.cpu.epilogue import Epilogue
from qir.backends.xla.cpu.kernel import Body, Kernel, SharedFunction
from qir.backends.xla.cpu.kernels.tiles import TileSums, each_tile

POSITIONS = 16
"""Numbers of a transformed patch."""
CHANNELS = 16
"""Channels that are transformed at once."""
PLACE_BYTES = 8 * 4
"""Of the places of a patch in scratch."""

_SIZES = (
    "slab_patches",
    "blocks",
    "block_patches",
    "ranges",
    "range_panels",
    "panels",
    "columns",
    "patches_height",
    "patches_width",
    "places_depth",
    "places_height",
    "places_width",
    "size_depth",
    "size_height",
    "size_width",
    "window_depth",
    "stride_depth",
    "dilation_depth",
    "before_depth",
    "before_height",
    "before_width",
    "bytes_depth",
    "bytes_height",
    "images_bytes",
    "pixel",
    "tap_groups",
    "row_bytes",
    "position_bytes",
    "out_pixel",
    "zero_point",
)

SUMS = TileSums(weight_bytes=2)


@dataclass(frozen=True)
class Winograd(Kernel):
    """A convolution with windows of 3 x 3 and steps of 1.

    Attributes:
        unsigned: Whether x is unsigned bytes.
        epilogue: What becomes of the sums.
    """

    unsigned: bool
    epilogue: Epilogue

    @property
    def saving(self) -> float:
        """How many times fewer multiplications it needs than the op is defined by."""
        return 4 * 9 / POSITIONS

    @property
    def words(self) -> tuple[str, ...]:
        """Names of the integers that a step gives it.

        slab_patches: patches of a slab: of a plane where the window has depth, otherwise all.
        blocks, block_patches: blocks of a slab, each the patches of a task. ranges, range_panels:
        ranges of panels, and panels of each. columns: at least as many as a panel has; the last
        panel may overlap the one before. patches: in a plane. bytes: from one to the next.
        tap_groups: groups of activations for one tap in depth. row_bytes: of one number of a patch
        in scratch. position_bytes: of one number of all patches. pixel, out_pixel: channels of x,
        at least 16, and bytes from one place of the result to the next.
        """
        return (*_SIZES, *self.epilogue.words)

    @property
    def tensors(self) -> tuple[str, ...]:
        """Names of the tensors; `fill` holds a pixel of the zero point."""
        residual = ("residual",) if self.epilogue.residual else ()
        return ("x", "fill", "weights", *self.epilogue.tables, "out", *residual)

    @property
    def shared(self) -> tuple[SharedFunction, ...]:
        """The sums of tiles."""
        return (SUMS,)

    def write(self, e: Body) -> None:
        """Transforms the patches of a task, then sums and finishes panel after panel."""
        _Writer(self, e).write()


def row_stride(target_columns: int) -> int:
    """Returns the bytes of a patch's sums in scratch, which should not displace each other."""
    return POSITIONS * 4 * target_columns + 64


class _Writer:
    """Writes the body of the kernel.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: Winograd, e: Body) -> None:
        self.kernel = kernel
        self.e = e
        self.word = {name: e.word(name) for name in kernel.words}
        self.panel_width = e.target.columns
        self.sums_bytes = row_stride(self.panel_width)
        build = e.build
        self.sums = e.at(e.scratch, build.mul(self.word["position_bytes"], e.number(POSITIONS)))
        self.places = e.at(
            self.sums, build.mul(self.word["block_patches"], e.number(self.sums_bytes))
        )

    def write(self) -> None:
        """Writes it."""
        e, build, word = self.e, self.e.build, self.word
        ranges, block_patches = word["ranges"], word["block_patches"]
        part, block = build.srem(e.task, ranges), build.sdiv(e.task, ranges)
        slab, block = build.sdiv(block, word["blocks"]), build.srem(block, word["blocks"])
        offset = build.mul(block, block_patches)
        count = e.smallest(build.sub(word["slab_patches"], offset), block_patches)
        first = build.add(build.mul(slab, word["slab_patches"]), offset)

        taps, start = self._transform(first, count)
        begin = build.mul(part, word["range_panels"])
        end = e.smallest(build.add(begin, word["range_panels"]), word["panels"])
        with e.loop(end, start=begin) as panel:
            self._sum(panel.index, count, taps, start)
            self._finish(panel.index, count)

    def _transform(self, first: Value, count: Value) -> tuple[Value, Value]:
        """Transforms patches into scratch: [position, patch, tap in depth, channel].

        Returns:
            How many taps in depth lie in x, and the first of them.
        """
        e, build, word, number = self.e, self.e.build, self.word, self.e.number
        left, at = first, []
        for name in ("patches_width", "patches_height", "places_depth"):
            at.append(build.srem(left, word[name]))
            left = build.sdiv(left, word[name])
        column, row, z = at
        corner = build.sub(build.mul(z, word["stride_depth"]), word["before_depth"])
        dilation = word["dilation_depth"]

        def taps_below(depth: Value) -> Value:
            rounded = build.sdiv(
                build.sub(build.add(depth, dilation), build.add(corner, number(1))), dilation
            )
            return e.greatest(e.smallest(rounded, word["window_depth"]), number(0))

        start, stop = taps_below(number(0)), taps_below(word["size_depth"])
        tap_bytes = build.mul(word["tap_groups"], number(4))
        zero = e.splat(build.trunc(build.mul(word["zero_point"], number(4)), I16), CHANNELS)
        with e.loop(count, carried=[left, row, column, e.scratch, self.places]) as patch:
            image, row, column, place, places = patch.values
            top, left_edge = build.shl(row, number(1)), build.shl(column, number(1))
            self._number_places(image, z, top, left_edge, places)
            y, x = build.sub(top, word["before_height"]), build.sub(left_edge, word["before_width"])
            rows, columns = (
                [build.add(corner_, number(index)) for index in range(4)] for corner_ in (y, x)
            )
            inside = [
                [build.icmp_unsigned("<", each, word[name]) for each in lines]
                for lines, name in ((rows, "size_height"), (columns, "size_width"))
            ]
            source = e.at(e.tensor("x"), build.mul(image, word["images_bytes"]))
            depth = build.add(corner, build.mul(start, dilation))
            source = e.at(source, build.mul(depth, word["bytes_depth"]))
            further = build.mul(dilation, word["bytes_depth"])
            with e.loop(stop, start=start, carried=[source, place]) as tap:
                plane, place_d = tap.values
                pixels = []
                for line, inside_y in zip(rows, inside[0], strict=True):
                    begin = e.at(plane, build.mul(line, word["bytes_height"]))
                    for pixel, inside_x in zip(columns, inside[1], strict=True):
                        known = e.at(begin, build.mul(pixel, word["pixel"]))
                        within = build.and_(inside_y, inside_x)
                        pixels.append(build.select(within, known, e.tensor("fill")))
                self._transform_channels(pixels, place_d, zero)
                tap.carry(e.at(plane, further), e.at(place_d, tap_bytes))
            column = build.add(column, number(1))
            over = build.icmp_signed("==", column, word["patches_width"])
            column = build.select(over, number(0), column)
            row = build.add(row, build.zext(over, I64))
            over = build.icmp_signed("==", row, word["patches_height"])
            row = build.select(over, number(0), row)
            patch.carry(
                build.add(image, build.zext(over, I64)),
                row,
                column,
                e.at(place, word["row_bytes"]),
                e.at(places, PLACE_BYTES),
            )
        return e.greatest(build.sub(stop, start), number(0)), start

    def _number_places(
        self, image: Value, z: Value, top: Value, left: Value, places: Value
    ) -> None:
        """Notes the four places of a patch; instead of one outside the first is named again."""
        e, build, word = self.e, self.e.build, self.word
        line = build.add(build.mul(image, word["places_depth"]), z)
        line = build.add(build.mul(line, word["places_height"]), top)
        first = build.add(build.mul(line, word["places_width"]), left)
        below, right = (
            build.icmp_signed("<", build.add(edge, e.number(1)), word[name])
            for edge, name in ((top, "places_height"), (left, "places_width"))
        )
        under = build.add(first, word["places_width"])
        numbers = (
            first,
            build.select(right, build.add(first, e.number(1)), first),
            build.select(below, under, first),
            build.select(build.and_(below, right), build.add(under, e.number(1)), first),
        )
        for index, place in enumerate(numbers):
            e.store(place, places, 8 * index, align=8)

    def _transform_channels(self, pixels: Sequence[Value], place: Value, zero: Value) -> None:
        e, build, word, number = self.e, self.e.build, self.word, self.e.number
        widen = build.zext if self.kernel.unsigned else build.sext
        pixel = word["pixel"]
        last = build.sub(pixel, number(CHANNELS))

        def combined(x: Sequence[Value]) -> list[Value]:
            return [
                build.sub(x[0], x[2]),
                build.add(x[1], x[2]),
                build.sub(x[2], x[1]),
                build.sub(x[1], x[3]),
            ]

        with e.loop(pixel, step=CHANNELS) as loop:
            channel = e.smallest(loop.index, last)
            columns = []
            for column in range(4):
                lines = (
                    e.load(vector(I8, CHANNELS), pixels[4 * line + column], channel)
                    for line in range(4)
                )
                columns.append(combined([widen(x, vector(I16, CHANNELS)) for x in lines]))
            at = e.at(place, build.mul(channel, number(2)))
            for line in range(4):
                for index, value in enumerate(combined([column[line] for column in columns])):
                    # A pixel of the zero point everywhere becomes four of it here, 0 elsewhere.
                    centred = build.sub(value, zero) if line == index == 1 else value
                    e.store(centred, at)
                    at = e.at(at, word["position_bytes"])

    def _sum(self, panel: Value, count: Value, taps: Value, start: Value) -> None:
        """Sums the products of all positions of a panel into scratch."""
        e, build, word, number = self.e, self.e.build, self.word, self.e.number
        group_bytes = number(4 * self.panel_width)
        tap_bytes = build.mul(word["tap_groups"], group_bytes)
        position = build.mul(tap_bytes, word["window_depth"])
        weights = e.at(
            e.tensor("weights"), build.mul(build.mul(panel, number(POSITIONS)), position)
        )
        weights = e.at(weights, build.mul(start, tap_bytes))
        groups = build.mul(taps, word["tap_groups"])
        with e.loop(POSITIONS, carried=[e.scratch, self.sums, weights]) as loop:
            rows, sums, pointer = loop.values
            with each_tile(
                e,
                e.target.rows,
                count,
                [rows, sums],
                [word["row_bytes"], number(self.sums_bytes)],
            ) as ((activations, place), height):
                SUMS.call(
                    e,
                    height,
                    activations,
                    word["row_bytes"],
                    pointer,
                    groups,
                    place,
                    number(self.sums_bytes),
                )
            loop.carry(
                e.at(rows, word["position_bytes"]),
                e.at(sums, 4 * self.panel_width),
                e.at(pointer, position),
            )

    def _finish(self, panel: Value, count: Value) -> None:
        """Transforms the sums of a panel back, and stores what the epilogue makes of them."""
        e, build, word, number = self.e, self.e.build, self.word, self.e.number
        epilogue, target = self.kernel.epilogue, self.e.target
        size = 1 if epilogue.stores_bytes else 4
        left = e.smallest(
            build.mul(panel, number(self.panel_width)),
            build.sub(word["columns"], number(self.panel_width)),
        )
        tables = {
            name: e.at(e.tensor(name), build.mul(left, number(4))) for name in epilogue.tables
        }
        out = e.at(e.tensor("out"), build.mul(left, number(size)))
        residual = e.at(e.tensor("residual"), left) if epilogue.residual else None
        with e.loop(count, carried=[self.sums, self.places]) as patch:
            sums, places = patch.values
            numbers = [e.load(I64, places, 8 * index, align=8) for index in range(4)]
            halves = [self._transformed(sums, part) for part in range(target.vectors)]
            stored = [
                epilogue.apply(
                    e,
                    tables,
                    [half[index] for half in halves],
                    None if residual is None else e.at(residual, build.mul(place, word["columns"])),
                )
                for index, place in enumerate(numbers)
            ]
            # The first place comes last: those outside have left their numbers in it.
            for place, parts in reversed(list(zip(numbers, stored, strict=True))):
                pointer = e.at(out, build.mul(place, word["out_pixel"]))
                for index, part in enumerate(parts):
                    e.store(part, pointer, index * (self.panel_width * size // len(parts)))
            patch.carry(e.at(sums, self.sums_bytes), e.at(places, PLACE_BYTES))

    def _transformed(self, sums: Value, part: int) -> list[Value]:
        """Returns the sums of the four places for one vector of columns."""
        e, build, target = self.e, self.e.build, self.e.target

        def combined(x: Sequence[Value]) -> tuple[Value, Value]:
            return (
                build.add(build.add(x[0], x[1]), x[2]),
                build.sub(build.sub(x[1], x[2]), x[3]),
            )

        columns = []
        for column in range(4):
            offsets = (
                4 * self.panel_width * (4 * line + column) + 4 * target.lanes * part
                for line in range(4)
            )
            loaded = [
                e.load(vector(I32, target.lanes), sums, offset, align=32) for offset in offsets
            ]
            columns.append(combined(loaded))
        # Four times the sum is there now.
        places = constant(vector(I32, target.lanes), 2)
        return [
            build.ashr(value, places)
            for line in range(2)
            for value in combined([column[line] for column in columns])
        ]
