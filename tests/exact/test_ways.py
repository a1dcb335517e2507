"""The ways to compute an op give the same integers, those of the reference, on every platform."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax

import qir
from qir.backends.native.computation import Lowering
from qir.backends.reference.interpreter import run
from qir.backends.xla.choice import Choice, Chooser, preferred
from qir.backends.xla.compile import Compiled
from qir.backends.xla.rules import LOWERINGS, legal_ways
from qir.ir import Graph, Node
from qir.ops import Const, Conv, ConvTranspose, Requantize, Return
from qir.ops.op import Op
from qir.types import Array
from tests.drawing import drawn
from tests.exact.test_reference_vs_xla import check_integers, run_together
from tests.strategies import STRATEGIES, Case

NAMES = ("NHWC", "HWIO", "NHWC")
SEVERAL = [cls for cls, ways in LOWERINGS.items() if len(ways) > 1 and cls in STRATEGIES]

ALTERNATIVES: dict[type[Op], set[str]] = {
    Conv: {
        "pointwise",
        "gathered_patches",
        "patches_by_axis",
        "patches",
        "direct_convolution",
    },
    ConvTranspose: {"phases", "patches"},
}
"""The ways of an op that stand beside others in its strategy's cases; a requantize has none there,
where no certificate is."""


def forced(target: Node, way: Lowering) -> Chooser:
    """Takes a way for a node and the preferred ones elsewhere."""
    name = target.outputs[0].name
    return lambda node: Choice(way, "forced") if node.outputs[0].name == name else preferred(node)


def numbered(number: int) -> Chooser:
    """Takes the legal way of a number, counted round, for each node."""

    def choose(node: Node) -> Choice:
        ways = legal_ways(node)
        return Choice(ways[number % len(ways)], "forced")

    return choose


def several(graph: Graph) -> list[Node]:
    """The nodes of a program with more than one legal way."""
    nodes = [node for node in graph.nodes if not isinstance(node.op, Const | Return)]
    return [node for node in nodes if len(legal_ways(node)) > 1]


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", SEVERAL, ids=lambda cls: cls.name)
def test_every_legal_way_of_an_op(cls: type[Op]) -> None:
    # Some ways are seldom legal: many cases are drawn, and few of each way are compiled.
    cases = drawn(STRATEGIES[cls], 480)
    legal: dict[str, list[tuple[Case, Lowering]]] = {}
    for case in cases:
        ways = [] if case.node.outputs[0].type.is_float else legal_ways(case.node)
        for way in ways if len(ways) > 1 else []:
            legal.setdefault(way.name, []).append((case, way))
    pairs = [pair for found in legal.values() for pair in found[: len(cases) // 16]]
    programs = [(Compiled(case.graph, forced(case.node, way)), case.inputs) for case, way in pairs]
    for (case, _), outputs in zip(pairs, run_together(programs), strict=True):
        check_integers(case, outputs)
    assert legal.keys() == ALTERNATIVES.get(cls, set())


def model() -> tuple[Callable[[jax.Array], jax.Array], Array]:
    """A network with each kind of convolution, and images for it."""
    rng = np.random.default_rng(3)

    def kernel(*shape: int) -> Array:
        return rng.normal(0, np.prod(shape[:-1]) ** -0.5, shape).astype(np.float32)

    stem, depthwise, pointwise = kernel(3, 3, 3, 16), kernel(3, 3, 1, 16), kernel(1, 1, 16, 24)
    grouped, strided, dense = kernel(3, 3, 12, 8), kernel(1, 1, 8, 16), kernel(3, 3, 16, 8)
    head = kernel(8, 5)

    def function(image: jax.Array) -> jax.Array:
        def conv(x: jax.Array, weights: Array, stride: int = 1, groups: int = 1) -> jax.Array:
            y = lax.conv_general_dilated(
                x,
                jnp.asarray(weights),
                (stride, stride),
                "SAME",
                dimension_numbers=NAMES,
                feature_group_count=groups,
            )
            return jax.nn.relu(y)

        x = conv(conv(conv(image, stem, 2), depthwise, groups=16), pointwise)
        x = conv(conv(conv(x, grouped, groups=2), strided, 2), dense)
        return jnp.mean(x, axis=(1, 2)) @ head

    return function, rng.uniform(-1, 1, (12, 12, 12, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def quantized() -> tuple[Graph, Array]:
    function, images = model()
    graph = qir.from_jax(function, images[:1], batch="B")
    integer = qir.quantize(graph, np.split(images, 4))
    return qir.optimize(integer, "allow(within_1lsb), agree-roundings"), images


def test_every_legal_way_in_a_model(quantized: tuple[Graph, Array]) -> None:
    graph, images = quantized
    nodes = several(graph)
    assert {type(node.op) for node in nodes} == {Conv, Requantize}
    expected = run(graph, images)
    for number in range(max(len(legal_ways(node)) for node in nodes)):
        compiled = Compiled(graph, numbered(number))
        assert all(map(np.array_equal, compiled(images), expected)), compiled.report


@pytest.mark.slow
def test_every_legal_way_exports_to_all_platforms(quantized: tuple[Graph, Array]) -> None:
    graph, images = quantized
    expected = run(graph, images)
    for number in range(max(len(legal_ways(node)) for node in several(graph))):
        exported = Compiled(graph, numbered(number)).export()
        again = export.deserialize(exported.serialize())
        assert set(again.platforms) == {"cpu", "cuda", "tpu"}
        assert all(map(np.array_equal, again.call(images), expected))


@pytest.mark.parametrize(
    ("rounding", "other", "way"),
    [
        ("fixed31", "f32_rne", "requantize_by_float32"),
        ("f32_rne", "fixed31", "requantize_by_integers"),
    ],
)
def test_a_certificate_allows_the_other_rounding(rounding: str, other: str, way: str) -> None:
    text = """
graph @sums(%x: i8[4096,2]{scale=0.02, zp=3}) {
  %k = const [[90, -7, 31], [-127, 64, 5]] : i8[2,3]{scale=[0.011, 0.0123, 0.0131], axis=1}
  %a = dot(%x, %k) : i32[4096,3]{scale=%x*%k, axis=1}
  %y = requantize(%a) {rounding = ROUNDING} : i8[4096,3]{scale=0.037, zp=-9}
  return %y
}"""
    graph = qir.parse(text.replace("ROUNDING", rounding))
    assert several(graph) == []
    certified = qir.optimize(graph, "allow(within_1lsb), agree-roundings")
    (node,) = several(certified)
    ways = {lowering.name: lowering for lowering in legal_ways(node)}
    assert set(ways) == {"requantize", way}
    x = np.random.default_rng(0).integers(-128, 128, (4096, 2)).astype(np.int8)
    found = Compiled(certified, forced(node, ways[way]))(x)
    assert all(map(np.array_equal, found, run(certified, x)))
    hlo = Compiled(certified, forced(node, ways[way])).stablehlo()
    assert ("round_nearest_even" in hlo) == (other == "f32_rne")
