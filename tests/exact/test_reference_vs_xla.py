"""XLA against the reference: the same integers, and floats within bounds that follow."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from qir.backends.reference.interpreter import run, run_all
from qir.backends.xla.compile import compile_graph
from qir.backends.xla.float_bounds import near
from qir.ops import Const, Return
from qir.ops.op import OPS, Op
from qir.ops.unary import Unary
from qir.types import Array
from tests.strategies import Case, packs_of
from tests.strategies.programs import integer_programs

OPERATIONS = [cls for cls in OPS.values() if cls not in (Const, Return)]


def examples(count: int) -> settings:
    """Runs a few packs. None is shrunk, which would compile hundreds; the failing case is shown."""
    return settings(max_examples=count, phases=[Phase.generate])


def run_packed(cases: Sequence[Case], kernels: bool = False) -> list[tuple[Array, ...]]:
    """Runs the programs of many cases as one executable, inside a jit of the caller's."""
    programs = [compile_graph(case.graph, kernels=kernels) for case in cases]

    def whole(parameters, inputs):
        pairs = zip(programs, parameters, inputs, strict=True)
        return [program.function(given, *arrays) for program, given, arrays in pairs]

    parameters = [program.parameters for program in programs]
    found = jax.jit(whole)(parameters, [case.inputs for case in cases])
    return [tuple(map(np.asarray, outputs)) for outputs in found]


def check_floats(case: Case, outputs: Sequence[Array]) -> None:
    """Compares XLA and the reference with the op's value in float64."""
    values = run_all(case.graph, *case.inputs, precision=np.float64)
    operands = [values[value] for value in case.node.inputs]
    for value, *computed in zip(
        case.graph.outputs, outputs, run(case.graph, *case.inputs), strict=True
    ):
        for found in computed:
            good = near(case.node.op, value.type.dtype, operands, found, values[value])
            assert np.all(good), f"{found[~good]} for {values[value][~good]} in {case.shown()}"


def check_integers(case: Case, outputs: Sequence[Array]) -> None:
    """Compares XLA with the reference, integer for integer."""
    for found, expected in zip(outputs, run(case.graph, *case.inputs), strict=True):
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f"), case.shown()


@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_every_op(cls: type[Op]) -> None:
    # On codes all functions of one number are lookups, which have a test of their own.
    @examples(2 if issubclass(cls, Unary) else 3)
    @given(packs_of(cls, 5 if issubclass(cls, Unary) else 12))
    def agrees(cases: list[Case]) -> None:
        for case, outputs in zip(cases, run_packed(cases), strict=True):
            floating = all(value.type.is_float for value in case.node.outputs)
            if floating and not case.coded:
                check_floats(case, outputs)
            else:
                check_integers(case, outputs)

    agrees()


@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_every_op_with_a_kernel(cls: type[Op]) -> None:
    pytest.importorskip("llvmlite")
    from qir.backends.cpu import patterns as covers
    from qir.backends.native.pattern import COVERS

    assert covers.__all__

    if cls not in COVERS:
        pytest.skip("no kernel")

    @examples(6)
    @given(packs_of(cls, 12))
    def agrees(cases: list[Case]) -> None:
        cases = [case for case in cases if case.coded]
        for case, outputs in zip(cases, run_packed(cases, kernels=True), strict=True):
            check_integers(case, outputs)

    agrees()


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
def test_whole_programs(kernels: bool) -> None:
    if kernels:
        pytest.importorskip("llvmlite")

    @examples(4)
    @given(st.lists(integer_programs(), min_size=6, max_size=6))
    def agrees(cases: list[Case]) -> None:
        for case, outputs in zip(cases, run_packed(cases, kernels), strict=True):
            check_integers(case, outputs)

    agrees()
