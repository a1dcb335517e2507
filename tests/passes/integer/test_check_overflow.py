"""check-overflow refuses a program exactly when stored numbers exist that overflow."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.errors import PassError, QirError
from qir.ops.elementwise import Sum
from qir.ops.op import OPS, Op
from qir.ops.rules import FixedCode, Rescale

LIMITS = (-(2**31), 2**31 - 1)


@st.composite
def linear_layers(draw):
    """A dot whose sums come close to the ends of int32, and the inputs that take it furthest."""
    terms, channels = draw(st.integers(1, 5)), draw(st.integers(1, 3))
    low = draw(st.integers(-128, 126))
    high = draw(st.integers(low + 1, 127))
    zero = draw(st.integers(low, high))
    numbers = st.lists(st.integers(-127, 127), min_size=channels, max_size=channels)
    weights = np.array(draw(st.lists(numbers, min_size=terms, max_size=terms)), np.int8)
    end = draw(st.sampled_from([0, 1]))
    wide = weights.astype(np.int64)
    furthest = np.where((wide > 0) == bool(end), high, low)
    sums = ((furthest - zero) * wide).sum(axis=0)
    slack = np.array(draw(st.lists(st.integers(-2, 2), min_size=channels, max_size=channels)))
    bias = np.clip(LIMITS[end] - sums + slack, *LIMITS)
    graph = qir.Graph("layer")
    x_type = qir.TensorType((1, terms), qir.Affine.of(qir.DType.I8, 1.0, zero, bounds=(low, high)))
    x, build = graph.add_input("x", x_type), graph.at_end()
    one, sum_code = qir.Affine.of(qir.DType.I8, 1.0), qir.Affine.of(qir.DType.I32, 1.0)
    kernel = build.const(weights, "kernel", one)
    offset = build.const(bias.astype(np.int32), "bias", sum_code)
    graph.set_outputs([build.emit(OPS["dot"](), x, kernel, offset)])
    return graph, furthest.T.astype(np.int8), bias + sums


@given(linear_layers())
def test_refuses_exactly_what_overflows(layer):
    graph, inputs, sums = layer
    overflows = (sums < LIMITS[0]) | (sums > LIMITS[1])
    if overflows.any():
        with pytest.raises(PassError, match=f"channel {np.argmax(np.abs(sums))} of %dot"):
            qir.optimize(graph, "check-overflow")
    else:
        assert qir.optimize(graph, "check-overflow") == graph
    for channel in range(len(sums)):
        row = inputs[channel : channel + 1]
        if overflows[channel]:
            with pytest.raises(QirError, match="a stored number left"):
                qir.evaluate(graph, row)
        elif not overflows.any():
            assert qir.evaluate(graph, row)[0][0, channel] == sums[channel]


def test_the_integers_of_every_op_that_rounds_are_known():
    rounding = {op for op in OPS.values() if isinstance(op.quant, Rescale | FixedCode)}
    assert {op.name for op in rounding if op.formed is Op.formed} == set()


def test_an_op_without_a_bound_is_refused(monkeypatch):
    monkeypatch.setattr(Sum, "formed", Op.formed)
    graph = qir.parse(
        "graph @g(%x: i8[2]{scale=1.0}) {\n  %y = add(%x, %x) : i8[2]{scale=1.0}\n  return %y\n}"
    )
    with pytest.raises(PassError, match="no bound is known for add"):
        qir.optimize(graph, "check-overflow")
