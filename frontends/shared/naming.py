"""Names that a reader knows: of layers, of weights, of ops within a scope."""

from __future__ import annotations

import re
from collections.abc import Collection

from qir.frontends.shared.locations import scope_in
from qir.ir import Graph, Node, Value
from qir.ir.names import Namespace
from qir.ir.passages import passing as passing_of
from qir.ir.weight_names import layer_of
from qir.ops import Add, Const, Mul, Return
from qir.ops.op import Op, operand_names
from qir.ops.regions import Kind
from qir.ops.rules import Accumulate

_ROLES: dict[type[Op], str] = {Add: "offset", Mul: "factor"}
"""What a constant operand of an op is called, where the type rule's own word says less."""

_OUTSIDE: dict[Kind, str] = {"invariant": "given", "carried": "start", "stacked": "parts"}
_INSIDE: dict[Kind, str] = {"invariant": "given", "carried": "carry", "stacked": "part"}
"""What goes through a loop or branch is called, where nothing else tells of it."""


def identifier(text: str, default: str) -> str:
    """Makes a name of any text; the default where nothing is left."""
    cleaned = re.sub(r"[^\w.\-]+", "_", text).strip("_.-")
    return cleaned or default


def dotted(source: str, default: str) -> str:
    """Makes a name of a path that the source spells with `.`, `/` or `::`: `block/conv::0`."""
    parts = (identifier(part, "") for part in re.split(r"\.|/|::", source))
    return ".".join(filter(None, parts)) or default


def name_values(graph: Graph, weights: Collection[str]) -> None:
    """Names the values of a graph: layers after their weights, other ops after their scope.

    Values that neither has a name for are called like their op, and counted. What a loop or branch
    runs is called after it, `loop.op`, but for layers and weights; no two values of a program have
    one name.

    Args:
        graph: The graph.
        weights: The names of the source's own arrays.
    """
    names = _Names(graph, weights)
    by_graph: dict[Graph, dict[Value, str]] = {}
    for value, name in names.chosen.items():
        by_graph.setdefault(value.owner, {})[value] = name
    for part, chosen in by_graph.items():
        part.rename_all(chosen)
    for value in names.chosen:
        value.named = value in names.told


class _Names:
    """Chooses a name for each result of a node, and for what regions take.

    Attributes:
        chosen: The names.
        told: The values whose names say more than the op's.
        loops: The node that runs each region.
    """

    def __init__(self, graph: Graph, weights: Collection[str]) -> None:
        self.names: Namespace[Value] = Namespace()
        for value in graph.inputs:
            self.names.add(value.name, value)
        self.root = self.common_root(graph)
        self.chosen: dict[Value, str] = {}
        self.told: set[Value] = set()
        nodes = [node for node in graph.walk() if node.outputs]
        self.loops = {region: node for node in nodes for region in node.regions}
        for node in nodes:
            if isinstance(node.op, Const) and node.output.named:
                # A number that no weight has counts the arrays that merging and moving left behind.
                name = node.output.name
                self.choose(node, name if name in weights else re.sub(r"_\d+$", "", name), True)
        for node in nodes:
            if not isinstance(node.op, Const):
                name = self.layer(node) or self.within(node, node.op.name)
                self.choose(node, name, name != node.op.name)
                self.inputs(node)
        for node in nodes:
            if node.outputs[0] not in self.chosen:
                self.choose(node, self.constant(node), False)

    def inputs(self, node: Node) -> None:
        """Names what the regions of a node take."""
        for passing in passing_of(node):
            for value in passing.inputs:
                name = f"{self.chosen[node.outputs[0]]}.{_INSIDE[passing.passage.kind]}"
                self.chosen[value] = self.names.add(name, value)

    def within(self, node: Node, name: str) -> str:
        """Returns a name within the scope of a node, and within the loop that runs it."""
        loop = self.loops.get(node.graph)
        if loop is None:
            return ".".join(self.scope(node, name))
        inner, outer = self.scope(node, name), self.scope(loop)
        if inner[: len(outer)] == outer:
            inner = inner[len(outer) :]
        return ".".join((self.chosen[loop.outputs[0]], *inner))

    def choose(self, node: Node, name: str, told: bool) -> None:
        for value in node.outputs:
            self.chosen[value] = self.names.add(name, value)
            if told:
                self.told.add(value)

    def common_root(self, graph: Graph) -> str | None:
        """The outermost scope, where it is the model itself: around other scopes, or everything."""
        scopes = [scope_in(node.loc) for node in graph.nodes if node.outputs]
        roots = {scope[0] for scope in scopes if scope}
        is_model = all(scopes) or any(len(scope) > 1 for scope in scopes)
        return roots.pop() if len(roots) == 1 and is_model else None

    def scope(self, node: Node, *inner: str) -> tuple[str, ...]:
        scope = scope_in(node.loc)
        if scope[:1] == (self.root,):
            scope = scope[1:]
        return (*(identifier(part, "scope") for part in scope), *inner)

    def layer(self, node: Node) -> str | None:
        """The layer that the weights of a convolution, matrix product or affine belong to."""
        rule = node.op.quant
        if isinstance(rule, Accumulate):
            return _layer(node.inputs[rule.right])
        if isinstance(node.op, Add | Mul) and (layer := _layer(node.inputs[1])):
            return f"{layer}.{node.op.name}"
        return None

    def constant(self, node: Node) -> str:
        """What an array without a name is to the first op that reads it."""
        user, index = next(iter(node.outputs[0].uses))
        if isinstance(user.op, Return):
            return self.within(node, "const")
        for passing in passing_of(user):
            if passing.passage.operand == index:
                return f"{self.chosen[user.outputs[0]]}.{_OUTSIDE[passing.passage.kind]}"
        operands = operand_names(type(user.op))
        role = _ROLES.get(type(user.op)) or operands[min(index, len(operands) - 1)]
        return f"{self.chosen[user.outputs[0]]}.{role}"


def _layer(value: Value) -> str | None:
    layer = layer_of(value.name) if value.is_constant and value.named else None
    return identifier(layer, "") or None if layer else None
