"""What values inside of loops and branches can store, and which sums are refused there."""

import pytest

import qir
from qir.analysis.reach import StoredReach
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from tests.drawing import drawn
from tests.strategies.nested_programs import Setting, nested_programs

SUMS = """
graph @sums(%x: i8[TRIPS,1,8]{scale=1.0}) {
  %zero = const 0 : i32[1]{scale=1.0}
  %last, %all = scan(%zero, %x) {carries = 1, stacked = 1} with REGION
    %w = const FACTOR : i8[8,1]{scale=1.0}
    %a = dot(%p, %w, %c) : i32[1,1]{scale=1.0}
    %s = reshape(%a) : i32[1]{scale=1.0}
    return %s, %a
  } : i32[1]{scale=1.0}, i32[TRIPS,1,1]{scale=1.0}
  return %last, %all
}
""".replace("REGION", "(%c: i32[1]{scale=1.0}, %p: i8[1,8]{scale=1.0}) {")
STATE = """
graph @state(%x: i8[TRIPS,4]{scale=1.0}) {
  %zero = const 0 : i8[4]{scale=1.0}
  %last, %all = scan(%zero, %x) {carries = 1, stacked = 1} with REGION
    %r = relu(%p) : i8[4]{scale=1.0}
    %s = SUM : i8[4]{scale=1.0}
    return %s, %r
  } : i8[4]{scale=1.0}, i8[TRIPS,4]{scale=1.0}
  return %last, %all
}
""".replace("REGION", "(%c: i8[4]{scale=1.0}, %p: i8[4]{scale=1.0}) {")
BRANCHES = """
graph @branches(%i: i32[], %x: i8[4]{scale=1.0}, %n: i8[4]{scale=1.0}) {
  %a = relu(%x) : i8[4]{scale=1.0}
  %c = cond(%i, %a) with (%p: i8[4]{scale=1.0}) {
    return %p
  } with (%p: i8[4]{scale=1.0}) {
    %k = const -5 : i8[4]{scale=1.0}
    return %k
  } : i8[4]{scale=1.0}
  %w = while(%c) {carries = 1} with (%p: i8[4]{scale=1.0}) {
    %go = const false : bool[]
    return %go
  } with (%p: i8[4]{scale=1.0}) {
    %q = reshape(%p) : i8[2,2]{scale=1.0}
    %r = reshape(%q) : i8[4]{scale=1.0}
    return %r
  } : i8[4]{scale=1.0}
  return %w
}
"""


def written(source, trips="5", factor="1", sum="maximum(%c, %r)"):
    return source.replace("TRIPS", trips).replace("FACTOR", factor).replace("SUM", sum)


def reaches(source):
    graph = qir.parse(source)
    stored = StoredReach.of(graph)
    return {value.name: stored[value] for value in graph.values_inside()}


def test_what_a_loop_adds_up_grows_with_its_trips():
    found = reaches(written(SUMS))
    assert found["a"] == found["all"] == (-5 * 8 * 128, 5 * 8 * 127)
    assert found["last"] == (-5 * 8 * 128, 5 * 8 * 127)
    assert found["c"] == (-5 * 8 * 128, 5 * 8 * 127)


@pytest.mark.parametrize("trips", ["T", "65"])
def test_a_sum_without_a_known_end_can_be_all_that_its_type_stores(trips):
    found = reaches(written(SUMS, trips))
    assert found["c"] == found["last"] == (-(2**31), 2**31 - 1)


@pytest.mark.parametrize(("factor", "fits"), [("127", True), ("-128", False)])
def test_a_loop_whose_sums_overflow_is_refused(factor, fits):
    # 64 trips; each adds at most 2^17 - 2^10 or 2^17, and the type holds 2^31 - 1.
    wide = SUMS.replace("[TRIPS,1,8]", "[TRIPS,1,2048]").replace("[1,8]", "[1,2048]")
    source = written(wide.replace("i8[8,1]", "i8[2048,1]"), "64", factor)
    graph = qir.parse(source)
    if fits:
        assert str(qir.optimize(graph, "check-overflow")) == str(graph)
        return
    with pytest.raises(QirError, match=r"dot: channel 0 of %a: expected integers in .*\n  at %a"):
        qir.optimize(graph, "check-overflow")


def test_a_sum_without_a_known_end_is_refused():
    with pytest.raises(QirError, match=r"dot: channel 0 of %a: expected integers in"):
        qir.optimize(qir.parse(written(SUMS, "T")), "check-overflow")


def test_what_is_carried_is_what_goes_in_and_what_comes_back():
    found = reaches(written(STATE, "T"))
    assert found["p"] == (-128, 127)
    assert found["c"] == found["last"] == found["s"] == found["all"] == (0, 127)
    assert reaches(written(STATE, "T", sum="add(%c, %p)"))["c"] == (-128, 127)


def test_branches_give_what_one_of_them_gives():
    found = reaches(BRANCHES)
    assert found["c"] == found["w"] == found["r"] == (-5, 127)


@pytest.mark.hypothesis
def test_nothing_is_stored_outside_of_its_reach():
    for case in drawn(nested_programs(Setting("codes")), 100):
        stored = StoredReach.of(case.graph)

        def check(value, array, stored=stored):
            if array.size and value.type.dtype.is_integer:
                low, high = stored[value]
                assert low <= array.min()
                assert array.max() <= high
            return array

        run_all(case.graph, *case.inputs, hook=check, inside=check)
