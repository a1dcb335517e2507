"""The code of pools.

For each row of the result, a task combines the rows under its windows to one line in scratch,
whatever pixels and channels they have; then it combines the pixels of each window along the line,
and stores. So a window costs the sum of its sides rather than their product where windows overlap,
and all but the ends are whole vectors. Taps outside the tensor are left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from qir.backends.cpu.emitter import I8, LlvmEmitter, LlvmValue, vector
from qir.backends.cpu.kernel import KernelBody, KernelCode, kernel_code
from qir.backends.cpu.kernels.reduce import LANES, Combiner, Finish, along
from qir.backends.native.kernels.pool import PoolKernel
from qir.backends.native.kernels.reduce import bound_parameters, stored_size


@kernel_code(PoolKernel)
class PoolCode(KernelCode, PoolKernel):
    """The code of `PoolKernel`."""

    def write(self, e: KernelBody) -> None:
        """Writes the body: each row of the task, first its line, then its pixels."""
        build = e.build
        given = {name: e.parameter(name) for name in self.parameters}
        block, ranges = given["block_rows"], given["ranges"]
        channels = given["channels"]
        begin = build.mul(build.srem(e.task, ranges), given["range_channels"])
        length = e.smallest(build.sub(channels, begin), given["range_channels"])
        bytes_height = build.mul(given["size_width"], channels)
        bytes_depth = build.mul(given["size_height"], bytes_height)
        image_bytes = build.mul(given["size_depth"], bytes_depth)
        x, out = e.at(e.tensor("x"), begin), e.at(e.tensor("out"), self._place(e, begin))
        first = build.mul(build.sdiv(e.task, ranges), block)
        stop = e.smallest(build.add(first, block), given["rows"])
        with e.loop(stop, start=first) as row:
            left = build.sdiv(row.index, given["places_height"])
            image = build.sdiv(left, given["places_depth"])
            depth = _span(e, given, "depth", build.srem(left, given["places_depth"]))
            height = _span(e, given, "height", build.srem(row.index, given["places_height"]))
            corner = e.at(
                x,
                build.add(
                    build.mul(image, image_bytes),
                    build.add(build.mul(depth[0], bytes_depth), build.mul(height[0], bytes_height)),
                ),
            )
            taps = build.sub(depth[1], depth[0]), build.sub(height[1], height[0])
            self._combine_rows(
                e, corner, taps, (bytes_depth, bytes_height), build.mul(given["size_width"], length)
            )
            pixels = build.mul(row.index, given["places_width"])
            self._combine_pixels(
                e, given, build.mul(*taps), length, e.at(out, build.mul(pixels, given["out_pixel"]))
            )

    def _combine_rows(
        self,
        e: KernelBody,
        corner: LlvmValue,
        taps: tuple[LlvmValue, LlvmValue],
        pitch: tuple[LlvmValue, LlvmValue],
        length: LlvmValue,
    ) -> None:
        """Combines the rows of a box of taps into the line in scratch."""
        way = Combiner(self.combination)

        def put(at: LlvmValue, lanes: int) -> None:
            pointer = e.at(corner, at)
            with e.loop(taps[0], carried=[pointer, way.neutral(lanes)]) as depth:
                with e.loop(taps[1], carried=depth.values) as height:
                    place, total = height.values
                    value = way.load(e, place, lanes)
                    height.carry(e.at(place, pitch[1]), way.join(e, total, value))
                depth.carry(e.at(depth.values[0], pitch[0]), height.values[1])
            self._store_line(e, at, depth.values[1])

        def by_one() -> None:
            with e.loop(length) as loop:
                put(loop.index, 1)

        along(e, length, way.widths, put, by_one)

    def _combine_pixels(
        self,
        e: KernelBody,
        given: Mapping[str, LlvmValue],
        rows: LlvmValue,
        length: LlvmValue,
        out: LlvmValue,
    ) -> None:
        """Combines the pixels of each window along the line, and stores them.

        Args:
            e: Where to write.
            given: The parameters.
            rows: How many rows the line was combined of.
            length: Channels in each pixel of the line.
            out: Where the first pixel goes.
        """
        build, way = e.build, Combiner(self.combination)
        terms = e.tensor("terms") if way.how == "sum" else None
        with e.loop(given["places_width"], carried=[out]) as place:
            start, stop = _span(e, given, "width", place.index)
            (pixel,) = place.values
            corner = build.mul(start, length)
            taps = build.sub(stop, start)
            finish = None
            if terms is not None:
                row = e.at(terms, build.mul(build.mul(rows, taps), given["term_bytes"]))
                bounds = [given[name] for name in bound_parameters(self.combination, self.to)]
                finish = Finish(e, row, self.to, bounds)

            def total(at: LlvmValue, lanes: int) -> LlvmValue:
                first = build.add(corner, at)
                with e.loop(taps, carried=[first, way.neutral(lanes)]) as tap:
                    index, total = tap.values
                    value = self._load_line(e, index, lanes)
                    tap.carry(build.add(index, length), way.join(e, total, value))
                return tap.values[1] if finish is None else finish.apply(e, tap.values[1])

            def put(at: LlvmValue, lanes: int) -> None:
                e.store(total(at, lanes), pixel, self._place(e, at))

            def staged() -> None:
                space = e.reserve(LANES * stored_size(self.combination, self.to))
                e.store(total(e.number(0), LANES), space)
                with e.loop(self._place(e, length)) as loop:
                    e.store(e.load(I8, space, loop.index), pixel, loop.index)

            along(e, length, (64, LANES) if finish is None else (LANES,), put, staged)
            place.carry(e.at(pixel, given["out_pixel"]))

    def _place(self, e: LlvmEmitter, index: LlvmValue) -> LlvmValue:
        """Returns the bytes before a number of the result."""
        return e.build.mul(index, e.number(stored_size(self.combination, self.to)))

    def _load_line(self, e: KernelBody, index: LlvmValue, lanes: int) -> LlvmValue:
        return e.load(
            vector(Combiner(self.combination).element, lanes), e.scratch, self._offset(e, index)
        )

    def _store_line(self, e: KernelBody, index: LlvmValue, value: LlvmValue) -> None:
        e.store(value, e.scratch, self._offset(e, index))

    def _offset(self, e: LlvmEmitter, index: LlvmValue) -> LlvmValue:
        return e.build.mul(index, e.number(self.combination.bits // 8))


def _span(
    e: LlvmEmitter, given: Mapping[str, LlvmValue], axis: str, place: LlvmValue
) -> tuple[LlvmValue, LlvmValue]:
    """Returns the first tap of a window inside the tensor, and what follows the last."""
    build = e.build
    corner = build.sub(build.mul(place, given[f"stride_{axis}"]), given[f"before_{axis}"])
    end = build.add(corner, given[f"window_{axis}"])
    return e.greatest(corner, e.number(0)), e.smallest(end, given[f"size_{axis}"])
