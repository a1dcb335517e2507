"""64-bit integers that a program takes and moves, computed in 32 bits with the same numbers."""

import jax
import numpy as np
import pytest

import qir
from qir.numbers.interval import Interval

TEXT = """
graph @embed(%ids: i64[B,3], %other: i64[B,3]) {
  %table = const [[0.0, 1.0], [2.0, 3.0], [4.0, -6.0]] : f32[3,2]
  %two = const [[2]] : i64[1,1]
  %turned = transpose(%ids) {permutation = [1, 0]} : i64[3,B]
  %again = transpose(%turned) {permutation = [1, 0]} : i64[B,3]
  %rows = gather(%table, %again) : f32[B,3,2]
  %last = equal(%ids, %two) : bool[B,3]
  %chosen = select(%last, %other, %ids) : i64[B,3]
  %real = cast(%chosen) : f32[B,3]
  return %rows, %last, %real
}
"""
IDS = np.array([[0, 1, 2], [2, 2, 1]])
OTHER = np.array([[-(2**31), 2**31 - 1, 7], [5, 6, 7]])


@pytest.mark.parametrize("kernels", [None, False])
@pytest.mark.parametrize("check", [False, True, [IDS, OTHER]])
def test_ids_of_64_bits_give_what_the_reference_gives(kernels, check):
    graph = qir.parse(TEXT)
    program = qir.compile(graph, kernels=kernels, check=check)
    wanted = qir.evaluate(graph, IDS, OTHER)
    for found in (
        program(IDS, OTHER),
        program(IDS.astype(np.int32), OTHER),
        jax.jit(program)(IDS, OTHER),
    ):
        for array, right in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(array, right)
    assert [str(port) for port in program.inputs] == ["ids: i32[B,3]", "other: i32[B,3]"]
    assert str(graph) == str(qir.parse(TEXT)), "the graph is the user's"


@pytest.mark.parametrize("number", [2**31, -(2**31) - 1])
def test_a_number_that_does_not_fit_is_refused(number):
    program = qir.compile(qir.parse(TEXT))
    with pytest.raises(qir.QirError) as refused:
        program(IDS, np.where(IDS == 0, number, 0))
    assert str(refused.value) == (
        "run: expected numbers of input %other in [-2147483648, 2147483647], as XLA has 32 bits, "
        f"got {number}"
    )


def test_no_numbers_fit():
    empty = np.zeros((0, 3), np.int64)
    assert [array.shape for array in qir.compile(qir.parse(TEXT))(empty, empty)][1] == (0, 3)


def test_64_bits_inside_a_traced_function_are_refused():
    program = qir.compile(qir.parse(TEXT))
    with jax.enable_x64(True), pytest.raises(qir.QirError, match="%ids inside a traced function"):
        jax.jit(program)(IDS, OTHER)


@pytest.mark.parametrize(
    "body",
    [
        "%y = add(%x, %x) : i64[2]",
        "%y = reverse(%x) {axes = [0]} : i64[2]",
        "%big = const [3000000000, 1] : i64[2] %y = equal(%x, %big) : bool[2]",
    ],
)
def test_what_may_not_fit_and_results_of_64_bits_are_refused_with_the_remedy(body):
    graph = qir.parse(f"graph @wide(%x: i64[2]) {{ {body} return %y }}")
    with pytest.raises(qir.UnsupportedError, match=r"at most 32 bits, got i64\[2\]; cast to i32"):
        qir.compile(graph)


def test_calibration_takes_them():
    graph = qir.parse(TEXT)
    data = [(IDS, OTHER), (IDS[::-1].copy(), OTHER)]
    ranged = qir.optimize(graph, "calibrate", data=data)
    assert ranged.value("rows").range == Interval.of(-6, 4)
    assert ranged.inputs[0].type.dtype.value == "i64"
