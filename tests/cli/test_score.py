"""The command `qir score`: several programs, samples and targets in files."""

import json
import shutil

import numpy as np
import pytest

import qir
from qir.__main__ import main

TEXT = """
graph @model(%x: f32[B,2]) {
  %w = const [[1.0, 0.5], [-0.5, 1.0]] : f32[2,2]
  %y = dot(%x, %w) : f32[B,2]
  return %y
}"""
X = np.random.default_rng(0).normal(size=(70, 2)).astype(np.float32)
Y = np.argmax(qir.evaluate(qir.parse(TEXT), X)[0], -1)
LINE = "score float.qir int8.qir --data x.npy --targets y.npy --backend reference"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a float program, an integer one, samples and labels."""
    folder = tmp_path_factory.mktemp("files")
    graph = qir.parse(TEXT)
    qir.save(graph, folder / "float.qir")
    qir.save(qir.quantize(graph, [X]), folder / "int8.qir")
    qir.save(qir.parse(TEXT.replace("B", "32")), folder / "fixed.qir")
    np.save(folder / "x.npy", X)
    np.save(folder / "y.npy", Y)
    return folder


@pytest.fixture(autouse=True)
def folder(files, tmp_path, monkeypatch):
    """A copy of the files to work in."""
    shutil.copytree(files, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def qir_command(capsys):
    """Runs the command with words of a line; returns its status, output and errors."""

    def run(line: str) -> tuple[int, str, str]:
        status = main(line.split())
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return run


def test_a_table_of_programs_and_metrics(qir_command):
    status, out, err = qir_command(f"{LINE} -m accuracy --metric sqnr --metric size")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["program", "accuracy", "sqnr", "dB", "size", "bytes"]
    assert lines[1].split()[:3] == ["float.qir", "1.0000", "inf"]
    assert lines[2].startswith("int8.qir")
    assert lines[3:] == [
        "data: 70 samples in 3 batches",
        "size: the program and its arrays as saved",
        "compared with: float.qir",
    ]


def test_json_has_what_python_has(qir_command):
    status, out, _ = qir_command(f"{LINE} -m accuracy -m top-1 -m f1(average=none) --json")
    programs = {"float.qir": qir.load("float.qir"), "int8.qir": qir.load("int8.qir")}
    metrics = ["accuracy", "top-1", "f1(average=none)"]
    scores = qir.score(programs, [(X, Y)], metrics, backend="reference")
    assert status == 0
    assert json.loads(out)["programs"] == json.loads(scores.to_json())["programs"]


def test_the_float_program_need_not_be_scored(qir_command):
    line = "score int8.qir --data x.npy --backend reference -m sqnr --reference"
    assert qir_command(f"{line} float.qir")[1].splitlines()[-1] == "compared with: model"
    assert qir_command(f"{line} int8.qir")[1].splitlines()[1].split() == ["int8.qir", "inf"]


def test_samples_that_fill_no_batch_are_left_out_with_their_targets(qir_command):
    line = "score fixed.qir --data x.npy --targets y.npy --backend reference -m accuracy"
    status, out, err = qir_command(line)
    assert (status, out.splitlines()[1].split()) == (0, ["fixed.qir", "1.0000"])
    assert err.startswith("qir: the last 6 of 70 samples are left out")


def test_targets_may_be_lines_of_text(qir_command, folder):
    (folder / "y.txt").write_text("\n".join("ab"[label] for label in Y))
    pytest.importorskip("jiwer")
    # Each sample is a single place with two tokens to choose from.
    text = TEXT.replace("return %y", "%z = reshape(%y) : f32[B,1,2]\n return %z")
    qir.save(qir.parse(text), "text.qir")
    metric = 'wer(vocabulary="ab")'
    line = f"score text.qir --data x.npy --targets y.txt --backend reference -m {metric}"
    status, out, err = qir_command(line)
    assert (status, err) == (0, "")
    assert out.splitlines()[1].split() == ["text.qir", "0.0000"]


@pytest.mark.parametrize(
    ("line", "told"),
    [
        (f"{LINE} -m acuracy", "score: no metric 'acuracy'; did you mean 'accuracy'?"),
        (f"{LINE} -m accuracy --output z", "score: output: expected one of %y"),
        (
            "score float.qir --targets y.npy -m accuracy",
            "expected samples by --data beside targets",
        ),
        ("score float.qir -m accuracy", "score: expected data, which accuracy is computed of"),
        (
            "score float.qir --data x.npy -m accuracy",
            "targets, which accuracy reads; give them by --targets",
        ),
        (f"{LINE.replace('y.npy', 'no.npy')} -m accuracy", "targets: can't read no.npy: No such"),
        (f"{LINE.replace('y.npy', 'float.qir')} -m accuracy", "targets: can't read float.qir: exp"),
        ("score float.qir float.qir -m size", "expected each program once, got float.qir twice"),
    ],
)
def test_what_is_wrong_is_told(qir_command, line, told):
    status, out, err = qir_command(line)
    assert (status, out) == (1, "")
    assert err.startswith("qir: ")
    assert told in err


def test_targets_of_another_number_are_refused(qir_command):
    for count in (69, 71):
        np.save("y.npy", np.zeros(count, int))
        status, _, err = qir_command(f"{LINE} -m accuracy")
        assert status == 1
        assert f"a target for each of 70 samples in x.npy, got {count} in y.npy" in err


def test_a_metric_is_asked_for(capsys):
    with pytest.raises(SystemExit):
        main(LINE.split())
    assert "-m/--metric" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    listed = capsys.readouterr().out
    assert "f1(threshold, ignore, average)" in listed
    assert "Median of the milliseconds of a call" in listed
