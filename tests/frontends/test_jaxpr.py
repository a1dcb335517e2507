"""What `from_jax` promises: texts, names, places, named batches, weights, and errors."""

import functools
import inspect
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export, lax
from jax.extend import core

import qir
from qir.api import from_jax
from qir.backends.reference.interpreter import run
from qir.errors import QirError, UnsupportedError
from qir.frontends.jaxpr import Emitter, Operand, primitive
from qir.frontends.jaxpr.primitives import PRIMITIVES
from qir.ir import Graph, Value
from qir.ops import Const, Mul
from tests.frontends.agreement import agrees, assert_equal, op_names, uniform

HERE = str(Path(__file__).relative_to(Path.cwd()))
LAYOUT = ("NHWC", "HWIO", "NHWC")
X = uniform(2, 8, 8, 3)


def conv(x: Any, kernel: Any, *strides: int) -> Any:
    return lax.conv_general_dilated(x, kernel, strides or (1, 1), "SAME", dimension_numbers=LAYOUT)


def constant_names(graph: Graph) -> list[str]:
    return [value.name for value in graph.values() if value.is_constant]


def cnn(params: Any, image: Any) -> Any:
    x = jax.nn.relu(conv(image, params["conv1"]["kernel"]) + params["conv1"]["bias"])
    x = lax.reduce_window(x, -jnp.inf, lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")
    with jax.named_scope("body"):
        x = jax.nn.silu(conv(x, params["conv2"]["kernel"], 2, 2)) * 0.5
    x = x.mean((1, 2))
    return jax.nn.softmax(x @ params["head"]["w"] + params["head"]["b"])


def cnn_params() -> Any:
    return {
        "conv1": {"kernel": uniform(3, 3, 3, 8), "bias": np.arange(8, dtype=np.float32)},
        "conv2": {"kernel": uniform(3, 3, 8, 4, seed=1)},
        "head": {"w": uniform(4, 10, seed=2), "b": np.zeros(10, np.float32)},
    }


CNN = """
graph @cnn(%image: f32[B,8,8,3]) {
  %conv1.kernel = const : f32[3,3,3,8]
  %conv1.bias = const [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0] : f32[8]
  %conv1 = conv(%image, %conv1.kernel, %conv1.bias) {padding = same} : f32[B,8,8,8]
  %relu = relu(%conv1) : f32[B,8,8,8]
  %max_pool = max_pool(%relu) {window = [2, 2], strides = [2, 2]} : f32[B,4,4,8]
  %conv2.kernel = const : f32[3,3,8,4]
  %conv2 = conv(%max_pool, %conv2.kernel) {strides = [2, 2], padding = same} : f32[B,2,2,4]
  %body.silu = silu(%conv2) : f32[B,2,2,4]
  %body.mul.factor = const 0.5 : f32[]
  %body.mul = mul(%body.silu, %body.mul.factor) : f32[B,2,2,4]
  %mean = mean(%body.mul) {axes = [1, 2]} : f32[B,4]
  %head.w = const : f32[4,10]
  %head.b = const 0.0 : f32[10]
  %head = dot(%mean, %head.w, %head.b) : f32[B,10]
  %softmax = softmax(%head) {axis = 1} : f32[B,10]
  return %softmax
}
"""


def test_the_text_of_a_cnn():
    graph = agrees(cnn, cnn_params(), X, weight_argnums=0, batch="B", terms=72)
    assert str(graph) == CNN.strip()


def test_weights_closed_over_give_the_same_program():
    params = cnn_params()

    def closed(image: Any) -> Any:
        return cnn(params, image)

    for f in (closed, functools.partial(cnn, params), lambda image: closed(image)):
        graph = from_jax(f, X, batch="B", name="cnn")
        graph.inputs[0].owner.rename(graph.inputs[0], "image")
        assert str(graph) == CNN.strip()


def test_methods_and_callable_objects_name_their_weights():
    class Model:
        def __init__(self) -> None:
            self.first = {"kernel": jnp.ones((3, 4))}

        def __call__(self, x: Any) -> Any:
            return x @ self.first["kernel"]

        def encode(self, x: Any) -> Any:
            return self(x)

    model = Model()
    for f in (model, model.encode, jax.jit(model.encode)):
        graph = from_jax(f, jnp.ones((2, 3)))
        assert constant_names(graph) == ["first.kernel"]
        assert op_names(graph) == ["dot"]
        assert graph.outputs[0].name == "first"
    assert from_jax(model, jnp.ones((2, 3))).name == "Model"


def test_weights_in_lists_are_named_after_the_argument():
    def f(layers: Any, x: Any) -> Any:
        for weight, bias in layers:
            x = jnp.tanh(x @ weight + bias)
        return x

    layers = [(uniform(3, 4), uniform(4)), (uniform(4, 2), uniform(2))]
    graph = agrees(f, layers, uniform(5, 3), weight_argnums=0, terms=8)
    names = [f"layers.{layer}.{part}" for layer in (0, 1) for part in (0, 1)]
    assert constant_names(graph) == names
    assert [node.output.name for node in graph.nodes if node.op.name == "dot"] == [
        "layers.0",
        "layers.1",
    ]


def test_a_shared_weight_is_one_constant():
    weight = uniform(4, 4)
    graph = agrees(lambda x: jnp.tanh(x @ weight) @ weight + x @ weight.T, uniform(2, 4), terms=16)
    assert len(constant_names(graph)) == 2  # as it is, and turned
    shared = [value for value in graph.values() if value.is_constant and len(value.uses) == 2]
    assert [value.name for value in shared] == ["weight"]


def test_equal_weights_of_two_layers_stay_two():
    params = {"a": {"w": jnp.ones((4, 4))}, "b": {"w": jnp.ones((4, 4))}}
    graph = from_jax(
        lambda p, x: x @ p["a"]["w"] @ p["b"]["w"], params, uniform(2, 4), weight_argnums=0
    )
    assert constant_names(graph) == ["a.w", "b.w"]


def test_weights_that_change_afterwards_change_no_graph():
    weight = np.ones((4, 4), np.float32)
    graph = from_jax(lambda x: x @ weight, uniform(2, 4))
    weight[:] = 0
    assert np.all(graph.value("weight").array == 1)


def test_inputs_and_results_are_flattened_in_order():
    def f(pair: Any, more: Any) -> Any:
        return {"sum": pair["x"] + more[0], "first": pair["y"]}

    graph = agrees(f, {"x": uniform(2), "y": uniform(3)}, [uniform(2, seed=1)])
    assert [value.name for value in graph.inputs] == ["pair.x", "pair.y", "more.0"]
    assert [value.name for value in graph.outputs] == ["pair.y", "add"]


def test_inputs_that_nothing_reads_and_constant_results():
    graph = agrees(lambda x, unused: (x, jnp.arange(3)), uniform(2), uniform(4))
    assert [value.name for value in graph.inputs] == ["x", "unused"]
    assert isinstance(graph.outputs[1].op, Const)


def test_locations_are_the_models_lines_and_scopes():
    params = cnn_params()
    lines, start = inspect.getsourcelines(cnn)
    graph = from_jax(cnn, params, X, weight_argnums=0)

    def place(text: str) -> str:
        return f"{HERE}:{start + next(i for i, line in enumerate(lines) if text in line)}"

    def loc(name: str) -> str | None:
        return graph.value(name).loc

    assert loc("conv1") == place("conv1")
    assert loc("relu") == place("jax.nn.relu")
    assert loc("max_pool") == place("reduce_window")
    assert loc("body.silu") == place("silu") + " (body)"
    assert loc("mean") == place("mean")
    assert loc("softmax") == place("softmax")
    assert all(node.loc for node in graph.nodes if node.outputs)


def test_a_function_of_jax_itself_is_located_where_it_is_imported():
    graph = qir.from_jax(jax.nn.relu, uniform(3))
    frame = inspect.currentframe()
    assert frame is not None
    assert graph.value("relu").loc == f"{HERE}:{frame.f_lineno - 3}"


def test_values_stand_for_themselves():
    graph = from_jax(cnn, cnn_params(), X, weight_argnums=0)
    assert all(value.origin == (value.name,) for value in graph.values())


def test_a_named_batch_runs_at_any_size():
    graph = from_jax(cnn, cnn_params(), X, weight_argnums=0, batch="B")
    for size in (1, 5):
        image = uniform(size, 8, 8, 3, seed=size)
        assert_equal(run(graph, image)[0], cnn(cnn_params(), image), terms=72)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: x[:, ::2, ::2],
        lambda x: x[:, 1::2, ::3, ::-2],
        lambda x: x[:, ::2, 1],
        lambda x: x[:, -1, ::2],
        lambda x: x[:, 1, ::2, 1:3],
        lambda x: x[:, None, ::2, 2:7:2],
        lambda x: x[:, np.array([0, 5])[:, None], np.array([1, 2, 7])],
        lambda x: x[:, np.array([0, 5])[:, None], :, np.array([1, 2, 0])],
    ],
)
def test_steps_along_several_axes_of_a_named_batch(f: Any) -> None:
    """Beside a named size jax writes these as gathers along several axes, not as slices."""
    agrees(f, uniform(2, 6, 8, 4), batch="B")


def test_places_that_depend_on_one_another_are_chosen_along_one_axis() -> None:
    pairs = np.array([0, 1])
    graph = agrees(lambda x: x[:, pairs, pairs], uniform(2, 6, 8, 4), batch="B")
    assert op_names(graph).count("gather") == 1
    assert "maximum" not in op_names(graph)
    x, places = uniform(3, 5, 2), np.array([[0, 9, 2], [1, 1, 3], [2, -4, 1]], np.int32)
    rows = jax.vmap(lambda row, at: lax.dynamic_index_in_dim(row, at, 0))
    assert op_names(agrees(rows, x, places[:, 0])).count("gather") == 1
    agrees(lambda x, at: jnp.take_along_axis(x, at[..., None], 1, mode="clip"), x, places)
    agrees(lambda x, at: x[:, jnp.clip(at, 0, 4), at * 0 + 1], x, places)


def test_rows_that_have_places_of_their_own_are_of_a_known_number() -> None:
    x, places = uniform(3, 5, 2), np.zeros((3, 1), np.int32)
    take = functools.partial(jnp.take_along_axis, axis=1, mode="clip")
    with pytest.raises(
        UnsupportedError, match="known number of rows that have places of their own"
    ):
        from_jax(lambda x, at: take(x, at[..., None]), x, places, batch="B")


def test_symbolic_sizes():
    b, n = export.symbolic_shape("B, N")

    def f(x: Any) -> Any:
        flat = x.reshape(-1, 3)
        return jnp.concatenate([flat, flat]) * jnp.ones((2 * x.shape[0] * x.shape[1], 3))

    graph = from_jax(f, jax.ShapeDtypeStruct((b, n, 3), jnp.float32))
    assert str(graph.outputs[0].type) == "f32[2*B*N,3]"


def test_constants_of_a_named_size_are_broadcasts():
    def f(x: Any) -> Any:
        return jnp.concatenate([x, jnp.zeros((x.shape[0], 1))], axis=1)

    graph = agrees(f, uniform(4, 3), batch="B")
    assert op_names(graph) == ["broadcast", "concat"]


def test_python_numbers_are_inputs_too():
    graph = from_jax(lambda x, scale: x * scale, uniform(3), 2.0)
    assert [str(value.type) for value in graph.inputs] == ["f32[3]", "f32[]"]


def line(f: Any) -> int:
    return inspect.getsourcelines(f)[1]


def test_all_primitives_without_a_rule_are_listed_with_their_places():
    def f(x: Any) -> Any:
        y = jnp.sort(x)
        with jax.named_scope("scores"):
            z = lax.cumsum(x) + lax.cumsum(y)
        return z + lax.cummax(jnp.exp(y))

    with pytest.raises(UnsupportedError) as error:
        from_jax(f, uniform(3))
    start = line(f)
    assert str(error.value) == (
        "from_jax: expected primitives that QIR has a rule for, got cummax, cumsum, sort\n"
        f"  sort at {HERE}:{start + 1}\n"
        f"  cumsum at {HERE}:{start + 3} (scores)\n"
        f"  cummax at {HERE}:{start + 4}\n"
        '  register a rule by @qir.frontends.jaxpr.primitive("cummax")'
    )


def test_uses_that_a_rule_does_not_cover_are_listed():
    def f(x: Any) -> Any:
        y = lax.reduce_window(x, -jnp.inf, lax.max, (2, 1), (1, 1), "VALID", window_dilation=(2, 1))
        return y, lax.dynamic_slice(x, (x[0, 0].astype(int), 0), (2, 2))

    with pytest.raises(UnsupportedError) as error:
        from_jax(f, uniform(4, 3))
    start = line(f)
    assert str(error.value) == (
        "reduce_window_max: expected no dilation\n"
        f"  at {HERE}:{start + 1}\n"
        "  dynamic_slice: expected one place along one axis where the start is computed, got "
        "slices of f32[2,2] along axes [0] of f32[4,3]; read place by place, or by "
        "x[start + jnp.arange(size)]\n"
        f"  at {HERE}:{start + 2}"
    )


REFUSED: dict[str, tuple[Any, str]] = {
    "a mean over the batch": (
        lambda x: x.mean(0),
        "dimension: expected a known size where it is used as a number, got B",
    ),
    "a size that is a sum": (
        lambda x: jnp.concatenate([x, jnp.ones((1, 3))]),
        "concat: the sum of B and 1 is not a size that QIR can name",
    ),
    "a branch on the size": (
        lambda x: x if x.shape[0] > 2 else -x,
        "from_jax: the function depends on the size of a named dimension: Symbolic dimension "
        "comparison 'B' > '2' is inconclusive",
    ),
    "counting the batch": (
        lambda x: x + jnp.arange(x.shape[0], dtype=jnp.float32)[:, None],
        "iota along axis 0: expected a known size, got the named dimension B",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_named_dimension_has_no_value(name):
    f, text = REFUSED[name]
    with pytest.raises(QirError) as error:
        from_jax(f, uniform(4, 3), batch="B")
    assert error.value.message == text
    assert f"at {HERE}:{line(f)}" in str(error.value).splitlines()[1]


def test_arguments_that_are_no_arrays():
    with pytest.raises(QirError, match=r"from_jax: expected arrays, got a str for mode.name"):
        from_jax(lambda x, mode: x, uniform(3), {"name": "train"})
    with pytest.raises(QirError, match=r"from_jax: expected numbers for the weight p.w, got Shape"):
        from_jax(
            lambda p, x: x * p["w"],
            {"w": jax.ShapeDtypeStruct((3,), jnp.float32)},
            uniform(3),
            weight_argnums=0,
        )
    with pytest.raises(QirError, match="expected weight_argnums below 1, got 2"):
        from_jax(lambda x: x, uniform(3), weight_argnums=2)


def test_batches_that_do_not_fit():
    with pytest.raises(QirError, match=r"dimension: expected a name of letters, .* got '2'"):
        from_jax(lambda x: x, uniform(3), batch="2")
    with pytest.raises(QirError, match="at least one axis, got a scalar for s"):
        from_jax(lambda x, s: x * s, uniform(3), 2.0, batch="B")
    with pytest.raises(QirError, match="agree on axis 0, got 3 for x and 2 for y"):
        from_jax(lambda x, y: (x, y), uniform(3), uniform(2), batch="B")


@pytest.mark.parametrize(
    ("example", "marked", "remedy"),
    [
        (({"a": uniform(6, 2), "b": uniform(8)}, uniform(1, 6)), (), "p holds weights, .*=0$"),
        ((uniform(1, 6), {"a": uniform(6, 2), "b": uniform(8)}), (), r"x holds weights, .*=1$"),
        (({"a": uniform(2), "b": 2.0}, uniform(1, 6)), (), "p holds weights, .*=0$"),
        ((uniform(1), {"a": uniform(6), "b": uniform(8)}), 0, r"x holds weights, .*=\(0, 1\)$"),
        ((uniform(6), uniform(1, 6)), (), "one of them holds weights, .* weight_argnums$"),
    ],
)
def test_weights_that_are_not_marked_are_explained(example, marked, remedy):
    with pytest.raises(QirError, match=remedy):
        from_jax(lambda p, x: (p, x), *example, weight_argnums=marked, batch="B")


@pytest.fixture
def scale_primitive():
    scale = core.Primitive("test_scale")
    scale.def_abstract_eval(lambda x, *, factor: x)
    scale.def_impl(lambda x, *, factor: x * factor)
    yield scale
    PRIMITIVES.pop("test_scale", None)


def test_users_register_rules_for_their_own_primitives(scale_primitive):
    def f(x: Any) -> Any:
        return scale_primitive.bind(x, factor=3.0) + scale_primitive.bind(jnp.ones(2), factor=2.0)

    with pytest.raises(UnsupportedError, match="test_scale"):
        from_jax(f, uniform(2))

    @primitive("test_scale")
    def rule(b: Emitter, x: Operand, *, factor: float) -> Value:
        return b.emit(Mul(), x, b.const(np.float32(factor)))

    graph = from_jax(f, uniform(2))
    assert op_names(graph) == ["mul", "add"]
    assert_equal(run(graph, uniform(2))[0], uniform(2) * 3 + 2)


def test_a_rule_must_give_the_type_that_jax_traced(scale_primitive):
    @primitive("test_scale")
    def rule(b: Emitter, x: Operand, *, factor: float) -> Operand:
        return b.reshape(x, (2, 1))

    with pytest.raises(
        QirError, match=r"test_scale: expected its rule to give f32\[2\], got f32\[2,1\]"
    ):
        from_jax(lambda x: scale_primitive.bind(x, factor=3.0), uniform(2))


def test_the_result_is_a_graph_named_after_the_function():
    assert isinstance(from_jax(cnn, cnn_params(), X), Graph)
    assert from_jax(lambda x: x, uniform(2)).name == "main"
    assert from_jax(lambda x: x, uniform(2), name="mine").name == "mine"


def named_in_greek():
    """A model whose argument, weights, scope, function and batch have names of other scripts."""
    θ = np.asarray(np.random.default_rng(0).normal(size=(4, 9)), np.float32)
    weights = {"β": jnp.arange(9.0), "γ": jnp.linspace(0.5, 1.5, 9)}

    def μοντέλο(σ):
        with jax.named_scope("层/γ"):
            normal = jnp.tanh(σ @ θ)
        return normal * weights["γ"] + weights["β"]

    return μοντέλο


def test_names_of_any_script_go_all_the_way(tmp_path):
    data = [np.random.default_rng(1).normal(size=(8, 4)).astype(np.float32)]
    graph = from_jax(named_in_greek(), data[0], batch="β")
    assert graph.name == "μοντέλο"
    assert [str(port) for port in (graph.inputs[0].name, *graph.inputs[0].type.shape)] == [
        "σ", "β", "4",
    ]  # fmt: skip
    assert {"θ", "γ.tanh"} <= {value.name for value in graph.values()}
    integer = qir.quantize(graph, data)
    qir.save(integer, tmp_path / "λ.qir")
    loaded = qir.load(tmp_path / "λ.qir")
    assert loaded == integer
    assert "γ" in str(qir.explain(loaded))
    assert "σ" in str(qir.summary(loaded, {"β": 8}))
    codes = loaded.inputs[0].type.quant
    inputs = data[0] if codes is None else codes.encode(data[0])
    (expected,) = qir.evaluate(loaded, inputs)
    np.testing.assert_array_equal(qir.compile(loaded)(inputs)[0], expected)


@pytest.mark.parametrize("name", ["", "a b c", "a\nb", '"', "-a", 3])
def test_a_name_that_the_text_can_not_hold_is_refused_at_once(name):
    for option in ({"name": name}, {"batch": name}):
        with pytest.raises(QirError, match="expected a name of letters"):
            from_jax(lambda x: x, uniform(3), **option)


BY_SIZE = {
    "an equal division": lambda x: jnp.split(x, 2),
    "a context that requires a constant": lambda x: x * int(x.shape[0]),
    "interpreted as an integer": lambda x: x * np.ones(x.shape, np.float32),
    "larger than 1": lambda x: jnp.pad(x, ((1, 1), (0, 0)), mode="reflect"),
}


@pytest.mark.parametrize("reason", BY_SIZE)
def test_a_function_that_needs_the_size_of_the_batch_is_refused_with_its_place(reason):
    f = BY_SIZE[reason]
    agrees(f, uniform(4, 3))
    with pytest.raises(QirError) as caught:
        from_jax(f, uniform(4, 3), batch="B")
    start = "from_jax: the function depends on the size of a named dimension: "
    assert caught.value.message.startswith(start)
    assert reason in caught.value.message
    assert caught.value.places == [f"at {HERE}:{f.__code__.co_firstlineno}"]


def test_an_error_of_the_function_itself_is_its_own():
    with pytest.raises(TypeError, match="unsupported operand"):
        from_jax(lambda x: x + "a", uniform(4, 3), batch="B")


TOKEN = uniform(2, 3)


@pytest.mark.parametrize("times", [(1, 1), (1, 2), (3, 1)])
def test_a_constant_is_tiled_as_often_as_the_batch_is_large(times):
    def f(x):
        return jnp.tile(TOKEN[:1], (times[0] * x.shape[0], times[1])) + jnp.sum(x), jnp.tile(
            TOKEN, (x.shape[0], times[1])
        )

    agrees(f, uniform(4, 3), terms=12, batch="B")


def test_switches_and_random_keys_are_no_inputs():
    with pytest.raises(QirError, match="expected arrays, got False for train; import a function"):
        from_jax(lambda x, train: x, uniform(3), False)
    with pytest.raises(QirError, match="expected an array of numbers for key, got key<fry>; let"):
        from_jax(lambda x, key: x + jax.random.normal(key), uniform(3), jax.random.key(0))
    key = jax.random.key(0)
    agrees(lambda x: x + jax.random.normal(key, (3,)), uniform(3))


def test_the_names_that_the_source_has_are_kept_as_origins(tmp_path):
    params = {"mlp/~/linear_0": {"w:0": uniform(3, 4), "b": uniform(9, seed=1)}}

    def f(p: Any, batch: Any) -> Any:
        layer = p["mlp/~/linear_0"]
        return jnp.tanh(batch["in put"] @ layer["w:0"]) @ layer["w:0"].T, layer["b"] * 2

    graph = from_jax(f, params, {"in put": uniform(2, 3)}, weight_argnums=0)
    origins = {value.name: value.origin for value in graph.values()}
    assert origins["mlp.linear_0.w_0"] == ("mlp/~/linear_0.w:0",)
    assert origins["batch.in_put"] == ("batch.in put",)
    assert len(set(origins.values())) == len(origins)
    qir.save(graph, tmp_path / "g.qir")
    assert '%mlp.linear_0.w_0 = const : f32[3,4] of "mlp/~/linear_0.w:0"' in (
        (tmp_path / "g.qir").read_text()
    )
    loaded = qir.load(tmp_path / "g.qir")
    assert [value.origin or (value.name,) for value in loaded.values()] == list(origins.values())
