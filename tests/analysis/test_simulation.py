"""The twin of real numbers gives what a program of codes gives, op by op and as a whole."""

from __future__ import annotations

from typing import Any
from unittest import mock

import numpy as np
import pytest

import qir
from qir.analysis.simulation import Simulation, simulate
from qir.analysis.sites import numbers_of
from qir.backends.reference.interpreter import run, run_all
from qir.errors import QirError
from qir.ir import Graph, Value
from qir.pipeline import Pipeline
from qir.report.decibels import ratio_in_decibels
from qir.types import Affine, Array, DType
from tests.drawing import drawn
from tests.models import recurrent
from tests.models.random_programs import NumpyExecutor, quantizations
from tests.models.small_networks import NETWORKS

LAST = ("quantize", "quantize-dynamic")


def up_to_codes(graph: Graph, inputs: tuple[Array, ...], pipeline: str = "w8a8") -> Graph:
    """Runs a pipeline as far as the pass that gives codes."""
    whole = Pipeline.parse(pipeline)
    last = max(place for place, step in enumerate(whole.steps) if step.name in LAST)
    with mock.patch("qir.backends.xla.executor.XlaExecutor", NumpyExecutor):
        return qir.optimize(graph, Pipeline(whole.steps[: last + 1], whole.allow), data=[inputs])


def decoded(value: Value, array: Array) -> Array:
    return array if value.type.quant is None else value.type.quant.decode(array)


def steps_apart(value: Value, twin: Array, stored: Array) -> Array:
    """How far the twin is from what is stored, in steps, or in the finest of a sum's magnitude."""
    real = np.asarray(decoded(value, stored), np.float64)
    code = value.type.quant
    assert code is not None
    if code.storage.bits > 16 and not (isinstance(code, Affine) and code.bounds):
        # An exact sum: its terms are at least as large as the largest result, by and large.
        return np.asarray((twin - real) / (2.0**-12 * max(np.abs(real).max(initial=0), 1e-30)))
    sizes = np.broadcast_to(code.greatest_scale, real.shape)
    return np.asarray((twin - real) / sizes)


class Forced:
    """Computes a simulation, each value replaced by that of the program once it was compared.

    So that what is seen of each is of its own op. In float64, where only what is near the middle of
    two steps in exact numbers can fall to the other side.
    """

    def __init__(self, program: Graph, simulation: Simulation, inputs: tuple[Array, ...]) -> None:
        found = run_all(program, *inputs)
        self.apart: dict[Value, Array] = {}
        # A twin that stands for several values, as behind a cast, is the first one.
        values = {twin: value for value, twin in reversed(list(simulation.twins.items()))}

        def force(twin: Value, array: Array) -> Array:
            value = values.get(twin)
            if value is None or value not in found or value.type.quant is None:
                return array
            if not value.is_constant:
                self.apart[value] = steps_apart(value, array, found[value])
            return np.asarray(decoded(value, found[value]), array.dtype)

        real = [decoded(*pair) for pair in zip(program.inputs, inputs, strict=True)]
        run_all(simulation.graph, *real, simulation.codes(), precision=np.float64, hook=force)


def test_every_op_gives_what_it_gives_on_codes():
    """Each result is within one step of the program's, nearly all on the same step."""
    numbers, others = 0, 0
    for case, pipeline, _ in drawn(quantizations(), 100):
        try:
            program = up_to_codes(case.graph, case.inputs, pipeline)
        except QirError:
            continue
        with np.errstate(all="ignore"):
            forced = Forced(program, simulate(program), case.inputs)
        for value, apart in forced.apart.items():
            # A sixteenth is for what norms and reciprocals round before they round to the code.
            assert np.abs(apart).max(initial=0) <= 1 + 1 / 16, f"%{value.name} of\n{program}"
            numbers += apart.size
            others += int(np.count_nonzero(np.abs(apart) > 1 / 2))
    assert numbers > 1000
    # Steps of 15 bits are a hundredth of the error of the scales' products and of reciprocals.
    assert others <= numbers / 100


def simulated(program: Graph, inputs: tuple[Array, ...], **changed: Any) -> list[Array]:
    simulation = simulate(program)
    codes = simulation.codes(dict.fromkeys(simulation.sites) if changed else None)
    return list(run(simulation.graph, *inputs, codes))


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_noise_of_the_integer_program(name):
    network = NETWORKS[name]()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    program = up_to_codes(graph, inputs)
    (exact,) = run(graph, *inputs)
    (found,) = run(program, *inputs)
    (twin,) = simulated(program, inputs)
    noise, simulated_noise = (ratio_in_decibels(exact, each)[0] for each in (found, twin))
    assert abs(noise - simulated_noise) < 0.3
    # Without roundings of activations, those of weights are left.
    (weights,) = simulated(program, inputs, rounding=False)
    assert ratio_in_decibels(exact, weights)[0] > noise + 1


def test_loops_get_the_codes_too():
    network = recurrent.linen_cell("LSTMCell")()
    inputs = network.inputs(0)
    graph = qir.from_jax(network.function, *inputs)
    program = up_to_codes(graph, inputs)
    simulation = simulate(program)
    inside = [site for site in simulation.sites if site.value.owner is not program]
    assert inside
    (exact,) = run(graph, *inputs)
    (twin,) = run(simulation.graph, *inputs, simulation.codes())
    (finer,) = run(simulation.graph, *inputs, simulation.codes(dict.fromkeys(inside)))
    (found,) = run(program, *inputs)
    noise, simulated_noise = (ratio_in_decibels(exact, each)[0] for each in (found, twin))
    assert abs(noise - simulated_noise) < 0.3
    assert ratio_in_decibels(exact, finer)[0] > noise + 1


def test_a_site_takes_another_code():
    program = qir.parse("""
    graph @one(%x: f32[4]) {
      %q = quantize(%x) : i8[4]{scale=0.5, zp=-128}
      %y = dequantize(%q) : f32[4]
      return %y
    }""")
    simulation = simulate(program)
    (site,) = simulation.sites
    assert numbers_of(site.code) == (0.5, 0, 127.5)
    x = np.array([-1, 0.3, 2.25, 200], np.float32)

    def found(code: Affine | None) -> list[float]:
        (numbers,) = run(
            simulation.graph,
            x,
            simulation.codes({site: None if code is None else numbers_of(code)}),
        )
        return list(numbers)

    assert found(site.code) == [0, 0.5, 2, 127.5]
    assert found(Affine.of(DType.I16, 0.25, 0)) == [-1, 0.25, 2.25, 200]
    assert found(None) == list(x)


def test_weights_are_sites_where_they_are_known():
    program = qir.parse("""
    graph @dense(%x: f32[1,2]) {
      %q = quantize(%x) : i8[1,2]{scale=0.5}
      %w = const [[2], [3]] : i8[2,1]{scale=0.25}
      %b = const [-1] : i32[1]{scale=0.125}
      %a = dot(%q, %w, %b) : i32[1,1]{scale=%q*%w}
      %y = dequantize(%a) : f32[1,1]
      return %y
    }""")
    x, weights = np.array([[1, 1]], np.float32), np.array([[0.53], [0.7]], np.float32)
    simulation = simulate(program, {program.value("w"): weights, program.value("b"): np.zeros(1)})
    _, site = simulation.sites
    assert site.value is program.value("w")

    def found(codes: Array) -> float:
        return float(run(simulation.graph, x, codes)[0].item())

    # The bias makes up for the error of the weights, and for an error half as large by half.
    assert found(simulation.codes()) == 0.5 + 0.75 - 0.125
    assert found(simulation.codes({site: None})) == pytest.approx(0.53 + 0.7)
    half = Affine.of(DType.I8, 0.125, 0)
    assert found(simulation.codes({site: numbers_of(half)})) == 0.5 + 0.75 - 0.125 / 2


def test_an_op_on_exact_sums_alone_is_refused():
    program = qir.parse("""
    graph @sums(%x: i8[2,2]{scale=0.5}) {
      %w = const [[2, 1], [3, 1]] : i8[2,2]{scale=0.25}
      %a = dot(%x, %w) : i32[2,2]{scale=%x*%w}
      %p = recode(%a) : i32[2,2]
      return %p
    }""")
    with pytest.raises(QirError, match=r"recode of %p has no meaning .* %a is an exact sum"):
        simulate(program)
