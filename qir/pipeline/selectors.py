"""Selectors: how recipes and commands name parts of a program."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from qir.errors import QirError, did_you_mean
from qir.ir import Graph, Node
from qir.ops.core import Const, Return


def select(graph: Graph, selectors: Sequence[str]) -> set[Node]:
    """Returns the nodes that selectors name.

    A selector is a glob over the names of values (and of the imported values they stand for), `op:`
    and a glob over op names, or `loc:` and a glob over locations, such as `conv*`, `op:softmax` or
    `loc:*model.py:41*`.

    Args:
        graph: The program.
        selectors: The selectors; a node that any of them names is selected.

    Raises:
        QirError: A selector matches nothing; the message gives the nearest name.
    """
    nodes = [node for node in graph.walk() if not isinstance(node.op, Const | Return)]
    chosen: set[Node] = set()
    for selector in selectors:
        kind = next((kind for kind in ("op:", "loc:") if selector.startswith(kind)), "")
        pattern = selector.removeprefix(kind)
        found = {
            node for node in nodes if any(fnmatchcase(name, pattern) for name in _names(node, kind))
        }
        if not found:
            hint = _hint(kind, pattern, nodes)
            raise QirError(f"selector: '{selector}' matches nothing in @{graph.name}{hint}")
        chosen |= found
    return chosen


def _names(node: Node, kind: str) -> Iterable[str]:
    if kind == "op:":
        return [node.op.name]
    if kind == "loc:":
        return [node.loc or ""]
    return [name for value in node.outputs for name in (value.name, *value.origin)]


def _hint(kind: str, pattern: str, nodes: Sequence[Node]) -> str:
    ops = sorted({node.op.name for node in nodes})
    if not kind and pattern in ops:
        return f"; did you mean 'op:{pattern}'?"
    near = did_you_mean(pattern, sorted({name for node in nodes for name in _names(node, kind)}))
    if kind == "op:" and not near:
        return f"; its ops are {', '.join(ops) or 'none'}"
    return near.replace("'", f"'{kind}", 1)
