"""What `qir bench` computes: inputs that can be compared, and figures by a clock of the test's."""

from itertools import count

import numpy as np
import pytest

import qir
from qir.bench.benchmark import Benchmark, Measurement, benchmark, choose_inputs
from qir.bench.op_times import op_times
from qir.bench.timing import Times

FLOAT = """\
graph @float(%x: f32[B,4] in [-1.0, 1.0]) {
  %w = const 0.5 : f32[4,3]
  %a = dot(%x, %w) : f32[B,3]
  %y = tanh(%a) : f32[B,3]
  return %y
}
"""
CODED = """\
graph @coded(%x: i8[B,4]{scale=0.0078125}) {
  %w = const 1 : i8[4,3]{scale=0.5}
  %a = dot(%x, %w) : i32[B,3]{scale=0.00390625}
  %r = requantize(%a) : i8[B,3]{scale=0.03125}
  %y = dequantize(%r) : f32[B,3]
  return %y
}
"""
PROGRAMS = [("float", qir.parse(FLOAT)), ("coded", qir.parse(CODED))]
SAMPLES = np.linspace(-1, 1, 40, dtype=np.float32).reshape(10, 4)


def refusal(programs, **options):
    with pytest.raises(qir.QirError) as caught:
        choose_inputs(programs, **options)
    return str(caught.value)


def test_random_inputs_have_the_types_of_each_program():
    (floats,), (codes,) = choose_inputs(PROGRAMS, sizes={"B": 3})
    assert floats.shape == codes.shape == (3, 4)
    assert (str(floats.dtype), str(codes.dtype)) == ("float32", "int8")
    ((one,), _) = choose_inputs(PROGRAMS)
    assert one.shape == (1, 4)


def test_samples_are_put_into_the_code_of_an_input():
    (floats,), (codes,) = choose_inputs(PROGRAMS, lambda _: {"x": SAMPLES})
    np.testing.assert_array_equal(floats, SAMPLES)
    np.testing.assert_array_equal(codes, np.clip(np.rint(SAMPLES * 128), -128, 127))


def test_samples_are_cut_to_the_sizes_that_are_given():
    for (array,) in choose_inputs(PROGRAMS, lambda _: {"x": SAMPLES}, {"B": 2}):
        assert array.shape == (2, 4)
    assert refusal(PROGRAMS, samples=lambda _: {"x": SAMPLES}, sizes={"B": 11}) == (
        "bench: expected at least 11 along axis 0 of %x, got 10 in the samples"
    )


def test_samples_that_do_not_fit():
    assert refusal(PROGRAMS, samples=lambda _: {"x": SAMPLES[:, :3]}) == (
        "bench: expected f32[B,4] for input %x, got f32[10,3]"
    )


def test_programs_of_other_shapes_are_not_compared():
    narrow = qir.parse("graph @narrow(%x: f32[2,3]) {\n  return %x\n}")
    assert refusal([*PROGRAMS, ("narrow", narrow)], sizes={"B": 2}) == (
        "bench: expected inputs [2,4] as in float, got [2,3] in narrow"
    )
    fixed = qir.parse(FLOAT.replace("B,", "2,"))
    assert len(choose_inputs([*PROGRAMS, ("fixed", fixed)], sizes={"B": 2})) == 3


def test_a_size_belongs_to_some_program():
    fixed = ("fixed", qir.parse(FLOAT.replace("B,", "2,")))
    assert refusal([fixed], sizes={"B": 2}) == "bench: no input has a dimension B: none has a name"


def test_measurements():
    clock = map(float, count())
    inputs = choose_inputs(PROGRAMS, sizes={"B": 6})
    found = benchmark(PROGRAMS, inputs, rounds=2, turn=0, clock=lambda: next(clock))
    for program, (name, graph) in zip(found.programs, PROGRAMS, strict=True):
        assert program.name == name
        assert program.compile_seconds == 1
        assert program.times == Times(name, (1, 1))
        assert program.samples == 6
        assert program.costs == qir.summary(graph, {"B": 6})
    assert found.empty.seconds == (1, 1)


def test_the_table_of_programs():
    costs = qir.summary(PROGRAMS[0][1], {"B": 1000})
    slow = Measurement("slow", 0.25, Times("slow", (0.002,)), 1000, costs)
    fast = Measurement("fast", 1.5, Times("fast", (0.001,)), None, costs)
    lines = str(Benchmark((slow, fast), Times("empty", (2e-5,)))).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["slow", "0.25", "2.000", "2.000", "2.000", "500,000.0", "48", "28,000", "1.00", "0.0",
         "f32*f32"],
        ["fast", "1.50", "1.000", "1.000", "1.000", "48", "28,000", "2.00", "0.0", "f32*f32"],
    ]  # fmt: skip
    assert lines[3] == "a call of an empty program: 20 µs"


def test_an_op_is_measured_with_the_casts_that_follow_it():
    clock = map(float, count())
    name, graph = PROGRAMS[1]
    found = op_times(name, graph, {"B": 2}, rounds=1, clock=lambda: next(clock))
    (op,) = found.ops
    assert (op.ops, op.value, op.type) == ("dot + requantize + dequantize", "y", "f32[B,3]")
    assert (op.times, op.multiply_adds, op.reason) == (Times("y", (1,)), 2 * 4 * 3, "")
    assert op.lowering == qir.compile(graph).lowerings["a"]


def test_a_result_that_others_read_too_ends_what_is_measured_together():
    program = """\
graph @two(%x: i8[2,4]{scale=0.5}) {
  %w = const 1 : i8[4,3]{scale=0.5}
  %a = dot(%x, %w) : i32[2,3]{scale=0.25}
  %r = requantize(%a) : i8[2,3]{scale=4.0}
  %y = dequantize(%a) : f32[2,3]
  return %r, %y
}
"""
    found = op_times("two", qir.parse(program), rounds=1)
    assert [(op.ops, op.value) for op in found.ops] == [
        ("dot", "a"),
        ("requantize", "r"),
        ("dequantize", "y"),
    ]
    assert found.total == sum(op.times.median for op in found.ops if op.times)


def test_an_op_that_cannot_run_alone_says_why():
    program = """\
graph @grown(%x: f32[B,3]) {
  %k = const [1.0, 2.0, 3.0] : f32[3]
  %w = broadcast(%k) : f32[B,3]
  %y = add(%x, %w) : f32[B,3]
  return %y
}
"""
    found = op_times("grown", qir.parse(program), {"B": 2}, rounds=1)
    alone, add = found.ops
    assert (alone.times, alone.reason) == (None, "dimension: no input tells the size of B in B")
    assert add.times is not None
    assert alone.reason in str(found)


def test_ops_that_are_left_out():
    name, graph = PROGRAMS[1]
    found = op_times(name, graph, {"B": 2}, rounds=1, without=["r"])
    assert [(op.ops, op.value) for op in found.ops] == [("dot", "a"), ("dequantize", "y")]


def test_a_loop_is_measured_with_all_its_trips():
    program = """\
graph @loop(%x: f32[T,2,4], %h: f32[2,4]) {
  %y = scan(%h, %x) {carries = 1, stacked = 1} with (%h: f32[2,4], %x: f32[2,4]) {
    %w = const 0.5 : f32[4,4]
    %d = dot(%h, %w) : f32[2,4]
    %a = add(%d, %x) : f32[2,4]
    return %a
  } : f32[2,4]
  return %y
}
"""
    found = op_times("loop", qir.parse(program), {"T": 3}, rounds=1)
    (op,) = found.ops
    assert (op.ops, op.value, op.multiply_adds) == ("scan", "y", 3 * 2 * 4 * 4)
