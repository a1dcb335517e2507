"""Which way an op takes: by preference, by measurement, from the cache; and what the report says.

No test depends on how long anything takes: what measures is replaced, or its figures are not used.
"""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.backends.xla import fingerprint, measure
from qir.backends.xla.choice import fastest, preferred, report
from qir.backends.xla.compile import compile_graph
from qir.backends.xla.fusion import Fusion
from qir.backends.xla.measure import Measurements, measured, race
from qir.backends.xla.rules import LOWERINGS, legal_ways
from qir.bench.timing import Contender, Times
from qir.ops import Conv
from tests.layout import ROOT

TEXT = """
graph @network(%x: i8[B,6,6,16]{scale=0.031, zp=-7}) {
  %k = const : i8[3,3,16,4]{scale=0.01}
  %a = conv(%x, %k) {padding = same} : i32[B,6,6,4]{scale=%x*%k}
  %y = requantize(%a) : i8[B,6,6,4]{scale=0.53, zp=11}
  %t = const : i8[256]{scale=0.01}
  %z = lookup(%y, %t) : i8[B,6,6,4]{scale=0.01}
  return %z
}
"""
WAYS = ("gathered_patches", "patches_by_axis", "patches", "direct_convolution")
REPORT = """\
value  op          lowering    why
%a     conv        patches     measured: 0.2 ms, next patches_by_axis 0.25 ms
%y     requantize  requantize  the only way
%z     lookup      lookup      the only way

lookup      The table's entry for the bits of each stored number.
patches     The patch under each window as a row (im2col), tap by tap, and one dot.
requantize  One rounding, by the op's mode.
times are of an op with what it is fused with (what a requantize alone reads, the requantize and
lookup that alone read a result), at 1 for named dimensions"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("QIR_CACHE_DIR", str(tmp_path))
    return tmp_path


def network(text=TEXT):
    rng = np.random.default_rng(0)
    shapes = {"k": (3, 3, 16, 4), "t": (256,)}
    arrays = {name: rng.integers(-128, 128, shape, np.int8) for name, shape in shapes.items()}
    return qir.parse(text, arrays)


def node_of(graph, name="a"):
    node = graph.value(name).node
    assert node is not None
    return node


@pytest.fixture
def clock(monkeypatch):
    """Replaces what measures; returns the clusters that were to be measured."""
    asked = []

    def fake(fusion):
        asked.append(fusion)
        times = {"patches": 0.2, "patches_by_axis": 0.25, "requantize_by_float32": 0.2}
        return {way.name: times.get(way.name, 0.4) for way in legal_ways(fusion.target)}

    monkeypatch.setattr(measure, "measured", fake)
    return asked


def test_nothing_is_measured_unasked(clock, folder):
    compiled = compile_graph(network(), kernels=False)
    assert compiled.lowerings["a"] == "gathered_patches"
    assert "%a     conv        gathered_patches  preferred: not measured" in compiled.report
    assert "1 not measured on this machine: compile(graph, measure=True)" in compiled.report
    assert clock == []
    assert list(folder.iterdir()) == []


def test_each_kind_of_op_is_measured_once(clock):
    assert compile_graph(network(), measure=True, kernels=False).lowerings["a"] == "patches"
    assert [fusion.target.output.name for fusion in clock] == ["a"]
    again = compile_graph(network(), measure=True, kernels=False)
    assert again.lowerings == {"a": "patches", "y": "requantize", "z": "lookup"}
    assert len(clock) == 1


def test_a_new_process_takes_what_was_measured(clock, folder):
    graph = network()
    compile_graph(graph, measure=True, kernels=False)
    qir.save(graph, folder / "network.qir")
    script = f"""
import qir
from qir.backends.xla import measure
measure.measured = None
for known in (False, True):
    graph = qir.load({str(folder / "network.qir")!r})
    print(qir.compile(graph, measure=known, kernels=False).lowerings["a"])
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["patches"] * 2, "")


def test_another_machine_measures_anew(clock, monkeypatch):
    compile_graph(network(), measure=True, kernels=False)
    other = fingerprint.fingerprint() | {"processor": "another"}
    monkeypatch.setattr(measure, "fingerprint", lambda: other)
    assert compile_graph(network(), kernels=False).lowerings["a"] == "gathered_patches"
    assert compile_graph(network(), measure=True, kernels=False).lowerings["a"] == "patches"
    assert len(clock) == 2


def test_the_fingerprint_has_what_speed_depends_on(monkeypatch):
    before = fingerprint.fingerprint()
    assert {"processor", "cores", "device", "jaxlib", "lowerings"} <= set(before)
    assert fingerprint.fingerprint() == before
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_max_isa=AVX")
    assert fingerprint.fingerprint() != before


def test_the_report(clock, capsys):
    compiled = qir.compile(network(), measure=True, report=True, kernels=False)
    assert compiled.report == REPORT
    assert capsys.readouterr().out == REPORT + "\n"
    qir.compile(network(), kernels=False)
    assert capsys.readouterr().out == ""


def test_warnings_end_the_report(clock, folder):
    compile_graph(network(), measure=True, kernels=False)
    (table,) = folder.glob("*.json")
    table.write_text("{")
    compiled = compile_graph(network(), kernels=False)
    assert compiled.lowerings["a"] == "gathered_patches"
    assert compiled.report.endswith(
        f"warning: {table} is damaged; it is written anew when something is measured"
    )
    assert compile_graph(network(), measure=True, kernels=False).lowerings["a"] == "patches"
    assert "warning" not in compile_graph(network(), kernels=False).report


def test_a_table_without_rows():
    assert report({}, ["something"]).splitlines()[-1] == "warning: something"


@pytest.mark.parametrize(
    "entry", [None, [], {"patches": "fast"}, {"patches": -1}, {"patches": float("nan")}]
)
def test_entries_that_are_no_times_count_for_nothing(clock, entry):
    compile_graph(network(), measure=True, kernels=False)
    measurements = Measurements()
    (key,) = measurements.table.read()
    measurements.table.merge({key: entry})
    assert not Measurements()
    assert compile_graph(network(), kernels=False).lowerings["a"] == "gathered_patches"


@pytest.mark.parametrize(
    ("times", "name", "reason"),
    [
        ((0.1, 0.2, 0.3), "gathered_patches", "measured: 0.1 ms, next patches_by_axis 0.2 ms"),
        ((0.3, 0.1234, 0.2), "patches_by_axis", "measured: 0.123 ms, next patches 0.2 ms"),
        ((0.3, 0.2, 0.2718), "patches_by_axis", "measured: 0.2 ms, next patches 0.272 ms"),
        (
            (0.30, 0.28, 0.31),
            "gathered_patches",
            "preferred: 0.3 ms, patches_by_axis 0.28 ms is within 10%",
        ),
        ((1200.0, 120, 119.6), "patches", "measured: 120 ms, next patches_by_axis 120 ms"),
    ],
)
def test_the_preferred_way_loses_by_a_clear_margin_only(times, name, reason):
    found = fastest(node_of(network()), dict(zip(WAYS, times, strict=False)))
    assert (found.way.name, found.reason) == (name, reason)


def test_times_that_cannot_be_compared_count_for_nothing():
    node = node_of(network())
    for times in [
        {},
        {"patches": 0.1},
        {"gathered_patches": 0.1},
        {"gathered_patches": 0.2, "pointwise": 0.1, "no_such_way": 0.1},
    ]:
        assert fastest(node, times) == preferred(node)


def test_a_way_that_is_no_longer_legal_is_not_taken(clock, monkeypatch):
    compile_graph(network(), measure=True, kernels=False)
    ways = [
        replace(way, legal=lambda op, node: False) if way.name == "patches" else way
        for way in LOWERINGS[Conv]
    ]
    monkeypatch.setitem(LOWERINGS, Conv, ways)
    assert compile_graph(network(), kernels=False).lowerings["a"] == "gathered_patches"


def test_what_is_measured_together():
    graph = network()
    (conv, requantize), lookup = map(node_of, [graph] * 2, "ay"), node_of(graph, "z")
    for node in (conv, requantize):
        assert Fusion.around(node).nodes == (conv, requantize, lookup)
        assert Fusion.around(node).target is node
    assert Fusion.around(lookup).nodes == (lookup,)
    part = Fusion.around(requantize).graph()
    assert [value.name for value in (*part.inputs, *part.outputs)] == ["x", "z"]
    assert part.value("k").is_constant

    text = TEXT.replace("return %z", "return %z, %a")
    read_twice = network(text)
    assert Fusion.around(node_of(read_twice)).nodes == (node_of(read_twice),)
    nodes = Fusion.around(node_of(read_twice, "y")).nodes
    assert [node.op.name for node in nodes] == ["requantize", "lookup"]


def test_what_the_key_says():
    assert Fusion.around(node_of(network())).key == (
        "*conv padding=same(i8[1,6,6,16]{zp}, const i8[3,3,16,4]{}) -> i32[1,6,6,4]{}; "
        "requantize short() -> i8[1,6,6,4]{zp}; lookup(const i8[256]{}) -> i8[1,6,6,4]{} "
        "by direct_convolution, gathered_patches, patches, patches_by_axis"
    )


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ("scale=0.031", "scale=0.047", True),
        ("zp=11", "zp=12", True),
        ("[B,", "[1,", True),
        ("[B,", "[2,", False),
        ("padding = same", "padding = same, dilation = [2, 2]", False),
        ("zp=-7", "zp=0", False),
        ("i8[3,3,16,4]{scale=0.01}", "i8[3,3,16,4]{scale=0.01, zp=3}", False),
        ("0.53, zp=11", "0.0001, zp=11", False),
        ("requantize(%a)", "requantize(%a) {rounding = f32_rne}", False),
        ("requantize(%a)", "requantize(%a) {clamp = [0, 9]}", True),
    ],
)
def test_what_makes_another_key(old, new, same):
    key, other = (
        Fusion.around(node_of(network(text))).key for text in (TEXT, TEXT.replace(old, new))
    )
    assert (key == other) is same


def test_measuring_runs_every_legal_way(monkeypatch):
    monkeypatch.setattr(measure, "ROUNDS", 1)
    monkeypatch.setattr(measure, "TURN", 0)
    found = measured(Fusion.around(node_of(network())))
    assert set(found) == set(WAYS)
    assert all(time > 0 for time in found.values())


def test_a_way_without_hope_gets_one_turn(monkeypatch):
    seconds = {"fast": 1.0, "near": 3.9, "slow": 4.1}
    rounds_of = {}

    def fake(contenders, rounds, *, turn):
        rounds_of.update({contender.name: rounds for contender in contenders})
        return tuple(Times(each.name, (seconds[each.name] / rounds,)) for each in contenders)

    monkeypatch.setattr(measure, "interleave", fake)
    found = race([Contender(name, lambda: None) for name in seconds])
    assert rounds_of == {"fast": measure.ROUNDS, "near": measure.ROUNDS, "slow": 1}
    assert found == {"fast": 1 / measure.ROUNDS, "near": 3.9 / measure.ROUNDS, "slow": 4.1}


TIES = """
graph @ties(%a: i32[8]{scale=0.5}) {
  %y = requantize(%a) {agrees = [f32_rne]} : i8[8]{scale=1}
  return %y
}"""


def test_a_false_certificate_is_not_believed(clock):
    graph = qir.parse(TIES)
    assert len(legal_ways(node_of(graph, "y"))) == 2
    key = Fusion.around(node_of(graph, "y")).key
    Measurements().table.merge({key: {"requantize": 0.4, "requantize_by_float32": 0.2}})
    compiled = compile_graph(graph, kernels=False)
    numbers = np.arange(-4, 4, dtype=np.int32)
    assert all(map(np.array_equal, compiled(numbers), run(graph, numbers)))
    assert compiled.lowerings == {"y": "requantize"}
    assert "warning: %y does not agree with f32_rne: of the accumulator" in compiled.report
    assert "agrees" in str(graph)


def test_a_certificate_that_holds_lets_the_faster_rounding_be_taken(clock):
    graph = qir.parse(TIES.replace("scale=0.5", "scale=0.0313"))
    compiled = compile_graph(graph, measure=True, kernels=False)
    assert compiled.lowerings == {"y": "requantize_by_float32"}
    numbers = np.arange(-4, 4, dtype=np.int32)
    assert all(map(np.array_equal, compiled(numbers), run(graph, numbers)))
