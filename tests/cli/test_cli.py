"""The command qir, as a user calls it: what it writes and prints, and how it fails."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import ArrayLike

import qir
from qir.__main__ import main
from qir.backends.xla.kernel_choice import kernels_here
from qir.observe.batches import random_inputs
from qir.pipeline import PASSES
from qir.text.storage import write_arrays

MODEL = """\
graph @model(%image: f32[B,4,4,1]) {
  %k = const [[[[0.5, -0.25]], [[0.25, 0.5]]]] : f32[1,2,1,2]
  %c = conv(%image, %k) {padding = same} : f32[B,4,4,2]
  %r = relu(%c) : f32[B,4,4,2]
  %m = mean(%r) {axes = [1, 2]} : f32[B,2]
  return %m
}
"""
SAMPLES = np.random.default_rng(0).uniform(-1, 1, (40, 4, 4, 1)).astype(np.float32)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder to work in, with a float program and samples for it."""
    monkeypatch.chdir(tmp_path)
    qir.save(qir.parse(MODEL), "float.qir")
    np.save("samples.npy", SAMPLES)
    return tmp_path


@pytest.fixture
def qir_command(capsys):
    """Runs the command with words of a line; returns its status, output and errors."""

    def run(line: str, *more: str) -> tuple[int, str, str]:
        status = main([*line.split(), *more])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_quantize(qir_command):
    status, out, err = qir_command("quantize float.qir --data samples.npy -o int8.qir --explain")
    assert (status, err) == (0, "")
    integer = qir.quantize(qir.parse(MODEL), [SAMPLES[:32], SAMPLES[32:]])
    assert qir.load("int8.qir") == integer
    lines = out.splitlines()
    verdict = lines.index("3 of 3 ops integer")
    assert lines[verdict + 1].startswith("accuracy on 16 samples of the first batch")
    assert integer.accuracy is not None
    assert f"output %m: {integer.accuracy.outputs[0].sqnr:.1f} dB" in lines[verdict + 2]


def test_quantize_and_opt_by_a_recipe(qir_command):
    recipe = qir.Recipe((qir.RecipeRule(select=("r",), activations="i16", reason="fine"),), "w4a8")
    recipe.save("recipe.toml")
    line = "quantize float.qir --data samples.npy -o mixed.qir --recipe recipe.toml --explain"
    status, out, err = qir_command(line)
    assert (status, err) == (0, "")
    integer = qir.quantize(qir.parse(MODEL), [SAMPLES[:32], SAMPLES[32:]], recipe=recipe)
    assert qir.load("mixed.qir") == integer
    assert "activations=i16 (fine)" in out
    assert "as all, by the options of passes: method=minmax, activations=i8, weights=i4, " in out
    options = "-o again.qir -p w4a8 --data samples.npy --recipe recipe.toml"
    assert qir_command(f"opt float.qir {options}")[0] == 0
    assert qir.load("again.qir") == integer


def test_quantize_to_a_budget(qir_command, folder):
    line = f"{QUANTIZE} --checkpoint search.json --explain"
    status, out, err = qir_command(line, "--budget", "sqnr 50")
    assert status == 0
    assert re.search(r"budget sqnr 50: sqnr 5\d\.\d dB with \d of \d stored activations", err)
    assert "16 bits: sqnr" in out
    data = [SAMPLES[:32], SAMPLES[32:]]
    assert qir.load("int8.qir") == qir.quantize(qir.parse(MODEL), data, budget="sqnr 50")
    known = (folder / "search.json").read_text()
    assert qir_command(line, "--budget", "sqnr 50") == (0, out, err)
    assert (folder / "search.json").read_text() == known
    status, _, err = qir_command(QUANTIZE, "--budget", "sqnr 300")
    assert (status, err.splitlines()[0].split(": the best")[0]) == (
        1,
        "qir: budget sqnr 300: nothing that was tried meets it",
    )
    status, _, err = qir_command(f"{QUANTIZE} -p auto")
    assert status == 0
    assert err.startswith("auto: sqnr ")


def test_quantize_for_a_target(qir_command):
    line = "quantize float.qir --data samples.npy -o onnx.qir --target onnx --explain"
    status, out, err = qir_command(line)
    assert (status, err) == (0, "")
    assert "target onnx: nothing stands in the way" in out
    integer = qir.quantize(qir.parse(MODEL), [SAMPLES[:32], SAMPLES[32:]], target="onnx")
    assert qir.load("onnx.qir") == integer
    assert qir_command(line.replace("onnx --", "onxn --").replace("onnx.qir", "no.qir"))[0] == 1
    assert not Path("no.qir").exists()


def test_what_stands_in_the_way_of_a_target_is_told_on_stderr(qir_command):
    text = "graph @g(%x: bf16[2,2]) { %y = exp(%x) : bf16[2,2] return %y }"
    qir.save(qir.parse(text), "bf16.qir")
    status, _, err = qir_command("quantize bf16.qir -p fold -o g.qir --target onnx")
    assert status == 0
    assert "qir: warning: target onnx: input of %x: numbers: expected numbers of bool or i8" in err


def test_what_does_not_calibrate_needs_no_samples(qir_command):
    told = "quantize: the accuracy was not measured, as there was no data to read for it\n"
    assert qir_command("quantize float.qir -p w8-dynamic -o g.qir") == (0, "", told)
    assert qir.load("g.qir") == qir.quantize(qir.parse(MODEL), pipeline="w8-dynamic")
    status, _, err = qir_command("quantize float.qir -o g.qir")
    assert status == 1
    assert "calibrate: expected data, or statistics of the model, got neither" in err


def test_statistics_stand_for_samples(qir_command):
    assert qir_command("calibrate float.qir --data samples.npy -o seen.npz") == (0, "", "")
    status, out, err = qir_command("quantize float.qir --statistics seen.npz -o int8.qir")
    assert (status, out) == (0, "")
    assert err == "quantize: the accuracy was not measured, as there was no data to read for it\n"
    graph, data = qir.parse(MODEL), [SAMPLES[:32], SAMPLES[32:]]
    assert qir.load("int8.qir") == qir.quantize(graph, data)
    assert qir.Statistics.load("seen.npz") == qir.calibrate(graph, data)


def test_statistics_of_parts_are_merged_in_any_order(qir_command):
    np.save("first.npy", SAMPLES[:16])
    np.save("second.npy", SAMPLES[16:])
    for part in ("first", "second"):
        assert qir_command(f"calibrate float.qir --data {part}.npy -o {part}.npz")[0] == 0
    assert qir_command("calibrate float.qir --merge first.npz second.npz -o one.npz")[0] == 0
    assert qir_command("calibrate float.qir --merge second.npz first.npz -o other.npz")[0] == 0
    merging = "calibrate float.qir --data first.npy --merge second.npz -o third.npz"
    assert qir_command(f"{merging} --checkpoint so_far.npz --every 1")[0] == 0
    assert len({Path(name).read_bytes() for name in ("one.npz", "other.npz", "third.npz")}) == 1
    again = f"{merging} --checkpoint so_far.npz".replace("first.npy", "second.npy")
    status, _, err = qir_command(again)
    assert (status, "got one of other data" in err) == (1, True)


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("calibrate float.qir -o seen.npz", "expected samples by --data, or statistics by --merge"),
        ("calibrate float.qir --data samples.npy -o seen.qir", "expected a path ending in .npz"),
        ("calibrate float.qir --merge other.npz -o other.npz", "an output that is no input"),
        ("calibrate float.qir --merge other.npz -o seen.npz", "another model: it has other inputs"),
        ("calibrate float.qir --merge shallow.npz -o seen.npz", "another model: it has other ops"),
        (
            "calibrate float.qir --merge shallow.npz --checkpoint c.npz -o s.npz",
            "of which a checkpoint",
        ),
        ("calibrate float.qir --data samples.npy -p w8-dynamic -o seen.npz", "got 'w8-dynamic'"),
        (
            "quantize float.qir --statistics other.npz -o i.qir",
            "another model: it has other inputs",
        ),
        ("quantize float.qir --statistics none.npz -o i.qir", "none.npz does not exist"),
        ("quantize float.qir --data samples.npy --statistics other.npz -o i.qir", "got both"),
    ],
)
def test_statistics_that_do_not_fit_are_told(qir_command, command, expected):
    graph = qir.parse("graph @g(%x: f32[2]) {\n  %y = neg(%x) : f32[2]\n  return %y\n}")
    qir.calibrate(graph, [np.ones(2, np.float32)]).save("other.npz")
    shallow = qir.parse(MODEL.replace("  %r = relu(%c) : f32[B,4,4,2]\n", "").replace("%r", "%c"))
    qir.calibrate(shallow, [SAMPLES]).save("shallow.npz")
    status, out, err = qir_command(command)
    assert (status, out) == (1, "")
    assert expected in err


def test_compare(qir_command):
    qir_command("quantize float.qir --data samples.npy -o int8.qir")
    command = "compare float.qir int8.qir --data samples.npy --samples 8"
    status, out, err = qir_command(f"{command} -o found.json")
    assert (status, err) == (0, "")
    graph, integer = qir.parse(MODEL), qir.load("int8.qir")
    data = [{"image": SAMPLES[:32]}, {"image": SAMPLES[32:]}]
    found = qir.compare(graph, integer, data, samples=8)
    assert out == f"{found}\n"
    assert out.startswith("accuracy on 8 samples, ")
    assert f"measured: {found.culprits[0].remedies[0].name} for" in out
    status, printed, err = qir_command(f"{command} --json --no-measure")
    assert (status, err) == (0, "")
    read, written = json.loads(printed), json.loads(Path("found.json").read_text())
    assert read["measured"] is None
    assert written["measured"]["value"] == read["culprits"][0]["value"]
    assert read["values"] == written["values"]


def test_the_recipe_of_a_search_is_kept_for_later(qir_command):
    search = "quantize float.qir --data samples.npy -o fine.qir"
    options = ("--budget", "sqnr 50", "--save-recipe", "fine.toml")
    assert qir_command(search, *options)[0] == 0
    assert qir.Recipe.load("fine.toml").rules
    line = "quantize float.qir --data samples.npy -o again.qir --recipe fine.toml"
    assert qir_command(line)[0] == 0
    assert qir.load("again.qir") == qir.load("fine.qir")
    line = "compare float.qir fine.qir --data samples.npy --recipe fine.toml"
    status, out, _ = qir_command(line)
    assert status == 0
    assert "quantized again as it was" not in out
    status, _, err = qir_command(f"{search} --save-recipe fine.toml")
    assert (status, err) == (
        1,
        "qir: quantize: --save-recipe is for a search; give --budget, or -p auto\n",
    )
    status, _, err = qir_command(search, *options[:2], "--save-recipe", "fine.txt")
    assert (status, err) == (1, "qir: quantize: expected a path ending in .toml, got fine.txt\n")


def test_what_is_bisected_is_asked_for(qir_command):
    status, _, err = qir_command("opt float.qir --bisect --data samples.npy")
    assert (status, err) == (1, "qir: opt: expected passes to bisect, as -p w8a8, got none\n")


def test_the_batch_size_and_the_pipeline_are_the_users(qir_command):
    pipeline = "calibrate(method=moving_average), quantize(weights=i4)"
    options = ("--batch-size", "10", "--pipeline", pipeline)
    assert qir_command("quantize float.qir --data samples.npy -o g.qir", *options)[0] == 0
    batches = list(SAMPLES.reshape(4, 10, 4, 4, 1))
    assert qir.load("g.qir") == qir.optimize(qir.parse(MODEL), pipeline, data=batches)


def test_an_output_is_an_npy_and_several_are_an_npz(qir_command):
    qir.save(qir.parse("graph @g(%a: f32[2], %b: f32[3]) {\n  return %a, %b\n}"), "two.qir")
    assert qir_command("run float.qir --input samples.npy -o out.npy") == (0, "", "")
    (expected,) = qir.compile(qir.load("float.qir"))(SAMPLES)
    np.testing.assert_array_equal(np.load("out.npy"), expected)
    message = "run: expected a path ending in .npz for 2 outputs, got both.npy"
    assert qir_command("run two.qir -o both.npy") == (1, "", f"qir: {message}\n")
    assert not Path("both.npy").exists()


def test_samples_of_several_inputs_have_names(qir_command):
    program = (
        "graph @g(%a: f32[2,3], %b: f32[2,3]) {\n  %s = add(%a, %b) : f32[2,3]\n  return %s\n}"
    )
    qir.save(qir.parse(program), "two.qir")
    a, b = SAMPLES.reshape(2, -1)[:, :15].reshape(2, 5, 3)
    np.savez("two.npz", b=b, a=a, other=SAMPLES)
    status, _, err = qir_command("quantize two.qir --data two.npz -o int8.qir")
    assert status == 0
    assert err == ("qir: the last 1 of 5 samples are left out: the program takes 2 at a time\n")
    batches = [{"a": a[:2], "b": b[:2]}, (a[2:4], b[2:4])]
    assert qir.load("int8.qir") == qir.quantize(qir.parse(program), batches)


def test_a_program_of_which_nothing_can_be_quantized_is_written_with_a_note(qir_command):
    graph = qir.parse("graph @g(%image: f32[B,4,4,1]) {\n  return %image\n}")
    qir.save(graph, "same.qir")
    status, out, err = qir_command("quantize same.qir --data samples.npy -o int8.qir --explain")
    assert (status, out) == (0, "no ops: there is nothing to quantize\n")
    assert err == "quantize: nothing was quantized; no op computes in floating point\n"
    np.testing.assert_array_equal(qir.evaluate(qir.load("int8.qir"), SAMPLES)[0], SAMPLES)


def test_opt_prints_or_writes(qir_command):
    status, out, err = qir_command("opt float.qir -p canonicalize")
    assert (status, out, err) == (0, f"{qir.optimize(qir.parse(MODEL), 'canonicalize')}\n", "")
    assert qir_command("opt float.qir -p canonicalize -o g.qir") == (0, "", "")
    assert qir.load("g.qir") == qir.optimize(qir.parse(MODEL), "canonicalize")


def test_the_text_after_every_pass(qir_command, folder):
    line = "opt float.qir --data samples.npy -p calibrate,canonicalize,quantize"
    status, _, err = qir_command(line, "--print-after-all", "--dump-dir", "dump")
    assert status == 0
    headings = [line for line in err.splitlines() if line.startswith("//")]
    assert headings == [
        f"// after {name}" for name in ("input", "calibrate", "canonicalize", "quantize")
    ]
    dumped = sorted(path.name for path in (folder / "dump").iterdir())
    assert dumped == ["00-input.qir", "01-calibrate.qir", "03-quantize.qir"]
    assert "scale=" in (folder / "dump" / "03-quantize.qir").read_text()


def test_verify_each_names_the_guilty_pass(qir_command, monkeypatch):
    line = "opt float.qir -p canonicalize --verify-each"
    status, _, err = qir_command(line)
    checked = "checked: every pass that is to keep the numbers did, on random inputs\n"
    assert (status, err) == (0, checked)

    def drop_relu(self, graph, context):
        graph.value("r").replace_with(graph.value("c"))

    monkeypatch.setattr("qir.passes.float.canonicalize.Canonicalize.run", drop_relu)
    status, _, err = qir_command(line)
    assert status == 1
    assert err.startswith("qir: check: %m changed at [0, 0]: expected ")
    assert err.endswith("  after pass canonicalize\n")


def test_list(qir_command):
    status, out, _ = qir_command("opt --list")
    assert status == 0
    for name, cls in PASSES.items():
        assert cls.__doc__ is not None
        assert f"  {name}: {cls.__doc__.splitlines()[0]}" in out.splitlines()
    assert "      weights: one of i8, i4, i2 (default: i8)" in out.splitlines()
    assert any(line.startswith("  w8a8 = ") for line in out.splitlines())
    assert "  op:softmax: ops by their own name" in out.splitlines()


def test_run(qir_command):
    qir_command("quantize float.qir --data samples.npy -o int8.qir")
    (expected,) = qir.evaluate(qir.load("int8.qir"), SAMPLES)
    for backend in ("xla", "reference", "both"):
        line = f"run int8.qir --input samples.npy --backend {backend} -o out.npz"
        status, out, err = qir_command(line)
        assert (status, out) == (0, "")
        both = (
            "%m: 0 of 80 numbers differ between XLA and the reference\n"
            "equal: all 80 numbers of XLA and the reference\n"
        )
        assert err == (both if backend == "both" else "")
        with np.load("out.npz") as outputs:
            assert outputs.files == ["m"]
            assert np.array_equal(outputs["m"], expected)


def test_run_says_that_it_has_checked(qir_command):
    status, _, err = qir_command("run float.qir --check")
    checked = "checked: xla computes what the reference does, on generated inputs\n"
    assert (status, err) == (0, checked)


def test_run_says_how_many_numbers_differ_after_them(qir_command, monkeypatch):
    def wrong(graph, backend, check=False):
        return lambda *_: [np.full((2, 2), np.nan if check is False else 0.0)]

    monkeypatch.setattr("qir.cli.run.compile", wrong)
    status, _, err = qir_command("run float.qir --backend both")
    assert (status, err.splitlines()[-1]) == (
        1,
        "different: 4 of 4 numbers of XLA and the reference",
    )


@pytest.fixture
def layers(folder):
    """Two layers wide enough that the order of their float sums shows, as wide.qir."""
    rng = np.random.default_rng(0)
    text = """
graph @wide(%x: f32[B,300]) {
  %w = const : f32[300,200]
  %h = dot(%x, %w) : f32[B,200]
  %s = logistic(%h) : f32[B,200]
  %r = mul(%h, %s) : f32[B,200]
  %v = const : f32[200,50]
  %y = dot(%r, %v) : f32[B,50]
  return %y
}"""
    shapes = {"w": (300, 200), "v": (200, 50)}
    arrays = {name: rng.normal(size=size).astype(np.float32) for name, size in shapes.items()}
    qir.save(qir.parse(text, arrays), "wide.qir")
    np.save("wide.npy", rng.normal(size=(16, 300)).astype(np.float32))


@pytest.mark.parametrize("pipeline", ["fold", "w4"])
def test_run_tells_roundings_of_floats_from_faults(qir_command, monkeypatch, layers, pipeline):
    assert qir_command(f"quantize wide.qir -p {pipeline} -o wide_out.qir")[0] == 0
    line = "run wide_out.qir --input wide.npy --backend both -o out.npz"
    status, _, err = qir_command(line)
    verdict = "equal but for roundings of floats: all 800 numbers of XLA and the reference"
    assert (status, err.splitlines()[-1]) == (0, verdict)

    def wrong(graph, backend, check=False):
        program = qir.compile(graph, backend, check=check)
        # Each output is moved by a 10,000th, many times what sums of 300 terms lose.
        moved = 0.0 if check is not False else 1e-4
        return lambda *inputs: [np.asarray(x) * np.float32(1 + moved) for x in program(*inputs)]

    monkeypatch.setattr("qir.cli.run.compile", wrong)
    status, _, err = qir_command(line)
    assert (status, err.splitlines()[-1].split(":")[0]) == (1, "different")


def test_run_prints_what_it_does_not_write(qir_command):
    status, out, err = qir_command("run float.qir --backend reference --seed 3")
    inputs = qir.parse(MODEL)
    assert (status, err) == (0, "")
    (expected,) = qir.evaluate(inputs, *random_inputs(inputs, seed=3))
    assert out == f"%m: float32[2, 2]\n{expected}\n"


@pytest.mark.parametrize(
    "command", ["", "quantize", "compare", "opt", "run", "summary", "partition", "bench"]
)
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*command.split(), "--help"])
    printed = capsys.readouterr().out
    assert stopped.value.code == 0
    assert printed.startswith(f"usage: qir {command}".rstrip())
    assert "-h, --help" in printed


def test_the_module_and_the_script_are_the_command():
    printed = {
        subprocess.run([*words, "opt", "--list"], capture_output=True, check=True).stdout
        for words in ([str(Path(sys.executable).with_name("qir"))], [sys.executable, "-m", "qir"])
    }
    assert len(printed) == 1


def test_bench(qir_command):
    qir_command("quantize float.qir --data samples.npy -o int8.qir")
    status, out, _ = qir_command("bench float.qir int8.qir --size B=3 --rounds 1 --ops")
    assert status == 0
    lines = out.splitlines()
    (start,) = (index for index, line in enumerate(lines) if line.startswith("program "))
    assert [line.split()[0] for line in lines[start + 1 : start + 3]] == ["float.qir", "int8.qir"]
    assert lines[start + 1].endswith("f32*f32")
    assert lines[start + 2].endswith("i8*i8")
    headings = [line for line in lines if line.startswith(("ops of", "kernels of"))]
    integer = "ops of" if isinstance(kernels_here(), str) else "kernels of"
    assert headings == ["ops of float.qir", f"{integer} int8.qir"]


def test_bench_measures_the_ways_when_asked_to(qir_command, monkeypatch):
    measured = []
    monkeypatch.setattr(
        "qir.cli.bench.compile", lambda graph, measure: measured.append((graph, measure))
    )
    monkeypatch.setattr("qir.bench.benchmark.benchmark", lambda *given: "timed")
    for line in ("", "--measure"):
        assert qir_command(f"bench float.qir {line}")[0] == 0
    assert measured == [(qir.parse(MODEL), True)]


def test_bench_on_samples(qir_command, monkeypatch):
    seen = []

    def benchmark(programs, inputs, rounds):
        seen.append(([name for name, _ in programs], rounds, inputs))
        return "measured"

    monkeypatch.setattr("qir.bench.benchmark.benchmark", benchmark)
    for line in ("", "--size B=3", "--size B=3 --seed 1"):
        source = "" if "seed" in line else "--input samples.npy"
        status, out, _ = qir_command(f"bench float.qir --rounds 7 {line} {source}")
        assert (status, out.splitlines()[1:]) == (0, ["measured"])
    expected = [SAMPLES, SAMPLES[:3], random_inputs(qir.parse(MODEL), 1, sizes={"B": 3})[0]]
    for (names, rounds, inputs), array in zip(seen, expected, strict=True):
        assert (names, rounds) == (["float.qir"], 7)
        np.testing.assert_array_equal(inputs, [[array]])


QUANTIZE = "quantize float.qir --data samples.npy -o int8.qir"

ERRORS = {
    "opt nothing.qir": "load: can't read nothing.qir: No such file or directory",
    "opt float.txt": "load: expected a path ending in .qir, got float.txt",
    "opt": "opt: expected a program, or --list",
    f"{QUANTIZE} --pipeline=": (
        "quantize: expected passes, or a named pipeline such as w8a8, got none"
    ),
    f"{QUANTIZE} --seconds 3": (
        "quantize: seconds is for a search; give a budget, or the pipeline auto"
    ),
    f"{QUANTIZE} --budget snqr": (
        "budget: expected a measure and the least that it is to be, such as 'sqnr 30', got 'snqr'"
    ),
    "opt float.qir -p canonicalise": (
        "pipeline: no pass 'canonicalise'; did you mean 'canonicalize'?\n  canonicalise\n  ^"
    ),
    "opt float.qir -p canonicalize,quantize(weight=i8)": (
        "pipeline: quantize has no option 'weight'; did you mean 'weights'?\n"
        "  canonicalize,quantize(weight=i8)\n"
        "               ^"
    ),
    "opt float.qir -p quantize": (
        "pipeline: quantize needs ranges: %image has no range; put calibrate before it"
    ),
    "opt float.qir -p calibrate": (
        "calibrate: expected data, or statistics of the model, got neither\n  in pass calibrate"
    ),
    f"{QUANTIZE} -p calibrate,quantize(keep_float=[op:softmx])": (
        "selector: 'op:softmx' matches nothing in @model; its ops are conv, mean, relu\n"
        '  in pass quantize(keep_float=["op:softmx"])'
    ),
    f"{QUANTIZE} --recipe no.toml": "recipe: can't read no.toml: No such file or directory",
    "quantize float.qir --data samples.npy -o no/int8.qir": (
        "file: can't write no/int8.qir: No such file or directory"
    ),
    "opt float.qir -p canonicalize --dump-dir samples.npy": (
        "file: can't write samples.npy: File exists"
    ),
    "summary float.qir --size 8": "summary: expected NAME=SIZE, got '8'",
    "partition float.qir --size 8": "partition: expected NAME=SIZE, got '8'",
    "bench nothing.qir": "load: can't read nothing.qir: No such file or directory",
    "bench float.qir --size B": "bench: expected NAME=SIZE, got 'B'",
    "bench float.qir --size b=8": "bench: no input has a dimension b: expected one of B",
    "bench float.qir --size B=0": "bench: expected B to be at least 1, got 0",
    "bench float.qir --input no.npy": "data: can't read no.npy: No such file or directory",
    "bench float.qir --input samples.npy --size B=41": (
        "bench: expected at least 41 along axis 0 of %image, got 40 in the samples"
    ),
    "run float.qir --check --backend reference": (
        "run: expected --check with another backend than the reference, "
        "which is what it compares with"
    ),
    "compare float.qir float.qir --data samples.npy -o found.txt": (
        "compare: expected a path ending in .json, got found.txt"
    ),
    "compare float.qir no.qir --data samples.npy": (
        "load: can't read no.qir: No such file or directory"
    ),
    "run float.qir -o out.txt": "run: expected a path ending in .npz or .npy, got out.txt",
    "run float.qir -o out": "run: expected a path ending in .npz or .npy, got out",
    "bench float.qir --roofline page.txt": (
        "bench: expected a path ending in .svg or .png or .pdf, got page.txt"
    ),
    "run float.qir -o no/out.npz": "file: can't write no/out.npz: No such file or directory",
}


@pytest.mark.parametrize("line", ERRORS)
def test_errors_go_to_stderr(line, qir_command):
    assert qir_command(line) == (1, "", f"qir: {ERRORS[line]}\n")


@pytest.mark.parametrize(
    "line",
    [
        "quantize float.qir --data samples.npy -o {}.qir",
        "opt float.qir --data samples.npy -p w8a8 -o {}.qir",
        "compare float.qir float.qir --data samples.npy -o {}.json",
        "run float.qir -o {}.npz",
        "bench float.qir --roofline {}.svg",
    ],
)
def test_an_output_that_can_not_be_written_is_refused_before_any_work(
    line, qir_command, monkeypatch
):
    worked: list[object] = []
    for work in (
        "qir.pipeline.Pipeline.parse",
        "qir.cli.run.compile",
        "qir.cli.bench.load",
        "qir.cli.compare.load",
    ):
        monkeypatch.setattr(work, lambda *given, **more: worked.append(given))
    status, out, err = qir_command(line.format("samples.npy/output"))
    assert (status, out, worked) == (1, "", [])
    assert err.startswith("qir: file: can't write samples.npy/output")
    assert err.endswith(": Not a directory\n")


OVERWRITING = {
    "quantize float.qir --data samples.npy -o float.qir": "quantize: {}, got float.qir",
    "quantize float.qir --data samples.npy -o link.qir": "quantize: {}, got link.qir",
    "quantize float.qir --data samples.npz -o samples.qir": (
        "quantize: {}, got samples.npz, which is written beside samples.qir"
    ),
    "opt float.qir -p canonicalize -o ./float.qir": "opt: {}, got float.qir",
    "run float.qir --input samples.npy -o samples.npy": "run: {}, got samples.npy",
    "run float.qir -o float.npz": "run: {}, got float.npz",
}


@pytest.mark.parametrize("line", OVERWRITING)
def test_no_input_is_overwritten(line, qir_command, folder):
    np.savez("samples.npz", image=SAMPLES)
    np.savez("float.npz", unread=SAMPLES)  # where larger weights would lie
    Path("link.qir").symlink_to("float.qir")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    message = OVERWRITING[line].format("expected an output that is no input")
    assert qir_command(line) == (1, "", f"qir: {message}\n")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_roofline_without_kernels_says_why_there_are_none(qir_command, monkeypatch):
    for module in ("profile", "kernel_choice"):
        monkeypatch.setattr(f"qir.backends.xla.{module}.kernels_here", lambda **_: "no llvmlite")
    status, _, err = qir_command("bench float.qir --rounds 1 --roofline page.svg")
    assert status == 1
    assert err.splitlines()[-2:] == [
        "qir: bench: expected kernels that multiply for --roofline, got none in float.qir",
        "  no llvmlite",
    ]


@pytest.mark.parametrize(
    "line", ["", "opt float.qir --bakend x", "quantize float.qir", "rum", "bench"]
)
def test_wrong_words_have_status_2(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(line.split())
    assert stopped.value.code == 2
    assert capsys.readouterr().err.startswith("usage: qir")


NUMBERS = {
    f"{QUANTIZE} --batch-size": 1,
    f"{QUANTIZE} --seed": 0,
    "opt float.qir --batch-size": 1,
    "opt float.qir --seed": 0,
    "run float.qir --seed": 0,
    "bench float.qir --seed": 0,
    "bench float.qir --rounds": 1,
}


@pytest.mark.parametrize("line", NUMBERS)
def test_a_number_out_of_its_bounds_is_refused(line, capsys):
    least = NUMBERS[line]
    for text, message in {
        str(least - 1): f"expected at least {least}, got {least - 1}",
        "-5": f"expected at least {least}, got -5",
        str(2**31): f"expected at most {2**31 - 1}, got {2**31}",
        "x": "expected a whole number, got 'x'",
        "1.5": "expected a whole number, got '1.5'",
        "": "expected a whole number, got ''",
        "9" * 5000: f"expected a whole number, got '{'9' * 5000}'",
    }.items():
        with pytest.raises(SystemExit) as stopped:
            main([*line.split(), text])
        assert stopped.value.code == 2
        option = line.split()[-1]
        assert capsys.readouterr().err.endswith(f"argument {option}: {message}\n")


@pytest.mark.parametrize("size", ["B=x", "B=", "=1", "B=1.5", "B", f"B={'9' * 5000}", "1=1"])
@pytest.mark.parametrize("command", ["summary", "partition", "bench"])
def test_a_size_is_a_name_and_a_number(command, size, qir_command):
    message = f"{command}: expected NAME=SIZE, got '{size}'"
    assert qir_command(f"{command} float.qir --size {size}") == (1, "", f"qir: {message}\n")


@pytest.mark.parametrize("command", ["summary", "partition", "bench"])
def test_a_size_out_of_its_bounds_is_told_the_bound(command, qir_command):
    for size, message in {
        -1: "expected B to be at least 0, got -1",
        2**31: f"expected B to be at most {2**31 - 1}, got {2**31}",
    }.items():
        _, _, err = qir_command(f"{command} float.qir --size B={size}")
        assert err == f"qir: {command}: {message}\n"


def test_a_mistyped_command_gets_a_suggestion(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["sumary", "float.qir"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith(
        "qir: error: no command 'sumary'; did you mean 'summary'?\n"
    )


def test_the_version(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["--version"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out == f"qir {qir.__version__}\n"


def test_an_interrupted_command_ends_with_one_line(qir_command, monkeypatch):
    def interrupted(*given, **more):
        raise KeyboardInterrupt

    monkeypatch.setattr("qir.cli.run.random_inputs", interrupted)
    assert qir_command("run float.qir") == (130, "", "qir: interrupted\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="Linux has /dev/full")
def test_output_that_can_not_be_written_is_an_error_of_one_line():
    with open("/dev/full", "wb") as full:
        line = [sys.executable, "-m", "qir", "opt", "float.qir"]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    message = "qir: can't write the output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, message)


def test_what_does_not_fit_into_memory_is_an_error_of_one_line(qir_command, monkeypatch):
    def full(*given, **more):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr("qir.cli.run.random_inputs", full)
    message = "not enough memory: Unable to allocate 9 TiB"
    assert qir_command("run float.qir") == (1, "", f"qir: {message}\n")


def nan() -> np.ndarray:
    samples = SAMPLES.copy()
    samples[35, 1, 2, 0] = np.nan
    return samples


ARRAYS: dict[str, tuple[ArrayLike, str]] = {
    "an entry": (nan(), (
        "calibrate: input %image in batch 1: expected finite values, got 1 NaN, the first at "
        "[3, 1, 2, 0]\n"
        "  leave such samples out of the data, or fill in what the model gets for them in use\n"
        "  in pass calibrate"
    )),
    "a shape": (SAMPLES[:, :3], (
        "calibrate: batch 0: expected f32[B,4,4,1] for input %image, got f32[32,3,4,1]\n"
        "  in pass calibrate"
    )),
    "integers": ((SAMPLES * 127).astype(np.int8), (
        "calibrate: batch 0: expected f32[B,4,4,1] for input %image, got i8[32,4,4,1]\n"
        "  convert and scale the data as for the model itself\n"
        "  in pass calibrate"
    )),
    "nothing": (SAMPLES[:0], (
        "calibrate: expected at least one batch of data, got none\n  in pass calibrate"
    )),
    "a number": (
        np.float32(1),
        "data: expected samples along the first axis of 'image', got a number",
    ),
    "objects": (
        np.array([print], object),
        "data: can't read data.npy: expected numbers, got objects, which are not unpickled",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", ARRAYS)
def test_samples_that_do_not_fit(what, qir_command):
    array, message = ARRAYS[what]
    np.save("data.npy", array)
    line = "quantize float.qir --data data.npy -o int8.qir"
    assert qir_command(line) == (1, "", f"qir: {message}\n")


def test_the_samples_of_calibration_run(qir_command):
    np.save("double.npy", SAMPLES.astype(np.float64))
    line = "run float.qir --backend reference -o {}.npz --input {}.npy"
    assert qir_command(line.format("double", "double")) == (0, "", "")
    assert qir_command(line.format("single", "samples")) == (0, "", "")
    assert Path("double.npz").read_bytes() == Path("single.npz").read_bytes()


def archive(**arrays: np.ndarray) -> bytes:
    file = io.BytesIO()
    write_arrays(file, arrays)
    return file.getvalue()


WHOLE = archive(image=SAMPLES)

FILES = {
    "no.npz": (None, "data: can't read no.npz: No such file or directory"),
    "text.npy": (b"0.5, 0.25", "data: can't read text.npy: it is neither .npy nor .npz"),
    "empty.npz": (b"", "data: can't read empty.npz: it is neither .npy nor .npz"),
    "half.npz": (WHOLE[: len(WHOLE) // 2], "data: can't read half.npz: File is not a zip file"),
    "damaged.npz": (
        WHOLE[:300] + bytes([WHOLE[300] ^ 1]) + WHOLE[301:],
        "data: can't read damaged.npz: Bad CRC-32 for file 'image.npy'",
    ),
    "names.npz": (
        archive(imgae=SAMPLES),
        "data: names.npz holds no array 'image'; did you mean 'imgae'?",
    ),
}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("line", ["quantize float.qir -o g.qir --data", "run float.qir --input"])
def test_files_of_samples_that_are_damaged(name, line, qir_command):
    data, message = FILES[name]
    if data is not None:
        Path(name).write_bytes(data)
    assert qir_command(line, name) == (1, "", f"qir: {message}\n")


def test_several_inputs_need_names(qir_command):
    inputs = "%a: f32[1], %b: f32[1]"
    qir.save(qir.parse(f"graph @g({inputs}) {{\n  return %a, %b\n}}"), "two.qir")
    message = "data: expected an .npz with the arrays a, b, got a single array in samples.npy"
    assert qir_command("run two.qir --input samples.npy") == (1, "", f"qir: {message}\n")


def test_samples_fewer_than_a_batch(qir_command):
    qir.save(qir.parse(MODEL.replace("[B,", "[64,")), "fixed.qir")
    message = "data: expected at least 64 samples, one batch, got 40"
    line = "quantize fixed.qir --data samples.npy -o int8.qir"
    assert qir_command(line) == (1, "", f"qir: {message}\n")


def test_inputs_with_different_numbers_of_samples(qir_command):
    inputs = "%a: f32[B,2], %b: f32[B,2]"
    qir.save(qir.parse(f"graph @g({inputs}) {{\n  return %a, %b\n}}"), "two.qir")
    np.savez("two.npz", a=np.zeros((3, 2)), b=np.zeros((2, 2)))
    message = "data: expected equally many samples for each input, got {'a': 3, 'b': 2}"
    line = "quantize two.qir --data two.npz -o int8.qir"
    assert qir_command(line) == (1, "", f"qir: {message}\n")


def test_an_inaccurate_output_is_told_and_the_status_is_0(qir_command):
    command = "quantize float.qir --data samples.npy -o int8.qir"
    status, _, err = qir_command(f"{command} --accuracy-threshold 99")
    assert status == 0
    assert err.startswith("qir: warning: quantize: expected outputs of at least 99 dB")
    assert "accuracy_check" not in err
    assert "--no-accuracy-check skips this check" in err
    assert qir_command(f"{command} --no-accuracy-check") == (0, "", "")


def test_an_input_of_one_number_is_told(qir_command):
    qir.save(
        qir.parse("graph @g(%x: f32[B,2]) {\n  %y = tanh(%x) : f32[B,2]\n  return %y\n}"), "g.qir"
    )
    np.save("zeros.npy", np.zeros((3, 2), np.float32))
    line = "quantize g.qir --data zeros.npy -o int8.qir"
    status, _, err = qir_command(line)
    assert status == 0
    assert err.startswith("qir: warning: quantize: input %x was 0 in all of the calibration data: ")
    assert qir_command(f"{line} --no-accuracy-check") == (0, "", "")


def test_an_input_that_nothing_reads_any_more_is_told(qir_command):
    text = "graph @g(%x: f32[B,2], %s: f32[B,2]) {\n  %t = tanh(%x) : f32[B,2]\n"
    qir.save(qir.parse(f"{text}  %y = add(%t, %s) : f32[B,2]\n  return %y\n}}"), "g.qir")
    np.savez("samples.npz", x=np.array([[1, 2], [-3, 4]], "f"), s=np.zeros((2, 2), "f"))
    line = "quantize g.qir --data samples.npz -o int8.qir"
    _, _, err = qir_command(line)
    assert (
        "qir: warning: quantize: input %s was 0 in all of the calibration data: it is left" in err
    )
    assert "left out" not in qir_command(f"{line} --no-accuracy-check")[2]


def test_opt_tells_what_passes_took_and_which_changed_nothing(qir_command):
    line = "opt float.qir -o out.qir --timings -p"
    _, _, err = qir_command(f"{line} canonicalize,fold-batch-norm,canonicalize")
    first, *others = err.splitlines()
    assert re.fullmatch(r"canonicalize +\d+\.\d{3} s( +changed nothing)?", first)
    assert len(others) == 2
    assert all(re.fullmatch(r"[\w-]+ +\d+\.\d{3} s +changed nothing", each) for each in others)
    assert qir_command("opt float.qir -o out.qir --timings") == (0, "", "")
