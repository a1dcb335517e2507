"""Every rounding mode is computed to the bit or refused by name, by each backend."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings

import qir
from qir.backends.xla.compile import compile_graph
from qir.backends.xla.requantize import rescaling
from qir.errors import QirError, UnsupportedError
from qir.ir import Graph
from qir.numbers.rounding import ROUNDINGS, register_rounding, rounding_mode
from qir.ops import Add, Conv, Dot, Quantize, Requantize
from qir.ops.attributes import attribute_fields
from qir.ops.op import OPS, Op
from qir.pipeline import Context
from qir.types import Affine, FrozenArray
from tests.roundings import ANY_RATIO, COMPUTED, OWN, HalfOutward, near_multipliers, registered
from tests.strategies import STRATEGIES, Case

MODES = [*ROUNDINGS, *OWN]
NARROW_ONLY = ("dbl_away", "half_away")
"""Those whose machine form is a table of thresholds."""
CARRIERS = [
    cls
    for cls in OPS.values()
    if cls is not Quantize  # whose modes are about real numbers: test_quantize_modes
    and any(attribute.name == "rounding" for attribute in attribute_fields(cls))
]


@pytest.fixture(autouse=True)
def _own_modes() -> Iterator[None]:
    with registered():
        yield


def rounded_by(graph: Graph, mode: str) -> Graph:
    """The program with every op that carries a rounding in another one, no multiplier written."""
    copy = graph.copy()
    for node in copy.walk():
        if type(node.op) in CARRIERS:
            fields = {
                attribute.name: getattr(node.op, attribute.name)
                for attribute in attribute_fields(type(node.op))
            }
            written: dict[str, Any] = {"multiplier": None, "shift": None, "agrees": ()}
            if isinstance(node.op, Requantize) and mode in COMPUTED and mode not in ANY_RATIO:
                written |= written_out(mode, node.inputs[0].type, node.op.to)
            options = {name: value for name, value in written.items() if name in fields}
            node.op = type(node.op)(**{**fields, "rounding": mode, **options})
    return copy


def written_out(mode: str, x: qir.TensorType, to: Affine) -> dict[str, FrozenArray]:
    """Returns the multipliers of the nearest ratios of scales that a mode accepts."""
    assert x.quant is not None
    found = near_multipliers(mode, x.quant.scale.array.astype(np.float64) / to.scale.array)
    shape = () if found.value.size == 1 else (-1,)
    written = {"multiplier": FrozenArray(found.value.reshape(shape))}
    if rounding_mode(mode).has_shift:
        written["shift"] = FrozenArray(found.shift.reshape(shape))
    return written


def check(graph: Graph, mode: str, *inputs: Any, kernels: bool) -> None:
    """Holds XLA to the reference, or to a refusal that says what is refused and what helps."""
    expected = qir.evaluate(graph, *inputs)
    node = next(node for node in graph.walk() if getattr(node.op, "rounding", None) == mode)
    wide = node.output.type.dtype.bits > 8 and mode in NARROW_ONLY
    if mode in COMPUTED and not wide:
        assert all(map(np.array_equal, compile_graph(graph, kernels=kernels)(*inputs), expected))
        return
    with pytest.raises(UnsupportedError) as error:
        compile_graph(graph, kernels=kernels)
    start = f"xla: {node.op.name} %{node.output.name}: expected a r"
    why = f"ounding that has a machine form, {' or '.join(COMPUTED)}, got {mode}; "
    if wide:
        why = f"esult of at most 8 bits with the rounding {mode}, "
    assert error.value.message.startswith(start + why)
    assert "qir.evaluate computes it" in error.value.message
    assert error.value.places == [node.place()]


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("cls", CARRIERS, ids=lambda cls: cls.name)
def test_every_mode_of_every_op_is_computed_or_refused(
    cls: type[Op], mode: str, kernels: bool
) -> None:
    if kernels:
        pytest.importorskip("llvmlite")

    @settings(max_examples=8, phases=[Phase.generate])
    @given(STRATEGIES[cls])
    def computed_or_refused(case: Case) -> None:
        if getattr(case.node.op, "to", None) is None:
            return  # A pool whose windows all have as many taps rounds nothing.
        try:
            graph = rounded_by(case.graph, mode)
            qir.verify(graph)
            qir.evaluate(graph, *case.inputs)
        except QirError:
            return  # Scales out of the reach of the mode.
        check(graph, mode, *case.inputs, kernels=kernels)

    computed_or_refused()


LAYERS = [
    (Dot(), (3, 40), (40, 37)),
    (Conv((2, 2), "same"), (2, 9, 11, 20), (3, 3, 20, 17)),
    (Conv((), "same", (), 40), (1, 9, 8, 40), (3, 3, 1, 40)),
    (Conv((), "same"), (1, 12, 14, 32), (3, 3, 32, 48)),
    (Conv(), (1, 20, 20, 16), (1, 1, 16, 64)),
]
"""Those of kernels of their own: products, patches, depthwise, transformed, pixels."""


@pytest.mark.parametrize("added", [False, True], ids=["alone", "added"])
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("layer", LAYERS, ids=str)
def test_every_mode_behind_sums_is_computed_or_refused(
    layer: tuple[Op, tuple[int, ...], tuple[int, ...]], mode: str, added: bool
) -> None:
    pytest.importorskip("llvmlite")
    op, shape, window = layer
    rng = np.random.default_rng(1)
    code, weight_code = Affine.of(qir.DType.I8, 0.021, -3), Affine.of(qir.DType.I8, 0.013)
    graph = Graph("layer", [("x", qir.TensorType(shape, code))])
    at = graph.at_end()
    kernel = at.const(rng.integers(-127, 128, window).astype(np.int8), "kernel", weight_code)
    to = Affine.of(qir.DType.I8, 0.03 * np.prod(window[:-1]) ** 0.5, 5)
    sums = at.emit(op, graph.inputs[0], kernel)
    fits = mode in ANY_RATIO or mode not in COMPUTED
    options: dict[str, Any] = {} if fits else written_out(mode, sums.type, to)
    y = at.emit(Requantize(to, mode, **options), sums)
    inputs = [rng.integers(-128, 128, shape).astype(np.int8)]
    if added:
        other = graph.add_input("other", y.type)
        inputs.append(rng.integers(-128, 128, y.type.known_shape).astype(np.int8))
        y = at.emit(Add(to), y, other)
    graph.set_outputs([y])
    check(graph, mode, *inputs, kernels=True)


TIES = """
graph @ties(%a: i32[8]{scale=0.5}) {
  %y = requantize(%a) {rounding = half_outward} : i8[8]{scale=1}
  return %y
}
"""
ACCUMULATORS = np.arange(-4, 4, dtype=np.int32)


@pytest.mark.parametrize("mode", MODES)
def test_text_of_a_mode_reads_back_with_its_multipliers(mode: str) -> None:
    # A half is in the reach of the modes that don't take every ratio.
    scale = "=0.37" if mode in ANY_RATIO or mode in OWN else "=0.5"
    graph = qir.parse(TIES.replace("half_outward", mode).replace("=0.5", scale))
    lowered = qir.optimize(graph, "lower-requantize")
    for each in (graph, lowered):
        assert qir.parse(str(each)) == each
        assert (f"rounding = {mode}" in str(each)) == (mode != "fixed31")
    assert "multiplier" in str(lowered)
    assert ("shift" in str(lowered)) == rounding_mode(mode).has_shift
    assert all(
        map(np.array_equal, qir.evaluate(lowered, ACCUMULATORS), qir.evaluate(graph, ACCUMULATORS))
    )


def test_a_mode_means_what_its_class_says() -> None:
    (found,) = qir.evaluate(qir.parse(TIES), ACCUMULATORS)
    assert found.tolist() == [-2, -2, -1, -1, 0, 1, 1, 2]


def test_a_mode_that_is_not_registered_is_no_rounding() -> None:
    with pytest.raises(
        QirError, match=r"requantize: rounding: .*, got 'half_outwards'; did you mean"
    ):
        qir.parse(TIES.replace("half_outward", "half_outwards"))
    with pytest.raises(QirError, match=r"rounding: expected .*, got 'half_outwards'"):
        qir.optimize(qir.parse(TIES), "agree-roundings(roundings=[half_outwards], ulps=0)")


@pytest.mark.parametrize("kernels", [False, True], ids=["portable", "kernels"])
def test_a_certificate_lets_a_mode_without_a_form_be_computed(kernels: bool) -> None:
    if kernels:
        pytest.importorskip("llvmlite")
    # No accumulator is halfway between two results.
    graph = qir.parse(TIES.replace("i32[8]{scale=0.5}", "i32[8]{scale=0.37}"))
    certified = qir.optimize(graph, "agree-roundings(ulps=0)")
    (node,) = (node for node in certified.nodes if isinstance(node.op, Requantize))
    assert isinstance(node.op, Requantize)
    assert node.op.agrees
    numbers = np.arange(-1000, 1000, dtype=np.int32).reshape(-1, 8)
    compiled = compile_graph(certified, kernels=kernels)
    for row in numbers:
        assert all(map(np.array_equal, compiled(row), qir.evaluate(certified, row)))


def test_a_false_certificate_does_not_stand_in_for_a_form() -> None:
    graph = qir.parse(TIES.replace("half_outward", "half_outward, agrees = [fixed31, f32_rne]"))
    for kernels in (False, True):
        with pytest.raises(UnsupportedError, match="got half_outward"):
            compile_graph(graph, kernels=kernels)


def test_passes_keep_what_a_mode_makes_of_equal_scales() -> None:
    graph = qir.parse(
        """
graph @same(%x: i8[256]{scale=0.3, zp=4}) {
  %q = requantize(%x) {rounding = power_floor} : i8[256]{scale=0.3, zp=4}
  return %q
}"""
    )
    assert [node.op.name for node in qir.optimize(graph, "fuse-requantize").nodes] == ["return"]

    even = rounded_by(graph, "even_only")
    x = np.arange(-128, 128).astype(np.int8)
    kept = qir.optimize(even, "fuse-requantize")
    assert all(map(np.array_equal, qir.evaluate(kept, x), qir.evaluate(even, x)))
    assert [node.op.name for node in kept.nodes] == ["requantize", "return"]


def test_scales_move_and_requantizes_merge_only_for_modes_to_nearest() -> None:
    text = """
graph @pair(%x: i8[4,2]{scale=0.02, zp=3}) {
  %k = const [[90, -7, 31], [-127, 64, 5]] : i8[2,3]{scale=[0.011, 0.0123, 0.0131], axis=1}
  %a = dot(%x, %k) : i32[4,3]{scale=%x*%k, axis=1}
  %y = requantize(%a) {rounding = power_floor} : i8[4,3]{scale=0.037, zp=-9}
  %z = requantize(%y) : i8[4,3]{scale=0.041, zp=-9}
  return %z
}"""
    context = Context()
    graph = qir.parse(text)
    merging = "allow(within_1lsb), fuse-requantize(merge=true), agree-roundings"
    after = qir.optimize(graph, merging, context=context)
    assert after.value("k").type == graph.value("k").type
    assert sum(isinstance(node.op, Requantize) for node in after.nodes) == 2
    assert any("power_floor is not to the nearest integer" in line for line in context.diagnostics)


def test_names_of_modes_are_checked_when_they_are_registered() -> None:
    assert ROUNDINGS["half_outward"].name == "half_outward"
    with pytest.raises(QirError, match="'half_outward' is already declared by HalfOutward"):
        register_rounding("half_outward")(HalfOutward)
    with pytest.raises(QirError, match="letters, digits and '_', got 'half-outward'"):
        register_rounding("half-outward")(HalfOutward)

    class Narrower(HalfOutward):
        pass

    with pytest.raises(QirError, match="'narrower' to inherit nothing of 'half_outward'"):
        register_rounding("narrower")(Narrower)


def test_a_step_asked_to_round_by_a_mode_without_a_form_refuses_it() -> None:
    code = Affine.of(qir.DType.I8, 1.0)
    multiplier = rounding_mode("half_outward").multipliers(0.5, 1.0)
    with pytest.raises(UnsupportedError, match=re.escape("xla: %y: expected a rounding that has")):
        rescaling("y", multiplier, code, rounding="half_outward")
