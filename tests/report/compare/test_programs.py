"""Kinds of programs whose values are compared: moved, looped, dynamic, coded, given in codes."""

from __future__ import annotations

import json
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run_all
from qir.backends.xla.executor import XlaExecutor
from qir.errors import QirError
from qir.report.compare import effects
from qir.report.compare.comparing import Comparing
from qir.report.compare.own_errors import without_scales
from tests.report.test_accuracy_loops import HALVES, cell, draw

RNG = np.random.default_rng(5)
FIRST = RNG.normal(0, 0.4, (16, 24)).astype(np.float32)
SECOND = RNG.normal(0, 0.4, (24, 8)).astype(np.float32)
MANY = [RNG.normal(0, 1, (400, 16)).astype(np.float32)]
DATA = [RNG.normal(0, 1, (6, 16)).astype(np.float32) for _ in range(3)]


KERNEL = RNG.normal(0, 0.3, (3, 3, 3, 8)).astype(np.float32)
LAST = RNG.normal(0, 0.2, (3, 3, 8, 4)).astype(np.float32)
CHANNELS_FIRST = """
graph @moved(%x: f32[2,8,8,3]) {
  %k = const : f32[3,3,3,8]
  %c = conv(%x, %k) {padding = same} : f32[2,8,8,8]
  %t = transpose(%c) {permutation = [0, 3, 1, 2]} : f32[2,8,8,8]
  %r = tanh(%t) : f32[2,8,8,8]
  %u = transpose(%r) {permutation = [0, 2, 3, 1]} : f32[2,8,8,8]
  %w = const : f32[3,3,8,4]
  %d = conv(%u, %w) {padding = same} : f32[2,8,8,4]
  return %d
}"""


def network(x):
    return jnp.tanh(jax.nn.relu(x @ FIRST) @ SECOND)


PLAIN = "fold, calibrate, propagate-ranges, quantize, integer"
"""No value is rescaled: each but what a clamp takes in has one that stands for it."""


def graph():
    return qir.from_jax(network, DATA[0], batch="B")


def compared(real, integer, data, **options):
    return qir.compare(real, integer, data, measure=False, **options)


def near_what_is_measured(found):
    """Errors of a few values add up as independent ones, of hundreds of rows to within 1 dB."""
    for output in found.outputs:
        assert found.independent[output.name] == pytest.approx(output.sqnr, abs=1)


class TestPrograms:
    def test_a_channels_first_network_whose_transposes_moved(self):
        real = qir.parse(CHANNELS_FIRST, {"k": KERNEL, "w": LAST})
        data = [RNG.normal(0, 1, (2, 8, 8, 3)).astype(np.float32) for _ in range(2)]
        integer = qir.quantize(real, data, accuracy_check=False)
        moved = {value.name for value in integer.values() if any(value.origins.values())}
        found = compared(real, integer, data[:1])
        assert moved & {one.stands for one in found.values}
        near_what_is_measured(found)

    def test_a_loop_is_compared_trip_by_trip(self):
        data = [(draw(12, 3, 8, seed=seed), draw(3, 8, seed=9 + seed)) for seed in range(2)]
        integer = qir.optimize(
            cell(), "calibrate, propagate-ranges(share=true), quantize", data=data
        )
        found = compared(cell(), integer, data)
        # %small is a thousandth of %p: together in one code nothing is left of it.
        worst = found.culprits[0]
        assert worst.value in ("last/small", "last/both", "last/d")
        assert found.value("last/small").own_sqnr < 3
        assert {remedy.name for remedy in worst.remedies} >= {"keep float"}

    def test_a_loop_that_ends_by_its_numbers_and_a_branch(self):
        real = qir.parse(HALVES)
        data = [(np.abs(draw(2, 4, seed=seed)) * 8, np.int32(seed % 2)) for seed in range(3)]
        integer = qir.quantize(real, data, accuracy_check=False)
        assert compared(real, integer, data).outputs[0].name == "z"

    @pytest.mark.parametrize("pipeline", ["w8", "w8-dynamic", "w8a16", "w4a8"])
    def test_weights_alone_and_ranges_at_run_time(self, pipeline):
        integer = qir.quantize(graph(), MANY, pipeline, accuracy_check=False)
        found = compared(graph(), integer, MANY, samples=400)
        near_what_is_measured(found)
        by_weights = {one.value: one.weights for one in found.values}
        if pipeline == "w8":
            assert found.culprits[0].source == "weights"
            assert by_weights["dot"] == pytest.approx(1)
        if pipeline == "w8-dynamic":
            # Rounding the operand and rounding the weights cost about as much.
            assert 0.1 < by_weights["dot"] < 0.9

    def test_weights_that_make_up_for_smaller_channels_are_no_error(self):
        pipeline = "fold, calibrate, smooth-quant(gates=1.0), propagate-ranges, quantize, integer"

        def gated(x):
            return (jax.nn.silu(x @ FIRST) * (x @ FIRST)) @ SECOND

        real = qir.from_jax(gated, MANY[0], batch="B")
        integer = qir.quantize(real, MANY, pipeline, accuracy_check=False)
        found = compared(real, integer, MANY, samples=100)
        # Parts of an error that are not larger than it, and remedies that don't make it larger.
        assert all(abs(one.weights) <= 1.5 for one in found.values)
        remedies = [remedy for one in found.culprits for remedy in one.remedies]
        assert all(-1 < remedy.gain < 150 for remedy in remedies)

    def test_what_leaves_no_error_gains_what_float32_has_room_for(self):
        integer = qir.quantize(graph(), MANY, "w8", accuracy_check=False)
        found = compared(graph(), integer, MANY, samples=100)
        (output,) = found.outputs
        for culprit in found.culprits:
            for remedy in culprit.remedies:
                assert output.sqnr + remedy.gain < 150

    def test_inputs_and_outputs_in_codes(self):
        pipeline = "fold, calibrate, quantize(inputs=i8, outputs=i8), integer"
        integer = qir.quantize(graph(), MANY, pipeline, accuracy_check=False)
        assert integer.inputs[0].type.quant is not None
        found = compared(graph(), integer, MANY, samples=400)
        assert found.value("x").own_share == pytest.approx(1)
        near_what_is_measured(found)

    def test_codes_that_the_float_program_has_already(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        real = qir.parse("""
        graph @given(%x: f32[6,16]) {
          %q = quantize(%x) : i8[6,16]{scale=0.03}
          %d = dequantize(%q) : f32[6,16]
          %t = tanh(%d) : f32[6,16]
          return %t
        }""")
        lifted = qir.quantize(real, DATA, accuracy_check=False)
        found = compared(real, lifted, DATA)
        assert found.outputs[0].sqnr > 30
        assert integer is not lifted

    def test_a_value_that_went_into_another_is_listed_with_it(self):
        integer = qir.quantize(graph(), DATA, PLAIN, accuracy_check=False)
        found = compared(graph(), integer, DATA)
        assert [(one.value, one.into) for one in found.gone] == [("dot", "relu")]
        with pytest.raises(QirError, match="no figures of %dot; it went into %relu"):
            found.value("dot")

    def test_the_compiled_program_tells_the_effects_that_the_interpreter_tells(self, monkeypatch):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        told = []
        for most in (effects.INTERPRETED, 0):
            monkeypatch.setattr(effects, "INTERPRETED", most)
            comparing = Comparing(graph(), integer, run_all, XlaExecutor())
            told.append(comparing.run([(DATA[0],)]).culprits)
        for one, two in zip(*told, strict=True):
            assert one.value == two.value
            # Sums in another order: errors are thousands of times as large as that makes.
            assert one.sqnr == pytest.approx(two.sqnr, abs=0.01)


class TestFigures:
    def test_they_are_those_of_all_samples_in_whatever_batches(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        whole = np.concatenate(DATA)
        one = compared(graph(), integer, [whole], samples=18)
        several = compared(graph(), integer, iter(DATA), samples=18)
        assert one.samples == "18 samples"
        assert several.samples == "18 samples, effects on outputs on 6 of them"
        for left, right in zip(one.values, several.values, strict=True):
            # Sums of a product in float32 may be in another order for another number of rows.
            assert left.sqnr == pytest.approx(right.sqnr, abs=1e-3)
            assert left.rows == pytest.approx(right.rows, abs=1e-3)
            assert left.largest == pytest.approx(right.largest, rel=1e-3)

    def test_no_more_samples_are_compared_than_are_asked_for(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        assert compared(graph(), integer, DATA, samples=5).samples == "5 samples"

    def test_they_are_those_of_their_definitions(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        found = compared(graph(), integer, [DATA[0]]).value("tanh")
        exact, rounded = (
            qir.evaluate(each, DATA[0])[0].astype(np.float64) for each in (graph(), integer)
        )
        noise = np.sum((exact - rounded) ** 2)
        assert found.noise == pytest.approx(noise)
        assert found.sqnr == pytest.approx(10 * np.log10(np.sum(exact**2) / noise))
        lengths = np.linalg.norm(exact) * np.linalg.norm(rounded)
        assert found.cosine == pytest.approx(np.sum(exact * rounded) / lengths)
        assert found.largest == pytest.approx(np.abs(exact - rounded).max())

    def test_saturation_is_the_share_of_numbers_at_the_ends(self):
        clip = "fold, calibrate(method=percentile, percentile=90), quantize, integer"
        integer = qir.quantize(graph(), DATA, clip, accuracy_check=False)
        one = compared(graph(), integer, DATA).value("x")
        assert one.saturation == pytest.approx(0.1, abs=0.05)
        assert one.clipping > 0.9
        remedies = compared(graph(), integer, DATA).culprits[0].remedies
        assert "another clip" in {remedy.name for remedy in remedies if remedy.gain > 3}

    def test_weights_that_a_pass_scaled_by_rows_make_no_error_by_that(self):
        """Smooth-quant moves the sizes of channels behind a norm into the rows of the weights."""
        gamma = np.exp(np.linspace(-1, 1, 16)).astype(np.float32)

        def normed(x):
            off = x - x.mean(-1, keepdims=True)
            x = off * jax.lax.rsqrt((off**2).mean(-1, keepdims=True) + 1e-6) * gamma
            return jnp.tanh(x @ FIRST) @ SECOND

        graph = qir.from_jax(normed, DATA[0], batch="B")
        integer = qir.quantize(graph, MANY, accuracy_check=False)
        assert any(value.name.endswith(".smooth") for value in integer.values())
        found = compared(graph, integer, MANY, samples=100)
        product = next(one for one in found.values if one.op == "dot")
        assert 0 <= product.weights <= 1
        gains = {
            remedy.name: remedy.gain
            for one in found.culprits
            if one.value == product.value
            for remedy in one.remedies
        }
        assert gains["keep float"] > 0


def test_scales_of_rows_are_told_from_rounding():
    rounded = np.round(FIRST * 20) / 20
    assert without_scales(rounded, FIRST) is rounded
    scales = np.exp(RNG.normal(0, 0.3, (16, 1)))
    error = np.abs(without_scales(rounded * scales, FIRST) - FIRST).max()
    assert error < 2 * np.abs(rounded - FIRST).max()
    few = FIRST[:, :1]
    assert without_scales(few * scales, few) is not few
    np.testing.assert_array_equal(without_scales(few * scales, few), few * scales)


class TestMeasured:
    def test_the_best_remedy_gains_about_what_was_predicted(self):
        integer = qir.quantize(graph(), MANY, PLAIN, accuracy_check=False)
        found = qir.compare(graph(), integer, MANY, samples=400, pipeline=PLAIN)
        measured = found.measured
        assert measured is not None
        assert measured.before == pytest.approx(found.outputs[0].sqnr)
        # The other errors are independent ones, and the op that is kept reads the same codes.
        assert measured.gain == pytest.approx(measured.predicted, abs=1)
        assert measured.gain > 0.5

    def test_data_that_can_be_read_only_once_and_is_not_kept_is_said_to_be_the_reason(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        found = qir.compare(graph(), integer, iter(DATA), samples=7)
        assert found.measured is None
        assert any("can be read only once" in note for note in found.notes)

    def test_a_program_that_the_pipeline_does_not_make_is_told(self):
        integer = qir.quantize(graph(), DATA, "w4a8", accuracy_check=False)
        found = qir.compare(graph(), integer, DATA)
        assert any("quantized again as it was" in note for note in found.notes)
        again = qir.compare(graph(), integer, DATA, pipeline="w4a8")
        assert not again.notes

    def test_an_op_is_kept_in_floats_with_what_became_a_part_of_it(self):
        """The norm's conv and its relu have one code, the next conv has the name of its norm."""

        def normed(x):
            for kernel in (FIRST, SECOND @ SECOND.T[:, :16]):
                x = jax.nn.relu((x @ kernel) * 0.5 + 0.1)
            return x @ SECOND[:16]

        graph = qir.from_jax(normed, DATA[0], batch="B")
        pipeline = f"{PLAIN[:-9]}(weights=i4), integer"
        integer = qir.quantize(graph, MANY, pipeline, accuracy_check=False)
        found = qir.compare(graph, integer, MANY, samples=100, pipeline=pipeline)
        assert not found.notes
        measured = found.measured
        assert measured is not None
        assert (measured.value, measured.name) == ("relu", "keep float")
        assert measured.gain == pytest.approx(measured.predicted, abs=2)
        assert f"select = {json.dumps(measured.rule['select'])}, keep_float = true" in str(found)
        recipe = qir.Recipe().with_rules(qir.RecipeRule(**measured.rule))
        again = qir.quantize(graph, MANY, pipeline, recipe=recipe, accuracy_check=False)
        assert compared(graph, again, MANY, samples=100).outputs[0].sqnr == measured.after


class TestErrors:
    def test_programs_the_wrong_way_round(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        with pytest.raises(QirError, match="computes on codes; the float program comes first"):
            compared(integer, graph(), DATA)
        with pytest.raises(QirError, match="computes on codes; take the one that both were made"):
            compared(integer, integer, DATA)

    def test_a_pipeline_that_there_is_none_of(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        with pytest.raises(QirError, match="no pass 'w8a9'"):
            qir.compare(graph(), integer, DATA, pipeline="w8a9")
        with pytest.raises(QirError, match="auto, which searches; give what it found as recipe="):
            qir.compare(graph(), integer, DATA, pipeline="auto")

    def test_data_with_nan_names_the_place(self):
        integer = qir.quantize(graph(), DATA, accuracy_check=False)
        wrong = [DATA[0], DATA[0].copy()]
        wrong[1][2, 3] = np.nan
        with pytest.raises(QirError, match=r"input %x in batch 1: .* 1 NaN, the first at \[2, 3\]"):
            compared(graph(), integer, wrong)

    def test_two_float_programs_are_told(self):
        assert "the second program has no codes" in str(compared(graph(), graph(), DATA))

    def test_outputs_that_are_no_real_numbers_are_told(self):
        real = qir.from_jax(lambda x: jnp.argmax(network(x), -1), DATA[0], batch="B")
        found = compared(real, qir.quantize(real, DATA), DATA)
        assert not found.culprits
        assert "no output is a real number" in str(found)

    def test_what_is_no_program(self):
        with pytest.raises(QirError, match="compare: expected a graph, got a function"):
            qir.compare(cast(Any, network), graph(), DATA)

    def test_a_program_of_another_model(self):
        other = qir.from_jax(lambda x, y: x + y, DATA[0], DATA[0])
        with pytest.raises(QirError, match="with 1 inputs, got one with 2"):
            qir.compare(graph(), other, DATA)

    def test_no_samples(self):
        with pytest.raises(QirError, match="at least 1 sample"):
            compared(graph(), graph(), DATA, samples=0)


def test_json_holds_what_the_tables_do_and_more():
    integer = qir.quantize(graph(), DATA, accuracy_check=False)
    found = compared(graph(), integer, DATA)
    read = json.loads(found.as_json())
    assert [one["value"] for one in read["values"]] == [one.value for one in found.values]
    assert read["culprits"][0]["remedies"][0]["rule"]["select"]
    assert "culprits" in str(found) == str(repr(found))
