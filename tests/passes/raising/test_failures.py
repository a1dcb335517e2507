"""No raising rule makes an import fail: the ops stay as they were imported, and that is told."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import qir
from qir.analysis.equivalence import check_equivalent
from qir.backends.reference.interpreter import run_all
from qir.errors import QirError
from qir.frontends import READERS
from qir.ir import Graph
from qir.ops import Add, Cast, Exp, Neg, Relu, Tanh
from qir.pipeline import PASSES, PIPELINES
from qir.pipeline.rewrite import Rule, rewrite, rule
from qir.types import DType
from tests.frontends.agreement import agrees, op_names, uniform
from tests.models.flax_models import MODELS, weights

X = uniform(3, 5)


def model(x: Any) -> Any:
    return jnp.exp(jnp.tanh(x) + 1.5) * jnp.where(x > 0, x, 0)


@rule(Tanh)
def raises_an_error(y, b):
    b.const(1.0)
    raise QirError("tanh: expected anything else")


@rule(Tanh)
def has_a_bug(y, b):
    return b.emit(Relu(), y.inputs[7])


@rule(Tanh)
def returns_no_value(y: Any, b: Any) -> Any:
    return "a value"


@rule(Tanh)
def reads_what_comes_later(y, b):
    (user,) = y.users
    return user.output if isinstance(user.op, Add) else None


@rule(Tanh)
def changes_the_type(y, b):
    return b.emit(Cast(DType.BF16), y.inputs[0])


@rule(Tanh)
def reads_itself(y, b):
    return b.emit(Neg(), y)


@rule(Tanh, Exp)
def never_ends(y, b):
    return b.emit(Exp() if isinstance(y.op, Tanh) else Tanh(), *y.inputs)


@rule(Tanh)
def leaves_half_a_node(y, b):
    y.node.inputs = ()
    raise ValueError("no")


@rule(Tanh)
def rewires_and_fails(y, b):
    (add,) = y.users
    add.set_input(0, y.inputs[0])
    raise ValueError("no")


@rule(Tanh)
def replaces_and_fails(y, b):
    y.replace_with(b.emit(Neg(), y.inputs[0]))
    raise ValueError("no")


RULES = [
    raises_an_error,
    has_a_bug,
    returns_no_value,
    reads_what_comes_later,
    changes_the_type,
    reads_itself,
    never_ends,
    leaves_half_a_node,
    rewires_and_fails,
    replaces_and_fails,
]


def with_rules(monkeypatch: pytest.MonkeyPatch, *rules: Rule) -> None:
    kind: Any = PASSES["raise-activations"]
    monkeypatch.setattr(kind, "rules", (*rules, *kind.rules))


@pytest.mark.parametrize("guilty", RULES, ids=lambda each: each.name)
def test_a_rule_that_fails_leaves_the_ops_and_is_named(monkeypatch, guilty):
    wanted = op_names(qir.from_jax(model, X))
    assert wanted == ["tanh", "add", "exp", "relu", "mul"]
    with_rules(monkeypatch, guilty)
    graph = agrees(model, X)
    assert op_names(graph) == wanted
    (told,) = graph.diagnostics
    assert told.startswith(f"raise-activations: rule {guilty.name} ")


def test_several_rules_that_fail_are_all_named_and_the_others_work(monkeypatch):
    with_rules(monkeypatch, changes_the_type, reads_itself)
    graph = agrees(model, X)
    assert op_names(graph) == ["tanh", "add", "exp", "relu", "mul"]
    assert ["changes_the_type" in line or "reads_itself" in line for line in graph.diagnostics] == [
        True,
        True,
    ]


def test_of_rules_that_fail_only_together_the_last_is_left_out(monkeypatch):
    @rule(Tanh)
    def there(y, b):
        return b.emit(Exp(), *y.inputs)

    @rule(Exp)
    def back(y, b):
        return b.emit(Tanh(), *y.inputs)

    with_rules(monkeypatch, there, back)
    graph = qir.from_jax(lambda x: jnp.tanh(x) * jnp.maximum(x, 0), X)
    assert op_names(graph) == ["exp", "relu", "mul"]
    (told,) = graph.diagnostics
    assert told.startswith("raise-activations: rule back is left out, it failed: rewrite: rules")


def test_a_name_of_jax_that_fails_is_told_too(monkeypatch):
    def failing(*_: Any) -> None:
        raise ZeroDivisionError("float division by zero")

    monkeypatch.setattr("qir.frontends.jaxpr.named._elementwise", failing)
    graph = agrees(lambda x: jax.nn.silu(x), X)
    assert op_names(graph) == ["silu"]
    (told,) = graph.diagnostics
    assert told.startswith("from_jax: the name silu tells nothing at ")
    assert told.endswith("ZeroDivisionError: float division by zero; its ops are imported instead")


def test_an_interrupt_is_no_failure(monkeypatch):
    @rule(Tanh)
    def interrupted(y, b):
        raise KeyboardInterrupt

    with_rules(monkeypatch, interrupted)
    with pytest.raises(KeyboardInterrupt):
        qir.from_jax(model, X)


def test_other_passes_of_the_pipeline_may_fail_as_well(monkeypatch):
    monkeypatch.setitem(PIPELINES, "raise", f"equalize, {PIPELINES['raise']}")

    def failing(*_: Any) -> None:
        raise RuntimeError("out of luck")

    monkeypatch.setattr(PASSES["equalize"], "run", failing)
    graph = agrees(model, X)
    assert op_names(graph) == ["tanh", "add", "exp", "relu", "mul"]
    assert graph.diagnostics == ("equalize: is left out, it failed: RuntimeError: out of luck",)


def test_what_any_reader_reads_is_raised_and_keeps_its_names(monkeypatch, tmp_path):
    text = """
    graph @gate(%x: f32[3,5]) {
      %three = const 3.0 : f32[]
      %shifted = add(%x, %three) : f32[3,5]
      %clipped = clip(%shifted) {low = 0.0, high = 6.0} : f32[3,5]
      %gated = mul(%x, %clipped) : f32[3,5]
      %six = const 6.0 : f32[]
      %gate = div(%gated, %six) : f32[3,5]
      return %gate
    }
    """

    def read(path: Any) -> Graph:
        graph = qir.parse(text)
        graph.record_origins()
        return graph

    READERS.add(".toy", read)
    try:
        (tmp_path / "gate.toy").touch()
        graph = qir.load(tmp_path / "gate.toy")
    finally:
        READERS.remove(".toy")
    assert op_names(graph) == ["hard_swish"]
    assert (graph.outputs[0].name, graph.outputs[0].origin) == ("gate", ("gate",))
    qir.save(qir.parse(text), tmp_path / "gate.qir")
    assert len(op_names(qir.load(tmp_path / "gate.qir"))) == 4


def test_what_stands_in_another_order_behind_raising_stands_for_the_same():
    graph = qir.parse(
        """graph @first(%x: f32[2,5,5,5]) {
          %n = transpose(%x) {permutation = [0, 3, 1, 2]} : f32[2,5,5,5]
          %act = tanh(%n) : f32[2,5,5,5]
          %mean = mean(%act) {axes = [1], keep_axes = true} : f32[2,1,5,5]
          return %mean
        }"""
    )
    raised = qir.optimize(graph, "raise")
    assert op_names(raised)[:2] == ["tanh", "mean"]
    (tanh,) = (node.output for node in raised.nodes if isinstance(node.op, Tanh))
    assert tanh.origins["act"] == (0, 2, 3, 1)
    x = uniform(2, 5, 5, 5)
    given = raised.copy()
    check_equivalent(graph_with_origins(graph), given, [x.astype(np.float64)], run_all)


def graph_with_origins(graph: Graph) -> Graph:
    known = graph.copy()
    known.record_origins()
    return known


def test_skips_that_failed_are_apart_from_those_that_nearly_fired():
    graph = qir.parse("graph @f(%x: f32[2]) { %y = tanh(%x) : f32[2] return %y }")
    report = rewrite(graph, [has_a_bug, replace(raises_an_error, ops=(Relu,))], strict=False)
    ((name, root, skip),) = report.failures
    assert (name, root.name) == ("has_a_bug", "y")
    assert skip.reason == "IndexError: tuple index out of range"
    with pytest.raises(IndexError):
        rewrite(graph, [has_a_bug])


def test_an_error_behind_an_edit_is_no_near_miss():
    graph = qir.parse(
        "graph @f(%x: f32[2]) { %y = tanh(%x) : f32[2] %z = add(%y, %x) : f32[2] return %z }"
    )
    with pytest.raises(QirError, match="'rewires_and_fails' failed when it had edited already"):
        rewrite(graph, [rewires_and_fails], strict=False)


@pytest.mark.parametrize("name", MODELS)
def test_models_with_a_batch_of_any_size_have_nothing_to_tell(name):
    model, x, _ = MODELS[name]
    variables = weights(model, x)
    run: Callable[..., Any] = model.apply
    graph = qir.from_jax(run, variables, x, weight_argnums=0, batch="B")
    assert graph.diagnostics == ()


def test_restoring_a_graph_takes_back_all_edits():
    graph = qir.from_jax(model, X)
    earlier, text = graph.copy(), str(graph)
    rewrite(graph, [replace(reads_what_comes_later, ops=(Tanh,))])
    graph.add_input("more", graph.inputs[0].type)
    assert str(graph) != text
    graph.restore(earlier)
    assert str(graph) == text
    assert all(value.owner is graph for value in graph.values())
    (found,) = qir.evaluate(graph, X)
    np.testing.assert_allclose(found, model(X), rtol=1e-6)
