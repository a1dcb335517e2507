"""Programs with regions in one another: the same numbers in the reference and through XLA."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest
from jax import export

import qir
from qir.backends.reference.interpreter import run
from qir.backends.xla.compile import compile_graph
from tests.drawing import drawn
from tests.exact.test_reference_vs_xla import run_together
from tests.strategies import Case
from tests.strategies.nested_programs import Setting, nested_programs

PACK = 12
NEAR = 1e-4
"""Floats are at most about 3, and no op makes a difference larger."""


def differing(cases: Sequence[Case], kernels: bool = False, near: float = 0) -> list[str]:
    """Computes programs in the reference and through XLA, many in one executable.

    Returns:
        Those that differ, with their numbers.
    """
    wrong = []
    for start in range(0, len(cases), PACK):
        pack = cases[start : start + PACK]
        programs = [(compile_graph(case.graph, kernels=kernels), case.inputs) for case in pack]
        for case, outputs in zip(pack, run_together(programs), strict=True):
            for found, expected in zip(outputs, run(case.graph, *case.inputs), strict=True):
                same = (found.dtype, found.shape) == (expected.dtype, expected.shape)
                slack = near if expected.dtype.kind == "f" else 0
                apart = np.abs(found.astype(np.float64) - expected.astype(np.float64))
                if not same or apart.max(initial=0) > slack:
                    wrong.append(case.shown())
    return wrong


@pytest.mark.hypothesis
@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
def test_integers_are_the_same(kernels: bool) -> None:
    if kernels:
        pytest.importorskip("llvmlite")
    cases = drawn(nested_programs(Setting("codes")), 60, pack=PACK)
    assert differing(cases, kernels) == []


@pytest.mark.hypothesis
def test_floats_are_the_same_but_for_their_roundings() -> None:
    cases = drawn(nested_programs(Setting("floats")), 48, pack=PACK)
    assert differing(cases, near=NEAR) == []


@pytest.mark.slow
@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
def test_three_regions_in_one_another(kernels: bool) -> None:
    if kernels:
        pytest.importorskip("llvmlite")
    setting = Setting("codes", depth=3, steps=2)
    assert differing(drawn(nested_programs(setting), 24, pack=PACK), kernels) == []


def test_a_constant_of_a_body_is_multiplied_by_a_kernel() -> None:
    graph = qir.parse("""
graph @g(%x: i8[2,3]{scale=0.5}) {
  %y, %ys = scan(%x) {carries = 1, trips = 2} with (%x: i8[2,3]{scale=0.5}) {
    %k = const [[31, 60, -4], [45, -65, -86]] : i8[2,3]{scale=0.5, zp=-16}
    %w = const [[1, -2, 3], [2, 3, 4], [-5, 6, 7]] : i8[3,3]{scale=0.5}
    %dot = dot(%k, %w) : i32[2,3]{scale=%k*%w}
    %r = requantize(%dot) : u8[2,3]{scale=2.0, zp=38}
    %z = requantize(%r) : i8[2,3]{scale=0.5}
    return %z, %r
  } : i8[2,3]{scale=0.5}, u8[2,2,3]{scale=2.0, zp=38}
  return %y, %ys
}""")
    x = np.zeros((2, 3), np.int8)
    for found, expected in zip(qir.compile(graph)(x), run(graph, x), strict=True):
        assert np.array_equal(found, expected)


@pytest.mark.slow
def test_programs_are_the_same_exported_mapped_with_64_bits_and_checked() -> None:
    strategy = nested_programs(Setting("codes", steps=2, nests=1))
    for case in drawn(strategy, 12, pack=6):
        expected = run(case.graph, *case.inputs)
        compiled = compile_graph(case.graph)
        with jax.enable_x64(True):
            wide = compile_graph(case.graph)(*case.inputs)
        twice = jax.vmap(compiled)(*(np.stack([array] * 2) for array in case.inputs))
        found = [wide, [array[1] for array in twice]]
        found.append(qir.compile(case.graph, check=case.inputs)(*case.inputs))
        if all(array.size for array in case.inputs):  # jax exports no dimension of 0.
            exported = export.deserialize(compiled.export().serialize())
            found.append(exported.call(*case.inputs))
        for outputs in found:
            for mine, wanted in zip(outputs, expected, strict=True):
                assert np.asarray(mine).dtype == wanted.dtype, case.shown()
                assert np.array_equal(mine, wanted), case.shown()
