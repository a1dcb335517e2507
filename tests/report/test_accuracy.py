"""The check at the end of quantizing: what it measures, what it warns of, and why."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.api import quantizing
from qir.backends.reference.interpreter import run_all
from qir.errors import QirAccuracyWarning
from qir.report import accuracy, work
from qir.report.decibels import ratio_in_decibels

ROWS, WIDTH = 8, 32
RNG = np.random.default_rng(7)
WEIGHTS = RNG.normal(0, 0.3, (WIDTH, 16)).astype(np.float32)
DATA = [RNG.normal(0, 1, (ROWS, WIDTH)).astype(np.float32) for _ in range(3)]
ROW_SIZES = np.geomspace(1e-3, 1e3, ROWS, dtype=np.float32)[:, None]
CHANNEL_SIZES = np.geomspace(1e-3, 1e3, WIDTH, dtype=np.float32)


def masked(x):
    """Scores of which a relu, not a softmax, reads those that are masked."""
    scores = jnp.where(jnp.tril(jnp.ones((ROWS, ROWS), bool)), x @ x.T, -1e9)
    return jax.nn.relu(scores / 10 + 3) @ x


def quantized(function, data, pipeline="w8a8", **options):
    return qir.quantize(qir.from_jax(function, data[0]), data, pipeline, **options)


def integer_of(graph):
    return qir.quantize(graph, iter(DATA), accuracy_check=False)


class TestFigures:
    def test_an_accurate_program_keeps_its_figures_and_warns_of_nothing(self):
        graph = qir.from_jax(lambda x: jax.nn.relu(x @ WEIGHTS), DATA[0], batch="B")
        integer = qir.quantize(graph, iter(DATA))
        assert integer.accuracy is not None
        (output,) = integer.accuracy.outputs
        right, found = (qir.evaluate(program, DATA[0])[0] for program in (graph, integer))
        assert (output.sqnr, output.rows) == ratio_in_decibels(right, found)
        assert integer.accuracy.samples == f"{ROWS} samples of the first batch"
        assert f"output %{output.name}: {output.sqnr:.1f} dB" in str(qir.explain(integer))
        assert integer.copy().accuracy == integer.accuracy

    def test_a_large_batch_is_cut_to_a_few_rows(self):
        graph = qir.from_jax(lambda x: x @ WEIGHTS, DATA[0], batch="B")
        integer = qir.quantize(graph, [np.concatenate(DATA)])
        assert integer.accuracy is not None
        assert integer.accuracy.samples == "16 samples of the first batch"

    def test_a_batch_whose_buffer_is_filled_anew_is_kept_as_it_was(self):
        buffer = np.empty_like(DATA[0])

        def batches():
            for scale in (1, 100):
                buffer[:] = DATA[0] * np.float32(scale)
                yield buffer

        graph = qir.from_jax(lambda x: x @ WEIGHTS, DATA[0])
        kept = [DATA[0], DATA[0] * np.float32(100)]
        integer = qir.quantize(graph, kept, accuracy_check=-99)
        again = qir.quantize(graph, batches(), accuracy_check=-99)
        assert again.accuracy == integer.accuracy

    @pytest.mark.parametrize("batch", [None, "B"])
    def test_what_calibration_computed_of_a_large_program_is_not_computed_again(
        self, monkeypatch, batch
    ):
        def network(x):
            return jax.nn.relu(x @ WEIGHTS)[..., ::-1], x

        graph = qir.from_jax(network, DATA[0], batch=batch)
        small = qir.quantize(graph, iter(DATA)).accuracy
        monkeypatch.setattr(accuracy, "WORK", 0)
        computed = []

        def interpreter(program, *inputs, **options):
            computed.append(program.name)
            return run_all(program, *inputs, **options)

        monkeypatch.setattr(quantizing, "run_all", interpreter)
        context = qir.Context()
        large = qir.quantize(graph, iter(DATA), context=context).accuracy
        assert len(computed) == 1
        assert small is not None
        assert large is not None
        assert (bool(small.worst), bool(large.worst)) == (True, False)
        rows = ROWS if batch is None else 1
        assert large.samples == (
            "the first batch" if batch is None else "1 sample of the first batch"
        )
        kept, _ = context.sample_outputs
        assert kept is not None
        assert kept.shape == (ROWS, 16)
        right, found = (
            qir.evaluate(program, DATA[0][:rows])[0] for program in (graph, integer_of(graph))
        )
        # XLA sums in another order than numpy.
        assert large.outputs[0].sqnr == pytest.approx(ratio_in_decibels(right, found)[0], abs=0.01)

    def test_a_large_program_is_computed_where_an_output_is_inaccurate(self, monkeypatch):
        monkeypatch.setattr(accuracy, "WORK", 0)
        with pytest.warns(QirAccuracyWarning, match="own error|largest errors") as caught:
            integer = quantized(masked, DATA)
        assert integer.accuracy is not None
        assert integer.accuracy.worst
        assert len(caught) == 1

    def test_rows_follow_from_the_size_of_the_program(self, monkeypatch):
        graph = qir.from_jax(lambda x: x @ WEIGHTS, DATA[0], batch="B")
        row = WIDTH * 16 + work.RESULT * 16
        monkeypatch.setattr(accuracy, "WORK", 3 * row)
        integer = qir.quantize(graph, [np.concatenate(DATA)])
        assert integer.accuracy is not None
        assert integer.accuracy.samples == "6 samples of the first batch"

    def test_the_seconds_of_the_check_stand_behind_those_of_the_passes(self):
        context = qir.Context()
        qir.quantize(qir.from_jax(lambda x: x @ WEIGHTS, DATA[0]), DATA, context=context)
        assert context.timings[-1][0] == "accuracy-check"

    def test_the_check_can_be_left_out(self):
        integer = quantized(masked, DATA, accuracy_check=False)
        assert integer.accuracy is None
        assert "dB" not in str(qir.explain(integer))

    def test_the_threshold_is_an_option(self):
        with pytest.warns(QirAccuracyWarning, match="at least 90 dB"):
            quantized(lambda x: x @ WEIGHTS, DATA, accuracy_check=90)

    def test_coded_inputs_and_outputs_are_compared_as_real_numbers(self):
        pipeline = "calibrate, quantize(inputs=i8, outputs=i8), check-overflow"
        integer = quantized(lambda x: x @ WEIGHTS, DATA, pipeline)
        assert integer.accuracy is not None
        assert integer.accuracy.outputs[0].sqnr > 30

    def test_a_program_with_nothing_quantized_has_no_figures(self):
        assert quantized(lambda x: x @ WEIGHTS, DATA, "fold, calibrate").accuracy is None


class TestDecibels:
    def test_no_noise_is_infinitely_far_below(self):
        assert ratio_in_decibels(np.zeros((2, 3)), np.zeros((2, 3))) == (np.inf, np.inf)

    def test_noise_without_signal_is_infinitely_far_above(self):
        assert ratio_in_decibels(np.zeros((1, 3)), np.ones((1, 3))) == (-np.inf, -np.inf)

    def test_a_row_of_zeros_is_held_against_the_mean_row(self):
        """Sums that cancel but for a hundredth of what others are have signal to speak of."""
        exact = np.array([[100.0], [-100.0], [0.0]])
        whole, rows = ratio_in_decibels(exact, exact + np.array([[0.0], [0.0], [1.0]]))
        assert whole == pytest.approx(10 * np.log10(20000))
        assert rows == pytest.approx(10 * np.log10(20000 / 3))

    def test_a_tenth_of_the_size_is_20_decibels(self):
        whole, rows = ratio_in_decibels(np.ones((4, 5)), np.full((4, 5), 1.1))
        assert np.allclose((whole, rows), 20)  # 10 log10(1 / 0.1^2)

    def test_a_bad_row_in_ten_shows_in_the_rows_alone(self):
        exact = np.concatenate([np.full((9, 4), 100.0), np.full((1, 4), 1.0)])
        whole, rows = ratio_in_decibels(exact, exact + 1)
        assert whole > 39
        assert rows == 0

    def test_what_is_not_finite_in_float_is_left_out(self):
        exact = np.array([[np.inf, 1.0, np.nan]])
        assert ratio_in_decibels(exact, np.array([[0.0, 1.0, 5.0]])) == (np.inf, np.inf)

    def test_what_is_not_finite_in_integers_alone_is_noise_without_end(self):
        assert ratio_in_decibels(np.ones((1, 2)), np.array([[np.nan, 1.0]])) == (-np.inf, -np.inf)


def clipped(x):
    return x @ WEIGHTS


UNSEEN = [DATA[0] * np.float32(50), *[DATA[0]] * 60]
"""Numbers of which most lie outside of what a moving average keeps."""

CLIP = "fold, calibrate(method=moving_average), propagate-ranges, quantize, integer"
W2 = "fold, calibrate, propagate-ranges, quantize(weights=i2), integer"

FAULTS = {
    "mask": (masked, DATA, "w8a8"),
    "shared code": (lambda x: jnp.tanh(x * 1e3), [x * CHANNEL_SIZES for x in DATA], "w8a8"),
    "rows": (lambda x: jax.nn.softmax(x @ WEIGHTS), [x * ROW_SIZES for x in DATA], "w8a8"),
    "clipping": (clipped, UNSEEN, CLIP),
    "division": (
        lambda x: 1 / (jnp.square(x) + 1e-4),
        [np.abs(x) + np.float32(0.01) for x in DATA],
        "w8a8",
    ),
    "constant range": (
        lambda x: jnp.tanh(x - 1000) @ WEIGHTS,
        [x + np.float32(1000) for x in DATA],
        "widen-floats, calibrate, quantize(symmetric=true), lookup-tables, check-overflow",
    ),
    "few bits": (lambda x: x @ WEIGHTS, DATA, W2),
}


@pytest.mark.parametrize("cause", FAULTS)
def test_a_model_with_one_fault_is_warned_of_with_its_cause(cause):
    function, data, pipeline = FAULTS[cause]
    with pytest.warns(QirAccuracyWarning) as caught:
        integer = quantized(function, data, pipeline)
    message = str(caught[0].message)
    assert integer.accuracy is not None
    assert integer.accuracy.worst[0].cause == cause, message
    assert f"\n{cause}: " in message  # the remedy
    assert "test_accuracy.py" in message  # the place


def far_from_zero(x):
    return jnp.tanh(x @ WEIGHTS) / 100 + 300


def normed(x):
    """Rows that differ by far more than what the norm leaves of them."""
    y = x[:, :1] * 1000 + jnp.tanh(x @ WEIGHTS) / 100
    centred = y - y.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-9)


def scaled_scores(x):
    """Scores whose factor goes into weights: what stands between has no float numbers."""
    return (x @ WEIGHTS) @ (x @ WEIGHTS[::-1]).T / 3


PERCENTILE = (
    "fold, calibrate(method=percentile, percentile=90), propagate-ranges, quantize, integer"
)

FURTHER = {
    "a percentile": ("clipping", "lie outside of", clipped, PERCENTILE),
    "weights of 2 bits behind a factor": ("few bits", "weights have 2 bits", scaled_scores, W2),
    "an output far from zero": (
        "constant range",
        r"%\w+: it goes from 299.9\d+ to 300.0\d+",
        far_from_zero,
        "w8a8",
    ),
    "a sum of more bits that a norm reads": (
        "constant range",
        r"%\w+: it varies by [\d.e-]+ about the means of rows, in steps of",
        normed,
        "w8a8",
    ),
}


@pytest.mark.parametrize("fault", FURTHER)
def test_a_fault_shows_in_the_value_that_has_it(fault):
    cause, detail, function, pipeline = FURTHER[fault]
    with pytest.warns(QirAccuracyWarning, match=f"{cause} at .*{detail}") as caught:
        integer = quantized(function, DATA, pipeline)
    assert integer.accuracy is not None
    assert integer.accuracy.worst[0].cause == cause
    assert "rounding at" not in str(caught[0].message)


def test_an_offset_is_no_signal():
    found = quantized(far_from_zero, DATA, accuracy_check=-99).accuracy
    same = quantized(lambda x: x * 0 + 300, DATA).accuracy
    assert found is not None
    assert same is not None
    assert 0 < found.outputs[0].sqnr < 20
    assert same.outputs[0].sqnr == np.inf


def test_ops_that_make_no_difference_are_not_named():
    with pytest.warns(QirAccuracyWarning) as caught:
        integer = quantized(clipped, DATA, W2)
    assert integer.accuracy is not None
    assert [one.op for one in integer.accuracy.worst] == ["dot", "input"]
    assert "input" not in str(caught[0].message)


def test_weights_of_unequal_size_are_no_mask():
    weights = WEIGHTS.copy()
    # A weight that meets zeros alone takes the steps of its column.
    weights[0, 1] = 1e4
    data = [np.where(np.arange(x.shape[-1]) == 0, 0, x).astype(np.float32) for x in DATA]
    with pytest.warns(QirAccuracyWarning):
        integer = quantized(lambda x: x @ weights, data, "w8a8")
    assert integer.accuracy is not None
    assert "mask" not in {line.cause for line in integer.accuracy.worst}


def test_the_same_models_without_the_fault_are_not_warned_of():
    quantized(lambda x: jax.nn.relu(x @ x.T / 10 + 3) @ x, DATA)
    quantized(jnp.tanh, DATA)
    quantized(lambda x: jax.nn.softmax(x @ WEIGHTS), DATA)
    quantized(clipped, DATA, CLIP)
    quantized(lambda x: 1 / (jnp.square(x) + 1), DATA)
    quantized(lambda x: jnp.tanh(x) @ WEIGHTS, DATA)


def test_the_warning_points_at_the_caller():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        qir.quantize(qir.from_jax(masked, DATA[0]), DATA)
    assert caught[0].filename == __file__


def test_an_op_with_coarse_weights_comes_first_though_its_readers_had_exact_numbers():
    rng = np.random.default_rng(0)
    kernel = rng.normal(0, 0.3, (3, 3, 1, 8)).astype(np.float32)
    dense = rng.normal(0, 0.3, (8, 10)).astype(np.float32)

    def network(x):
        y = jax.lax.conv_general_dilated(
            x, jnp.asarray(kernel), (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.relu(y).mean((1, 2)) @ dense

    found = quantized(
        network, [rng.uniform(0, 1, (8, 8, 8, 1)).astype(np.float32)], W2, accuracy_check=-99
    ).accuracy
    assert found is not None
    assert (found.worst[0].op, found.worst[0].cause) == ("relu", "few bits")
    figures = [min(one.sqnr, one.rows + 10) for one in found.worst]
    assert figures == sorted(figures)
