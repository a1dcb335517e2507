"""What the rules of a recipe choose for the values and ops of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from qir.ir import Graph, Node, Value
from qir.ops import Const, Embedding, Return
from qir.ops.rules import Accumulate, SameCode
from qir.passes.shared.weight_codes import WeightCoding
from qir.pipeline.recipes import Effective, Recipe
from qir.types import DType

OF_WEIGHTS = ("weights", "per", "scheme")
"""The choices that are about an op's weights."""

OF_CODES = ("activations", *OF_WEIGHTS, "keep_float")
"""The choices that are made where values get codes."""


@dataclass
class ChosenCodes:
    """What is chosen for some values and ops, by selectors, otherwise than for all.

    Attributes:
        storages: The storage of values.
        codings: The codes of the weights of ops.
        kept: The ops that stay in floating point, and those in the regions of such.
    """

    storages: dict[Value, DType] = field(default_factory=dict)
    codings: dict[Node, WeightCoding] = field(default_factory=dict)
    kept: set[Node] = field(default_factory=set)

    @staticmethod
    def of(
        graph: Graph,
        recipe: Recipe | None,
        kept: set[Node],
        coding_of: Callable[[Mapping[str, Any]], WeightCoding],
    ) -> ChosenCodes:
        """Finds what a recipe chooses, and tells it on the graph.

        Args:
            graph: A float program.
            recipe: The recipe, or None.
            kept: The ops that stay in floating point whatever a recipe says.
            coding_of: Returns the codes of weights for what is chosen of them, or raises QirError.

        Raises:
            QirError: A rule is without use, or can't be followed.
        """
        found = ChosenCodes(kept=set(kept))
        if recipe is None:
            return found
        resolved = recipe.resolve(graph, OF_CODES, _serves)
        for value, effective in resolved.items():
            found._take(value, effective, coding_of)
        found._spread(graph)
        tell(graph, resolved)
        return found

    def _take(
        self,
        value: Value,
        effective: Effective,
        coding_of: Callable[[Mapping[str, Any]], WeightCoding],
    ) -> None:
        node = value.node
        if (storage := effective.get("activations")) is not None:
            self.storages[value] = DType(storage)
        if node is None:
            return
        wanted = {name: effective.get(name) for name in OF_WEIGHTS}
        wanted = {name: choice for name, choice in wanted.items() if choice is not None}
        if wanted:
            self.codings[node] = coding_of(wanted)
        if (keep := effective.get("keep_float")) is not None:
            inside = [inner for region in node.regions for inner in region.walk()]
            (self.kept.update if keep else self.kept.difference_update)((node, *inside))

    def _spread(self, graph: Graph) -> None:
        """Gives what only moves numbers, which have one code, the widest storage chosen for it."""
        moves = [node for node in graph.walk() if _keeps_code(node)]
        changed = True
        while changed:
            changed = False
            for node in moves:
                group = [value for value in (*node.inputs, *node.outputs) if value.type.is_float]
                known = [self.storages[value] for value in group if value in self.storages]
                widest = max(known, key=lambda storage: storage.bits, default=None)
                if widest is None:
                    continue
                for value in group:
                    if not value.is_constant and self.storages.get(value) is not widest:
                        self.storages[value] = widest
                        changed = True

    def copy_to(self, region: Graph, twin: Graph) -> None:
        """Chooses for a copy of a region what is chosen for the region."""
        for old, new in zip(region.values(), twin.values(), strict=True):
            if old in self.storages:
                self.storages[new] = self.storages[old]
        for node, copy in zip(region.walk(), twin.walk(), strict=True):
            if node in self.codings:
                self.codings[copy] = self.codings[node]
            if node in self.kept:
                self.kept.add(copy)


def tell(graph: Graph, resolved: Mapping[Value, Effective]) -> None:
    """Keeps on a graph what is chosen, by the names of imported values, for `qir.explain`."""
    choices = dict(graph.choices)
    for value, effective in resolved.items():
        for name in value.origin or (value.name,):
            choices[name] = (*choices.get(name, ()), *effective.told)
    graph.choices = choices


def _keeps_code(node: Node) -> bool:
    return isinstance(node.op.quant, SameCode) and not node.regions


def _serves(name: str, value: Value) -> bool:
    """Whether a choice can mean something for a value and the op that computes it."""
    node = value.node
    if name == "activations":
        return value.type.is_float
    if node is None or isinstance(node.op, Const | Return):
        return False
    if name == "keep_float":
        return True
    rule = node.op.quant
    if isinstance(node.op, Embedding):
        return node.inputs[0].is_constant
    return isinstance(rule, Accumulate) and node.inputs[rule.right].is_constant
