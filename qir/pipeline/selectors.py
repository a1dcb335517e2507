"""Selectors: how recipes and commands name parts of a program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase

from qir.errors import QirError, counted, did_you_mean
from qir.ir import Graph, Node, Value
from qir.ir.places import walk_places
from qir.ops.core import Const, Return
from qir.ops.softmax import Exponentials, Softmax

SELECTORS = """\
conv*: ops by the names of their results, or of the imported values that these stand for; inputs of
  the program too in the rules of a recipe, whose names are those of what they give
loop/*: what stands in a loop or branch, by its place, as explain tells it; branch/0/* is in the
  first branch
op:softmax: ops by their own name
loc:*model.py:41*: ops by their place in the model
a selector is a glob: * stands for any text, ? for a letter, [ab] for one of these; one that matches
  nothing is an error with the nearest name. Passes that fold ops into others come first: what is
  gone then has no name any more"""
"""What selectors there are, for whoever writes rules of a recipe or `keep_float` of a pass."""


def select(graph: Graph, selectors: Sequence[str]) -> set[Node]:
    """Returns the nodes that selectors name.

    Args:
        graph: The program.
        selectors: The selectors, as `SELECTORS` has them; a node that any names is selected.

    Raises:
        QirError: A selector matches nothing; the message gives the nearest name.
    """
    places = dict(walk_places(graph))
    nodes = [node for node in places if not isinstance(node.op, Const | Return)]
    chosen: set[Node] = set()
    for selector in selectors:
        kind = next((kind for kind in _KINDS if kind and selector.startswith(kind)), "")
        pattern = selector.removeprefix(kind or "%")
        found = {node for node in nodes if _matches(_names(node, kind), pattern)}
        if not kind:
            found |= {node for node in nodes if _matches(_placed(node, places[node]), pattern)}
            # A value that a pass rescaled stands for no imported one; its name goes on from there.
            found = found or {node for node in _rescaled(nodes) if _matches(_heads(node), pattern)}
        if not found:
            hint = _hint(graph, kind, pattern, nodes)
            raise QirError(f"selector: '{selector}' matches nothing in @{graph.name}{hint}")
        chosen |= found
    return chosen


def select_values(
    graph: Graph, selectors: Sequence[str], earlier: Graph | None = None
) -> dict[Value, None]:
    """Returns what the ops that selectors name compute, in order, and the inputs that they name.

    Args:
        graph: The program.
        selectors: As for `select`; a glob over the names of values is one over inputs too.
        earlier: The program before passes changed it: of a selector that matches there alone, the
            message says what is computed from what it named.

    Raises:
        QirError: A selector matches nothing; the message gives the nearest name.
    """
    chosen: set[Value] = set()
    for selector in selectors:
        pattern = selector.removeprefix("%")
        inputs = {value for value in graph.inputs if _matches(_value_names(value), pattern)}
        nodes = set[Node]()
        try:
            nodes = select(graph, [selector])
        except QirError as error:
            if not inputs and earlier is not None and (hint := _became(graph, selector, earlier)):
                raise QirError(f"selector: '{selector}' {hint}") from error
            if not inputs:
                raise
        chosen |= inputs | {value for node in nodes for value in node.outputs}
    made = (value for node in graph.walk() for value in node.outputs)
    return {value: None for value in (*graph.inputs, *made) if value in chosen}


_KINDS = ("", "op:", "loc:")


def _matches(names: Iterable[str], pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)


def _names(node: Node, kind: str) -> Iterable[str]:
    if kind == "op:":
        return [node.op.name]
    if kind == "loc:":
        return [node.loc or ""]
    return [name for value in node.outputs for name in _value_names(value)]


def _placed(node: Node, around: str) -> Iterable[str]:
    return [f"{around}{value.name}" for value in node.outputs if around]


def _rescaled(nodes: Sequence[Node]) -> Iterable[Node]:
    """Returns the nodes that stand for nothing imported, in a program of which others do."""
    values = {node: node.outputs for node in nodes if node.outputs}
    if not any(value.origin for outputs in values.values() for value in outputs):
        return ()
    return (node for node, outputs in values.items() if not any(one.origin for one in outputs))


def _heads(node: Node) -> Iterable[str]:
    return [value.name.rpartition(".")[0] for value in node.outputs]


def _became(graph: Graph, selector: str, earlier: Graph) -> str:
    """Returns what passes made of what a selector names in an earlier program; empty if nothing."""
    try:
        gone = select_values(earlier, [selector])
    except QirError:
        return ""
    made = (node.outputs for node in graph.walk() if not isinstance(node.op, Const))
    now = {name: value for outputs in made for value in outputs for name in _value_names(value)}
    later = [value for node in earlier.walk() for value in node.outputs]
    behind = set(gone)
    for value in later:
        if behind.intersection(value.inputs):
            behind.add(value)
            if known := next((now[name] for name in _value_names(value) if name in now), None):
                near = f"; did you mean '{known.name}', which is computed from it?"
                break
    else:
        near = ""
    what = counted(len(gone), "op")
    return (
        f"matches nothing in @{graph.name} any more: passes took out {what} or made it part of "
        f"others{near}"
    )


def _value_names(value: Value) -> tuple[str, ...]:
    return value.name, *value.origin


def _hint(graph: Graph, kind: str, pattern: str, nodes: Sequence[Node]) -> str:
    if not kind and (hint := _hint_of_leaf(graph, pattern)):
        return hint
    divided = [node for node in nodes if isinstance(node.op, Exponentials)]
    if kind == "op:" and divided and fnmatchcase(Softmax.name, pattern):
        name = divided[0].op.name
        return f"; did you mean 'op:{name}', a softmax whose products are divided behind it?"
    for other in _KINDS:
        if any(_matches(_names(node, other), pattern) for node in nodes):
            return f"; did you mean '{other}{pattern}'?"
    if kind == "loc:" and any(_matches(_names(node, kind), f"*{pattern}*") for node in nodes):
        return f"; did you mean 'loc:*{pattern.strip('*')}*'?"
    head, colon, rest = pattern.partition(":")
    if not kind and colon and (near := did_you_mean(head, ["op", "loc"])):
        return near.replace("'?", f":{rest}'?")
    names = sorted({name for node in nodes for name in _names(node, kind) if name})
    near = did_you_mean(pattern, names) or _nearest_part(pattern, names)
    if near:
        return near.replace("'", f"'{kind}", 1)
    what = {"": "values", "op:": "ops", "loc:": "places"}[kind]
    few = ", ".join(names[:_FEW]) or "none"
    return f"; its {what} are {few}" + (f" and {len(names) - _FEW} more" if names[_FEW:] else "")


_FEW = 5


def _hint_of_leaf(graph: Graph, pattern: str) -> str:
    """Returns which op reads the input or constant that a pattern names, which is no op itself."""
    constants = [node.output for node in graph.walk() if isinstance(node.op, Const)]
    for value in (*graph.inputs, *constants):
        if _matches(_value_names(value), pattern):
            what = "a constant" if value.is_constant else "an input"
            readers = (node for node in graph.walk() if value in node.inputs and node.outputs)
            reader = next(readers, None)
            near = f"; did you mean '{reader.outputs[0].name}', which reads it?" if reader else ""
            return f"; %{value.name} is {what}{near}"
    return ""


def _nearest_part(pattern: str, names: Sequence[str]) -> str:
    """Returns a hint at a name of which a part is nearest to what a glob spells out."""
    spelled = pattern.strip("*?")
    parts = {part: name for name in reversed(names) for part in _parts(name, len(spelled))}
    near = get_close_matches(spelled, list(parts), n=1, cutoff=0.6)
    return f"; did you mean '{parts[near[0]]}'?" if near else ""


def _parts(name: str, length: int) -> Iterable[str]:
    return {name[word.start() : word.start() + length] for word in re.finditer(r"\w+", name)}
