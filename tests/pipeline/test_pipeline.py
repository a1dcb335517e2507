"""Pipelines as text, and the manager that runs them."""

import importlib
import io
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest

import qir
from qir.analysis.properties import FLOAT, FLOAT_OPS, INTEGER, QUANTIZED, RANGED
from qir.analysis.verify import verify_structure
from qir.backends.reference.interpreter import run_all
from qir.errors import ParseError, PassError, QirError
from qir.ir import Graph
from qir.numbers.interval import Interval
from qir.ops import Neg, Relu, Requantize, Tanh
from qir.pipeline import (
    PASSES,
    PIPELINES,
    Context,
    Pass,
    PassManager,
    Pipeline,
    Repeat,
    manager,
    register,
)
from qir.text import to_program


@dataclass(frozen=True, repr=False)
class DropRelu(Pass):
    """Takes out one relu, which does no harm where the numbers are positive."""

    name = "drop-relu"

    def run(self, graph, context):
        for node in graph.nodes:
            if isinstance(node.op, Relu):
                node.output.replace_with(node.inputs[0])
                graph.erase(node)
                return


@dataclass(frozen=True, repr=False)
class Flip(Pass):
    """Puts relu for tanh and tanh for relu, and so never comes to an end."""

    name = "flip"

    def run(self, graph, context):
        for node in graph.nodes:
            if isinstance(node.op, Relu | Tanh):
                node.op = Tanh() if isinstance(node.op, Relu) else Relu()


@dataclass(frozen=True, repr=False)
class Bend(Pass):
    """Raises the lower bound of every requantize."""

    name = "bend"
    keeps = "within_1lsb"
    by: int = 1

    def run(self, graph, context):
        for node in graph.nodes:
            if isinstance(node.op, Requantize):
                low, high = node.op.bounds
                node.op = replace(node.op, clamp=(low + self.by, high))


@dataclass(frozen=True, repr=False)
class Spoil(Pass):
    """Breaks what it is told to."""

    name = "spoil"
    requires = (FLOAT,)
    ensures = (QUANTIZED,)
    what: Literal["nothing", "types", "itself"]
    names: tuple[str, ...] = ()
    share: float = 0.5
    much: bool = False

    def check(self):
        if self.share > 1:
            raise QirError(f"spoil: expected a share of at most 1, got {self.share}")

    def run(self, graph, context):
        if self.what == "types":
            next(graph.nodes).op = Neg()
            graph.outputs[0].type = graph.outputs[0].type.with_shape(7)
        if self.what == "itself":
            raise QirError("spoil: could not", [graph.outputs[0].place()])


@pytest.fixture(autouse=True)
def registry():
    """Only the passes of this file, while one of its tests runs."""
    importlib.import_module("qir.passes")  # which registers what is put back below
    passes, pipelines = dict(PASSES), dict(PIPELINES)
    PASSES.clear()
    PASSES.update({kind.name: kind for kind in (DropRelu, Flip, Bend, Spoil)})
    PIPELINES.clear()
    PIPELINES["twice"] = "drop-relu, drop-relu"
    yield
    PASSES.clear()
    PASSES.update(passes)
    PIPELINES.clear()
    PIPELINES.update(pipelines)


def chain(length: int = 3) -> Graph:
    lines = [f"%v{i + 1} = relu(%v{i}) : f32[2]" for i in range(length)]
    body = "\n".join([*lines, f"return %v{length}"])
    return qir.parse(f"graph @chain(%v0: f32[2]) {{\n{body}\n}}")


def run(pipeline, graph=None, inputs=None, **options):
    manager = PassManager(Pipeline.parse(pipeline), check_inputs=inputs, **options)
    return manager.run(graph or chain(), Context(interpreter=run_all))


def error(call, *args, **options):
    with pytest.raises(QirError) as caught:
        call(*args, **options)
    return str(caught.value)


class Counted:
    """A function that counts how often it is called."""

    def __init__(self, function):
        self.function, self.calls = function, 0

    def __call__(self, *arguments):
        self.calls += 1
        return self.function(*arguments)


class TestText:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "drop-relu, flip",
            "spoil(what=types, names=[\"conv*\", \"a\\\"b\\u00e9\", c], share=0.25, much=true)",
            "spoil(what=nothing, share=1e-05)",
            "repeat(drop-relu, repeat(flip), bend(by=-2))",
            "allow(within_1lsb), bend",
        ],
    )  # fmt: skip
    def test_prints_back(self, text):
        assert str(Pipeline.parse(text)) == text
        assert Pipeline.parse(text) == Pipeline.parse(str(Pipeline.parse(text)))

    def test_named_pipelines_expand_in_place(self):
        assert str(Pipeline.parse("flip, twice")) == "flip, drop-relu, drop-relu"
        assert str(Pipeline.parse("repeat(twice)")) == "repeat(drop-relu, drop-relu)"

    def test_spaces_and_defaults_do_not_matter(self):
        short, long = "spoil(what=nothing)", "\n spoil( what = nothing,\n share=0.5, much=false )"
        assert Pipeline.parse(short) == Pipeline.parse(long)
        assert str(Pipeline.parse(long)) == short

    def test_equal_passes_are_equal(self):
        assert Pipeline.parse("bend(by=2)").steps == (Bend(by=2),)
        assert Pipeline.parse("bend(by=2)") != Pipeline.parse("bend")


CARETS = {
    "drop-rleu": """\
pipeline: no pass 'drop-rleu'; did you mean 'drop-relu'?
  drop-rleu
  ^""",
    "flip,\nrepeat(drop-relu, flop)": """\
pipeline: no pass 'flop'; did you mean 'flip'?
  flip, repeat(drop-relu, flop)
                          ^""",
    "flip drop-relu": """\
pipeline: expected passes separated by commas
  flip drop-relu
       ^""",
    "repeat(flip": """\
pipeline: expected more text, got the end
  repeat(flip
             ^""",
    "flip(3)": """\
pipeline: expected passes separated by commas
  flip(3)
       ^""",
    "flip(times=3)": """\
pipeline: flip has no option 'times'; it has none
  flip(times=3)
  ^""",
    "bend(bye=3)": """\
pipeline: bend has no option 'bye'; did you mean 'by'?
  bend(bye=3)
  ^""",
    "flip, bend(by=1, by=2)": """\
pipeline: bend has an option twice
  flip, bend(by=1, by=2)
        ^""",
    "bend(by=fast)": """\
pipeline: bend: by: expected an integer, got fast
  bend(by=fast)
  ^""",
    "spoil(what=type)": """\
pipeline: spoil: what: expected one of nothing, types, itself, got type; did you mean 'types'?
  spoil(what=type)
  ^""",
    "spoil(what=nothing, share=2)": """\
pipeline: spoil: expected a share of at most 1, got 2.0
  spoil(what=nothing, share=2)
  ^""",
    "spoil": """\
pipeline: spoil needs the option 'what'
  spoil
  ^""",
    "bend(flip)": """\
pipeline: expected option=value in bend(...), got 'flip'
  bend(flip)
       ^""",
    "repeat(flip, times=3)": """\
pipeline: repeat has no option 'times'
  repeat(flip, times=3)
  ^""",
    "twice(times=3)": """\
pipeline: 'twice' takes no options; write its passes out
  drop-relu, drop-relu""",
    "allow(everything)": (
        "pipeline: expected allow(exact) or allow(within_1lsb), got allow(everything)"
    ),
}


@pytest.mark.parametrize("text", CARETS)
def test_errors_point_at_the_text(text):
    assert error(Pipeline.parse, text) == CARETS[text]


def test_errors_of_a_named_pipeline_point_at_its_text():
    PIPELINES["broken"] = "flip, flap"
    with pytest.raises(ParseError) as caught:
        Pipeline.parse("drop-relu, broken")
    assert caught.value.places == ["flip, flap", "      ^"]


class TestRegister:
    def test_names_are_taken_once(self):
        class Other(Pass):
            name = "flip"

            def run(self, graph, context):
                pass

        assert error(register, Other) == "pass: 'flip' is already registered"
        Other.name = "twice"
        assert error(register, Other) == "pass: 'twice' is already registered"
        Other.name = "other"
        register(Other)
        assert str(Pipeline.parse("other")) == "other"

    def test_a_mistake_is_told_where_a_pass_is_declared(self):
        class Nameless(Pass):
            def run(self, graph, context):
                pass

        class Idle(Pass):
            name = "idle"

        class Mapped(Nameless):
            name = "mapped"
            by: dict[str, int]

        assert error(register, Nameless) == (
            "pass: expected Nameless to have a name for pipelines, such as "
            'name = "my-pass"'.replace("Nameless", Nameless.__qualname__)
        )
        for name in ("my pass", "", "repeat", "allow"):
            Nameless.name = name
            assert error(register, Nameless).endswith(f"other than allow and repeat, got '{name}'")
        assert error(register, Idle) == f"pass idle: expected {Idle.__qualname__} to define run"
        assert error(register, Mapped) == (
            "pass mapped: expected field 'by' to be of int, float, bool, str, Literal, DType, "
            "FrozenArray, a tuple of these or None, got dict"
        )
        assert error(register, dict) == "pass: expected dict to derive from qir.Pass"

    def test_options_are_checked_in_python_too(self):
        assert error(Bend, by="2") == "bend: by: expected an integer, got 2"
        assert Spoil("nothing", share=1).share == 1.0


class TestManager:
    def test_the_graph_stays_as_it_is(self):
        graph = chain()
        text = str(graph)
        result = run("drop-relu", graph)
        assert str(graph) == text
        assert len(list(result.nodes)) == len(list(graph.nodes)) - 1

    def test_values_stand_for_themselves(self):
        imported = chain()
        for value in imported.values():
            value.origin = ()
        assert run("", imported).value("v1").origin == ("v1",)
        imported.value("v1").origin = ("conv1",)
        assert run("", imported).value("v1").origin == ("conv1",)
        assert run("", imported).value("v2").origin == ()

    def test_repeat_runs_until_nothing_changes(self):
        assert run("repeat(drop-relu)", chain(5)).outputs[0].name == "v0"
        message = "pipeline: repeat(flip) does not come to an end in 32 rounds"
        assert error(run, "repeat(flip)") == message
        assert error(Repeat(()).run, chain(), Context()) == "repeat: is run by the pass manager"

    def test_every_run_of_a_pass_is_timed(self):
        context = Context()
        PassManager(Pipeline.parse("repeat(drop-relu), flip")).run(chain(2), context)
        assert [name for name, _ in context.timings] == ["drop-relu"] * 3 + ["flip"]

    def test_what_edits_nothing_is_not_verified_or_dumped(self, tmp_path, monkeypatch):
        verified, dumped = Counted(verify_structure), Counted(to_program)
        monkeypatch.setattr(manager, "verify_structure", verified)
        monkeypatch.setattr(manager, "to_program", dumped)
        context = Context()
        pipeline = Pipeline.parse("flip, drop-relu, flip, repeat(drop-relu)")
        PassManager(pipeline, dump_dir=tmp_path).run(chain(2), context)
        assert context.edited == [True, False, True, True, True, False]
        assert (verified.calls, dumped.calls) == (4, 5)

    def test_a_round_that_ends_where_it_began_is_the_last(self):
        context = Context()
        PassManager(Pipeline.parse("repeat(flip, flip)")).run(chain(2), context)
        assert context.edited == [True, True]

    def test_dumps_where_the_text_changed(self, tmp_path):
        run("flip, drop-relu, flip", dump_dir=tmp_path / "dumps")
        dumps = sorted((tmp_path / "dumps").iterdir())
        assert [path.name for path in dumps] == ["00-input.qir", "01-flip.qir", "03-flip.qir"]
        text = dumps[1].read_text()
        assert text.startswith("qir 2\ngraph @chain(%v0: f32[2]) {\n  %v1 = tanh(%v0) : f32[2]\n")
        assert qir.parse(text).outputs[0].name == "v3"

    def test_prints_after_all(self):
        stream = io.StringIO()
        run("flip", chain(1), print_after_all=stream)
        before, after = stream.getvalue().split("\n\n")[:2]
        assert before.startswith("// after input\ngraph @chain(")
        assert after.splitlines()[::2] == ["// after flip", "  %v1 = tanh(%v0) : f32[2]", "}"]

    def test_invalid_graphs_are_refused_before_any_pass(self):
        graph = chain()
        graph.value("v1").type = graph.value("v1").type.with_shape(3)
        assert error(run, "flip", graph).startswith("verify: relu: expected %v1 to be f32[2]")

    def test_what_a_pass_requires(self):
        graph = qir.parse("graph @g(%x: i8[2]{scale=0.5}) {\n  return %x\n}")
        assert error(run, "spoil(what=nothing)", graph) == (
            "pipeline: spoil needs a float program: %x has a code already, i8[2]{scale=0.5}; "
            "quantize a program once only"
        )

    def test_what_a_pass_ensures(self, tmp_path):
        assert error(run, "spoil(what=nothing)", dump_dir=tmp_path).splitlines() == [
            "pipeline: spoil should have left a quantized program: no value has a code",
            f"  after pass spoil(what=nothing), dumped in {tmp_path}",
        ]

    def test_invalid_results_name_the_pass(self):
        assert error(run, "flip, spoil(what=types)").splitlines() == [
            "verify: tanh: expected %v3 to be f32[2], got f32[7]",
            "  at %v3",
            "  |  %v3 = tanh(%v2) : f32[7]",
            "  after pass spoil(what=types)",
        ]

    def test_errors_in_a_pass_name_it(self):
        assert error(run, "spoil(what=itself)").splitlines() == [
            "spoil: could not",
            "  at %v3",
            "  in pass spoil(what=itself)",
        ]

    def test_inexact_passes_need_permission(self):
        assert error(run, "repeat(flip, bend)") == (
            "pipeline: bend is within 1 LSB, not exact; "
            "put allow(within_1lsb) into the pipeline to permit it"
        )
        context = Context()
        PassManager(Pipeline.parse("allow(within_1lsb), bend")).run(chain(), context)
        assert context.allow == "within_1lsb"


class TestCheck:
    """Whether the program still computes the same, pass by pass."""

    POSITIVE = (np.array([1, 2], np.float32),)
    NEGATIVE = (np.array([1, -2], np.float32),)

    def test_a_pass_that_keeps_the_results(self):
        run("repeat(drop-relu)", inputs=self.POSITIVE)

    def test_the_guilty_pass_is_named(self):
        message = error(run, "repeat(drop-relu), flip", inputs=self.NEGATIVE)
        assert message.splitlines() == [
            "check: %v0 changed at [1]: expected 0.0, got -2.0 (1 of 2 numbers differ)",
            "  at %v0",
            "  after pass drop-relu",
        ]

    def test_each_difference_is_one_nodes_own(self):
        message = error(run, "flip", inputs=self.POSITIVE)
        assert message.splitlines() == [
            "check: %v1 changed at [0]: expected 1.0, got 0.7615941559557649 "
            "(2 of 2 numbers differ)",
            "  at %v1",
            "  |  graph @part(%v0: f32[2]) {",
            "  |    %v1 = tanh(%v0) : f32[2]",
            "  |    return %v1",
            "  |  }",
            "  after pass flip",
        ]

    def test_not_a_number_and_infinities_count_as_equal(self):
        graph = qir.parse("""
            graph @g(%x: f32[2]) {
              %a = log(%x) : f32[2]
              %b = relu(%a) : f32[2]
              %c = relu(%b) : f32[2]
              return %a, %c
            }""")
        run("drop-relu", graph, inputs=(np.array([-1, np.inf], np.float32),))
        with pytest.raises(PassError, match=r"check: %b changed at \[1\]"):
            run("flip", graph, inputs=(np.array([np.nan, 2], np.float32),))

    PROGRAM = """
        graph @g(%x: i8[3]{scale=1.0}) {
          %a = requantize(%x) : i8[3]{scale=0.5}
          %b = requantize(%a) : i8[3]{scale=0.0625}
          return %b
        }"""
    STORED = (np.array([-128, 1, 2], np.int8),)

    def test_one_step_is_allowed_at_each_value_with_its_inputs_forced(self):
        graph = qir.parse(self.PROGRAM)
        run("allow(within_1lsb), bend(by=1)", graph, inputs=self.STORED)
        message = error(run, "allow(within_1lsb), bend(by=2)", graph, inputs=self.STORED)
        assert message.startswith("check: %a changed at [0]: expected -128, got -126 (1 of 3")


class TestProperties:
    def test_of_a_float_program(self):
        graph = chain(1)
        assert FLOAT.missing(graph) is None
        assert RANGED.missing(graph) == "%v0 has no range"
        assert QUANTIZED.missing(graph) == "no value has a code"
        assert INTEGER.missing(graph) == "relu computes %v1 in floating point"
        graph.inputs[0].range = Interval.of(0, 1)
        assert RANGED.missing(graph) == "%v1 has no range"
        graph.outputs[0].range = Interval.of(0, 1)
        assert RANGED.missing(graph) is None

    def test_of_an_integer_program(self):
        graph = qir.parse("""
            graph @g(%x: f32[2]) {
              %q = quantize(%x) : i8[2]{scale=0.5}
              %r = relu(%q) : i8[2]{scale=0.5}
              %y = dequantize(%r) : f32[2]
              return %y
            }""")
        assert QUANTIZED.missing(graph) is None
        assert INTEGER.missing(graph) is None
        assert FLOAT.missing(graph) == "%q has a code already, i8[2]{scale=0.5}"


def test_codes_beside_ops_of_floats_are_told_from_ops_that_compute_on_them():
    beside = qir.parse("""
graph @beside(%x: i8[2]{scale=0.5}) {
  %y = dequantize(%x) : f32[2]
  %z = tanh(%y) : f32[2]
  %q = quantize(%z) : i8[2]{scale=0.01}
  %r = dequantize(%q) : f32[2]
  return %r
}""")
    assert FLOAT_OPS.missing(beside) is None
    assert FLOAT.missing(beside) == "%x has a code already, i8[2]{scale=0.5}"
    computed = qir.parse(
        "graph @c(%x: i8[2]{scale=0.5}) { %y = relu(%x) : i8[2]{scale=0.5} return %y }"
    )
    assert FLOAT_OPS.missing(computed) == "%x has a code already, i8[2]{scale=0.5}"
