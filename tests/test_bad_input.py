"""What users get wrong: each is an error of QIR's that says what was expected, and where."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.errors import ParseError, PassError, QirError, UnsupportedError
from qir.types import Array

MODEL = """\
graph @model(%image: f32[2,4,4,3]) {
  %k = const [[[[0.5], [-0.25], [1.0]]]] : f32[1,1,3,1]
  %c = conv(%image, %k) : f32[2,4,4,1] loc("model.py:41 (conv1)")
  %l = log(%c) : f32[2,4,4,1] loc("model.py:42")
  return %l
}
"""
IMAGES = np.ones((2, 4, 4, 3), np.float32)


def model(old: str = "", new: str = "") -> qir.Graph:
    """The model, after an edit of its text."""
    return qir.parse(MODEL.replace(old, new) if old else MODEL)


def message(call: Callable[[], object], kind: type[QirError] = QirError) -> str:
    with pytest.raises(QirError) as caught:
        call()
    assert type(caught.value) is kind
    return str(caught.value)


def test_a_kernel_that_does_not_fit():
    narrow = "[[[[0.5], [-0.25]]]] : f32[1,1,2,1]"
    edit = "[[[[0.5], [-0.25], [1.0]]]] : f32[1,1,3,1]", narrow
    assert message(lambda: model(*edit), ParseError) == (
        "conv: kernel has 2 input channels, x has 3\n"
        "  at line 3\n"
        '  |  %c = conv(%image, %k) : f32[2,4,4,1] loc("model.py:41 (conv1)")'
    )


def test_a_shape_that_the_op_does_not_have():
    assert message(lambda: model("f32[2,4,4,1] loc", "f32[2,4,4,2] loc"), ParseError) == (
        "conv: expected %c to be f32[2,4,4,1], got f32[2,4,4,2]\n"
        "  at line 3\n"
        '  |  %c = conv(%image, %k) : f32[2,4,4,2] loc("model.py:41 (conv1)")'
    )


@pytest.mark.parametrize("call", [qir.evaluate, lambda graph, *x: qir.compile(graph)(*x)])
def test_inputs_that_do_not_fit(call):
    graph = model()
    assert message(lambda: call(graph, IMAGES[:, :3])) == (
        "run: expected f32[2,4,4,3] for input %image, got f32[2,3,4,3]"
    )
    assert message(lambda: call(graph, IMAGES.astype(np.int8))) == (
        "run: expected f32[2,4,4,3] for input %image, got i8[2,4,4,3]\n"
        "  convert and scale the data as for the model itself"
    )
    assert message(lambda: call(graph, [[1.0], [2.0, 3.0]])) == (
        "run: expected an array of numbers for input %image, got a list"
    )
    assert message(lambda: call(graph, np.array(["a"]))) == (
        "run: expected an array of numbers for input %image, got an array of <U1"
    )
    assert message(lambda: call(graph)) == "run: expected 1 input, got 0"


@pytest.mark.parametrize("call", [qir.evaluate, lambda graph, *x: qir.compile(graph)(*x)])
def test_floats_for_an_input_of_integers_are_told_to_be_converted(call):
    graph = qir.parse("graph @g(%n: i32[2]) {\n  return %n\n}")
    assert message(lambda: call(graph, np.ones(2, np.float32))) == (
        "run: expected i32[2] for input %n, got f32[2]\n"
        "  convert the data by astype, where its numbers are whole"
    )


CHECKS: list[Callable[[qir.Graph, Any], object]] = [
    lambda graph, check: qir.compile(graph, check=check),
    lambda graph, check: qir.optimize(graph, "canonicalize", check=check),
]


@pytest.mark.parametrize("call", CHECKS)
@pytest.mark.parametrize("given", [IMAGES, [IMAGES], (IMAGES.astype(np.float64),)])
def test_a_check_takes_an_array_for_each_input(call, given):
    call(model(), given)


@pytest.mark.parametrize("call", CHECKS)
@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([(IMAGES,)], "an array for input %image, got a tuple of arrays"),
        ([IMAGES, IMAGES], "1 arrays, one for each input, got 2"),
        ([], "1 arrays, one for each input, got 0"),
        (None, "True, False or a sequence of arrays, one for each input, got NoneType"),
        (IMAGES[:, :3], "f32[2,4,4,3] for input %image, got f32[2,3,4,3]"),
        (["a"], "an array of numbers for input %image, got a str"),
    ],
)
def test_a_check_on_anything_else_is_refused(call, given, expected):
    assert message(lambda: call(model(), given)) == f"check: expected {expected}"


@pytest.mark.parametrize("call", [qir.evaluate, lambda graph, *x: qir.compile(graph)(*x)])
def test_inputs_of_another_width_or_byte_order_are_converted(call):
    graph = qir.parse(
        "graph @g(%x: f32[2], %n: i32[], %q: i8[2]{scale=0.5}) {\n  return %x, %n, %q\n}"
    )
    plain: list[Array] = [
        np.array([0.1, 3], np.float32), np.array(7, np.int32), np.array([-3, 5], np.int8)
    ]  # fmt: skip
    for given in (
        (plain[0].astype(np.float64), plain[1].astype(np.int64), plain[2].astype(np.int16)),
        (plain[0].astype(">f4"), plain[1].astype(">i4"), plain[2].astype(">i8")),
        ([0.1, 3.0], 7, [-3, 5]),
    ):
        for found, wanted in zip(call(graph, *given), plain, strict=True):
            assert np.asarray(found).dtype == wanted.dtype
            np.testing.assert_array_equal(found, wanted)
    assert message(lambda: call(graph, plain[0], 7, [-3, 128])) == (
        "run: expected i8[2]{scale=0.5} for input %q, got i64[2]"
    )
    assert message(lambda: call(graph, plain[0], 7, [-1.5, 2.5])) == (
        "run: expected i8[2]{scale=0.5} for input %q, got f64[2]\n"
        "  it takes stored numbers: those of real ones are type.quant.encode(x)"
    )


CALLS: dict[str, Callable[[Any], object]] = {
    "quantize": lambda graph: qir.quantize(graph, [IMAGES]),
    "optimize": lambda graph: qir.optimize(graph, "fold"),
    "compile": qir.compile,
    "evaluate": lambda graph: qir.evaluate(graph, IMAGES),
    "save": lambda graph: qir.save(graph, "no.qir"),
    "explain": qir.explain,
    "summary": qir.summary,
}


@pytest.mark.parametrize("name", CALLS)
def test_what_is_no_graph(name):
    assert message(lambda: CALLS[name](lambda x: x)) == (
        f"{name}: expected a graph, got a function; "
        "qir.from_jax(function, example) makes one of a function"
    )
    assert message(lambda: CALLS[name]("model.qir")) == (
        f"{name}: expected a graph, got a str; qir.load reads one from a file"
    )
    assert message(lambda: CALLS[name](None)) == f"{name}: expected a graph, got None"
    assert message(lambda: CALLS[name](3)) == f"{name}: expected a graph, got an int"


def test_a_name_in_other_letters_is_suggested():
    assert message(lambda: qir.quantize(model(), [{"IMAGE": IMAGES}]), QirError).startswith(
        "calibrate: batch 0: the graph has no input %IMAGE; did you mean 'image'?"
    )


def test_nan_in_the_data():
    batch = IMAGES.copy()
    batch[1, 2, 3, 0] = np.nan
    assert message(lambda: qir.quantize(model(), [IMAGES, batch]), PassError) == (
        "calibrate: input %image in batch 1: expected finite values, got 1 NaN, "
        "the first at [1, 2, 3, 0]\n"
        "  leave such samples out of the data, or fill in what the model gets for them in use\n"
        "  in pass calibrate"
    )


def test_a_mask_of_minus_infinity_in_the_data():
    def attend(x, mask):
        return jax.nn.softmax(x @ x.T + mask, -1)

    x, mask = np.eye(4, dtype=np.float32), np.where(np.eye(4), -np.inf, 0).astype(np.float32)
    graph = qir.from_jax(attend, x, mask)
    assert message(lambda: qir.quantize(graph, [(x, mask)]), PassError) == (
        "calibrate: input %mask in batch 0: expected finite values, got 4 infinite, "
        "the first at [0, 0]\n"
        "  a mask that is added can't hold -inf: take -1e9 instead, or give the model bools that "
        "choose by jnp.where\n"
        "  in pass calibrate"
    )


def test_an_activation_that_becomes_infinite():
    assert message(lambda: qir.quantize(model(), [0 * IMAGES]), PassError) == (
        "calibrate: %l in batch 0: expected finite values, got 32 infinite, "
        "the first at [0, 0, 0, 0]\n"
        "  at %l, model.py:42\n"
        "  log made it of finite operands: %c in [0, 0]\n"
        "  in pass calibrate"
    )


def test_no_data():
    expectation = "calibrate: expected data, or statistics of the model, got neither"
    assert message(lambda: qir.quantize(model()), PassError).startswith(expectation)


def unsupported(x):
    return jnp.sort(x) + jnp.linalg.svd(x)[0]


def test_primitives_without_a_rule():
    text = message(lambda: qir.from_jax(unsupported, jnp.ones((3, 3))), UnsupportedError)
    line = unsupported.__code__.co_firstlineno + 1
    lines = re.sub(rf"at \S*test_bad_input.py:{line}", "at HERE", text).splitlines()
    assert lines[0] == "from_jax: expected primitives that QIR has a rule for, got sort, svd"
    assert sorted(lines[1:3]) == ["  sort at HERE", "  svd at HERE"]
    assert lines[3:] == ['  register a rule by @qir.frontends.jaxpr.primitive("sort")']


PIPELINES = {
    "calibrate, quantise": "no pass 'quantise'; did you mean 'quantize'?",
    "w8a9": "no pass 'w8a9'; did you mean 'w8a8'?",
    "fold, auto": (
        "no pass 'auto'; auto is a search of qir.quantize, which begins from w8a8: take that here"
    ),
    "calibrate(bin=4096)": "calibrate has no option 'bin'; did you mean 'bins'?",
    "calibrate(method=minmx)": (
        "calibrate: method: expected one of entropy, minmax, moving_average, mse, octav, "
        "percentile, got minmx; did you mean 'minmax'?"
    ),
    "quantize(symmetric=3)": "quantize: symmetric: expected true or false, got 3",
    "calibrate quantize": "expected passes separated by commas",
}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_pipelines(pipeline):
    text = message(lambda: qir.quantize(model(), [IMAGES], pipeline), ParseError)
    first, shown, caret = text.splitlines()
    assert first == f"pipeline: {PIPELINES[pipeline]}"
    assert shown == f"  {pipeline}"
    assert caret.strip() == "^"


def test_a_selector():
    pipeline = "calibrate, quantize(keep_float=[op:cnov])"
    assert message(lambda: qir.quantize(model(), [IMAGES], pipeline)) == (
        "selector: 'op:cnov' matches nothing in @model; did you mean 'op:conv'?\n"
        '  in pass quantize(keep_float=["op:cnov"])'
    )


OPTIONS = {
    "acuracy_check": "quantize: no option 'acuracy_check'; did you mean 'accuracy_check'?",
    "weights": (
        "quantize: no option 'weights'; it is one of pass quantize and of pass quantize-dynamic, "
        "written in the pipeline: '…, quantize(weights=…), …'"
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_an_option_that_quantizing_lacks(name):
    option: dict[str, Any] = {name: "i4"}
    assert message(lambda: qir.quantize(model(), [IMAGES], **option)) == OPTIONS[name]


@pytest.mark.parametrize("threshold", ["20", None, float("nan")])
def test_a_threshold_that_is_no_number(threshold):
    assert message(lambda: qir.quantize(model(), [IMAGES], accuracy_check=threshold)) == (
        f"quantize: accuracy_check: expected True, False or a number of decibels, got {threshold!r}"
    )


def test_a_pipeline_that_is_no_text():
    expectation = (
        "pipeline: expected passes as text, as 'fold, calibrate', or a Pipeline, got ['fold']"
    )
    passes: Any = ["fold"]
    assert message(lambda: qir.quantize(model(), [IMAGES], passes), ParseError) == expectation


WORDS = {
    ("conv(", "cnov("): "op: no op 'cnov'; did you mean 'conv'?",
    ("%k)", "%k) {pading = same}"): "conv: no attribute 'pading'; did you mean 'padding'?",
    ("%k)", "%kk)"): "parse: no value %kk above this line; did you mean 'k'?",
    ("f32[2,4,4,1] loc", "f23[2,4,4,1] loc"): (
        "type: expected one of bool, i2, i4, i8, i16, i32, i64, u4, u8, u16, u32, f16, bf16, f32, "
        "f64, got f23"
    ),
}


@pytest.mark.parametrize("edit", WORDS)
def test_misspelt_words_of_a_program(edit):
    text = message(lambda: model(*edit), ParseError)
    assert text.splitlines()[:2] == [WORDS[edit], "  at line 3"]
    assert edit[1].split()[0] in text.splitlines()[2]


def test_a_value_that_is_not_there():
    expectation = "graph: @model has no value %imag; did you mean 'image'?"
    assert message(lambda: model().value("imag")) == expectation


def test_a_backend_that_is_not_there():
    expectation = "compile: expected the backend xla or reference, got 'xal'; did you mean 'xla'?"
    assert message(lambda: qir.compile(model(), backend="xal")) == expectation


@pytest.fixture
def saved(tmp_path):
    """The path of a saved model whose kernel lies in the .npz."""
    text = MODEL.replace("[[[[0.5], [-0.25], [1.0]]]] : f32[1,1,3,1]", "@w : f32[1,1,3,4]")
    kernel = np.arange(12, dtype=np.float32).reshape(1, 1, 3, 4)
    path = tmp_path / "model.qir"
    qir.save(qir.parse(text.replace("f32[2,4,4,1]", "f32[2,4,4,4]"), {"w": kernel}), path)
    return path


def truncate(path, size):
    path.write_bytes(path.read_bytes()[:size])


def test_a_truncated_text(saved):
    truncate(saved, saved.read_text().index(", %k)"))
    assert message(lambda: qir.load(saved), ParseError) == (
        f"parse: expected more text, got the end\n  at line 4\n  |  %c = conv(%image\n  in {saved}"
    )


def test_truncated_arrays(saved):
    arrays = saved.with_suffix(".npz")
    truncate(arrays, 200)
    assert message(lambda: qir.load(saved)) == (
        f"load: {arrays} is truncated or corrupted: File is not a zip file\n  in {saved}"
    )


def test_a_scale_of_the_wrong_shape():
    scales = "scale=[0.5, 0.25], axis=1"
    text = f"graph @g(%x: i8[2,3]{{{scales}}}) {{\n  return %x\n}}"
    assert message(lambda: qir.parse(text), ParseError) == (
        "code: expected 3 numbers in scale for axis 1, got 2\n"
        "  at line 1\n"
        f"  |graph @g(%x: i8[2,3]{{{scales}}}) {{"
    )
    code = qir.Affine.of(qir.DType.I8, [[0.5, 0.25]])
    assert message(lambda: qir.TensorType((2, 3), code)) == (
        "code: C4: expected a scalar scale or one whose dimensions divide [2,3], "
        "got a scale of shape [1, 2]"
    )


def test_a_bias_of_another_scale():
    text = """\
graph @g(%x: i8[1,1]{scale=0.5}) {
  %k = const [[2]] : i8[1,1]{scale=0.25}
  %b = const [3] : i32[1]{scale=0.25}
  %a = dot(%x, %k, %b) : i32[1,1]{scale=0.125}
  return %a
}
"""
    assert message(lambda: qir.parse(text), ParseError) == (
        "dot: expected a bias with the accumulator's scale, the product of the operands' scales\n"
        "  at line 4\n"
        "  |  %a = dot(%x, %k, %b) : i32[1,1]{scale=0.125}"
    )


@pytest.mark.parametrize("platform", ["cuda", "nonsense"])
def test_a_platform_that_is_not_there(platform):
    script = """
import numpy as np, qir
graph = qir.parse("graph @g(%x: f32[2]) {\\n  %y = relu(%x) : f32[2]\\n  return %y\\n}")
x = np.ones(2, np.float32)
for call in (
    lambda: qir.compile(graph),
    lambda: qir.quantize(graph, [x]),
    lambda: qir.from_jax(lambda x: x + __import__("jax").numpy.sin(np.ones(2)), x),
):
    try:
        call()
    except qir.QirError as error:
        print(error.message)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "JAX_PLATFORMS": platform},
        capture_output=True,
        text=True,
        check=True,
    )
    if platform == "cuda" and not done.stdout:
        pytest.skip("there is one")
    message = (
        f"jax: found no device for JAX_PLATFORMS='{platform}'; "
        "unset it, or set it to cpu, to run on what is there"
    )
    assert done.stdout.splitlines() == [message] * 3


def test_a_dimension_without_a_name():
    graph = qir.parse("graph @g(%x: f32[B,2]) {\n  return %x\n}")
    expectation = "dimension: no input has a dimension C"
    assert message(lambda: qir.summary(graph, {"C": 3})) == expectation


@pytest.mark.parametrize("op", ["add", "sub", "mul"])
def test_plain_integers_of_fewer_bits_than_a_byte_are_not_computed_with(op):
    text = f"graph @g(%x: u4[3]) {{\n  %y = {op}(%x, %x) : u4[3]\n  return %y\n}}"
    assert "expected integers of at least 8 bits, got u4[3]; cast them to u8" in message(
        lambda: qir.parse(text), ParseError
    )


@pytest.mark.parametrize("op", ["mean(%x) {axes = [0]} : u8[]", "mean(%x) {axes = [0]} : i32[]"])
def test_the_mean_of_plain_integers_has_no_meaning(op):
    element = op.rsplit(" ", 1)[1][:-2]
    text = f"graph @g(%x: {element}[2]) {{\n  %y = {op}\n  return %y\n}}"
    assert "expected floating-point numbers or codes" in message(
        lambda: qir.parse(text), ParseError
    )


def test_integers_of_four_bits_from_jax_are_kept_in_bytes(tmp_path):
    x = jnp.array([-8, 7, 3], "int4")
    graph = qir.from_jax(lambda x: x > jnp.array(0, "int4"), x)
    qir.save(graph, tmp_path / "g.qir")
    assert qir.load(tmp_path / "g.qir") == graph
    numbers = np.array([-8, 7, 3], np.int8)
    for found in (qir.evaluate(graph, numbers), qir.compile(graph, kernels=False)(numbers)):
        np.testing.assert_array_equal(found[0], [False, True, True])


def test_a_constant_holds_numbers_of_its_type():
    graph = qir.Graph("g")
    wide = np.array([254, 1], np.uint8)
    assert "expected numbers in [0, 15] for u4[2], got [1, 254]" in message(
        lambda: graph.at_end().const(wide, "k", qir.DType.U4)
    )
