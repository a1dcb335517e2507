"""compile(check=True): wrong numbers are found, another way is taken, said and remembered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

import qir
from qir.backends.native.computation import Computation, Lowering, always
from qir.backends.reference.interpreter import run, run_all
from qir.backends.xla import compile as compiling
from qir.backends.xla.expected import Uncertain, difference
from qir.backends.xla.faults import Faults, apart
from qir.backends.xla.fusion import Fusion
from qir.backends.xla.lowering import LOWERINGS
from qir.backends.xla.measure import Measurements
from qir.errors import QirError
from qir.numbers.rounding import ROUNDINGS, DoubleAway, Scaled
from qir.observe.batches import extreme_inputs, random_inputs
from qir.ops import MaxPool, Requantize, Square
from qir.ops.op import Op
from tests.exact.test_reference_vs_xla import check_integers
from tests.strategies import Case

INTEGER = """
graph @integer(%x: i8[B,6,6,16]{scale=0.031, zp=-7}) {
  %k = const : i8[3,3,16,4]{scale=0.01}
  %a = conv(%x, %k) {padding = same} : i32[B,6,6,4]{scale=%x*%k}
  %y = requantize(%a) : i8[B,6,6,4]{scale=0.53, zp=11}
  %z = max_pool(%y) {window = [2, 2]} : i8[B,5,5,4]{scale=0.53, zp=11} loc("model.py:7")
  return %z
}"""
MIXED = """
graph @mixed(%x: f32[B,16]) {
  %k = const : f32[16,8]
  %d = dot(%x, %k) : f32[B,8]
  %s = square(%d) : f32[B,8]
  %q = quantize(%s) : i8[B,8]{scale=0.25}
  %m = argmax(%s) {axis = 1} : i32[B]
  %w = const : i8[8,4]{scale=0.01}
  %a = dot(%q, %w) : i32[B,4]{scale=%q*%w}
  %y = requantize(%a) : i8[B,4]{scale=0.5}
  %z = dequantize(%y) : f32[B,4]
  %e = mul(%s, %d) : f32[B,8]
  return %z, %m, %e
}"""
LONG = """
graph @long(%x: i16[B,16]{scale=0.1}) {
  %k = const : i16[16,8]{scale=0.01}
  %a = dot(%x, %k) : i64[B,8]{scale=%x*%k}
  %y = requantize(%a) : i16[B,8]{scale=3.1}
  return %y
}"""
ROWS = 32771
FUSED = f"""
graph @fused(%x: f32[{ROWS},3]) {{
  %k = const : f32[3,3]
  %t = transpose(%x) {{permutation = [1, 0]}} : f32[3,{ROWS}]
  %d = dot(%k, %t) : f32[3,{ROWS}]
  %s = square(%d) : f32[3,{ROWS}]
  %y = reduce_sum(%s) {{axes = [0]}} : f32[{ROWS}]
  return %y
}}"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QIR_CACHE_DIR", str(tmp_path))
    return tmp_path


def node_of(graph, name):
    node = graph.value(name).node
    assert node is not None
    return node


def integer():
    return qir.parse(INTEGER, {"k": numbers((3, 3, 16, 4))})


def mixed():
    kernel = np.random.default_rng(0).standard_normal((16, 8), np.float32)
    return qir.parse(MIXED, {"k": kernel, "w": numbers((8, 4))})


def numbers(shape):
    return np.random.default_rng(0).integers(-128, 128, shape, np.int8)


def wrong(way: Lowering, by: Any) -> Lowering:
    """A way that adds to the last number of what another one computes."""

    def build(op, node):
        """Adds to the last number."""
        computation = way.build(op, node)

        def off(*arguments):
            found = computation.function(*arguments)
            last = tuple(size - 1 for size in found.shape)
            return found.at[last].add(np.asarray(by, found.dtype))

        return Computation(off, computation.arguments)

    return Lowering("wrong", always, always, build)


def spoil(monkeypatch: pytest.MonkeyPatch, cls: type[Op], by: float = 1, ways: int = 1) -> None:
    """Puts a wrong way before the ways of an op, or in the place of all."""
    right = LOWERINGS[cls]
    bad = [replace(wrong(right[0], by), name=f"wrong{index or ''}") for index in range(ways)]
    monkeypatch.setitem(LOWERINGS, cls, [*bad, *right] if ways == 1 else bad)


def test_a_right_program_is_left_as_it_is(folder):
    for graph in (integer(), mixed()):
        for kernels in (False, None):
            report = qir.compile(graph, kernels=kernels, check=True).report
            assert report == qir.compile(graph, kernels=kernels).report
    assert list(folder.glob("*.json")) == []


def test_a_wrong_way_is_replaced_and_said(monkeypatch):
    spoil(monkeypatch, MaxPool)
    graph = integer()
    inputs = random_inputs(graph)
    assert qir.compile(graph, kernels=False).lowerings["z"] == "wrong"
    compiled = qir.compile(graph, kernels=False, check=True)
    assert compiled.lowerings["z"] == LOWERINGS[MaxPool][1].name
    assert f"lowering wrong computed wrong numbers, so {compiled.lowerings['z']}" in compiled.report
    assert compiled.lowerings["a"] == qir.compile(graph, kernels=False).lowerings["a"]
    check_integers(Case(graph, inputs), [np.asarray(array) for array in compiled(*inputs)])


def test_a_later_compilation_avoids_what_was_wrong(monkeypatch):
    spoil(monkeypatch, MaxPool)
    checked = qir.compile(integer(), kernels=False, check=True)
    again = qir.compile(integer(), kernels=False)
    assert (again.lowerings, again.report) == (checked.lowerings, checked.report)


def test_where_every_way_is_wrong_the_error_says_which_op_and_how(monkeypatch, folder):
    spoil(monkeypatch, MaxPool, ways=2)
    with pytest.raises(QirError) as caught:
        qir.compile(integer(), kernels=False, check=True)
    message = caught.value.message
    assert message.startswith("check: expected ")
    assert " in %z at [1, 4, 4, 3], got " in message
    assert "(1 of 200 numbers differ); no lowering of max_pool is right, tried wrong, wrong1, " in (
        message
    )
    assert "model.py:7" in str(caught.value)
    assert list(folder.glob("*.json")) == []


def test_sums_in_i64_are_compared_on_the_way_to_a_fault(monkeypatch):
    spoil(monkeypatch, Requantize)
    graph = qir.parse(LONG, {"k": 250 * numbers((16, 8)).astype(np.int16)})
    inputs = random_inputs(graph)
    compiled = qir.compile(graph, check=True)
    assert compiled.lowerings["y"] == "requantize"
    check_integers(Case(graph, inputs), [np.asarray(array) for array in compiled(*inputs)])


def test_the_inputs_can_be_given(monkeypatch):
    spoil(monkeypatch, MaxPool, ways=2)
    with pytest.raises(QirError, match=r"in %z at \[4, 4, 4, 3\]"):
        qir.compile(integer(), kernels=False, check=random_inputs(integer(), named_size=5))


@pytest.mark.parametrize("by", [1e-3, -1e-3, np.nan, np.inf])
def test_wrong_floats_are_found_and_traced_to_their_op(by, monkeypatch):
    spoil(monkeypatch, Square, by)
    compiled = qir.compile(mixed(), kernels=False, check=True)
    assert "lowering wrong computed wrong numbers" in compiled.report
    right = LOWERINGS[Square][1].name
    assert {compiled.lowerings["s"], compiled.lowerings["d"]} == {right, "dot"}


def test_a_float_off_by_a_rounding_is_right(monkeypatch):
    spoil(monkeypatch, Square, 1e-7)
    assert qir.compile(mixed(), kernels=False, check=True).lowerings["s"] == "wrong"


def test_integers_behind_floats_are_exact_given_what_the_floats_became():
    graph = mixed()
    uncertain = Uncertain.of(graph)
    assert {value.name for value in uncertain.floats} == {"d", "s", "e"}
    assert {value.name for value in uncertain.cuts} == {"q", "m"}
    inputs = random_inputs(graph)
    q, y, z = map(graph.value, "qyz")
    ordinary = run_all(graph, *inputs)
    assert difference(graph, inputs, {value: ordinary[value] for value in (q, y, z)}) is None
    far = ordinary[q].copy()
    far[0, 0] += 1
    found = difference(graph, inputs, {q: far})
    assert found is not None
    assert found.place == (0, 0)
    near = {q: ordinary[q], y: ordinary[y] + np.int8(1)}
    found = difference(graph, inputs, near)
    assert found is not None
    assert found.value is y


def test_a_wrong_kernel_gives_way_to_xla(monkeypatch):
    pytest.importorskip("llvmlite")
    from qir.backends.cpu.clusters import GeneratedKernels
    from qir.backends.xla.kernel_choice import kernels_here

    @dataclass(frozen=True)
    class Spoiled(GeneratedKernels):
        def _group(self, cluster, number):
            group = super()._group(cluster, number)
            pools = [node for node in group.nodes if isinstance(node.op, MaxPool)]

            def off(*arguments):
                return tuple(array ^ 1 for array in group.computation.function(*arguments))

            return (
                replace(group, computation=Computation(off, group.computation.arguments))
                if pools
                else group
            )

    here = kernels_here()
    if not isinstance(here, GeneratedKernels):
        pytest.skip(str(here))
    monkeypatch.setattr(compiling, "chosen_kernels", lambda wanted: (Spoiled(here.target), ""))
    graph = integer()
    inputs = random_inputs(graph)
    assert qir.compile(graph).lowerings["z"].startswith("kernel_")
    for check in (True, False):
        compiled = qir.compile(graph, check=check)
        assert compiled.lowerings["a"].startswith("kernel_")
        assert compiled.lowerings["z"] == LOWERINGS[MaxPool][0].name
        assert "no kernel: it computed wrong numbers" in compiled.report
        check_integers(Case(graph, inputs), [np.asarray(array) for array in compiled(*inputs)])


def test_a_sum_that_xla_fuses_wrong_is_set_apart():
    kernel = np.random.default_rng(0).standard_normal((3, 3), np.float32)
    graph = qir.parse(FUSED, {"k": kernel})
    inputs = random_inputs(graph)

    def farthest(compiled):
        (right,) = run(graph, *inputs, precision=np.float64)
        return float(np.abs(np.asarray(compiled(*inputs)[0]) - right).max())

    if farthest(qir.compile(graph, kernels=False)) < 1e-3:
        pytest.skip("this jaxlib computes the sum of squared products right")
    compiled = qir.compile(graph, kernels=False, check=True)
    assert compiled.lowerings["y"] == "total_apart"
    assert farthest(compiled) < 1e-4


def test_a_way_set_apart_computes_the_same():
    (way,) = LOWERINGS[Square]
    found = apart(way)
    assert found.name == f"{way.name}_apart"
    assert "XLA fuses it with nothing" in found.summary


def test_the_greatest_of_equal_floats_may_be_less_too():
    text = """
graph @pool(%x: f32[64,4]) {
  %s = square(%x) : f32[64,4]
  %y = reduce_max(%s) {axes = [0]} : f32[4]
  %q = quantize(%y) : i8[4]{scale=0.5}
  return %y, %q
}"""
    graph = qir.parse(text)
    inputs = [np.full((64, 4), np.sqrt(0.25), np.float32)]
    y, q = graph.outputs

    def judged(toward, stored):
        largest = np.nextafter(np.full(4, 0.25, np.float32), np.float32(toward))
        return difference(graph, inputs, {y: largest, q: np.full(4, stored, np.int8)})

    assert judged(0, 0) is None
    assert judged(1, 1) is None
    assert judged(1, 2) is not None


def test_roundings_of_one_op_after_the_other_add_up():
    """Each product may be off by as much as the one before it, whose moves must not cancel its own.

    What is found is at most 4 * 2^-24 of its value away, half by the two products and half by the
    step to the next float; `sum_of_products` allows each product 3 * 2^-23, times `LOOSE`.
    """
    text = """
graph @chain(%x: f32[4096]) {
  %c = const [1.1] : f32[1]
  %a = mul(%x, %c) : f32[4096]
  %y = mul(%a, %c) : f32[4096]
  return %y
}"""
    graph = qir.parse(text)
    (y,) = graph.outputs
    inputs = [np.random.default_rng(0).uniform(1, 2, 4096).astype(np.float32)]
    (right,) = run(graph, *inputs)
    for toward in (np.float32(0), np.float32(9)):
        assert difference(graph, inputs, {y: np.nextafter(right, toward)}) is None
    allowed = 2 * 4 * 3 * 2.0**-23
    found = difference(graph, inputs, {y: right * np.float32(1 + 1.25 * allowed)})
    assert found is not None
    assert found.count == right.size


def test_either_of_two_floats_that_are_equal_but_for_roundings_may_be_the_greater():
    text = """
graph @compare(%x: f32[4096], %y: f32[4096], %z: f32[1]) {
  %c = const [1.1] : f32[1]
  %a = mul(%x, %c) : f32[4096]
  %b = mul(%y, %c) : f32[4096]
  %o = mul(%z, %c) : f32[1]
  %m = greater(%a, %b) : bool[4096]
  %n = less(%a, %o) : bool[4096]
  return %a, %b, %m, %n
}"""
    graph = qir.parse(text)
    a, b, m, n = graph.outputs
    x = np.random.default_rng(0).uniform(1, 2, 4096).astype(np.float32)
    inputs = [x, x, np.full(1, 3, np.float32)]
    right, *_ = run(graph, *inputs)
    above = np.nextafter(right, np.float32(9))

    def judged(first, second, lesser=True):
        arrays = {a: first, b: second, m: first > second, n: np.full(4096, lesser)}
        return difference(graph, inputs, arrays)

    assert judged(above, right) is None
    assert judged(right, above) is None
    found = judged(right, right, lesser=False)
    assert found is not None
    assert found.value is n
    assert found.count == 4096


class Lying(DoubleAway):
    """A mode whose machine form has a lesser multiplier than itself."""

    def machine_form(self, multiplier: Any, zero_point: Any, low: int, high: int) -> Any:
        shift = np.full(multiplier.value.shape, 31, np.int32)
        below = multiplier.value * (1 - 2.0**-10)
        return Scaled((below * 2**31).astype(np.int32), shift)


def test_a_machine_form_that_is_not_its_mode_is_found_from_sums_on(monkeypatch):
    monkeypatch.setitem(ROUNDINGS, "lying", lying := Lying())
    monkeypatch.setattr(lying.__class__, "name", "lying")
    graph = qir.parse("""
graph @own(%a: i32[4096]{scale=0.01234}) {
  %y = requantize(%a) {rounding = lying} : i8[4096]{scale=1.0, zp=3}
  return %y
}""")
    with pytest.raises(QirError, match=r"check: .*%y.*no lowering of requantize is right"):
        qir.compile(graph, kernels=False, check=True)


def test_wide_random_codes_are_of_all_magnitudes_within_their_bounds():
    graph = qir.parse("""
graph @wide(%a: i32[4096]{scale=1.0}, %b: i16[4096]{scale=1.0, zp=300, bounds=[256, 30000]}) {
  return %a, %b
}""")
    wide, bounded = random_inputs(graph)
    assert np.mean(np.abs(wide.astype(np.int64)) < 2**29) > 0.3
    for bits in range(4, 31, 4):
        assert np.any(np.abs(wide.astype(np.int64)) >> bits == 1)
    assert bounded.min() >= 256
    assert bounded.max() <= 30000
    assert np.mean(bounded < 1000) > 0.1


def test_extreme_inputs_lie_at_the_ends_of_their_types():
    low, high, both = extreme_inputs(integer(), named_size=3)
    assert [array.shape for array in (*low, *high, *both)] == [(3, 6, 6, 16)] * 3
    assert [np.unique(array).tolist() for array in (*low, *high, *both)] == [
        [-128],
        [127],
        [-128, 127],
    ]


@pytest.mark.parametrize("entry", [None, {}, "wrong", [3], ["no_such_way"]])
def test_entries_that_name_no_way_count_for_nothing(entry):
    graph = integer()
    node = node_of(graph, "z")
    table = Measurements().table
    table.merge({f"wrong: {Fusion.around(node).key}": entry})
    assert qir.compile(graph, kernels=False).lowerings["z"] == LOWERINGS[MaxPool][0].name


def test_where_all_ways_are_called_wrong_the_cache_is_not_believed():
    graph = integer()
    node = node_of(graph, "z")
    names = [way.name for way in Faults(Measurements().table).left(node)]
    Measurements().table.merge({f"wrong: {Fusion.around(node).key}": names})
    assert qir.compile(graph, kernels=False).lowerings["z"] == names[0]
