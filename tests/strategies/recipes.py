"""Recipes for a program: rules that give some of its ops other codes, or keep them float."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

import qir
from qir.ir import Graph, Node, Value
from qir.ops import Const, Embedding, Return
from qir.ops.rules import Accumulate
from qir.passes.quantize.quantize import QuantizePass
from qir.passes.quantize.quantize_dynamic import QuantizeDynamicPass
from qir.pipeline import PIPELINES, RecipeRule
from tests.strategies.base import Draw
from tests.strategies.pipelines import legal

WIDTHS = ("i8", "i16", "i16", "u8")
"""Storages of activations; what is written twice comes as often."""


@st.composite
def recipes(draw: Draw, graph: Graph, pipeline: str) -> tuple[RecipeRule, ...]:
    """Draws up to five rules, those for many ops before those for one, so that few are shadowed.

    Args:
        draw: Given by hypothesis.
        graph: The float program.
        pipeline: The one that quantizes it: a rule is of what a pass of it follows.
    """
    # Of what is folded away most rules are refused, and refusals all look alike.
    shown = qir.optimize(graph, "fold") if draw(st.integers(0, 9)) else graph
    passes = PIPELINES.get(pipeline, pipeline)
    dynamic, coded = "dynamic" in passes, "activations=float" not in passes
    computed = [node for node in shown.walk() if not isinstance(node.op, Const | Return)]
    weighed = [node for node in computed if _has_weights(node)]
    sums = [(node, rule) for node in computed if isinstance(rule := node.op.quant, Accumulate)]
    if dynamic:
        activations = [node.inputs[rule.left] for node, rule in sums]
    else:
        activations = [*shown.inputs, *(value for node in computed for value in node.outputs)]
    activations = [one for one in activations if one.type.is_float and not one.is_constant]
    kinds = ["keep_float"] * bool(computed) + ["weights"] * bool(weighed)
    kinds += ["activations"] * (4 if activations and coded else 0)
    found: dict[tuple[str, str], RecipeRule] = {}
    for _ in range(draw(st.integers(1, 5)) if kinds else 0):
        kind = draw(st.sampled_from(kinds))
        choices: dict[str, Any] = {kind: draw(st.sampled_from([True, True, False]))}
        if kind == "activations":
            choices[kind] = draw(st.sampled_from(("i8", "i4") if dynamic else WIDTHS))
            value = draw(st.sampled_from(activations))
        else:
            value = draw(st.sampled_from(weighed if kind == "weights" else computed)).outputs[0]
        if kind == "weights":
            choices = draw(_codings(dynamic, coded))
        selector = _selector(draw, value)
        found[kind, selector] = RecipeRule(select=(selector,), reason="drawn", **choices)
    return tuple(sorted(found.values(), key=lambda rule: _breadth(rule.select[0])))


@st.composite
def _codings(draw: Draw, dynamic: bool, coded: bool) -> dict[str, str]:
    """Draws a width, a granularity and a scheme that have a meaning together."""
    options = legal(QuantizeDynamicPass if dynamic else QuantizePass)
    options = [one for one in options if (one.activations != "float") is coded]
    scheme = draw(st.sampled_from(sorted({one.scheme for one in options})))
    one = draw(st.sampled_from([one for one in options if one.scheme == scheme]))
    return {"weights": one.weights, "per": one.per, "scheme": one.scheme}


def _selector(draw: Draw, value: Value) -> str:
    """Draws a selector of a value: of it alone most often, or of all of its kind, or of all."""
    forms = [value.name, value.name, value.name]
    if value.op is not None:
        forms += [f"op:{value.op.name}", "op:*"]
    return draw(st.sampled_from(forms))


def _breadth(selector: str) -> int:
    """Returns 0 for a selector of all ops, 1 for one of a kind, 2 for one of a value."""
    return 0 if selector == "op:*" else 1 if selector.startswith("op:") else 2


def _has_weights(node: Node) -> bool:
    rule = node.op.quant
    if isinstance(node.op, Embedding):
        return node.inputs[0].is_constant
    return isinstance(rule, Accumulate) and node.inputs[rule.right].is_constant
