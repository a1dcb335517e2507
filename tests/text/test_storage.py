"""Programs on disk: what is saved loads, and a damaged pair of files is an error that says so."""

import io
import os
import re
import zipfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import qir
from qir.errors import ParseError, QirError
from qir.ops import Dot, Scan
from qir.text.files import write_atomically
from qir.text.packing import pack
from qir.text.storage import write_arrays
from qir.types import Array, DType, array_digest

TYPES = ["bool", "i2", "i4", "i8", "i16", "i32", "i64", "u4", "u8", "u16", "u32"]
FLOATS = {"f16": np.float16, "bf16": ml_dtypes.bfloat16, "f32": np.float32, "f64": np.float64}


def every_type():
    """A program with an array of each type, 11 numbers each, too many to be written in the text."""
    graph = qir.Graph("types")
    build, rng, values = graph.at_end(), np.random.default_rng(0), []
    for name in TYPES:
        dtype = DType(name)
        low, high = (0, 1) if dtype is DType.BOOL else dtype.bounds
        numbers = rng.integers(low, high, (11,), endpoint=True, dtype=np.int64)
        numbers[:2] = low, high
        values.append(build.const(numbers.astype(dtype.numpy), f"{name}s", dtype))
    for name, carrier in FLOATS.items():
        numbers = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e-7, 1 / 3, -1, 2, 3, 65504])
        values.append(build.const(numbers.astype(carrier), f"{name}s"))
    graph.set_outputs(values)
    return graph


INTEGER = """\
qir 2
graph @integer(%x: i8[2,9]{scale=0.5, zp=3} of "image") {
  %k = const : i4[9,10]{scale=@k.scale, axis=1}
  %a = dot(%x, %k) : i32[2,10]{scale=%x*%k, axis=1} loc("model.py:7 (dense)")
  %q = requantize(%a) {multiplier = @q.multiplier, shift = @q.shift} : i8[2,10]{scale=1.0}
  %table = const : i8[256]{scale=0.25}
  %y = lookup(%q, %table) : i8[2,10]{scale=0.25} why("no reason")
  return %y
}
"""
NUMBERS = np.random.default_rng(0)
ARRAYS: dict[str, Array] = {
    "k": NUMBERS.integers(-8, 8, (9, 10)).astype(np.int8),
    "k.scale": NUMBERS.uniform(0.1, 1, 10).astype(np.float32),
    "q.multiplier": np.full(10, 2**30, np.int32),
    "q.shift": np.arange(30, 40).astype(np.int32),
    "table": NUMBERS.integers(-128, 128, 256).astype(np.int8),
}


@pytest.fixture
def saved(tmp_path):
    """The path of a saved integer program."""
    path = tmp_path / "model.qir"
    qir.save(qir.parse(INTEGER, ARRAYS), path)
    return path


def error(path: Path) -> str:
    """The message of loading a program, its paths without the folder."""
    with pytest.raises(QirError) as caught:
        qir.load(path)
    return str(caught.value).replace(f"{path.parent}/", "")


def test_arrays_of_every_type_come_back(tmp_path):
    graph = every_type()
    qir.save(graph, tmp_path / "types.qir")
    loaded = qir.load(tmp_path / "types.qir")
    assert loaded == graph
    assert {DType(name) for name in (*TYPES, *FLOATS)} == set(DType)
    for value in graph.values():
        array = loaded.value(value.name).array
        assert array.dtype == value.array.dtype
        assert array.tobytes() == value.array.tobytes()


def test_scales_multipliers_tables_places_and_reasons_come_back(saved):
    graph, loaded = qir.parse(INTEGER, ARRAYS), qir.load(saved)
    assert loaded == graph
    assert qir.to_program(loaded).text == qir.to_program(graph).text
    assert loaded.value("a").loc == "model.py:7 (dense)"
    assert loaded.inputs[0].origin == ("image",)
    assert np.array_equal(loaded.value("k").array, ARRAYS["k"])
    assert sorted(saved.parent.iterdir()) == [saved.with_suffix(".npz"), saved]


def test_a_program_saved_twice_is_the_same_bytes(saved):
    text, arrays = saved.read_bytes(), saved.with_suffix(".npz").read_bytes()
    qir.save(qir.load(saved), saved)
    assert (saved.read_bytes(), saved.with_suffix(".npz").read_bytes()) == (text, arrays)


def test_a_program_of_small_arrays_is_text_alone(tmp_path):
    graph = qir.parse("graph @g() {\n  %k = const [1, 2] : i4[2]\n  return %k\n}")
    qir.save(graph, tmp_path / "g.qir")
    assert qir.load(tmp_path / "g.qir") == graph
    assert list(tmp_path.iterdir()) == [tmp_path / "g.qir"]


@pytest.mark.parametrize("name", ["file", "allow_pickle", "arr_0", "a.npy"])
def test_an_array_may_have_any_name(name, tmp_path):
    text = f"""graph @g() {{
      %a = const : f64[9]
      %{name} = const : f64[9]
      return %a, %{name}\n}}"""
    graph = qir.parse(text, {"a": np.arange(9.0), name: np.arange(1.0, 10.0)})
    qir.save(graph, tmp_path / "g.qir")
    assert qir.load(tmp_path / "g.qir") == graph


def test_each_content_is_stored_once(tmp_path):
    graph = qir.Graph("tied")
    build, numbers = graph.at_end(), np.arange(1000, dtype=np.int8).reshape(100, 10)
    tied = [build.const(numbers, "embed"), build.const(numbers.copy(), "head")]
    others = [
        build.const(numbers.reshape(10, 100), "turned"),
        build.const(numbers.view(np.uint8), "unsigned"),
        build.const(np.abs(numbers) % 8, "narrow", DType.I4),
        build.const(np.abs(numbers) % 8, "wide"),
    ]
    graph.set_outputs([*tied, *others])
    qir.save(graph, tmp_path / "g.qir")
    text = (tmp_path / "g.qir").read_text()
    assert "%head = const @embed : i8[100,10]" in text
    with zipfile.ZipFile(tmp_path / "g.npz") as archive:
        names = {name.removesuffix(".npy") for name in archive.namelist()}
    assert names == {"embed", "turned", "unsigned", "narrow", "wide"}
    loaded = qir.load(tmp_path / "g.qir")
    assert loaded == graph
    assert loaded.value("head").array is loaded.value("embed").array
    assert qir.to_program(loaded).text == text


TRANSPOSED = """\
graph @tied(%x: f32[2,4]) {
  %head = const @embed {permutation = [1, 0]} : f32[4,3]
  %y = dot(%x, %head) : f32[2,3]
  return %y
}
"""
EMBED = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_transposed_matrix_refers_to_the_other_one(tmp_path):
    graph = qir.Graph("tied")
    build = graph.at_end()
    values = [build.const(EMBED, "embed"), build.const(EMBED.T, "head")]
    graph.set_outputs(values)
    qir.save(graph, tmp_path / "g.qir")
    text = (tmp_path / "g.qir").read_text()
    assert "%head = const @embed {permutation = [1, 0]} : f32[4,3]" in text
    with zipfile.ZipFile(tmp_path / "g.npz") as archive:
        assert archive.namelist() == ["embed.npy"]
    loaded = qir.load(tmp_path / "g.qir")
    assert loaded == graph
    assert np.shares_memory(loaded.value("head").array, loaded.value("embed").array)
    assert not loaded.value("head").array.flags.writeable
    assert qir.to_program(loaded).text == text


def test_a_transposed_matrix_of_which_the_other_is_no_value():
    graph = qir.parse(TRANSPOSED, {"embed": EMBED})
    x = np.ones((2, 4), np.float32)
    assert np.array_equal(qir.evaluate(graph, x)[0], x @ EMBED.T)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("[1, 0]", "[0, 1]", "expected @embed to be f32[4,3], got float32[3,4]"),
        ("[1, 0]", "[1, 1]", "expected a permutation of the 2 axes of @embed, got [1, 1]"),
        ("[1, 0]", "[0]", "expected a permutation of the 2 axes of @embed, got [0]"),
        ("[1, 0]", "[1, 0, -1]", "expected a permutation of the 2 axes of @embed"),
        ("[1, 0]", "1.5", "const: permutation"),
        ("@embed", "@head", "no array @head"),
        ("@embed", "2.0", "no attributes but the permutation of a named array"),
        ("permutation", "order", "no attributes but the permutation of a named array, got order"),
        ("{perm", "{permutation = [0, 1], perm", "permutation"),
        (" @embed", "", "parse: expected"),
    ],
)
def test_a_bad_reference_to_a_transposed_matrix_is_refused(old, new, message):
    with pytest.raises(ParseError, match=re.escape(message)):
        qir.parse(TRANSPOSED.replace(old, new, 1), {"embed": EMBED})


def test_arrays_that_older_files_name_otherwise_than_their_values(tmp_path):
    numbers = np.arange(12, dtype=np.float32)
    (tmp_path / "old.qir").write_text(
        "qir 1\n"
        "graph @g() {\n"
        "  %w = const @layer/w : f32[12]\n"
        "  %v = const @layer/w : f32[12]\n"
        "  return %w, %v\n"
        "}\n"
        f'data {{\n  @layer/w : f32[12] "{array_digest(numbers)}"\n}}\n'
    )
    with (tmp_path / "old.npz").open("wb") as file:
        write_arrays(file, {"layer/w": pack(numbers, DType.F32)})
    graph = qir.load(tmp_path / "old.qir")
    assert np.array_equal(graph.value("w").array, numbers)
    assert graph.value("v").array is graph.value("w").array
    assert [line.strip() for line in str(graph).splitlines()[1:3]] == [
        "%w = const : f32[12]",
        "%v = const @w : f32[12]",
    ]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_write_leaves_the_old_pair_and_nothing_else(failing, saved, monkeypatch):
    before = {path: path.read_bytes() for path in saved.parent.iterdir()}
    writes = []

    def fdopen(descriptor, mode, open=open):
        writes.append(descriptor)
        file = open(descriptor, mode)
        if len(writes) == failing:
            file.write(b"half")
            file.close()
            raise OSError(28, "No space left on device")
        return file

    monkeypatch.setattr("os.fdopen", fdopen)
    with pytest.raises(QirError, match="No space left on device"):
        qir.save(every_type(), saved)
    assert {path: path.read_bytes() for path in saved.parent.iterdir()} == before
    assert qir.load(saved) == qir.parse(INTEGER, ARRAYS)


def test_an_interrupted_write_leaves_nothing(tmp_path):
    def interrupted(file):
        file.write(b"half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(
            {tmp_path / "a": lambda file: file.write(b"a"), tmp_path / "b": interrupted}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_files_are_as_open_to_others_as_the_user_wants(mask, tmp_path):
    before = os.umask(mask)
    try:
        qir.save(every_type(), tmp_path / "g.qir")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o666 & ~mask}


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(QirError) as caught:
        qir.save(every_type(), tmp_path / "no" / "g.qir")
    assert str(caught.value) == f"file: can't write {tmp_path}/no/g.qir: No such file or directory"


def test_no_file(tmp_path):
    assert error(tmp_path / "g.qir") == "load: can't read g.qir: No such file or directory"


def test_no_text(tmp_path):
    (tmp_path / "g.qir").write_bytes(b"\xff\xfe")
    assert error(tmp_path / "g.qir") == "load: can't read g.qir: it is not a text"


def test_no_arrays(saved):
    saved.with_suffix(".npz").unlink()
    assert error(saved) == (
        "load: expected the arrays in model.npz, which does not exist; qir.save writes both, a "
        "dump of passes is text alone\n  in model.qir"
    )


def test_truncated_arrays(saved):
    path = saved.with_suffix(".npz")
    whole = path.read_bytes()
    for length in range(0, len(whole), 11):
        path.write_bytes(whole[:length])
        assert error(saved) == (
            "load: model.npz is truncated or corrupted: File is not a zip file\n  in model.qir"
        )


def test_damaged_arrays(saved):
    graph, path = qir.load(saved), saved.with_suffix(".npz")
    whole, messages = path.read_bytes(), set()
    for position in range(0, len(whole), 5):
        damaged = bytearray(whole)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            loaded = qir.load(saved)
        except QirError as caught:
            messages.add(re.sub(r"corrupted: .*|@.*", "", caught.message))
        else:  # of a byte that holds no number, such as a date
            assert loaded == graph
    expected = {"is truncated or ", "holds no array "}
    assert {message.replace(f"load: {path} ", "") for message in messages} == expected


def test_truncated_text(saved):
    whole = saved.read_text()
    for length in range(0, len(whole.rstrip()), 7):
        saved.write_text(whole[:length])
        with pytest.raises(QirError) as caught:
            qir.load(saved)
        assert caught.value.places[-1] == f"in {saved}"
        assert isinstance(caught.value, ParseError), caught.value
    saved.write_text(whole[: whole.index("@k.scale")])
    assert error(saved) == (
        "parse: expected more text, got the end\n"
        "  at line 3\n"
        "  |  %k = const : i4[9,10]{scale=\n"
        "  in model.qir"
    )


def test_arrays_of_another_program(saved, tmp_path):
    other = qir.parse(INTEGER, ARRAYS | {"table": ARRAYS["table"] + np.int8(1)})
    qir.save(other, tmp_path / "other.qir")
    (tmp_path / "other.npz").rename(saved.with_suffix(".npz"))
    assert error(saved) == (
        "load: the array @table in model.npz is not the one that the text was written with\n"
        "  in model.qir"
    )


def test_an_array_too_few(saved):
    with zipfile.ZipFile(saved.with_suffix(".npz"), "w"):
        pass
    assert error(saved) == ("load: model.npz holds no array @k\n  in model.qir")


def members(saved, **changed):
    """Writes the arrays of a saved program with some files inside the .npz changed."""
    path = saved.with_suffix(".npz")
    with zipfile.ZipFile(path) as archive:
        held = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (held | changed).items():
            archive.writestr(name, data)


def npy(array: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_an_array_of_another_size(saved):
    members(saved, **{"table.npy": npy(np.zeros(255, np.uint8))})
    assert error(saved) == (
        "load: expected 256 bytes for i8[256], got 255\n  array @table of model.npz\n  in model.qir"
    )


def test_an_array_of_as_many_numbers_that_are_no_row_of_bytes(saved):
    for array, what in (
        (np.zeros(256, np.float64), "numbers of float64 of shape [256]"),
        (np.zeros((1, 256), np.uint8), "numbers of uint8 of shape [1, 256]"),
    ):
        members(saved, **{"table.npy": npy(array)})
        assert error(saved).startswith(f"load: expected 256 bytes for i8[256], got {what}\n")


def test_nothing_is_unpickled(saved):
    members(saved, **{"table.npy": npy(np.array([print], object))})
    assert error(saved) == (
        "load: model.npz is truncated or corrupted: "
        "expected numbers, got objects, which are not unpickled\n"
        "  in model.qir"
    )


def test_a_text_without_a_header(saved):
    saved.write_text(saved.read_text().removeprefix("qir 2\n"))
    assert error(saved) == ("load: expected the first line to be 'qir 2'\n  in model.qir")


def test_a_text_of_a_later_version(saved):
    saved.write_text(saved.read_text().replace("qir 2\n", "qir 3\n"))
    assert error(saved) == (
        "parse: expected a text of version 1 or 2, got 3\n"
        "  at line 1, column 1\n"
        "  |qir 3\n"
        "  |^\n"
        "  in model.qir"
    )


def test_an_element_type_that_does_not_exist(saved):
    saved.write_text(saved.read_text().replace('@table : i8[256] "', '@table : i9[256] "'))
    assert error(saved) == (
        "load: no element type i9; did you mean 'i8'?\n  array @table of model.npz\n  in model.qir"
    )


def test_constants_of_regions_are_stored_by_content_whatever_their_names(tmp_path):
    graph = qir.Graph("loops")
    x = graph.add_input("x", qir.TensorType((4, 4), DType.F32))
    one, other = (np.random.default_rng(seed).normal(size=(4, 4)).astype("f") for seed in (0, 1))
    build = graph.at_end()
    start = build.emit(Dot(), x, build.const(one, "w"))
    body = qir.Graph("", [("h", x.type)])
    inside = body.at_end()
    product = inside.emit(Dot(), body.inputs[0], inside.const(other, "w"))
    body.set_outputs([inside.emit(Dot(), product, inside.const(one, "v"))])
    graph.set_outputs(build.emit_node(Scan(carries=1, trips=3), [start], [body]).outputs)
    program = qir.to_program(graph)
    assert len(program.arrays) == 2
    assert qir.parse(program.text, program.arrays) == graph
    qir.save(graph, tmp_path / "loops.qir")
    assert qir.load(tmp_path / "loops.qir") == graph
