"""smooth-quant keeps what a program computes and gives channels one size."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ops import Mul, Relu, Requantize
from qir.pipeline import Context

CALIBRATED = "fold, calibrate"
SMOOTH = f"{CALIBRATED}, smooth-quant(report=true)"
ROUGH = "fold, calibrate, propagate-ranges, quantize, integer"
RNG = np.random.default_rng(5)
WIDTH, HIDDEN = 64, 96
GATE, UP = (RNG.normal(0, WIDTH**-0.5, (WIDTH, HIDDEN)).astype(np.float32) for _ in range(2))
DOWN = RNG.normal(0, HIDDEN**-0.5, (HIDDEN, WIDTH)).astype(np.float32)
SIZES = (2.0 ** RNG.uniform(-4, 0, HIDDEN)).astype(np.float32)
DATA = [RNG.normal(0, 1, (64, WIDTH)).astype(np.float32) for _ in range(4)]


def gated(x):
    return (jax.nn.silu(x @ GATE) * (x @ (UP * SIZES))) @ DOWN


def normed(x, gamma=SIZES[:WIDTH]):
    return (x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * gamma) @ GATE


def smoothed(function: Any, pipeline: str = SMOOTH) -> tuple[qir.Graph, Context]:
    context = Context()
    graph = qir.from_jax(function, DATA[0], batch="B")
    return qir.optimize(graph, pipeline, data=DATA, context=context), context


@pytest.mark.parametrize("function", [gated, normed])
def test_the_program_computes_the_same(function: Any) -> None:
    graph, context = smoothed(function)
    assert any("smooth-quant" in line for line in context.diagnostics)
    (found,) = run(graph, DATA[1], precision=np.float64)
    (wanted,) = run(smoothed(function, CALIBRATED)[0], DATA[1], precision=np.float64)
    # Factors, their inverses and the weights are rounded to float32, each to half a unit.
    assert np.abs(found - wanted).max() <= 3 * 2.0**-24 * HIDDEN * np.abs(wanted).max()


@pytest.mark.parametrize("function", [gated, normed])
def test_small_channels_keep_their_bits_on_other_data(function: Any) -> None:
    other = np.random.default_rng(9).normal(0, 1, (64, WIDTH)).astype(np.float32)
    wanted = np.asarray(function(other), np.float64)

    def noise(pipeline: str) -> float:
        graph = qir.from_jax(function, DATA[0], batch="B")
        integer = qir.quantize(graph, DATA, pipeline, accuracy_check=False)
        for found, right in zip(
            qir.compile(integer)(other), qir.evaluate(integer, other), strict=True
        ):
            np.testing.assert_array_equal(found, right)
        return float(np.square(qir.evaluate(integer, other)[0] - wanted).mean())

    assert noise("w8a8") < noise(ROUGH)


def test_the_factors_go_into_the_rounding_that_the_gate_takes_anyway() -> None:
    graph = qir.quantize(qir.from_jax(gated, DATA[0], batch="B"), DATA)
    (product,) = (node for node in graph.nodes if isinstance(node.op, Mul))
    (reader,) = product.output.users
    assert isinstance(reader.op, Requantize)
    assert reader.op.to.scale.array.shape == (1, HIDDEN)


def test_a_norm_that_is_added_to_something_keeps_its_channels() -> None:
    gamma = SIZES[:WIDTH]

    def function(x):
        normal = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * gamma
        return normal @ GATE[:, :WIDTH] + normal

    assert not smoothed(function)[1].diagnostics


def test_a_table_that_embeds_as_well_keeps_its_rows() -> None:
    table = RNG.normal(0, 1, (32, WIDTH)).astype(np.float32)
    ids = [RNG.integers(0, 32, (4, 8)).astype(np.int32) for _ in range(2)]

    def function(ids):
        x = jnp.asarray(table)[ids]
        normal = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)
        return (normal * SIZES[:WIDTH]) @ table.T

    context = Context()
    graph = qir.from_jax(function, ids[0])
    qir.optimize(graph, SMOOTH, data=ids, context=context)
    assert not any("smooth-quant" in line for line in context.diagnostics)


def rectified(x):
    return jax.nn.relu(x @ (UP * SIZES) + 0.1) @ DOWN


def convolved(x):
    image = x.reshape(-1, 8, 8, 1)
    for index, channels in enumerate((4, 6)):
        rng = np.random.default_rng(index)
        kernel = rng.normal(0, 0.3, (3, 3, image.shape[-1], channels)).astype(np.float32)
        kernel *= SIZES[:channels]
        image = jax.nn.relu(
            jax.lax.conv_general_dilated(
                image,
                jnp.asarray(kernel),
                (1, 1),
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        )
    return image


LINEARS = f"{CALIBRATED}, smooth-quant(linears=0.5, report=true)"


@pytest.mark.parametrize("function", [rectified, convolved])
def test_weights_behind_and_before_make_up_for_a_linear(function: Any) -> None:
    graph, context = smoothed(function, LINEARS)
    assert any("smooth-quant: %relu" in line for line in context.diagnostics)
    before, _ = smoothed(function, CALIBRATED)
    assert len(list(graph.nodes)) == len(list(before.nodes)), "it costs an op when it runs"
    (found,), (wanted,) = (run(each, DATA[1], precision=np.float64) for each in (graph, before))
    # Weights and bias of both layers are rounded to float32, each to half a unit.
    assert np.abs(found - wanted).max() <= 4 * 2.0**-24 * HIDDEN * np.abs(wanted).max()


def peaks(context: Context, name: str) -> Any:
    statistic = context.statistics[name].channels
    assert statistic is not None
    return statistic.peaks


def test_the_channels_of_a_linear_get_nearer_to_one_size() -> None:
    graph, context = smoothed(rectified, LINEARS)
    (x,) = (node.output for node in graph.nodes if isinstance(node.op, Relu))
    before, known = smoothed(rectified, CALIBRATED)
    (old,) = (node.output for node in before.nodes if isinstance(node.op, Relu))
    found, seen = peaks(context, f"%{x.name}"), peaks(known, old.origin[0])
    assert found.max() / found.min() < (seen.max() / seen.min()) ** 0.75
    assert x.observed is not None
    assert x.observed.bounds[1] == pytest.approx(found.max())


def test_linears_are_left_alone_by_default() -> None:
    assert not smoothed(rectified)[1].diagnostics


def test_a_norm_that_is_added_to_something_is_multiplied_where_asked_for() -> None:
    def function(x):
        normal = x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6) * SIZES[:WIDTH]
        return normal @ GATE[:, :WIDTH] + normal

    graph, context = smoothed(function, f"{CALIBRATED}, smooth-quant(multiply=true, report=true)")
    assert len(context.diagnostics) == 1
    (smooth,) = (node.output for node in graph.nodes if isinstance(node.op, Mul))
    found, known = (
        np.log(peaks(context, name))
        for name in (f"%{smooth.name}", next(iter(smooth.inputs)).origin[0])
    )
    assert np.ptp(found) < 0.75 * np.ptp(known)


@pytest.mark.parametrize("option", ["norms=2", "gates=-1", "linears=1.5"])
def test_a_strength_beyond_1_is_refused(option: str) -> None:
    with pytest.raises(QirError, match=r"in \[0, 1\] or auto"):
        smoothed(gated, f"{CALIBRATED}, smooth-quant({option})")


def test_auto_is_the_default_and_0_leaves_a_group_alone() -> None:
    auto = smoothed(gated, f"{CALIBRATED}, smooth-quant(gates=auto, report=true)")[0]
    assert auto == smoothed(gated)[0]
    assert not smoothed(gated, f"{CALIBRATED}, smooth-quant(gates=0, report=true)")[1].diagnostics


def test_a_negative_gain_is_refused() -> None:
    with pytest.raises(QirError, match="expected a gain of at least 0 dB"):
        smoothed(gated, f"{CALIBRATED}, smooth-quant(gain=-1)")


def test_gates_that_differ_by_chance_keep_their_room() -> None:
    """Of 64 rows the extremes of equal channels are chance: filled codes clip other data in all."""
    rng = np.random.default_rng(7)
    weights = rng.normal(0, 0.5, (3, 16, 16)).astype(np.float32)

    def function(x):
        return (jax.nn.silu(x @ weights[0]) * (x @ weights[1])) @ weights[2]

    few = [rng.normal(0, 1, (32, 16)).astype(np.float32) for _ in range(2)]
    other = rng.normal(0, 1, (512, 16)).astype(np.float32)
    graph = qir.from_jax(function, few[0], batch="B")
    exact = qir.evaluate(graph, other)[0]
    noises = []
    for pipeline in ("fold, calibrate, smooth-quant, propagate-ranges, quantize, integer", ROUGH):
        integer = qir.quantize(graph, few, pipeline, accuracy_check=False)
        noises.append(float(np.square(qir.evaluate(integer, other)[0] - exact).sum()))
    assert noises[0] <= 1.26 * noises[1], "it costs more than 1 dB"
