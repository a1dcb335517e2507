"""split-concats keeps what a program computes and gives unequal parts of a concat own codes."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import Concat, Conv, Dot, Reshape, Transpose
from qir.pipeline import Context
from tests.drawing import examples


@st.composite
def programs(draw):
    """Products over concats of parts of very different range, with moves between."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    sizes = draw(st.lists(st.integers(1, 3), min_size=2, max_size=4))
    kind = draw(st.sampled_from(["dot", "conv", "reshaped", "transposed"]))
    graph = qir.Graph("concat")
    build, inputs = graph.at_end(), []
    for index, size in enumerate(sizes):
        shape = (2, size, rows) if kind == "transposed" else (2, rows, size)
        value = graph.add_input(f"x{index}", qir.TensorType(shape, qir.DType.F32))
        factor = 16.0 ** draw(st.integers(-2, 2))
        inputs.append((rng.normal(0, 1, shape) * factor).astype(np.float32))
        value.observed = Interval.of(inputs[-1].min(), inputs[-1].max())
    axis = 1 if kind == "transposed" else 2
    x = build.emit(Concat(axis), *graph.inputs)
    if kind == "transposed":
        x = build.emit(Transpose((0, 2, 1)), x)
    elif kind == "reshaped":
        x = build.emit(Reshape((2 * rows, 1, sum(sizes))), x)
    window = (draw(st.integers(1, 3)),) if kind == "conv" else ()
    kernel = rng.normal(0, 1, (*window, sum(sizes), columns)).astype(np.float32)
    bias = rng.normal(0, 1, columns).astype(np.float32)
    biases = [build.const(bias, "bias")] if draw(st.booleans()) else []
    op = Conv(padding="same") if kind == "conv" else Dot()
    y = build.emit(op, x, build.const(kernel, "kernel"), *biases)
    graph.set_outputs([y])
    values = [value for value in graph.values() if not value.is_constant]
    shown = graph.copy()
    shown.set_outputs([shown.value(value.name) for value in values])
    for value, array in zip(values, run(shown, *inputs), strict=True):
        value.observed = Interval.of(array.min(), array.max())
    return graph, inputs


@examples(150)
@given(programs())
def test_results_are_kept_and_partial_sums_lie_in_their_ranges(case):
    graph, inputs = case
    after = qir.optimize(graph, "split-concats(gain=0.0)")
    (old,), (new,) = (run(each, *inputs, precision=np.float64) for each in (graph, after))
    # At most 27 products are summed in another order; partial sums may be larger than the whole.
    watched = [value for value in after.values() if not value.is_constant]
    shown = after.copy()
    shown.set_outputs([shown.value(value.name) for value in watched])
    arrays = run(shown, *inputs, precision=np.float64)
    largest = max(float(np.abs(array).max()) for array in arrays)
    np.testing.assert_allclose(new, old, rtol=0, atol=32 * 2**-52 * 27 * largest)
    for value, array in zip(watched, arrays, strict=True):
        # What was observed of the whole is a float32, and so are ranges.
        assert value.range is not None
        assert value.range.contains(array, slack=64 * 2**-24 * largest)


def unequal(seed=3):
    rng = np.random.default_rng(seed)
    small = rng.uniform(-0.05, 0.05, (32, 6, 6, 4)).astype(np.float32)
    large = rng.uniform(0, 12, (32, 6, 6, 4)).astype(np.float32)
    kernel = rng.normal(0, 0.2, (8, 5)).astype(np.float32)
    kernel[:4] *= 100
    return [(small[i : i + 8], large[i : i + 8]) for i in range(0, 32, 8)], kernel


def sqnr(real, coded):
    error = np.square(real - coded, dtype=np.float64).sum()
    return 10 * np.log10(np.square(real, dtype=np.float64).sum() / error)


def test_a_dense_over_unequal_parts_is_as_good_as_two():
    data, kernel = unequal()
    together = qir.from_jax(lambda a, b: jnp.concatenate([a, b], -1) @ kernel, *data[0], batch="B")
    apart = qir.from_jax(lambda a, b: a @ kernel[:4] + b @ kernel[4:], *data[0], batch="B")
    (real,) = qir.evaluate(together, *data[0])
    found, wanted = (
        sqnr(real, qir.evaluate(qir.quantize(graph, data), *data[0])[0])
        for graph in (together, apart)
    )
    assert found > 38  # as one dot, 6.6
    assert found > wanted - 1


def test_the_sum_stands_for_what_was_imported():
    data, kernel = unequal()
    graph = qir.from_jax(lambda a, b: jnp.concatenate([a, b], -1) @ kernel, *data[0], batch="B")
    before = qir.optimize(graph, "calibrate", data=data)
    context = Context()
    after = qir.optimize(before, "split-concats(report=true)", context=context)
    (old,), (new,) = before.outputs, after.outputs
    assert (new.name, new.origin, new.loc, new.range) == (
        old.name,
        old.origin,
        old.loc,
        old.range,
    )
    assert not any(value.origin for value in new.inputs)
    assert all(value.loc == old.loc for value in new.inputs)
    assert context.diagnostics[0].startswith(f"split-concats: %{old.name}: 2 products, ")


def test_networks_that_concatenate_activations_of_one_size_run_as_before():
    rng = np.random.default_rng(0)
    kernels = [rng.normal(0, 0.3, (1, 1, size, 4)).astype(np.float32) for size in (4, 8, 12)]

    def dense_block(x):
        for kernel in kernels:
            y = jnp.maximum(jnp.einsum("bhwc,co->bhwo", x, kernel[0, 0]), 0)
            x = jnp.concatenate([x, y], -1)
        return x @ rng.normal(0, 0.3, (16, 3)).astype(np.float32)

    data = [rng.uniform(0, 1, (2, 4, 4, 4)).astype(np.float32)]
    graph = qir.from_jax(dense_block, data[0])
    before = qir.optimize(graph, "calibrate", data=data)
    assert str(qir.optimize(before, "split-concats")) == str(before)


def test_a_gain_below_zero_is_refused():
    with pytest.raises(QirError, match="expected a gain of at least 0 dB, got -1"):
        qir.optimize(qir.parse("graph @g(%x: f32[1]) {\n  return %x\n}"), "split-concats(gain=-1)")
