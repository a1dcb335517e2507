"""What is printed reads back: random graphs of every kind of type, attribute, region and fact."""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from tempfile import TemporaryDirectory
from typing import ClassVar, Literal

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from qir.analysis.verify import verify
from qir.api import load, save
from qir.errors import QirError
from qir.ir import Graph, Value
from qir.numbers.interval import Interval
from qir.ops import Const, Scan
from qir.ops.op import OPS, Op
from qir.text import parse, to_program, to_text
from qir.types import (
    Affine,
    Codebook,
    Dim,
    DType,
    FrozenArray,
    TensorType,
    format_number,
    multiplied,
)
from qir.types.codes.codebook import NF4
from qir.types.names import DIMENSION, SYMBOL, VALUE
from tests.drawing import examples
from tests.strategies import STRATEGIES
from tests.strategies.kinds import level_codes, with_blocks


@dataclass(frozen=True)
class Anything(Op):
    """Returns its operands, and has an attribute of every kind."""

    name: ClassVar[str] = "anything"
    whole: int = 0
    real: float = 0.0
    flag: bool = False
    word: str = ""
    choice: Literal["this", "that", "inf"] = "this"
    pair: tuple[int, int] | None = None
    reals: tuple[float, ...] = ()
    nested: tuple[tuple[int, bool], ...] = ()
    kind: DType = DType.F32
    table: FrozenArray | None = None

    def needs_zero(self, *operands: TensorType) -> bool:
        return False

    def result(self, *xs: TensorType) -> tuple[TensorType, ...]:
        return xs


@pytest.fixture(autouse=True, scope="module")
def ops():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(OPS, "anything", Anything)
        yield


NAMES = st.sampled_from(["x", "y", "x_1", "w", "0", "conv1.kernel", "a-b"]) | st.from_regex(
    VALUE, fullmatch=True
)
SYMBOLS = st.sampled_from(["w", "x", "block/conv1.kernel"]) | st.from_regex(SYMBOL, fullmatch=True)
DIMENSIONS = st.from_regex(DIMENSION, fullmatch=True).filter(str.isidentifier)
SIZES = (
    st.integers(0, 6)
    | st.sampled_from(
        [Dim.named("B"), Dim.named("N_2") * 3, Dim.named("B") * Dim.named("B") * Dim.named("a")]
    )
    | DIMENSIONS.map(Dim.named)
)
SCALES = st.floats(2.0**-125, 2.0**125, width=32)
REALS = st.floats(width=32, allow_nan=False, allow_infinity=False)
GENERATORS = st.integers(0, 2**32 - 1).map(np.random.default_rng)
DTYPES = st.sampled_from(DType)
INTEGERS = st.sampled_from([dtype for dtype in DType if dtype.is_integer])
FLOATS = st.sampled_from([dtype for dtype in DType if dtype.is_float])


@st.composite
def scales(draw, shape):
    """Scales for a tensor, channels or blocks."""
    if draw(st.booleans()):
        return np.float32(draw(SCALES))
    parts = [
        draw(st.sampled_from([part for part in range(1, size + 1) if size % part == 0] or [1]))
        if isinstance(size, int)
        else 1
        for size in shape
    ]
    return np.exp2(draw(GENERATORS).uniform(-100, 100, parts)).astype(np.float32)


@st.composite
def codes(draw, shape):
    storage, scale, expressed = draw(INTEGERS), draw(scales(shape)), draw(FLOATS)
    rng = draw(GENERATORS)
    if storage.bits >= 32 and draw(st.booleans()):
        factors = (FrozenArray(np.float64(draw(scales(shape)))) for _ in range(2))
        return Affine(storage, multiplied(*factors), expressed=expressed)
    if storage.bits >= 32:
        return Affine.of(storage, scale.astype(np.float64) * draw(SCALES), expressed=expressed)
    parts = np.shape(scale) or (1,) * len(shape)
    small = bool(np.all(scale < 2.0**100))
    multipliers = rng.integers(1, 256, parts) if small and draw(st.booleans()) else None
    whole = bool(shape) and all(isinstance(size, int) and size for size in shape)
    if whole and draw(st.booleans()):
        drawn = level_codes(draw, shape, draw(st.integers(0, len(shape) - 1)))
        return replace(drawn, expressed=expressed)
    if storage.bits <= 8 and draw(st.booleans()):
        levels = np.sort(rng.choice(1000, rng.integers(2, 2**storage.bits + 1), replace=False))
        levels = draw(st.sampled_from([levels - 500, levels / np.float32(7), NF4.array]))
        levels = levels[: 2**storage.bits]
        # Products with the least and the greatest of these levels stay normal numbers.
        scale = np.clip(scale, np.float32(2.0**-121), np.float32(2.0**117))
        return Codebook.of(storage, scale, levels, expressed=expressed, multipliers=multipliers)
    low, high = storage.bounds
    low, high = draw(st.sampled_from([(low, high), (low + 1, high), (low, high - 1)]))
    points = rng.integers(low, high, np.shape(scale), endpoint=True)
    return Affine.of(
        storage, scale, points, bounds=(low, high), expressed=expressed, multipliers=multipliers
    )


@st.composite
def types(draw):
    shape = tuple(draw(st.lists(SIZES, max_size=4)))
    if shape and all(isinstance(size, int) and size for size in shape):
        shape = with_blocks(draw, shape)
    return TensorType(shape, draw(DTYPES | codes(shape)))


@st.composite
def constants(draw):
    """A type and numbers of it: any bits that it can have, now and then all alike."""
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    shape = with_blocks(draw, shape) if shape else shape
    type, rng = TensorType(shape, draw(DTYPES | codes(shape))), draw(GENERATORS)
    carrier, count = type.dtype.numpy, int(np.prod(shape))
    if type.dtype.is_float:
        array = np.frombuffer(rng.bytes(count * carrier.itemsize), carrier)
    else:
        bounds = (0, 1) if type.dtype is DType.BOOL else type.dtype.bounds
        low, high = type.quant.range if type.quant is not None else bounds
        array = rng.integers(low, high, count, endpoint=True).astype(carrier)
    if count and draw(st.booleans()):
        array = np.broadcast_to(array[:1], count)
    return type, array.reshape(shape)


ANYTHING = st.builds(
    Anything,
    whole=st.integers(-(2**70), 2**70),
    real=st.floats(allow_nan=False),
    flag=st.booleans(),
    word=st.text() | st.sampled_from(["inf", "nan", "true", "loc", "conv1-a", "1", "\\", '"']),
    choice=st.sampled_from(["this", "that", "inf"]),
    pair=st.none() | st.tuples(st.integers(), st.integers()),
    reals=st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    nested=st.lists(st.tuples(st.integers(), st.booleans()), max_size=2).map(tuple),
    kind=DTYPES,
    table=st.none()
    | st.lists(st.integers(-(2**31), 2**31 - 1), max_size=12).map(FrozenArray)
    | st.lists(st.floats(allow_nan=False), min_size=1, max_size=12).map(FrozenArray)
    | st.floats(allow_nan=False).map(FrozenArray),
)
TEXTS = st.none() | st.text(min_size=1)


@st.composite
def graphs(draw, inputs=None, depth=2):
    """Graphs that are no programs: what they compute does not matter here."""
    graph = Graph(draw(SYMBOLS) if inputs is None else "")
    for type in draw(st.lists(types(), max_size=3)) if inputs is None else inputs:
        graph.add_input(draw(NAMES), type)
    for _ in range(draw(st.integers(0, 4))):
        values = list(graph.values())
        kind = draw(st.sampled_from(["constant", "anything", "scan"]))
        build = graph.at_end()
        build.loc = draw(TEXTS)
        if kind == "constant":
            type, array = draw(constants())
            constant = Const(FrozenArray.by_reference(array), type)
            node = build.emit_node(constant, [], name=draw(NAMES))
        elif kind == "anything" and values:
            operands = draw(st.lists(st.sampled_from(values), min_size=1, max_size=3))
            node = build.emit_node(draw(ANYTHING), operands)
        elif kind == "scan" and values and depth:
            carried = draw(st.lists(st.sampled_from(values), min_size=1, max_size=2))
            region = draw(graphs([value.type for value in carried], depth - 1))
            region.set_outputs(region.inputs)
            op = Scan(
                len(carried), trips=draw(st.integers(0, 2**31 - 1)), reverse=draw(st.booleans())
            )
            node = build.emit_node(op, carried, [region])
        else:
            continue
        for value in node.outputs:
            graph.name_after(value, draw(NAMES))
        node.note = draw(TEXTS)
    for value in graph.values():
        if draw(st.booleans()):
            value.observed = Interval.of(*sorted([draw(REALS), draw(REALS)]))
        if draw(st.booleans()):
            value.range = Interval.of(*sorted([draw(REALS), draw(REALS)]))
        value.origin = tuple(draw(st.lists(st.text(), max_size=2)))
    graph.set_outputs(draw(st.permutations(list(graph.values())))[:3])
    return graph


def facts(graph):
    """What equality of graphs leaves out."""
    some = any(value.origin for value in graph.values())
    values = [
        (value.name, value.origin or (() if some and not value.is_constant else (value.name,)))
        for value in graph.values()
    ]
    nodes = [(node.loc, node.note) for node in graph.nodes]
    return values, nodes, [facts(region) for node in graph.nodes for region in node.regions]


@given(graphs())
def test_a_program_reads_back_with_all_its_facts(graph):
    verify(graph)
    program = to_program(graph)
    again = parse(program.text, program.arrays)
    verify(again)
    assert again == graph
    assert facts(again) == facts(graph)
    printed = to_program(again)
    assert printed.text == program.text
    assert {name: array.tobytes() for name, array in printed.arrays.items()} == {
        name: array.tobytes() for name, array in program.arrays.items()
    }


@given(st.text(min_size=1) | st.from_regex(SYMBOL, fullmatch=True))
@example("θ")
@example("γ.β")
@example("a b c")
@example("a\n")
@example('"')
@example("²")
@example("e\u0301")
@example("\ud800")
@example("max")
def test_a_name_is_refused_at_once_or_reads_back(name):
    plain = TensorType((9,), DType.F32)

    def built() -> Iterator[Graph]:
        named = Graph("g", [("x", plain)])
        for enter in (
            lambda: Graph(name),
            lambda: Graph("g", [(name, plain)]),
            lambda: _called(named, Graph.rename, name),
            lambda: _called(named, Graph.name_after, name),
            lambda: Graph("g", [("x", TensorType((Dim.named(name),), DType.F32))]),
            lambda: _with_constant(name),
        ):
            before = to_text(named)
            try:
                yield enter()
            except QirError as error:
                refusals.append(error.message)
                assert to_text(named) == before

    refusals: list[str] = []
    for graph in built():
        graph.set_outputs(list(graph.values()))
        verify(graph)
        program = to_program(graph)
        assert parse(program.text.encode().decode(), program.arrays) == graph
        with TemporaryDirectory() as folder:
            save(graph, f"{folder}/g.qir")
            assert load(f"{folder}/g.qir") == graph
    assert all(repr(name) in message for message in refusals)


def _called(graph: Graph, rename: Callable[[Graph, Value, str], None], name: str) -> Graph:
    rename(graph, graph.inputs[0], name)
    return graph


def _with_constant(name: str) -> Graph:
    graph = Graph("g")
    graph.at_end().const(np.arange(9, dtype=np.float32), name)
    return graph


@given(st.lists(st.lists(st.text() | NAMES, max_size=2), max_size=4))
@example([["mlp/~/linear_0"], ["a::b"], ["mlp/~/linear_0", '"']])
@example([["v1"]])
def test_origins_of_any_text_tell_values_apart_and_read_back(sources):
    graph = Graph(
        "g", [(f"v{place}", TensorType((2,), DType.F32)) for place, _ in enumerate(sources)]
    )
    for value, names in zip(graph.inputs, sources, strict=True):
        value.origin = tuple(names)
    graph.set_outputs(graph.inputs)
    graph.record_origins()
    origins = [name for value in graph.values() for name in value.origin]
    assert len(set(origins)) == len(origins)
    for value, names in zip(graph.inputs, sources, strict=True):
        for name, kept in zip(dict.fromkeys(names), value.origin, strict=bool(names)):
            assert kept == name or origins.index(name) < origins.index(kept)
    again = parse(to_program(graph).text)
    assert facts(again) == facts(graph)


@examples(30)
@given(graphs())
def test_the_text_for_people_reads_back_too(graph):
    text = to_text(graph)
    again = parse(text, to_program(graph).arrays)
    assert again == graph
    assert to_text(again) == text


@examples(30)
@given(graphs())
def test_a_copy_prints_alike(graph):
    assert to_program(graph.copy()).text == to_program(graph).text


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", STRATEGIES, ids=lambda cls: cls.name)
def test_every_op_reads_back(cls):
    @examples(40)
    @given(STRATEGIES[cls])
    def reads_back(case):
        program = to_program(case.graph)
        assert parse(program.text, program.arrays) == case.graph

    reads_back()


@given(st.floats(width=32, allow_infinity=False, allow_nan=False))
@example(0.1)
@example(1e16)
@example(1e-45)
def test_numbers_are_the_shortest_that_read_back(real):
    number = np.float32(real)
    text = format_number(number)
    assert np.float32(text) == number
    mantissa = text.lstrip("-").partition("e")[0].replace(".", "").strip("0")
    # At a power of two the neighbour below is nearer: other shorter texts than the nearest count.
    assume(len(mantissa) > 1 and abs(np.frexp(number)[0]) != 0.5)
    assert np.float32(f"{number:.{len(mantissa) - 2}e}") != number


@given(types())
def test_types_that_print_alike_are_equal(type):
    graph = Graph("g", [("x", type), ("y", type)])
    graph.set_outputs(graph.inputs)
    spelled = str(type)
    assert spelled.startswith(f"{type.dtype.value}[")
    other = type.quant and TensorType(type.shape, Affine.of(DType.I32, 0.75))
    assert other is None or str(other) != spelled or other == type


TEXT = """\
qir 2
graph @cnn(%image: f32[1,8,8,3] in [-1.0, 1.0], %d: f32[B,4]) {
  %x = quantize(%image) : i8[1,8,8,3]{scale=0.5, zp=-3, bounds=[-127, 127]} of ["a", "b"]
  %k = const 3 : i8[3,3,3,2]{scale=[0.5, 0.25], axis=3}
  %b = const [1, 2] : i32[2]{scale=%x*%k, axis=0}
  %a = conv(%x, %k, %b) {padding = same, strides = [2, 2]} : i32[1,4,4,2]{scale=%x*%k, axis=3}
  %r = requantize(%a) {clamp = [0, 127], multiplier = [1073741824, 1073741825], shift = [40, 41]} : i8[1,4,4,2]{scale=0.5, zp=-128} loc("a.py:3 (conv)") why("a reason")
  %q = const [[1, 2], [3, 4]] : u4[2,2]{kind=codebook, scale=1.0, levels=[-1, 2, 5, 9, 10], as=f16}
  %w = const 1 : i4[4,4]{scale=[0.5, 1.0], blocks=[2, 4]}
  %f = const [1.0, nan, -inf, 1e-07] : bf16[4]
  %y = scan(%d) {carries = 1, trips = 3} with (%h: f32[B,4]) {
    %c = clip(%h) {low = -inf, high = 6} : f32[B,4]
    return %c
  } : f32[B,4]
  return %r, %y, %q
}
"""  # noqa: E501
PIECES = [
    *re.findall(r'"[^"]*"|[%@]?[\w.]+|\S', TEXT),
    *["", "1.5", "-1", "99999999999999999999", "[", "]", "[]", "[1, [2]]", "[foo, 1]", "[1.5]"],
    *["nan", "inf", "1e400", "none", "@k", "%x*%x", '"\\x"', "foo", "\\", "#", "B"],
]


@examples(300)
@given(st.data())
def test_a_text_with_a_slip_is_a_program_or_an_error(data):
    words = re.split(r'(\s+|"[^"]*"|[%@]?[\w.]+|\S)', TEXT)
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.integers(0, len(words) - 1))
        words[place] = data.draw(st.sampled_from(PIECES))
    try:
        graph = parse("".join(words))
    except QirError:
        return
    verify(graph)


def test_ranges_are_read_from_whole_numbers_too():
    x = "graph @g(%x: f32[2] seen [{}] in [{}]) {{\n  return %x\n}}"
    assert parse(x.format("-3, 4", "0, 1e3")) == parse(x.format("-3.0, 4.0", "0.0, 1e3"))


WRITTEN = {
    "an integer of 5,000 digits": "9" * 5000,
    "an integer of 74 bits": str(10**22),
    "a list of 3,000 levels": "[" * 3000 + "1" + "]" * 3000,
    "words": '["a", "b"]',
    "names": "[a, b]",
    "a word": '"a"',
    "lists of different lengths": "[[1, 2], [3]]",
    "nothing": "[]",
    "lists of nothing": "[[], []]",
    "an integer of 74 bits in a list": f"[{10**22}]",
    "an array": "@w",
    "none": "none",
}
PLACES = {
    "scale": "const 1 : i8[4]{scale=#, axis=0}",
    "factors of a scale": "const 1 : i8[4]{scale=[1.0]*#, axis=0}",
    "parts of a scale": "const 1 : i8[4]{scale=[1.0]*[2.0], parts=#}",
    "zero point": "const 1 : i8[4]{scale=1.0, zp=#}",
    "zero points": "const 1 : i8[4]{scale=1.0, zp=#, axis=0}",
    "bounds": "const 1 : i8[4]{scale=1.0, bounds=#}",
    "axis": "const 1 : i8[4]{scale=1.0, axis=#}",
    "multipliers": "const 1 : i8[4]{scale=1.0, multipliers=#, axis=0}",
    "levels": "const 1 : u4[4]{kind=codebook, scale=1.0, levels=#}",
    "bits of powers": "const 1 : u4[4]{kind=power_of_two, scale=1.0, bits=#}",
    "numbers": "const # : i8[4]",
    "masks": "const # : bool[4]",
    "size": "const 1 : f32[#]",
    "size of a name": "const 1 : f32[#*B]",
    "range": "relu(%x) : f32[4] in [#, 5]",
    "attribute": "transpose(%x) {permutation = #} : f32[4]",
    "number": "clip(%x) {low = #, high = 1.0} : f32[4]",
    "shift": "requantize(%a) {multiplier = 3, shift = #} : i8[4]{scale=1.0}",
}


@pytest.mark.parametrize("place", PLACES)
def test_whatever_is_written_is_a_program_or_an_error(place):
    """Python and numpy have limits and errors of their own, of digits, levels and kinds."""
    told = []
    for written in WRITTEN.values():
        line = PLACES[place].replace("#", written)
        text = f"graph @g(%x: f32[4], %a: i32[4]{{scale=1.0}}) {{\n  %w = {line}\n  return %w\n}}"
        try:
            parse(text, {"w": np.ones(4, np.float32)})
        except QirError as error:
            told.append(str(error))
    assert told
    assert all("at line 2" in message for message in told)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"qir {'9' * 5000}\n", "parse: expected a text of version 1 or 2, got 9999"),
        (
            f"graph @g(%x: f32[{'9' * 5000}]) {{\n  return %x\n}}",
            "dimension: expected an integer times names, as in 128*B, got '9999",
        ),
        (
            f"graph @g(%x: i8[2]{{scale=1.0, zp={10**22}}}) {{\n  return %x\n}}",
            "code: C2: expected a zero point within 65536 of 0, got 10000000000000000000000",
        ),
        (
            f"graph @g(%x: i8[2]{{scale=1.0, zp={2**40}}}) {{\n  return %x\n}}",
            "code: C2: expected a zero point within 65536 of 0, got 1099511627776",
        ),
        (
            f"graph @g(%x: i8[2]{{scale={'[' * 3000}1{']' * 3000}}}) {{\n  return %x\n}}",
            "parse: expected lists of at most 32 levels",
        ),
    ],
)
def test_what_is_too_large_is_told_in_few_words(text, message):
    with pytest.raises(QirError) as caught:
        parse(text)
    assert caught.value.message.startswith(message)
    assert len(caught.value.message) < 150
    assert "at line 1" in str(caught.value)
