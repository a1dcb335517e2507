"""`qir 1`: programs that release 0.1.0 saved give the outputs that it computed of them."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir.errors import ParseError
from qir.numbers.rounding import ROUNDINGS
from qir.ops import Cast, Requantize
from qir.text import parse
from qir.text.storage import reading
from tests.drawing import examples

FOLDER = Path(__file__).parent.parent / "golden" / "version1"
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.qir"))
FLOAT = "cnn_float_with_ranges"
"""The float program: the order of its sums is nobody's; what is dequantized elsewhere is exact."""
SCALES = st.floats(2.0**-12, 2.0**-4, width=32)
POINTS = st.integers(-128, 127)


def saved(name):
    """Returns a program with the inputs and outputs of the release."""
    graph = qir.load(FOLDER / f"{name}.qir")
    with reading(name), np.load(FOLDER / f"{name}.values.npz") as held:
        # numpy has no bf16: its numbers are kept as u16.
        inputs, outputs = (
            [held[f"{kind}{i}"].view(value.type.dtype.numpy) for i, value in enumerate(values)]
            for kind, values in (("input", graph.inputs), ("output", graph.outputs))
        )
    return graph, inputs, outputs


def same(found, expected, *, floats=True):
    assert len(found) == len(expected)
    for array, right in zip(found, expected, strict=True):
        assert array.dtype == right.dtype
        if floats or right.dtype.kind in "iub":
            np.testing.assert_array_equal(array, right)
        else:
            # Four sums of at most 72 products, each of which may be off by half a unit.
            bound = 4 * 72 * 2.0**-24 * np.abs(right).max()
            np.testing.assert_allclose(array, right, rtol=0, atol=bound)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_saved_program_gives_the_same_numbers_in_the_reference(name):
    graph, inputs, outputs = saved(name)
    same(qir.evaluate(graph, *inputs), outputs, floats=name != FLOAT)


@pytest.mark.parametrize("name", [name for name in PROGRAMS if name != "wide"])
def test_a_saved_program_gives_the_same_integers_in_xla(name):
    """All but the sums in 64 bits, which XLA computes in neither release."""
    graph, inputs, outputs = saved(name)
    found = [np.asarray(array) for array in qir.compile(graph)(*inputs)]
    same(found, outputs, floats=name != FLOAT)


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_is_saved_as_version_2_and_still_gives_the_same_numbers(name, tmp_path):
    graph, inputs, outputs = saved(name)
    path = tmp_path / f"{name}.qir"
    qir.save(graph, path)
    assert path.read_text().startswith("qir 2\n")
    again = qir.load(path)
    assert again == graph
    same(qir.evaluate(again, *inputs), outputs, floats=name != FLOAT)


def test_values_keep_their_names_and_facts():
    text = (FOLDER / "gate.qir").read_text()
    graph, _, _ = saved("gate")
    names = {value.name for value in graph.values()}
    assert names.issuperset(re.findall(r"^  %([\w.]+) =", text, re.MULTILINE))
    assert graph.value("mul_1.q").origin == graph.value("mul_1.q.acc").origin == ("mul_1",)
    assert graph.value("mean").loc == graph.value("mean.acc").loc is not None
    assert graph.inputs[0].range is not None


def test_a_name_that_a_later_line_has_is_left_to_it():
    graph = parse(
        """qir 1
graph @f(%x: i8[4]{scale=0.5}) {
  %y = mul(%x, %x) : i8[4]{scale=0.5}
  %y.acc = mul(%y, %x) : i8[4]{scale=0.5}
  return %y.acc
}
"""
    )
    assert graph.outputs[0].name == "y.acc"
    assert isinstance(graph.value("y").op, Requantize)
    assert isinstance(graph.value("y.acc").op, Requantize)


def fixed31(sums, scale, output_scale, point):
    """What release 0.1.0 made of an exact sum: one rounding in mode fixed31."""
    mode = ROUNDINGS["fixed31"]
    return mode.requantize(sums, mode.multipliers(scale, output_scale), point, -128, 127)


@examples(100)
@given(SCALES, SCALES, POINTS, POINTS, st.integers(2, 40), st.data())
def test_a_mean_is_rounded_by_the_multiplier_of_scales_and_count(sx, so, zx, zo, count, data):
    text = f"""qir 1
graph @mean(%x: i8[1,{count},1,2]{{scale={sx!r}, zp={zx}}}) {{
  %y = mean(%x) {{axes = [1, 2]}} : i8[1,2]{{scale={so!r}, zp={zo}}}
  %z = avg_pool(%x) {{window = [{count}, 1]}} : i8[1,1,1,2]{{scale={so!r}, zp={zo}}}
  %s = reduce_sum(%x) {{axes = [1, 2]}} : i8[1,2]{{scale={so!r}, zp={zo}}}
  return %y, %z, %s
}}
"""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(-128, 128, (1, count, 1, 2)).astype(np.int8)
    sums = (x.astype(np.int64) - zx).sum(axis=(1, 2))
    y, z, s = qir.evaluate(parse(text), x)
    mean = fixed31(sums, sx, np.float64(so) * count, zo)
    np.testing.assert_array_equal(y, mean)
    np.testing.assert_array_equal(z.reshape(1, 2), mean)
    np.testing.assert_array_equal(s, fixed31(sums, sx, so, zo))


@examples(100)
@given(SCALES, SCALES, SCALES, POINTS, POINTS)
def test_a_product_is_rounded_by_the_multiplier_of_the_product_of_scales(sx, sy, so, zx, zo):
    text = f"""qir 1
graph @mul(%x: i8[256,1]{{scale={sx!r}, zp={zx}}}, %y: i8[1,256]{{scale={sy!r}, zp=3}}) {{
  %z = mul(%x, %y) : i8[256,256]{{scale={so!r}, zp={zo}}}
  return %z
}}
"""
    x = np.arange(-128, 128, dtype=np.int8)[:, None]
    products = (x.astype(np.int64) - zx) * (x.T.astype(np.int64) - 3)
    (z,) = qir.evaluate(parse(text), x, x.T)
    np.testing.assert_array_equal(z, fixed31(products, np.float64(sx) * sy, so, zo))


def test_sums_of_plain_bytes_wrap_at_eight_bits():
    graph, _, _ = saved("bytes")
    assert all(isinstance(value.op, Cast) for value in graph.outputs)


def test_a_wrong_type_is_told_with_the_line():
    with pytest.raises(ParseError) as caught:
        parse(
            "qir 1\n"
            "graph @f(%x: i8[4,2]{scale=0.5}) {\n"
            "  %y = mean(%x) {axes = [1]} : i8[5]{scale=0.5}\n"
            "  return %y\n"
            "}\n"
        )
    assert str(caught.value) == (
        "mean: expected %y to be i8[4]{scale=0.5}, got i8[5]{scale=0.5}\n"
        "  at line 3\n"
        "  |  %y = mean(%x) {axes = [1]} : i8[5]{scale=0.5}"
    )


@pytest.mark.parametrize("version", [0, 3])
def test_a_version_that_is_not_read_is_named_with_those_that_are(version):
    with pytest.raises(ParseError) as caught:
        parse(f"qir {version}\nprogram of another kind")
    assert str(caught.value) == (
        f"parse: expected a text of version 1 or 2, got {version}\n"
        "  at line 1, column 1\n"
        f"  |qir {version}\n"
        "  |^"
    )
