"""Compiled programs: portable, of 32 bits, the same integers wherever they run."""

from __future__ import annotations

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import Phase, given
from hypothesis import strategies as st
from jax import export

from qir.backends.reference.interpreter import run
from qir.backends.xla.codes import one_hot_entry
from qir.backends.xla.compile import compile_graph
from qir.backends.xla.executor import XlaExecutor
from qir.backends.xla.lowering import LOWERINGS
from qir.errors import QirError
from qir.ir import Graph
from qir.ops import Tanh
from qir.ops.op import Op
from qir.ops.regions import RegionOp
from qir.text import parse
from qir.types import Array
from tests.drawing import examples
from tests.exact.stablehlo import forbidden
from tests.strategies import STRATEGIES, Case
from tests.strategies.programs import integer_programs

few = examples(12, phases=[Phase.generate])

NETWORK = """
graph @network(%image: f32[B,6,6,2]) {
  %x = quantize(%image) : i8[B,6,6,2]{scale=0.031, zp=-7}
  %k = const : i8[3,3,2,5]{scale=@s, axis=3}
  %b = const : i32[5]{scale=%x*%k, axis=0}
  %a = conv(%x, %k, %b) {padding = same} : i32[B,6,6,5]{scale=%x*%k, axis=3}
  %r = requantize(%a) : u8[B,6,6,5]{scale=0.053, zp=11}
  %p = max_pool(%r) {window = [2, 2], strides = [2, 2]} : u8[B,3,3,5]{scale=0.053, zp=11}
  %f = reshape(%p) : u8[B,45]{scale=0.053, zp=11}
  %y = dequantize(%f) : f32[B,45]
  return %y, %p
}
"""
FLOAT = """
graph @float(%x: f32[B,3]) {
  %w = const : f32[3,4]
  %d = dot(%x, %w) : f32[B,4]
  %y = tanh(%d) : f32[B,4]
  return %y
}
"""

COUNTERS = {
    f"stablehlo.{op}: tensor<i64>"
    for op in ("add", "compare", "constant", "convert", "select", "subtract", "while")
}


def network() -> Graph:
    rng = np.random.default_rng(0)
    arrays: dict[str, Array] = {
        "k": rng.integers(-127, 128, (3, 3, 2, 5)).astype(np.int8),
        "b": rng.integers(-900, 900, 5).astype(np.int32),
        "s": rng.uniform(0.01, 0.02, 5),
    }
    return parse(NETWORK, arrays)


def images(count: int) -> Array:
    return np.random.default_rng(count).normal(0, 2, (count, 6, 6, 2)).astype(np.float32)


def test_one_program_for_any_batch() -> None:
    graph, compiled = network(), compile_graph(network())
    for count in (1, 4, 7):
        expected = run(graph, images(count))
        assert all(map(np.array_equal, compiled(images(count)), expected))


def test_same_integers_in_a_jit_of_the_caller() -> None:
    coarse = compile_graph(
        parse("""
graph @coarse(%q: i8[B]{scale=0.0371, zp=3}) {
  %x = dequantize(%q) : f32[B]
  return %x
}""")
    )
    fine = compile_graph(
        parse("""
graph @fine(%x: f32[B]) {
  %q = quantize(%x) : i8[B]{scale=0.0123, zp=-5}
  return %q
}""")
    )
    codes = np.arange(-128, 128).astype(np.int8)
    for factor in (1.0, 1.7, 0.31):

        def both(q: jax.Array, factor: float = factor) -> jax.Array:
            return fine(coarse(q)[0] * np.float32(factor))[0]

        apart = fine(np.asarray(coarse(codes)[0]) * np.float32(factor))[0]
        assert np.array_equal(jax.jit(both)(codes), apart)


def test_vmap_and_grad() -> None:
    compiled = compile_graph(network())
    stacked = images(6).reshape(3, 2, 6, 6, 2)
    mapped = jax.vmap(compiled)(stacked)
    assert np.array_equal(mapped[1].reshape(6, 3, 3, 5), compiled(images(6))[1])

    graph = parse(FLOAT, {"w": np.ones((3, 4), np.float32)})
    function = XlaExecutor().as_jax(graph)
    x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
    weights = {"w": jnp.full((3, 4), 0.5)}
    gradient = jax.grad(lambda given: function(given, x)[0].sum())(weights)
    assert np.allclose(gradient["w"], x.T @ (1 - np.tanh(x @ weights["w"]) ** 2), atol=1e-6)


def test_exported_program_is_the_same() -> None:
    compiled, x = compile_graph(network()), images(5)
    for exported, leading in [
        (compiled.export(), ()),
        (compiled.export(sizes={"B": 5}), ()),
        (compiled.export(bake=False), (compiled.portable.parameters,)),
    ]:
        again = export.deserialize(exported.serialize())
        assert set(again.platforms) == {"cpu", "cuda", "tpu"}
        assert all(map(np.array_equal, again.call(*leading, x), compiled(x)))


@few
@given(integer_programs())
def test_any_program_exports(case: Case) -> None:
    exported = compile_graph(case.graph).export()
    found = export.deserialize(exported.serialize()).call(*case.inputs)
    assert all(map(np.array_equal, found, run(case.graph, *case.inputs))), case.shown()


@few
@given(integer_programs())
def test_the_x64_flag_changes_nothing(case: Case) -> None:
    with jax.enable_x64(True):
        found = compile_graph(case.graph)(*case.inputs)
    expected = run(case.graph, *case.inputs)
    assert [array.dtype for array in found] == [array.dtype for array in expected]
    assert all(map(np.array_equal, found, expected)), case.shown()


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.name)
def test_programs_hold_32_bits_and_call_nothing(cls: type[Op]) -> None:
    @examples(16, phases=[Phase.generate])
    @given(STRATEGIES[cls], st.booleans())
    def check(case: Case, x64: bool) -> None:
        compiled = compile_graph(case.graph, kernels=False)
        with jax.enable_x64(x64):
            lowered = jax.jit(compiled.function).lower(compiled.parameters, *case.inputs)
        # The counter of a scan is jax's own, in i64 where the caller's flag says so.
        counters = COUNTERS if x64 and issubclass(cls, RegionOp) else set()
        assert forbidden(lowered) - counters == set(), case.shown()

    check()


def test_parameters_are_arguments() -> None:
    compiled = compile_graph(network(), kernels=False)
    assert sorted(compiled.parameters) == ["a.bias", "a.kernel", "r.rescaling"]
    dense = re.findall(r"dense<.*?> : tensor<(.*?)>", compiled.stablehlo({"B": 3}))
    assert all("x" not in type or type.startswith("1x") for type in dense)


def test_interface_is_described() -> None:
    compiled = compile_graph(network(), kernels=False)
    (image,), (_, pooled) = compiled.inputs, compiled.outputs
    assert (image.name, image.dtype.name, image.scale) == ("image", "float32", None)
    assert (str(pooled.scale), str(pooled.zero_point)) == ("0.053", "11")
    assert str(compiled) == (
        "inputs\n  image: f32[B,6,6,2]\n"
        "outputs\n  y: f32[B,45]\n  p: u8[B,3,3,5], real = (stored - 11) * 0.0529999994\n"
        "parameters: 3 arrays, 190 bytes"
    )


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.float32])
def test_one_hot_lookup_of_tpu(dtype: type[np.generic]) -> None:
    rng = np.random.default_rng(0)
    table = rng.integers(-(2**31), 2**31, 256).astype(dtype)
    index = rng.integers(0, 256, (3, 50)).astype(np.int32)
    assert np.array_equal(one_hot_entry(jnp.asarray(table), jnp.asarray(index)), table[index])


def test_probe_reduces_inside_the_program() -> None:
    graph = network()
    values = [graph.value("a"), graph.value("image"), graph.value("k")]
    probe = XlaExecutor().probe(graph, values, lambda array, xp: xp.abs(array).max())
    found = probe(images(3))
    assert [array.shape for array in found] == [(), (), ()]
    assert float(found[1]) == np.abs(images(3)).max()
    whole = XlaExecutor().probe(graph, values)(images(3))
    assert whole[0].shape == (3, 6, 6, 5)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ([], "run: expected 1 input, got 0"),
        ([np.zeros((2, 6, 6))], "run: expected f32[B,6,6,2] for input %image, got f32[2,6,6]"),
        ([np.zeros((2, 6, 5, 2), np.float32)], "got f32[2,6,5,2]"),
        ([np.zeros((6, 6, 2), np.float32)], "got f32[6,6,2]"),
        ([jnp.zeros((2, 6, 6, 2), jnp.int8)], "got i8[2,6,6,2]"),
        ([[1.0, 2.0]], "got f32[2]"),
    ],
)
def test_wrong_inputs(arrays: list[Array], message: str) -> None:
    for function in (compile_graph(network()), lambda *given: run(network(), *given)):
        with pytest.raises(QirError) as error:
            function(*arrays)
        assert message in str(error.value)


def test_named_dimensions_must_agree() -> None:
    graph = parse("""
graph @two(%x: f32[B,3], %y: f32[2*B], %z: f32[B*T]) {
  %s = reshape(%z) : f32[T,B]
  return %s, %x, %y
}""")
    compiled = compile_graph(graph)
    x, y, z = (np.zeros(shape, np.float32) for shape in [(2, 3), (4,), (6,)])
    assert compiled(x, y, z)[0].shape == (3, 2)
    for arrays, place in [
        ((x, y[:3], z), "the size 3 is not a multiple of 2"),
        ((x, y[:2], z), "the dimension B is 2 in another input"),
    ]:
        with pytest.raises(QirError, match=place):
            compiled(*arrays)
    with pytest.raises(QirError, match="no input has a dimension C"):
        compiled.export(sizes={"C": 3})
    with pytest.raises(QirError, match="expected a size for the dimension T"):
        compiled.lower({"B": 3})


def test_64_bits_are_refused() -> None:
    graph = parse("graph @wide(%x: f64[2]) {\n  %y = tanh(%x) : f64[2]\n  return %y\n}")
    with pytest.raises(QirError, match=r"xla: expected numbers of at most 32 bits, got f64\[2\]"):
        compile_graph(graph)


def test_missing_lowering_names_the_op_and_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(LOWERINGS, Tanh)
    line = 'tanh(%x) : f32[2] loc("model.py:3")'
    graph = parse(f"graph @g(%x: f32[2]) {{\n  %y = {line}\n  return %y\n}}")
    with pytest.raises(QirError) as error:
        compile_graph(graph)
    assert error.value.message == "xla: no lowering of tanh"
    assert error.value.places == ["at %y, model.py:3"]
