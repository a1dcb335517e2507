"""Branches: one of several regions runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from qir.ops.op import op
from qir.ops.regions import Body, Passage, RegionOp, Signature
from qir.ops.traits import ONE_OR_MORE
from qir.types import TensorType


@op("cond")
class Cond(RegionOp):
    """Runs the region that an index names, as `jax.lax.switch` does.

    The first operand is the index, an integer; one outside of the regions means the nearest one.
    Every region takes all other operands; the results are what the region returns.
    """

    region_count: ClassVar[int] = ONE_OR_MORE

    def passages(self, operands: int, results: int, regions: int) -> tuple[Passage, ...]:
        every = range(regions)
        return (
            Passage("invariant", 0),
            *(
                Passage("invariant", place, tuple((region, place - 1) for region in every))
                for place in range(1, operands)
            ),
            *(
                Passage("invariant", None, (), tuple((region, place) for region in every), place)
                for place in range(results)
            ),
        )

    def resized(self, carries: int, stacked: int, trips: int | None) -> Cond | None:
        return None if carries or stacked else self

    def run(
        self, bodies: Sequence[Body], operands: Sequence[Any], results: Sequence[tuple[int, ...]]
    ) -> list[Any]:
        index, *others = operands
        chosen = min(max(int(index), 0), len(bodies) - 1)
        return list(bodies[chosen](*others))

    def region_result(
        self, operands: Sequence[TensorType], regions: Sequence[Signature]
    ) -> tuple[TensorType, ...]:
        index = operands[0] if operands else None
        if index is None or index.shape or index.quant is not None or not index.dtype.is_integer:
            raise self.error(
                f"expected its first operand to be an index, such as i32[], got {index or 'none'}"
            )
        counts = {len(returned) for _, returned in regions}
        if len(counts) != 1:
            raise self.error(
                "expected its regions to return equally many values, got "
                + ", ".join(str(len(returned)) for _, returned in regions)
            )
        return super().region_result(operands, regions)
