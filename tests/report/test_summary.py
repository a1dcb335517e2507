"""What a program costs, counted by hand."""

import numpy as np

import qir

FLOAT = """\
graph @net(%x: f32[B,4,4,2]) {
  %k = const 0.5 : f32[3,3,2,8]
  %b = const 0.5 : f32[8]
  %c = conv(%x, %k, %b) {padding = same} : f32[B,4,4,8]
  %r = relu(%c) : f32[B,4,4,8]
  %m = mean(%r) {axes = [1, 2]} : f32[B,8]
  %w = const 0.5 : f32[8,10]
  %y = dot(%m, %w) : f32[B,10]
  return %y
}
"""


def test_a_float_program():
    found = qir.summary(qir.parse(FLOAT), {"B": 10})
    assert found.parameters == 3 * 3 * 2 * 8 + 8 + 8 * 10
    assert found.parameter_bytes == 4 * found.parameters
    conv, dot = 10 * 4 * 4 * 8 * 3 * 3 * 2, 10 * 8 * 10
    assert found.multiply_adds == {"f32*f32": conv + dot}
    assert [(line.op, line.multiply_adds) for line in found.ops] == [
        ("conv", conv),
        ("relu", 0),
        ("mean", 0),
        ("dot", dot),
    ]
    # The operand of relu is alive beside its result.
    assert found.peak_bytes == 2 * 10 * 4 * 4 * 8 * 4
    assert found.peak_at == "r"


def test_named_dimensions_are_1_where_left_out():
    graph = qir.parse(FLOAT)
    assert qir.summary(graph) == qir.summary(graph, {"B": 1})
    assert qir.summary(graph, {"B": 3}).peak_bytes == 3 * qir.summary(graph).peak_bytes


def test_decoded_weights_are_no_activations():
    program = """\
graph @coded(%x: f32[3,8]) {
  %k = const 1 : i4[8,5]{scale=1.0}
  %r = dequantize(%k) : f32[8,5]
  %y = dot(%x, %r) : f32[3,5]
  return %y
}
"""
    found = qir.summary(qir.parse(program))
    assert (found.parameters, found.parameter_bytes) == (40, 20)
    assert (found.peak_bytes, found.peak_at) == (4 * (24 + 15), "y")
    returned = program.replace("dot(%x, %r) : f32[3,5]", "add(%r, %r) : f32[8,5]")
    assert qir.summary(qir.parse(returned)).peak_bytes == 4 * (24 + 40 + 40) - 4 * 24


def test_a_program_of_codes():
    program = """\
graph @packed(%x: i8[3,8]{scale=1.0}) {
  %k = const 1 : i4[8,5]{scale=1.0}
  %a = dot(%x, %k) : i32[3,5]{scale=1.0}
  %q = requantize(%a) : i4[3,5]{scale=8.0}
  %s = add(%q, %q) : i8[3,5]{scale=8.0}
  return %s
}
"""
    found = qir.summary(qir.parse(program))
    assert (found.parameters, found.parameter_bytes) == (40, 20)
    assert found.multiply_adds == {"i8*i4": 3 * 8 * 5}
    assert [line.output_bytes for line in found.ops] == [3 * 5 * 4, 8, 15]
    assert (found.peak_bytes, found.peak_at) == (24 + 60, "a")


def test_an_array_that_constants_share_counts_once():
    program = """\
graph @tied(%x: f32[2,9]) {
  %a = const @w : f32[9,9]
  %b = const @w : f32[9,9]
  %c = dot(%x, %a) : f32[2,9]
  %d = dot(%c, %b) : f32[2,9]
  return %d
}
"""
    numbers = np.arange(81, dtype=np.float32).reshape(9, 9)
    assert qir.summary(qir.parse(program, {"w": numbers})).parameters == 81
    apart = program.replace("%b = const @w", "%b = const @v")
    assert qir.summary(qir.parse(apart, {"w": numbers, "v": numbers + 1})).parameters == 162


def test_a_transposed_matrix_and_one_of_equal_numbers_count_once():
    program = """\
graph @tied(%x: f32[2,3]) {
  %a = const @w : f32[3,9]
  %b = const @v : f32[9,3]
  %s = const 0.0 : f32[9]
  %z = const 0.0 : f32[3]
  %o = const 0.0 : f32[3]
  %c = dot(%x, %a, %s) : f32[2,9]
  %d = dot(%c, %b, %z) : f32[2,3]
  %e = add(%d, %o) : f32[2,3]
  return %e
}
"""
    numbers = np.arange(27, dtype=np.float32).reshape(3, 9)
    found = qir.summary(qir.parse(program, {"w": numbers, "v": numbers.T}))
    # Biases of equal numbers are parameters of their own.
    assert (found.parameters, found.parameter_bytes) == (27 + 9 + 3 + 3, 4 * 42)


def test_values_live_from_their_op_to_their_last_reader():
    program = """\
graph @lives(%x: f32[100], %unread: f32[1000]) {
  %a = tanh(%x) : f32[100]
  %b, %c = split(%a) {axis = 0, sizes = [40, 60]} : f32[40], f32[60]
  %d = concat(%b, %c, %x) {axis = 0} : f32[200]
  %e = tanh(%b) : f32[40]
  return %d, %e
}
"""
    found = qir.summary(qir.parse(program))
    # x, b, c and d; a is gone, and nothing reads the other input.
    assert (found.peak_bytes, found.peak_at) == (4 * (100 + 40 + 60 + 200), "d")


def test_what_several_ops_read_counts_once():
    program = """\
graph @shared(%x: f32[4,4]) {
  %k = const @w : f32[4,4]
  %l = const @w : f32[4,4]
  %a = dot(%x, %k) : f32[4,4]
  %b = dot(%a, %k) : f32[4,4]
  %c = dot(%b, %l) : f32[4,4]
  return %c
}
"""
    found = qir.summary(qir.parse(program, {"w": np.ones((4, 4), np.float32)}))
    assert found.parameters == 16
    assert [line.parameters for line in found.ops] == [16, 16, 16]
    assert found.multiply_adds == {"f32*f32": 3 * 64}


def test_the_table():
    assert (
        str(qir.summary(qir.parse(FLOAT), {"B": 10}))
        == """\
op    value  type          parameters  bytes  output bytes    MACs  width
conv  %c     f32[B,4,4,8]         152    608         5,120  23,040  f32*f32
relu  %r     f32[B,4,4,8]                            5,120
mean  %m     f32[B,8]                                  320
dot   %y     f32[B,10]             80    320           400     800  f32*f32
parameters: 232 in 928 bytes
multiply-accumulates: 23,840 f32*f32
peak activation memory: 10,240 bytes, at %r"""
    )


def test_a_program_without_ops():
    found = qir.summary(qir.parse("graph @g(%x: f32[8]) {\n  return %x\n}"))
    assert str(found).splitlines()[1:] == [
        "parameters: 0 in 0 bytes",
        "multiply-accumulates: none",
        "peak activation memory: 32 bytes, at %x",
    ]


def test_a_notebook_shows_the_table():
    graph = qir.parse(FLOAT)
    for shown in (qir.summary(graph), qir.explain(graph)):
        assert repr(shown) == str(shown)
        assert len(str(shown).splitlines()) >= 5


def test_a_dimension_of_0_costs_0_and_not_nothing():
    found = qir.summary(qir.parse(FLOAT), {"B": 0})
    assert found.multiply_adds == {"f32*f32": 0}
    conv = next(line for line in str(found).splitlines() if line.startswith("conv"))
    assert conv.split()[-3:] == ["0", "0", "f32*f32"]


LOOPS = """\
graph @loops(%x: f32[T,4,2], %h: f32[4,3], %n: i32[]) {
  %last, %ys = scan(%n, %h, %x) {carries = 1, stacked = 1} with (
    %n: i32[],
    %h: f32[4,3],
    %x: f32[4,2]
  ) {
    %w = const 0.5 : f32[2,3]
    %k = const 0.25 : f32[3,3]
    %i = dot(%x, %w) : f32[4,3]
    %r = cond(%n, %h) with (%h: f32[4,3]) {
      %one = const 0.5 : f32[3,1]
      %two = const 0.5 : f32[1,3]
      %s = dot(%h, %one) : f32[4,1]
      %t = dot(%s, %two) : f32[4,3]
      return %t
    } with (%h: f32[4,3]) {
      %k = const 0.25 : f32[3,3]
      %d = dot(%h, %k) : f32[4,3]
      return %d
    } : f32[4,3]
    %d = dot(%h, %k) : f32[4,3]
    %a = add(%i, %r) : f32[4,3]
    %b = add(%a, %d) : f32[4,3]
    return %b, %b
  } : f32[4,3], f32[T,4,3]
  %z = while(%last) {carries = 1} with (%h: f32[4,3]) {
    %m = reduce_sum(%h) {axes = [0, 1]} : f32[]
    %ten = const 10.0 : f32[]
    %go = less(%m, %ten) : bool[]
    return %go
  } with (%h: f32[4,3]) {
    %k = const 0.25 : f32[3,3]
    %d = dot(%h, %k) : f32[4,3]
    return %d
  } : f32[4,3]
  return %z, %ys
}
"""


def test_what_loops_compute_counts_for_each_trip_and_what_they_hold_once():
    found = qir.summary(qir.parse(LOOPS), {"T": 10})
    projection, square, thin = 4 * 2 * 3, 4 * 3 * 3, 4 * 3
    trip = projection + max(2 * thin, square) + square
    assert found.multiply_adds == {"f32*f32": 10 * trip + square}
    assert found.parameters == 2 * 3 + 3 * 3 + 3 + 3 + 1
    assert found.endless == ("z",)
    lines = {line.value: line for line in found.ops}
    assert (lines["last/i"].multiply_adds, lines["last/i"].trips) == (10 * projection, 10)
    assert lines["last/r/0/t"].multiply_adds == 10 * thin
    assert lines["z/1/d"].trips == lines["last"].trips == 1
    text = str(found)
    assert "trips\n" in text
    assert text.endswith("loop %z: only a run tells how many trips; counted as one")


def test_what_is_alive_around_a_loop_is_so_while_it_runs():
    text = """\
graph @f(%x: f32[5,8], %h: f32[8], %w: f32[8]) {
  %y = scan(%w, %h, %x) {carries = 1, stacked = 1} with (%w: f32[8], %h: f32[8], %x: f32[8]) {
    %a = mul(%h, %w) : f32[8]
    %b = add(%a, %x) : f32[8]
    return %b
  } : f32[8]
  return %y
}"""
    found = qir.summary(qir.parse(text))
    outside = 5 * 8 + 8 + 8 + 8
    # What is carried, the place of what is stacked and %a beside what the loop has from around it;
    # %b beside %a and %x, when %h is read for the last time.
    assert found.peak_bytes == 4 * (outside + 3 * 8)
    assert found.peak_at == "y/a"
