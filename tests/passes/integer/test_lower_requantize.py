"""lower-requantize writes out the numbers that the program is computed with already."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.ops import Requantize
from tests.roundings import ANY_RATIO

SCALES = st.floats(2.0**-14, 2.0**14, width=32)


@given(
    st.lists(SCALES, min_size=1, max_size=4),
    SCALES,
    st.integers(-128, 127),
    st.sampled_from(ANY_RATIO),
    st.data(),
)
def test_keeps_every_bit(scales, output_scale, zero_point, rounding, data):
    code = qir.Affine.of(qir.DType.I32, np.reshape(scales, (1, -1)))
    graph = qir.Graph("g", [("acc", qir.TensorType((2, len(scales)), code))])
    result = qir.Affine.of(qir.DType.I8, output_scale, zero_point)
    graph.set_outputs([graph.at_end().emit(Requantize(result, rounding), graph.inputs[0])])
    lowered = qir.optimize(graph, "lower-requantize")
    numbers = st.lists(st.integers(-(2**31), 2**31 - 1), min_size=len(scales), max_size=len(scales))
    acc = np.array([data.draw(numbers) for _ in range(2)], np.int32)
    assert isinstance(operation := lowered.outputs[0].op, Requantize)
    assert operation.multiplier is not None
    assert qir.optimize(lowered, "lower-requantize") == lowered
    assert np.array_equal(qir.evaluate(lowered, acc), qir.evaluate(graph, acc))
