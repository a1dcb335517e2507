"""XLA against the reference: the same integers, and floats within bounds that follow."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
import pytest

from qir.backends.reference.interpreter import run, run_all
from qir.backends.xla.compile import Compiled, compile_graph
from qir.backends.xla.float_bounds import near
from qir.ops import Const, Return
from qir.ops.op import OPS, Op
from qir.ops.unary import Unary
from qir.types import Array
from tests.drawing import PACK, drawn
from tests.strategies import STRATEGIES, Case
from tests.strategies.programs import integer_programs

OPERATIONS = [cls for cls in OPS.values() if cls not in (Const, Return)]


def run_together(programs: Sequence[tuple[Compiled, tuple[Array, ...]]]) -> list[tuple[Array, ...]]:
    """Runs programs as one executable, inside a jit of the caller's: compiling takes the time."""

    def whole(parameters, inputs):
        return [
            program.function(given, *arrays)
            for (program, _), given, arrays in zip(programs, parameters, inputs, strict=True)
        ]

    parameters = [program.parameters for program, _ in programs]
    found = jax.jit(whole)(parameters, [inputs for _, inputs in programs])
    return [tuple(map(np.asarray, outputs)) for outputs in found]


def check_packed(cases: Sequence[Case], kernels: bool = False) -> None:
    """Compares XLA and the reference on cases, many in one executable.

    None is shrunk, which would compile hundreds; the failing case is shown.
    """
    for start in range(0, len(cases), 2 * PACK):
        pack = cases[start : start + 2 * PACK]
        programs = [(compile_graph(case.graph, kernels=kernels), case.inputs) for case in pack]
        for case, outputs in zip(pack, run_together(programs), strict=True):
            if case.coded or not all(value.type.is_float for value in case.node.outputs):
                check_integers(case, outputs)
            else:
                check_floats(case, outputs)


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


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_every_op(cls: type[Op]) -> None:
    # On codes all functions of one number are lookups, which have a test of their own.
    check_packed(drawn(STRATEGIES[cls], 72, pack=6 if issubclass(cls, Unary) else PACK))


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_every_op_with_a_kernel(cls: type[Op]) -> None:
    pytest.importorskip("llvmlite")
    from qir.backends.native import patterns
    from qir.backends.native.pattern import PATTERNS

    assert patterns.__all__

    if cls not in PATTERNS:
        pytest.skip("no kernel")

    cases = [case for case in drawn(STRATEGIES[cls], 96) if case.coded]
    check_packed(cases, kernels=True)


@pytest.mark.hypothesis
@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
def test_whole_programs(kernels: bool) -> None:
    if kernels:
        pytest.importorskip("llvmlite")

    check_packed(drawn(integer_programs(), 32, pack=6), kernels)
