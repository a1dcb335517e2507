"""What a program with regions stores lies where the proof says, in every trip."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import Phase, given

from qir.analysis.reach import StoredReach
from qir.backends.reference import interpreter
from qir.ir import Graph, Value
from qir.types import Array
from tests.drawing import examples
from tests.strategies import Case
from tests.strategies.nested_programs import Setting, nested_programs


def stored_by(case: Case) -> dict[Value, tuple[int, int]]:
    """Returns the least and the greatest integer of each value, those inside of regions too."""
    found: dict[Value, tuple[int, int]] = {}
    computed = interpreter._Run.values

    def watched(self: interpreter._Run, graph: Graph, inputs: Sequence[Array]) -> object:
        values = computed(self, graph, inputs)
        for value, array in values.items():
            if array.size and value.type.dtype.is_integer:
                ends = int(array.min()), int(array.max())
                low, high = found.get(value, ends)
                found[value] = min(low, ends[0]), max(high, ends[1])
        return values

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(interpreter._Run, "values", watched)
        interpreter.run(case.graph, *case.inputs)
    return found


@examples(120, phases=[Phase.generate])
@given(nested_programs(Setting("codes")))
def test_what_is_stored_lies_within_its_reach(case: Case) -> None:
    reach = StoredReach.of(case.graph)
    for value, (least, greatest) in stored_by(case).items():
        low, high = reach[value]
        assert low <= least <= greatest <= high, f"%{value.name}: {reach[value]}{case.shown()}"
