"""The code of convolutions by Winograd's transforms.

Patches and weights are transformed, the numbers of each are multiplied and summed over the
channels, and the sums are transformed back. Only instruction sets whose dot instruction reads
16-bit numbers can hold what is transformed.
"""

from __future__ import annotations

from operator import mul

from qir.backends.cpu.emitter import I8, I16, I32, I64, POINTER, LlvmValue, constant, vector
from qir.backends.cpu.epilogue import Finisher
from qir.backends.cpu.kernel import KernelBody, KernelCode, SharedFunction, kernel_code
from qir.backends.cpu.kernels.tiles import TileSums
from qir.backends.cpu.kernels.transforms import multiplied
from qir.backends.native.kernels.transforms import TRANSFORMS
from qir.backends.native.kernels.winograd import (
    CHANNELS,
    CORNER_BYTES,
    DEPTH,
    SIZES,
    WinogradKernel,
    row_stride,
)

SUMS = TileSums(weight_bytes=2)


@kernel_code(WinogradKernel)
class WinogradCode(KernelCode, WinogradKernel):
    """The code of `WinogradKernel`."""

    @property
    def shared(self) -> tuple[SharedFunction, ...]:
        """The sums of tiles."""
        return (SUMS,)

    def write(self, e: KernelBody) -> None:
        """Transforms the patches of a task, then sums and finishes panel after panel."""
        _WinogradBody(self, e).write()


class _WinogradBody:
    """Writes the body of the kernel.

    Args:
        kernel: The kernel.
        e: Its body.
    """

    def __init__(self, kernel: WinogradKernel, e: KernelBody) -> None:
        self.kernel = kernel
        self.transform = TRANSFORMS[kernel.tile]
        self.e = e
        self.given = {name: e.parameter(name) for name in SIZES}
        self.panel_width = e.target.columns
        self.slice_bytes = self.transform.positions * 4 * self.panel_width
        self.sums_bytes = row_stride(kernel.tile, kernel.deep, self.panel_width)
        build, size = e.build, self.transform.size
        self.sums = e.at(
            e.scratch, build.mul(self.given["position_bytes"], e.number(self.transform.positions))
        )
        self.corners = e.at(
            self.sums, build.mul(self.given["block_patches"], e.number(self.sums_bytes))
        )
        self.pixels = e.reserve(8 * size * size)
        self.staged = e.reserve(2 * CHANNELS * size * size)

    def write(self) -> None:
        """Writes it."""
        e, build, given = self.e, self.e.build, self.given
        ranges, block_patches = given["ranges"], given["block_patches"]
        part, block = build.srem(e.task, ranges), build.sdiv(e.task, ranges)
        slab, block = build.sdiv(block, given["blocks"]), build.srem(block, given["blocks"])
        offset = build.mul(block, block_patches)
        count = e.smallest(build.sub(given["slab_patches"], offset), block_patches)
        first = build.add(build.mul(slab, given["slab_patches"]), offset)

        taps, start = self._transform(first, count)
        begin = build.mul(part, given["range_panels"])
        end = e.smallest(build.add(begin, given["range_panels"]), given["panels"])
        with e.loop(end, start=begin) as panel:
            self._sum(panel.index, count, taps, start)
            self._finish(panel.index, count)

    def _transform(self, first: LlvmValue, count: LlvmValue) -> tuple[LlvmValue, LlvmValue]:
        """Transforms patches into scratch: [position, patch, tap or position in depth, channel].

        Returns:
            How many taps in depth lie in x, and the first of them.
        """
        e, build, given, number = self.e, self.e.build, self.given, self.e.number
        left, at = first, []
        for name in ("patches_width", "patches_height", "patches_depth"):
            at.append(build.srem(left, given[name]))
            left = build.sdiv(left, given[name])
        column, row, z = at
        corner = build.sub(build.mul(z, given["stride_depth"]), given["before_depth"])
        start, stop = self._taps(corner)
        dilation = given["dilation_depth"]
        tap_bytes = build.mul(given["tap_groups"], number(4))
        with e.loop(count, carried=[left, row, column, e.scratch, self.corners]) as patch:
            image, row, column, place, corners = patch.values
            top, left_edge = (build.mul(at, number(self.kernel.tile)) for at in (row, column))
            self._note_corner(image, z, top, left_edge, corners)
            y, x = (
                build.sub(top, given["before_height"]),
                build.sub(left_edge, given["before_width"]),
            )
            source = e.at(e.tensor("x"), build.mul(image, given["images_bytes"]))
            depth = build.add(corner, build.mul(start, dilation))
            source = e.at(source, build.mul(depth, given["bytes_depth"]))
            further = build.mul(dilation, given["bytes_depth"])
            with e.loop(stop, start=start, carried=[source, place]) as tap:
                plane, place_d = tap.values
                inside = build.icmp_unsigned(
                    "<", build.add(corner, build.mul(tap.index, dilation)), given["size_depth"]
                )
                self._find_pixels(plane, inside, y, x)
                self._transform_channels(place_d)
                tap.carry(e.at(plane, further), e.at(place_d, tap_bytes))
            if self.kernel.deep:
                self._transform_depth(place, tap_bytes)
            column = build.add(column, number(1))
            over = build.icmp_signed("==", column, given["patches_width"])
            column = build.select(over, number(0), column)
            row = build.add(row, build.zext(over, I64))
            over = build.icmp_signed("==", row, given["patches_height"])
            row = build.select(over, number(0), row)
            patch.carry(
                build.add(image, build.zext(over, I64)),
                row,
                column,
                e.at(place, given["row_bytes"]),
                e.at(corners, CORNER_BYTES),
            )
        return e.greatest(build.sub(stop, start), number(0)), start

    def _taps(self, corner: LlvmValue) -> tuple[LlvmValue, LlvmValue]:
        """Returns the first tap in depth that lies in x, and what follows the last.

        Args:
            corner: Depth of the first tap.
        """
        e, build, given, number = self.e, self.e.build, self.given, self.e.number
        dilation = given["dilation_depth"]

        def taps_below(depth: LlvmValue) -> LlvmValue:
            rounded = build.sdiv(
                build.sub(build.add(depth, dilation), build.add(corner, number(1))), dilation
            )
            return e.greatest(e.smallest(rounded, given["window_depth"]), number(0))

        if self.kernel.deep:
            # Planes of padding are transformed as well.
            return number(0), number(DEPTH.size)
        return taps_below(number(0)), taps_below(given["size_depth"])

    def _note_corner(
        self, image: LlvmValue, z: LlvmValue, top: LlvmValue, left: LlvmValue, corner: LlvmValue
    ) -> None:
        """Notes the first place of a patch, and its places in height, width and depth."""
        e, build, given = self.e, self.e.build, self.given
        most = (self.kernel.tile, self.kernel.tile, 2 if self.kernel.deep else 1)
        if self.kernel.deep:
            z = build.shl(z, e.number(1))
        line = build.add(build.mul(image, given["places_depth"]), z)
        line = build.add(build.mul(line, given["places_height"]), top)
        e.store(build.add(build.mul(line, given["places_width"]), left), corner, align=8)
        for index, (edge, axis) in enumerate(((top, "height"), (left, "width"), (z, "depth"))):
            inside = e.smallest(build.sub(given[f"places_{axis}"], edge), e.number(most[index]))
            e.store(inside, corner, 8 * (1 + index), align=8)

    def _find_pixels(self, plane: LlvmValue, known: LlvmValue, y: LlvmValue, x: LlvmValue) -> None:
        """Notes where each pixel of a plane lies: [column, row]; outside it is the fill."""
        e, build, given, size = self.e, self.e.build, self.given, self.transform.size
        columns = [build.add(x, e.number(index)) for index in range(size)]
        inside = [build.icmp_unsigned("<", each, given["size_width"]) for each in columns]
        offsets = [build.mul(each, given["pixel"]) for each in columns]
        fill = e.tensor("fill")
        for row in range(size):
            line = build.add(y, e.number(row))
            within = build.and_(build.icmp_unsigned("<", line, given["size_height"]), known)
            begin = e.at(plane, build.mul(line, given["bytes_height"]))
            for column in range(size):
                there = build.and_(within, inside[column])
                pixel = build.select(there, e.at(begin, offsets[column]), fill)
                e.store(pixel, self.pixels, 8 * (column * size + row), align=8)

    def _transform_channels(self, place: LlvmValue) -> None:
        """Transforms the channels of a patch: its columns, then the rows of what comes out."""
        e, build, given, number = self.e, self.e.build, self.given, self.e.number
        size, factors = self.transform.size, self.transform.data
        pixel, wide = given["pixel"], vector(I16, CHANNELS)
        width = 2 * CHANNELS
        with e.loop(pixel, step=CHANNELS) as loop:
            channel = e.smallest(loop.index, build.sub(pixel, number(CHANNELS)))
            with e.loop(size, carried=[self.pixels, self.staged]) as column:
                pixels, staged = column.values
                lines = [
                    e.target.converted(
                        e,
                        e.load(
                            vector(I8, CHANNELS),
                            e.load(POINTER, pixels, 8 * index, align=8),
                            channel,
                        ),
                        self.kernel.unsigned,
                    )
                    for index in range(size)
                ]
                for index, value in enumerate(multiplied(e, factors, lines)):
                    e.store(value, staged, index * size * width, align=width)
                column.carry(e.at(pixels, 8 * size), e.at(staged, width))
            at = e.at(place, build.mul(channel, number(2)))
            with e.loop(size, carried=[self.staged, at]) as row:
                staged, at = row.values
                lines = [e.load(wide, staged, width * each, align=width) for each in range(size)]
                for value in multiplied(e, factors, lines):
                    e.store(value, at)
                    at = e.at(at, given["position_bytes"])
                row.carry(e.at(staged, size * width), at)
            self._centre(e.at(place, build.mul(channel, number(2))))

    def _centre(self, place: LlvmValue) -> None:
        """Subtracts the transform of a plane of the centre from 16 channels of a patch."""
        e, build, given = self.e, self.e.build, self.given
        ones = [1] * self.transform.size
        for matrix in self.transform.data:
            ones = [sum(map(mul, row, ones)) for row in matrix]
        for position, factor in enumerate(a * b for a in ones for b in ones):
            if factor:
                at = e.at(place, build.mul(given["position_bytes"], e.number(position)))
                zero = build.trunc(build.mul(given["centre"], e.number(factor)), I16)
                value = build.sub(e.load(vector(I16, CHANNELS), at), e.splat(zero, CHANNELS))
                e.store(value, at)

    def _transform_depth(self, place: LlvmValue, tap_bytes: LlvmValue) -> None:
        """Transforms the planes of a patch, whose numbers of channels are whole vectors."""
        e, given = self.e, self.given
        wide = vector(I16, CHANNELS)
        with e.loop(self.transform.positions, carried=[place]) as position:
            (at,) = position.values
            with e.loop(tap_bytes, step=2 * CHANNELS) as channel:
                places = [e.at(at, channel.index)]
                for _ in range(DEPTH.size - 1):
                    places.append(e.at(places[-1], tap_bytes))
                planes = multiplied(e, DEPTH.data, [e.load(wide, each) for each in places])
                for each, plane in zip(places, planes, strict=True):
                    e.store(plane, each)
            position.carry(e.at(at, given["position_bytes"]))

    def _sum(self, panel: LlvmValue, count: LlvmValue, taps: LlvmValue, start: LlvmValue) -> None:
        """Sums the products of all positions of a panel into scratch."""
        e, build, given, number = self.e, self.e.build, self.given, self.e.number
        group_bytes = number(4 * self.panel_width)
        tap_bytes = build.mul(given["tap_groups"], group_bytes)
        position = build.mul(tap_bytes, given["window_depth"])
        panel_bytes = build.mul(position, number(self.transform.positions))
        weights = e.at(e.tensor("weights"), build.mul(panel, panel_bytes))
        weights = e.at(weights, build.mul(start, tap_bytes))
        activation_bytes = build.mul(given["tap_groups"], number(4))
        groups, slices = build.mul(taps, given["tap_groups"]), 1
        if self.kernel.deep:
            groups, slices = given["tap_groups"], DEPTH.size
        with e.loop(self.transform.positions, carried=[e.scratch, self.sums, weights]) as loop:
            rows, sums, pointer = loop.values
            with e.loop(slices, carried=[rows, sums, pointer]) as slice_:
                *moving, columns = slice_.values
                steps = [given["row_bytes"], number(self.sums_bytes)]
                SUMS.call(e, count, moving[0], steps[0], columns, groups, moving[1], steps[1])
                slice_.carry(
                    e.at(moving[0], activation_bytes),
                    e.at(moving[1], self.slice_bytes),
                    e.at(columns, tap_bytes),
                )
            loop.carry(
                e.at(rows, given["position_bytes"]),
                e.at(sums, 4 * self.panel_width),
                e.at(pointer, position),
            )

    def _finish(self, panel: LlvmValue, count: LlvmValue) -> None:
        """Transforms the sums of a panel back, and stores what the epilogue makes of them."""
        e, build, given, number = self.e, self.e.build, self.given, self.e.number
        left = e.smallest(
            build.mul(panel, number(self.panel_width)),
            build.sub(given["columns"], number(self.panel_width)),
        )
        epilogue = self.kernel.epilogue
        finisher = Finisher(e, epilogue, self.panel_width, cut=False)
        tables = finisher.tables({name: e.tensor(name) for name in epilogue.tables}, left)
        out = e.at(e.tensor("out"), build.mul(left, number(epilogue.size)))
        residual = e.at(e.tensor("residual"), left) if epilogue.residual else None
        with e.loop(count, carried=[self.sums, self.corners]) as patch:
            sums, corner = patch.values
            if self.kernel.deep:
                self._transform_slices(sums)
            first, *sides = (e.load(I64, corner, 8 * each, align=8) for each in range(4))
            rows, columns, depths = sides
            with e.loop(depths, carried=[sums, first]) as depth:
                plane, corner_place = depth.values
                self._transform_sums(plane)
                with e.loop(rows, carried=[plane, corner_place]) as row:
                    line, start = row.values
                    with e.loop(columns, carried=[line, start]) as column:
                        at, place = column.values
                        totals = [self._vector(at, part) for part in range(e.target.vectors)]
                        added = None
                        if residual is not None:
                            added = e.at(residual, build.mul(place, given["columns"]))
                        stored = finisher.finished(tables, totals, added)
                        finisher.store(stored, e.at(out, build.mul(place, given["out_pixel"])))
                        column.carry(e.at(at, 4 * self.panel_width), build.add(place, number(1)))
                    row.carry(
                        e.at(line, 4 * self.panel_width * self.transform.size),
                        build.add(start, given["places_width"]),
                    )
                depth.carry(
                    e.at(plane, self.slice_bytes),
                    build.add(
                        corner_place, build.mul(given["places_height"], given["places_width"])
                    ),
                )
            patch.carry(e.at(sums, self.sums_bytes), e.at(corner, CORNER_BYTES))

    def _vector(self, pointer: LlvmValue, part: int) -> LlvmValue:
        """Loads one vector of a panel's sums."""
        lanes = self.e.target.lanes
        return self.e.load(vector(I32, lanes), pointer, 4 * lanes * part, align=32)

    def _transform_slices(self, sums: LlvmValue) -> None:
        """Transforms the sums of a patch in place in depth; they stay too large."""
        e = self.e
        width = 4 * e.target.lanes
        with e.loop(self.transform.positions * e.target.vectors, carried=[sums]) as position:
            (at,) = position.values
            slices = [self._vector(e.at(at, each * self.slice_bytes), 0) for each in range(4)]
            for index, value in enumerate(multiplied(e, DEPTH.sums, slices)):
                e.store(value, at, index * self.slice_bytes, align=32)
            position.carry(e.at(at, width))

    def _transform_sums(self, sums: LlvmValue) -> None:
        """Transforms the sums of a patch in place: first its columns, then its first few rows."""
        e, build = self.e, self.e.build
        transform, vectors = self.transform, e.target.vectors
        size, factors = transform.size, transform.sums
        width, panel = 4 * e.target.lanes, 4 * self.panel_width
        with e.loop(size * vectors, carried=[sums]) as column:
            (at,) = column.values
            lines = [self._vector(e.at(at, row * size * panel), 0) for row in range(size)]
            for row, value in enumerate(multiplied(e, factors, lines)):
                e.store(value, at, row * size * panel, align=32)
            column.carry(e.at(at, width))
        inverse = transform.inverse
        type = vector(I32, e.target.lanes)
        in_depth = DEPTH.places[0] if self.kernel.deep else 0
        with e.loop(vectors, carried=[sums]) as part:
            (at,) = part.values
            for row, too_high in enumerate(transform.places):
                line = e.at(at, row * size * panel)
                columns = [self._vector(e.at(line, each * panel), 0) for each in range(size)]
                for index, value in enumerate(multiplied(e, factors, columns)):
                    if inverse != 1:
                        value = build.mul(value, constant(type, inverse))
                    places = constant(type, too_high + transform.places[index] + in_depth)
                    e.store(build.ashr(value, places), line, index * panel, align=32)
            part.carry(e.at(at, width))
