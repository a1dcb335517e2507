"""Loops of kernels: what is carried, stacked and passed through, in both directions."""

from dataclasses import replace

import numpy as np
import pytest

import qir

pytest.importorskip("llvmlite")

from qir.backends.cpu.target import host_target
from qir.observe.batches import random_inputs
from qir.ops import Scan
from tests.backends.cpu import harness

pytestmark = pytest.mark.skipif(host_target() is None, reason="no kernels for this machine")

BODY = """
  with (%k: i8[40]{scale=0.5}, %h: i8[2,40]{scale=0.5}, %g: i8[2,40]{scale=0.5},
        %x: i8[2,40]{scale=0.5}) {
    %s = add(%x, %h) : i8[2,40]{scale=0.5}
    %m = maximum(%s, %g) : i8[2,40]{scale=0.5}
    %l = minimum(%m, %k) : i8[2,40]{scale=0.5}
    return %m, %h, %m, %x, %l
  } : i8[2,40]{scale=0.5}, i8[2,40]{scale=0.5}, i8[T,2,40]{scale=0.5}, i8[T,2,40]{scale=0.5},
    i8[T,2,40]{scale=0.5}
"""
TEXT = f"""qir 2
graph @g(%x: i8[T,2,40]{{scale=0.5}}, %h: i8[2,40]{{scale=0.5}}, %k: i8[40]{{scale=0.5}}) {{
  %a, %b, %ys, %xs, %ls = scan(%k, %h, %h, %x) {{carries = 2, stacked = 1}}
  {BODY}
  %z = add(%a, %b) : i8[2,40]{{scale=0.7}}
  return %a, %ys, %xs, %ls, %z
}}"""


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("trips", [1, 2, 5])
def test_a_loop_gives_what_the_reference_does(reverse, trips):
    graph = qir.parse(TEXT)
    node = graph.value("ys").node
    assert node is not None
    assert isinstance(node.op, Scan)
    node.op = replace(node.op, reverse=reverse)
    harness.check(graph, *random_inputs(graph, 1, trips))


def test_one_call_has_the_loop_and_what_is_around_it():
    program = qir.compile(qir.parse(TEXT))
    text = program.partition({"T": 3})
    assert text.count("call ") == 1
    assert "XLA" not in text
    assert program.lowerings["a"] == "kernel_scan"
    assert program.lowerings["a/s"] == "kernel_add"
    x = np.zeros((0, 2, 40), np.int8)
    h, k = np.full((2, 40), 3, np.int8), np.zeros(40, np.int8)
    first, *_ = program(x, h, k)
    assert np.array_equal(first, h)


def test_loops_in_loops():
    graph = qir.parse(
        """qir 2
        graph @g(%x: i8[3,4,33]{scale=0.5}, %h: i16[33]{scale=0.01}) {
          %a = scan(%h, %x) {carries = 1, stacked = 1} with (%h: i16[33]{scale=0.01},
              %row: i8[4,33]{scale=0.5}) {
            %b = scan(%h, %row) {carries = 1, stacked = 1, reverse = true} with (
                %h: i16[33]{scale=0.01}, %x: i8[33]{scale=0.5}) {
              %s = add(%h, %x) : i16[33]{scale=0.01}
              return %s
            } : i16[33]{scale=0.01}
            %c = add(%b, %h) : i16[33]{scale=0.01}
            return %c
          } : i16[33]{scale=0.01}
          return %a
        }"""
    )
    harness.check(graph, *random_inputs(graph, 2))


def test_a_loop_with_an_op_for_xla_says_which():
    graph = qir.parse(
        """qir 2
        graph @g(%x: f32[3,40]) {
          %ys = scan(%x) {stacked = 1} with (%x: f32[40]) {
            %t = tanh(%x) : f32[40]
            %q = quantize(%t) : i8[40]{scale=0.01}
            return %q
          } : i8[3,40]{scale=0.01}
          return %ys
        }"""
    )
    program = qir.compile(graph)
    assert "scan %ys: tanh %t in its body: no kernel for tanh" in program.partition()
    assert program.lowerings["ys/q"] == "kernel_quantize"
