"""Recipes: rules by selectors, as TOML and as arguments; what is wrong of one is a sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import qir
from qir import Recipe, RecipeRule
from qir.errors import QirError
from qir.ir import Graph
from qir.pipeline.recipe_text import MOST_BYTES

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)

PROGRAM = """
graph @model(%x: f32[8,4]) {
  %w = const [[0.5, 1, 2, 3], [0.2, 1, 2, 3], [0.5, 1, -2, 3], [0.5, 1, 2, -3]] : f32[4,4]
  %dense = dot(%x, %w) : f32[8,4]
  %factor = const [2.0, 1.0, 3.0, 0.5] : f32[4]
  %scaled = mul(%dense, %factor) : f32[8,4]
  %y = tanh(%scaled) : f32[8,4]
  return %y
}"""

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
rules = st.builds(
    RecipeRule,
    select=st.lists(texts, min_size=1, max_size=3),
    activations=st.sampled_from([None, "i8", "u8", "i16", "i4"]),
    weights=st.sampled_from([None, "i8", "i4", "i2", "i16"]),
    per=st.sampled_from([None, "tensor", "block:32"]),
    scheme=st.sampled_from([None, "affine", "log2"]),
    method=st.sampled_from([None, "mse", "percentile(percentile=99.0)"]),
    keep_float=st.booleans(),
    reason=st.one_of(st.just(""), texts),
)


def quantized(*given: Any, pipeline: str = "w8a8", **options: Any) -> Graph:
    graph = qir.parse(PROGRAM)
    options = {"accuracy_check": False, **options}
    return qir.quantize(graph, [X], pipeline, recipe=list(given), **options)


def refusal(*given: Any, **options: Any) -> str:
    with pytest.raises(QirError) as caught:
        quantized(*given, **options)
    return str(caught.value)


@given(st.builds(Recipe, st.tuples(rules, rules), st.one_of(st.none(), texts)))
def test_toml_tells_all_of_a_recipe(recipe: Recipe) -> None:
    assert Recipe.parse(recipe.text) == recipe


def test_a_recipe_is_a_file_that_is_read_and_written(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    rule = RecipeRule(select=("y", "op:dot"), activations="i16", reason="softer")
    Recipe((rule,), "w8a8").save(path)
    assert path.read_text() == (
        'pipeline = "w8a8"\n\n[[rule]]\nselect = ["y", "op:dot"]\nactivations = "i16"\n'
        'reason = "softer"\n'
    )
    assert Recipe.load(path) == Recipe((rule,), "w8a8")
    by_file = qir.quantize(qir.parse(PROGRAM), [X], recipe=path, accuracy_check=False)
    assert by_file == quantized(rule)
    assert by_file.value("scaled").type.dtype is qir.DType.I16


def test_a_recipe_says_the_pipeline_unless_the_caller_does() -> None:
    recipe = Recipe((RecipeRule(select=("op:dot",), weights="i4"),), "w8")
    program = qir.parse(PROGRAM)
    assert not any(n.op.name == "requantize" for n in qir.quantize(program, recipe=recipe).nodes)
    integer = qir.quantize(program, [X], "w8a8", recipe=recipe, accuracy_check=False)
    assert any(node.op.name == "requantize" for node in integer.nodes)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("pipline = 'w8'", "expected pipeline and [[rule]], got 'pipline'; did you mean 'pipeline'?"
         "\n  line 1"),
        ("\n[[rules]]\nselect = 'x'", "got 'rules'; did you mean 'rule'?\n  line 2"),
        ("[rule]\nselect = 'x'", "expected each rule to be a table [[rule]], got a dict"),
        ("rule = [1]", "a qir.RecipeRule or a dict of its fields, got an int\n  in rule 1"),
        ("pipeline = 8", "recipe: pipeline: expected passes as text, got an int"),
        ("[[rule]]\nselect = 'x'\n\nwights = 'i8'",
         "no field 'wights'; did you mean 'weights'?\n  in rule 1, line 4"),
        ("[[rule]]\nselect = 'x'\nweights = 'i8'\n[[rule]]\nselect = 'x'\nweights = 'i9'",
         "expected one of i8, i4, i2, i16, got i9; did you mean 'i8'?\n  in rule 2, line 6"),
        ("rule = [{select = 'x', weights = 'i9'}]", "did you mean 'i8'?\n  in rule 1"),
        ("[[rule]]\nweights = 'i8'", "expected select, the ops that it is for, got none"),
        ("[[rule]]\nselect = ''\nweights = 'i8'", "selectors such as 'op:softmax', got ''"),
        ("[[rule]]\nselect = 'x'", "expected one of activations, weights, per, scheme, method, "),
        ("[[rule]]\nselect = 'x'\nkeep_float = 'yes'", "expected true or false, got yes"),
        ("[[rule]]\nselect =", "recipe: expected TOML: Invalid value"),
        ("a = " + "9" * 5000, "recipe: expected TOML: "),
        ("a = " + "[" * 5000, "recipe: expected TOML: "),
    ],
)  # fmt: skip
def test_a_text_that_is_no_recipe(text: str, error: str) -> None:
    with pytest.raises(QirError) as caught:
        Recipe.parse(text)
    assert error in str(caught.value)


def test_a_file_that_is_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "latin.toml").write_bytes(b"# 1\n# \xff\n")
    with (tmp_path / "huge.toml").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    expected = {
        "latin.toml": "expected TOML in UTF-8",
        "huge.toml": f"expected a file of at most {MOST_BYTES} bytes",
        "none.toml": "No such file or directory",
        ".": "Is a directory",
    }
    for name, error in expected.items():
        with pytest.raises(QirError, match=error):
            Recipe.load(tmp_path / name)
    with pytest.raises(QirError, match="expected text that UTF-8 can hold"):
        Recipe((RecipeRule(select=("\ud800",), weights="i8"),)).save(tmp_path / "recipe.toml")
    with pytest.raises(QirError, match="can't write"):
        Recipe().save(tmp_path / "none" / "recipe.toml")


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (5, "expected a qir.RecipeRule or a dict of its fields, got an int"),
        ({"select": 5, "weights": "i8"}, "expected selectors such as 'op:softmax', got an int"),
        ({"select": [], "weights": "i8"}, "expected selectors such as 'op:softmax', got []"),
        ({"select": "y", "activations": ["i8"]}, "expected one of i8, u8, i16, i4, got [i8]"),
        ({"select": "y", "activations": "i8", "reason": None}, "rule: reason: expected"),
        ({1: 2}, "no field '1'; its fields are select, activations"),
    ],
)
def test_rules_of_another_kind(given: object, error: str) -> None:
    assert error in refusal(given)


def test_a_recipe_of_another_kind() -> None:
    with pytest.raises(QirError, match="the path of a TOML file or a list of rules, got an int"):
        qir.quantize(qir.parse(PROGRAM), [X], recipe=5)


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"select": "densse", "weights": "i4"}, "selector: 'densse' matches nothing in @model"),
        (
            {"select": "dense", "weights": "i4"},
            "matches nothing in @model any more: passes took out 1 op or made it part of others; "
            "did you mean 'scaled', which is computed from it?",
        ),
        (
            {"select": "op:tanh", "weights": "i4"},
            "recipe: weights: expected ops that have it, got op:tanh; it is for scaled",
        ),
        ({"select": "y", "activations": "i4"}, "expected one of i8, u8, i16, float, got i4"),
        ({"select": "y", "method": "mee"}, "did you mean 'mse'?"),
        ({"select": "scaled", "per": "row"}, "per=row gives each term of a sum a scale of its own"),
    ],
)
def test_a_rule_that_can_not_be_followed_is_named(rule: dict[str, Any], error: str) -> None:
    told = refusal(rule)
    assert error in told
    assert f"in rule 1, {RecipeRule.of(rule)}" in told


@pytest.mark.parametrize(
    ("pipeline", "rule", "error"),
    [
        ("w8", {"activations": "i16"}, "expected a pass that codes activations, got activations="),
        ("w8-dynamic", {"method": "mse"}, "method: expected a pipeline with a pass that follows"),
        ("w8-dynamic", {"activations": "i16"}, "expected one of i8, i4, got i16"),
        ("fold", {"keep_float": True}, "keep_float: expected a pipeline with a pass that follows"),
    ],
)
def test_a_rule_that_no_pass_follows(pipeline: str, rule: dict[str, Any], error: str) -> None:
    assert error in refusal({"select": "x", **rule}, pipeline=pipeline)


def test_a_method_needs_data() -> None:
    recipe = [RecipeRule(select=("y",), method="mse")]
    with pytest.raises(QirError, match="expected data for the method of a rule, got none"):
        qir.quantize(qir.parse(PROGRAM), pipeline="w8", recipe=recipe)


def test_what_is_kept_in_floating_point_becomes_no_table() -> None:
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)

    def rounds(x: jax.Array) -> Any:
        return jax.lax.fori_loop(0, 30, lambda _, h: jnp.tanh(h * 1.5), x)

    graph = qir.from_jax(rounds, x)
    kept = qir.quantize(
        graph,
        [x],
        "canonicalize, calibrate, propagate-ranges, quantize, integer",
        recipe=[{"select": "*tanh*", "keep_float": True}],
        accuracy_check=False,
    )
    lines = [
        line for line in qir.explain(kept).lines if "keep_float=true" in map(str, line.choices)
    ]
    assert [(line.op, line.integer) for line in lines] == [("tanh", False)]


def test_of_two_rules_the_later_one_holds() -> None:
    wide = {"select": "*", "activations": "i16", "weights": "i8"}
    graph = quantized(wide, {"select": "y", "activations": "i8"})
    assert graph.value("scaled").type.dtype is qir.DType.I16
    assert graph.value("y.q").type.dtype is qir.DType.I8


@pytest.mark.parametrize("name", ["y", "*"])
def test_a_choice_that_later_rules_make_for_all_is_an_error(name: str) -> None:
    told = refusal({"select": "y", "activations": "i16"}, {"select": name, "activations": "i8"})
    assert told.startswith(
        "recipe: activations of rule 1 is without effect: rule 2 says it for all that it selects; "
        "put it behind, or leave it out\n  in rule 1, y: activations=i16"
    )


@pytest.mark.parametrize("choice", [{"weights": "i4"}, {"per": "tensor"}])
def test_codes_of_weights_that_stay_numbers_are_an_error(choice: dict[str, Any]) -> None:
    told = refusal({"select": "op:dot", **choice}, {"select": "*", "keep_float": True})
    (name,) = choice
    assert told.startswith(
        f"recipe: {name} of rule 1 is without effect: all that it selects stays in floating point"
    )
    assert "in rule 1, op:dot" in told


def test_a_method_changes_ranges_and_not_what_was_observed() -> None:
    contexts = qir.Context(), qir.Context()
    program = qir.parse(PROGRAM)
    recipe = [RecipeRule(select=("x",), method="percentile(percentile=60)")]
    plain = qir.optimize(program, "calibrate", data=[X], context=contexts[0])
    chosen = qir.optimize(program, "calibrate", data=[X], context=contexts[1], recipe=recipe)
    ends = [graph.value("x").observed for graph in (chosen, plain)]
    assert ends[0] is not None
    assert ends[1] is not None
    assert ends[0].bounds[1] < ends[1].bounds[1]
    assert chosen.value("y").observed == plain.value("y").observed
    again = qir.optimize(program, "calibrate", statistics=contexts[1].statistics)
    assert again == plain


def test_explain_has_the_rule_of_every_op() -> None:
    found = qir.explain(
        quantized(
            {"select": "scaled", "weights": "i4", "reason": "small"},
            {"select": "y", "keep_float": True},
            {"select": "x", "activations": "i16"},
        )
    )
    told = {line.value: ", ".join(map(str, line.choices)) for line in found.lines}
    assert told == {"scaled.acc": "weights=i4 (small)", "y": "keep_float=true"}
    lines = str(found).splitlines()
    assert lines[0].endswith("weights=i4 (small)")
    assert lines[2] == "input %x: activations=i16"
    assert lines[3] == (
        "as all, by the options of passes: method=minmax, activations=i8, weights=i8, per=channel, "
        "scheme=affine"
    )
    plain = qir.quantize(qir.parse(PROGRAM), [X], accuracy_check=False)
    assert "as all" not in str(qir.explain(plain))
