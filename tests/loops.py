"""An op with a region: no op of the registry has one yet."""

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

import pytest

from qir.ops.op import OPS, Op
from qir.types import TensorType


@dataclass(frozen=True)
class Loop(Op):
    """Runs its region several times over the values that it carries."""

    name: ClassVar[str] = "loop"
    region_count: ClassVar[int] = 1
    times: int

    def region_result(
        self,
        operands: Sequence[TensorType],
        regions: Sequence[tuple[tuple[TensorType, ...], tuple[TensorType, ...]]],
    ) -> tuple[TensorType, ...]:
        ((inputs, outputs),) = regions
        if not tuple(operands) == inputs == outputs:
            raise self.error("expected a region that carries the operands' types")
        return outputs


@contextmanager
def loops() -> Generator[None]:
    """Lets texts use `loop`; outside, tests that walk the registry don't meet it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPS, "loop", Loop)
        yield
