"""Runners, writers and readers by name and suffix, those of users among them."""

import subprocess
import sys
from typing import Any, cast

import numpy as np
import pytest

import qir
from qir.api import check_savable
from qir.backends import RUNNERS, WRITERS
from qir.frontends import READERS
from qir.interop.registry import Registry
from qir.targets import TARGETS, Target

TEXT = """
graph @double(%x: f32[2]) {
  %y = add(%x, %x) : f32[2]
  return %y
}
"""


class ListFile:
    """Writes the names of the ops, one a line, and how many there are beside it."""

    companions = (".count",)

    def files(self, graph, path):
        names = [node.op.name for node in graph.nodes]
        return {
            path: lambda file: file.write("\n".join(names).encode()),
            path.with_suffix(".count"): lambda file: file.write(str(len(names)).encode()),
        }


@pytest.fixture
def entries():
    """A runner, a writer and a reader as a user would add them."""
    RUNNERS.add(
        "twice", lambda graph, times=2: lambda *x: [times * y for y in qir.evaluate(graph, *x)]
    )
    WRITERS.add(".list", ListFile())
    READERS.add(".text", lambda path: qir.parse(path.read_text()))
    yield
    RUNNERS.remove("twice")
    WRITERS.remove(".list")
    READERS.remove(".text")


@pytest.mark.usefixtures("entries")
def test_a_runner_is_registered_from_outside(capsys):
    x = np.array([1, 2], np.float32)
    graph = qir.parse(TEXT)
    (found,) = qir.compile(graph, "twice", report=True)(x)
    np.testing.assert_array_equal(found, [4, 8])
    assert capsys.readouterr().out == "the backend 'twice' has no report\n"
    (found,) = qir.compile(graph, "twice", times=3)(x)
    np.testing.assert_array_equal(found, [6, 12])


@pytest.mark.usefixtures("entries")
def test_a_writer_is_registered_from_outside(tmp_path):
    check_savable(tmp_path / "ops.list")
    qir.save(qir.parse(TEXT), tmp_path / "ops.list")
    assert (tmp_path / "ops.list").read_text() == "add\nreturn"
    assert (tmp_path / "ops.count").read_text() == "2"
    (tmp_path / "other.count").mkdir()
    with pytest.raises(qir.QirError, match=r"can't write .*other.count: Is a directory"):
        check_savable(tmp_path / "other.list")


@pytest.mark.usefixtures("entries")
def test_a_reader_is_registered_from_outside(tmp_path):
    (tmp_path / "model.text").write_text(TEXT)
    assert str(qir.load(tmp_path / "model.text")) == str(qir.parse(TEXT))


def test_the_reference_is_a_backend(capsys):
    graph = qir.parse(TEXT)
    program = qir.compile(graph, "reference", report=True)
    assert capsys.readouterr().out.startswith("the reference interpreter")
    x = np.array([1, 2], np.float32)
    node = next(iter(graph.nodes))
    node.set_input(1, graph.inputs[0])
    graph.set_outputs([graph.inputs[0]])
    np.testing.assert_array_equal(program(x)[0], [2, 4])


@pytest.mark.parametrize(
    ("backend", "option", "message"),
    [
        ("xla", "kernel", "has no option 'kernel'; did you mean 'kernels'?"),
        ("xla", "z", "has no option 'z'; its options are measure, kernels, check"),
        ("reference", "check", "has no option 'check'; it takes none"),
    ],
)
def test_an_option_that_a_backend_does_not_have(backend, option, message):
    with pytest.raises(qir.QirError) as refused:
        qir.compile(qir.parse(TEXT), backend, **{option: True})
    assert str(refused.value) == f"compile: the backend '{backend}' {message}"


@pytest.mark.usefixtures("entries")
@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("model.onnx", "got model.onnx"),
        ("a/model.qri", "got a/model.qri; did you mean '.qir'?"),
        ("model", "got model"),
    ],
)
@pytest.mark.parametrize("operation", [check_savable, lambda path: qir.save(qir.parse(TEXT), path)])
def test_a_suffix_that_no_writer_has(operation, path, message):
    with pytest.raises(qir.QirError) as refused:
        operation(path)
    assert str(refused.value) == f"save: expected a path ending in .qir or .list, {message}"


def test_a_suffix_that_no_reader_has():
    with pytest.raises(qir.QirError) as refused:
        qir.load("model.onnx")
    assert str(refused.value) == "load: expected a path ending in .qir, got model.onnx"


@pytest.mark.usefixtures("entries")
def test_a_format_is_found_by_its_name_too(tmp_path):
    (tmp_path / "model").write_text(TEXT)
    assert str(qir.load(tmp_path / "model", format="text")) == str(qir.parse(TEXT))
    with pytest.raises(qir.QirError) as refused:
        qir.load(tmp_path / "model", format="txt")
    assert str(refused.value) == (
        "load: expected the format qir or text, got 'txt'; did you mean 'text'?"
    )


class ChipFile:
    """A format of a target, which it says."""

    target = "chip"
    companions = ()

    def files(self, graph, path):
        return {path: lambda file: file.write(b"chip")}


@pytest.fixture
def chip():
    """A target of a user, and the writer that has its name."""
    TARGETS.add("chip", Target(name="chip", runtime="a test", float_ops=frozenset({"relu"})))
    WRITERS.add("chip", ChipFile(), suffix=".chip")
    yield
    WRITERS.remove("chip")
    TARGETS.remove("chip")


RELU = "graph @g(%x: f32[2]) { %y = relu(%x) : f32[2] return %y }"


@pytest.mark.usefixtures("chip")
def test_a_writer_is_found_by_the_name_of_the_target_where_the_suffix_tells_none(tmp_path):
    for name, target in (("a.chip", None), ("b.chip", "chip"), ("c", "chip"), ("d.bin", "chip")):
        check_savable(tmp_path / name, target=target)
        qir.save(qir.parse(RELU), tmp_path / name, target=target)
        assert (tmp_path / name).read_bytes() == b"chip"
    qir.save(qir.parse(RELU), tmp_path / "e.qir", target="chip")
    assert str(qir.load(tmp_path / "e.qir")) == str(qir.parse(RELU))


@pytest.mark.usefixtures("chip")
@pytest.mark.parametrize(
    ("name", "target", "message"),
    [
        ("a.chip", None, "save: expected a program that target chip accepts, got 1 that it"),
        ("a.qir", "chip", "save: expected a program that target chip accepts, got 1 that it"),
        ("a.chip", "xla", "save: expected target chip, which format chip is of, got xla"),
        ("a.bin", "xla", "save: expected a path ending in .qir or .chip, got"),
        ("a.chip", "chp", "save: expected the target xla or onnx or chip, got 'chp'; did you mean"),
    ],
)
def test_what_a_target_does_not_accept_is_refused_before_anything_is_written(
    name, target, message, tmp_path
):
    with pytest.raises(qir.QirError, match=message):
        qir.save(qir.parse(TEXT), tmp_path / name, target=target)
    assert not [*tmp_path.iterdir()]


def test_a_backend_that_does_not_exist_is_an_error_with_the_nearest_name():
    with pytest.raises(qir.QirError) as refused:
        qir.compile(qir.parse(TEXT), "referenc")
    assert str(refused.value) == (
        "compile: expected the backend xla or reference, got 'referenc'; did you mean 'reference'?"
    )


@pytest.mark.usefixtures("entries")
def test_a_name_is_registered_once():
    with pytest.raises(qir.QirError, match="expected a new name, got 'xla', which is registered"):
        RUNNERS.add("xla", lambda graph: lambda *x: [])
    with pytest.raises(qir.QirError, match="no 'xal'; did you mean 'xla'"):
        RUNNERS.remove("xal")


def test_a_suffix_is_registered_once_and_begins_with_a_dot():
    registry = Registry[int]("the number", {})
    registry.add("one", 1, suffix=".n")
    with pytest.raises(qir.QirError, match=r"expected a new name, got '\.n', which is registered"):
        registry.add("two", 2, suffix=".n")
    for wrong in ("n", ".", ".a.n", ""):
        with pytest.raises(qir.QirError, match=r"expected a suffix such as \.json, got"):
            registry.add("three", 3, suffix=wrong)
    registry.remove("one")
    assert (*registry, *registry.suffixes) == ()


def test_an_entry_is_imported_when_it_is_asked_for():
    registry = Registry[object]("a module", {"json": "json:dumps", "none": "no_such_module:x"})
    assert list(registry) == ["json", "none"]
    assert registry.find("json", "test") is __import__("json").dumps


def test_saving_loading_and_the_reference_need_no_jax(tmp_path):
    code = (
        "import sys, qir; graph = qir.parse(sys.argv[1]); qir.save(graph, sys.argv[2]);"
        "qir.compile(qir.load(sys.argv[2]), 'reference');"
        "print([name for name in sys.modules if name.partition('.')[0] == 'jax'])"
    )
    command = [sys.executable, "-c", code, TEXT, str(tmp_path / "model.qir")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize(
    ("registry", "name", "entry", "sentence"),
    [
        (TARGETS, "chip", 5, "chip: expected a qir.targets.Target, got an int"),
        (TARGETS, "pic", Target(name="chip", runtime="a test"), "under its own name, 'chip'"),
        (READERS, "toy", None, "toy: expected a function from a path to a graph, got None"),
        (RUNNERS, "toy", "xla", "toy: expected a function of a graph, got a str"),
        (WRITERS, "toy", print, "toy: expected an object with companions and a method files"),
        (READERS, 5, print, "expected a name, got an int"),
        (READERS, "", print, "expected a name, got ''"),
        (READERS, ".", print, "expected a suffix such as .json, got '.'"),
    ],
)
def test_an_entry_of_another_kind_is_refused_when_it_is_added(registry, name, entry, sentence):
    before = list(registry)
    with pytest.raises(qir.QirError, match=f"registry: .*{sentence}"):
        registry.add(name, entry)
    assert list(registry) == before


def test_a_name_that_is_no_text_is_a_sentence(tmp_path):
    graph, none = qir.parse(TEXT), cast(str, 5)
    for call in (
        lambda: qir.compile(graph, none),
        lambda: qir.load(tmp_path / "x.qir", format=none),
        lambda: qir.explain(graph, target=none),
        lambda: qir.save(graph, tmp_path / "x.qir", target=none),
    ):
        with pytest.raises(qir.QirError, match=r"expected the .*, got an int; names are texts"):
            call()


def _fails(path):
    return {}[path.read_text()]


@pytest.mark.parametrize(
    ("reader", "sentence"),
    [
        (lambda path: None, "expected a graph of the reader of format toy, got None"),
        (lambda path: path.read_text(), "expected a graph of the reader of format toy, got a str"),
        (_fails, "the reader of format toy failed: KeyError: 'x'"),
        (lambda path: next(iter(())), "the reader of format toy failed: StopIteration"),
        (lambda: None, "the reader of format toy failed: TypeError: .*takes 0 positional"),
    ],
)
def test_a_reader_that_returns_no_graph_or_fails_is_named_with_the_file(reader, sentence, tmp_path):
    READERS.add("toy", reader, suffix=".toy")
    (tmp_path / "model.toy").write_text("x")
    try:
        with pytest.raises(qir.QirError, match=f"load: {sentence}.*\n  in .*model.toy"):
            qir.load(tmp_path / "model.toy")
        with pytest.raises(qir.QirError, match=r"load: .*missing\.toy does not exist"):
            qir.load(tmp_path / "missing.toy")
    finally:
        READERS.remove("toy")


class Given:
    """A writer that returns what it was given."""

    companions = ()

    def __init__(self, given):
        self.given = given

    def files(self, graph, path):
        return self.given(path)


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (lambda path: None, "got None"),
        (lambda path: {str(path): print}, "got a str with a builtin_function_or_method"),
        (lambda path: {path: b"bytes"}, "got a .*Path with a bytes"),
        (lambda path: {}, "out.toy among them, got 0 other files"),
    ],
)
def test_a_writer_that_gives_no_files_is_refused_and_what_was_there_stays(
    given, sentence, tmp_path
):
    WRITERS.add("toy", Given(given), suffix=".toy")
    (tmp_path / "out.toy").write_text("before")
    try:
        with pytest.raises(qir.QirError, match=f"save: expected of the writer .*{sentence}"):
            qir.save(qir.parse(TEXT), tmp_path / "out.toy")
    finally:
        WRITERS.remove("toy")
    assert [path.name for path in tmp_path.iterdir()] == ["out.toy"]
    assert (tmp_path / "out.toy").read_text() == "before"


def test_a_runner_that_returns_no_function_is_refused():
    nothing: Any = lambda graph: None  # noqa: E731 - it is no runner, and typed so
    RUNNERS.add("toy", nothing)
    try:
        with pytest.raises(qir.QirError, match="backend 'toy' to return a function of arrays, got"):
            qir.compile(qir.parse(TEXT), "toy")
    finally:
        RUNNERS.remove("toy")
