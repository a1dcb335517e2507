"""Programs of one op with regions; others may stand inside of them."""

from __future__ import annotations

from hypothesis import strategies as st

from qir.ops import Cond, Scan, While
from qir.ops.regions import RegionOp
from tests.strategies.base import Case, Draw, cases_of, generator, in_float
from tests.strategies.nested_programs import Nest, Numbers, Setting


@cases_of(Scan, While, Cond)
def regions(draw: Draw, cls: type[RegionOp]) -> Case:
    numbers: Numbers = "exact" if in_float(draw) else "codes"
    depth = draw(st.sampled_from([1, 1, 1, 2]))
    return Nest(generator(draw), Setting(numbers, depth=depth, nests=1, alone=True)).build(cls)
