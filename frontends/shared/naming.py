"""Names that a reader knows: of layers, of weights, of ops within a scope."""

from __future__ import annotations

import re
from collections.abc import Collection

from qir.frontends.shared.locations import scope_in
from qir.frontends.shared.weight_names import layer_of
from qir.ir import Graph, Node, Value
from qir.ops import Add, Const, Mul, Return
from qir.ops.op import Accumulate, Op, operand_names

_ROLES: dict[type[Op], str] = {Add: "offset", Mul: "factor"}
"""What a constant operand of an op is called, where the type rule's own word says less."""


def identifier(text: str, default: str) -> str:
    """Makes a name of any text; the default where nothing is left."""
    cleaned = re.sub(r"[^\w.\-]+", "_", text).strip("_.-")
    return cleaned or default


def dotted(text: str, default: str) -> str:
    """Makes a name of a path that the source spells with `/` or `::`, such as `block/conv::0`."""
    return identifier(re.sub(r"(/|::)+", ".", text), default)


def renamed(graph: Graph, weights: Collection[str]) -> Graph:
    """Copies a graph, naming its values: layers after their weights, other ops after their scope.

    Values that neither has a name for are called like their op, and counted.

    Args:
        graph: The graph.
        weights: The names of the source's own arrays.
    """
    names = _Names(graph, weights)
    copy = Graph(graph.name)
    mapping: dict[Value, Value] = {}
    for value in graph.inputs:
        mapping[value] = copy.add_input(value.name, value.type)
    for node in graph.nodes:
        if isinstance(node.op, Return):
            continue
        op = node.op
        if isinstance(op, Const):
            symbol = copy.add_constant(names.chosen[node][0], graph.constants[op.symbol])
            op = Const(symbol, op.type)
        name, is_chosen = names.chosen[node]
        types = [value.type for value in node.outputs]
        twin = copy.insert(
            Node(copy, op, [mapping[value] for value in node.inputs], types, (), node.loc),
            name=name,
        )
        for value, new in zip(node.outputs, twin.outputs, strict=True):
            new.named = is_chosen
            mapping[value] = new
    copy.set_outputs([mapping[value] for value in graph.outputs])
    return copy


class _Names:
    """Chooses a name for each node, and says whether it is more than the op's."""

    def __init__(self, graph: Graph, weights: Collection[str]) -> None:
        self.taken = {value.name for value in graph.inputs}
        self.counts: dict[str, int] = {}
        self.root = self.common_root(graph)
        self.chosen: dict[Node, tuple[str, bool]] = {}
        nodes = [node for node in graph.nodes if node.outputs]
        for node in nodes:
            if isinstance(node.op, Const) and node.outputs[0].named:
                # A number that no weight has counts the arrays that merging and moving left behind.
                name = str(node.op.symbol)
                name = name if name in weights else re.sub(r"_\d+$", "", name)
                self.chosen[node] = self.fresh(name), True
        for node in nodes:
            if not isinstance(node.op, Const):
                name = self.layer(node) or ".".join(self.scope(node, node.op.name))
                self.chosen[node] = self.fresh(name), name != node.op.name
        for node in nodes:
            if node not in self.chosen:
                self.chosen[node] = self.fresh(self.constant(node)), False

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
            return "const"
        operands = operand_names(type(user.op))
        role = _ROLES.get(type(user.op)) or operands[min(index, len(operands) - 1)]
        return f"{self.chosen[user][0]}.{role}"

    def fresh(self, name: str) -> str:
        fresh, count = name, self.counts.get(name, 0)
        while fresh in self.taken:
            count += 1
            fresh = f"{name}_{count}"
        self.counts[name] = count
        self.taken.add(fresh)
        return fresh


def _layer(value: Value) -> str | None:
    layer = layer_of(value.name) if value.is_constant and value.named else None
    return identifier(layer, "") or None if layer else None
