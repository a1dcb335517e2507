"""lookup-tables keeps every stored number: each case runs over all codes of its input."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run_all
from qir.numbers.quantize_mode import QUANTIZE_MODES
from qir.ops import Add, Clip, Const, Dequantize, Lookup, Mul, Quantize, Relu, Requantize
from qir.ops.op import OPS
from qir.ops.unary import Unary
from qir.types import Affine, DType, TensorType
from tests.roundings import ANY_RATIO
from tests.strategies.base import codes

UNARY = sorted((cls for cls in OPS.values() if issubclass(cls, Unary)), key=lambda cls: cls.name)
STORAGES = (DType.I2, DType.I4, DType.U4, DType.I8, DType.U8)


def every_number(code):
    low, high = code.range
    return np.arange(low, high + 1).astype(code.storage.numpy)


def program_of(code):
    """A graph whose input takes all numbers of a code, and its builder."""
    graph = qir.Graph("g", [("x", TensorType((len(every_number(code)),), code))])
    return graph, graph.at_end(), graph.inputs[0]


@st.composite
def functions(draw):
    """Functions of one tensor: ops of one number, sums and products with one another and numbers.

    Between a dequantize and a quantize.
    """
    graph, build, x = program_of(draw(codes(STORAGES)))
    values = [build.emit(Dequantize(), x)]
    for _ in range(draw(st.integers(1, 5))):
        value = draw(st.sampled_from(values))
        number = build.const(np.float32(draw(st.sampled_from([-2.0, 0.3, 1.0]))))
        op, *operands = draw(
            st.sampled_from(
                [
                    *((cls(), value) for cls in UNARY),
                    *((Relu(), value), (Clip(-1.0, 2.0), value)),
                    *((Mul(), value, values[-1]), (Mul(), value, number)),
                    *((Add(), value, values[-1]), (Add(), number, value)),
                ]
            )
        )
        values.append(build.emit(op, *operands))
    quantize = Quantize(draw(codes(STORAGES)), draw(st.sampled_from(list(QUANTIZE_MODES))))
    graph.set_outputs([build.emit(quantize, values[-1])])
    return graph


@given(functions())
def test_a_table_holds_the_function_in_float64(graph):
    x = every_number(graph.inputs[0].type.quant)
    with np.errstate(all="ignore"):
        values = run_all(graph, x, precision=np.float64)
        tabulated = qir.optimize(graph, "lookup-tables", check=[x])
    assert np.array_equal(qir.evaluate(tabulated, x)[0], values[graph.outputs[0]])
    if not np.isnan(values[graph.outputs[0].inputs[0]]).any():
        assert [type(node.op) for node in tabulated.nodes if node.outputs] == [Const, Lookup]


@st.composite
def integer_chains(draw):
    """A lookup, then lookups, requantizes, relus and clips of what it gives."""
    graph, build, value = program_of(draw(codes(STORAGES)))
    for kind in ["t", *draw(st.lists(st.sampled_from("trlc"), min_size=1, max_size=4))]:
        code = draw(codes(STORAGES))
        match kind:
            case "t":
                rng = np.random.default_rng(draw(st.integers(0, 2**16)))
                low, high = code.range
                entries = rng.integers(low, high, 2**value.type.dtype.bits, endpoint=True)
                table = build.const(entries.astype(code.storage.numpy), "table", code)
                value = build.emit(Lookup(), value, table)
            case "r":
                low, high = sorted(draw(st.tuples(*[st.integers(*code.range)] * 2)))
                clamp = draw(st.sampled_from([None, (low, high)]))
                rounding = draw(st.sampled_from(ANY_RATIO))
                value = build.emit(Requantize(code, rounding, clamp), value)
            case "l":
                value = build.emit(Relu(), value)
            case _:
                value = build.emit(Clip(draw(st.sampled_from([-np.inf, -1.0, 0.0])), 2.5), value)
    graph.set_outputs([value])
    return graph


@given(integer_chains())
def test_composed_tables_keep_every_number(graph):
    x = every_number(graph.inputs[0].type.quant)
    composed = qir.optimize(graph, "lookup-tables", check=[x])
    (expected,), (found,) = qir.evaluate(graph, x), qir.evaluate(composed, x)
    assert np.array_equal(expected, found)
    assert [type(node.op) for node in composed.nodes if node.outputs] == [Const, Lookup]


def test_long_functions_become_tables():
    graph, build, x = program_of(Affine.of(DType.I8, 2.0**-6))
    value = build.emit(Dequantize(), x)
    for _ in range(3000):
        value = build.emit(OPS["neg"](), value)
    graph.set_outputs([build.emit(Quantize(Affine.of(DType.I8, 2.0**-6)), value)])
    tabulated = qir.optimize(graph, "lookup-tables")
    every = every_number(Affine.of(DType.I8, 1.0))
    assert [node.op.name for node in tabulated.nodes] == ["const", "lookup", "return"]
    assert np.array_equal(qir.evaluate(tabulated, every)[0], every)
