"""What the rules of a recipe choose for the values and ops of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from qir.errors import QirError
from qir.ir import OF_ALL, ChosenOption, Graph, Node, Value
from qir.ir.passages import passing
from qir.ops import Const, Embedding, Return
from qir.ops.rules import Accumulate, SameCode
from qir.passes.shared.weight_codes import WeightCoding
from qir.pipeline import Context, Pass
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
        asked: That which a rule chooses for a value itself.
        codings: The codes of the weights of ops.
        kept: The ops that stay in floating point, and those in the regions of such.
    """

    storages: dict[Value, DType] = field(default_factory=dict)
    asked: dict[Value, DType] = field(default_factory=dict)
    codings: dict[Node, WeightCoding] = field(default_factory=dict)
    kept: set[Node] = field(default_factory=set)

    @staticmethod
    def of(
        graph: Graph,
        context: Context,
        kept: set[Node],
        *,
        storage_of: Callable[[str], DType] = DType,
        coding_of: Callable[[Mapping[str, Any]], WeightCoding] | None = None,
        serves: Callable[[str, Value], bool] | None = None,
        names: Sequence[str] = OF_CODES,
    ) -> ChosenCodes:
        """Finds what the recipe of a context chooses, and tells it on the graph.

        Args:
            graph: A float program.
            context: What the pass was given.
            kept: The ops that stay in floating point whatever a recipe says.
            storage_of: Returns the storage for what is chosen of a value, or raises QirError.
            coding_of: Returns the codes of weights for what is chosen of them, or raises QirError.
            serves: Whether a choice can mean something for a value and the op that computes it; as
                pass quantize has it by default.
            names: The choices that the pass follows.

        Raises:
            QirError: A rule is without use, or can't be followed.
        """
        found, recipe = ChosenCodes(kept=set(kept)), context.recipe
        if recipe is None:
            return found
        resolved = recipe.resolve(graph, names, serves or serves_codes, context.reference)
        keeping: dict[int, list[tuple[Node, bool]]] = {}
        for value, effective in resolved.items():
            if (storage := effective.get("activations")) is not None:
                with recipe.placed(*effective.only(["activations"]).rules):
                    found.storages[value] = storage_of(storage)
            if value.node is None:
                continue
            of_weights = effective.only(OF_WEIGHTS)
            if of_weights.choices and coding_of is not None:
                with recipe.placed(*of_weights.rules):
                    found.codings[value.node] = coding_of(of_weights.values)
            if (keep := effective.get("keep_float")) is not None:
                index = recipe.index(effective.only(["keep_float"]).rules[0])
                keeping.setdefault(index, []).append((value.node, keep))
        for _, nodes in sorted(keeping.items()):
            for node, keep in nodes:
                inside = [inner for region in node.regions for inner in region.walk()]
                (found.kept.update if keep else found.kept.difference_update)((node, *inside))
        found.expect_read(recipe, resolved)
        found.asked = dict(found.storages)
        tell(graph, resolved)
        return found

    def expect_read(self, recipe: Recipe, resolved: Mapping[Value, Effective]) -> None:
        """Raises QirError where a rule is about weights of ops that all stay in floating point."""
        nodes: dict[int, list[Node]] = {}
        for value, effective in resolved.items():
            for rule in effective.only(OF_WEIGHTS).rules:
                if value.node is not None:
                    nodes.setdefault(recipe.index(rule), []).append(value.node)
        for index, chosen in nodes.items():
            if self.kept.issuperset(chosen):
                rule = recipe.rules[index]
                name = next(name for name in OF_WEIGHTS if name in rule.choices)
                with recipe.placed(rule):
                    raise QirError(
                        f"recipe: {name} of rule {index + 1} is without effect: all that it "
                        "selects stays in floating point; leave it out, or end it by a later "
                        "rule of keep_float=false"
                    )

    def spread(self, graph: Graph, storage: DType) -> None:
        """Gives what has one code with a value for which more bits are chosen as many.

        What is only moved has one code, and what is on its way through a loop or branch; where less
        is chosen for some of it by a rule of its own, it is rounded once more.

        Args:
            graph: The float program.
            storage: That of all other values.
        """
        nodes = list(graph.walk())
        groups = [(*node.inputs, *node.outputs) for node in nodes if _keeps_code(node)]
        groups += [one.values for node in nodes if node.regions for one in passing(node)]
        changed = True
        while changed:
            changed = False
            for group in groups:
                known = [self.storages[value] for value in group if value in self.storages]
                widest = max(known, key=lambda each: each.bits, default=storage)
                if widest.bits <= storage.bits:
                    continue
                for value in group:
                    free = value not in self.asked and self.storages.get(value) is not widest
                    if free and value.type.is_float and not value.is_constant:
                        self.storages[value] = widest
                        changed = True

    def copy_to(self, region: Graph, twin: Graph) -> None:
        """Chooses for a copy of a region what is chosen for the region."""
        for old, new in zip(region.values_inside(), twin.values_inside(), strict=True):
            if old in self.storages:
                self.storages[new] = self.storages[old]
            if old in self.asked:
                self.asked[new] = self.asked[old]
        for node, copy in zip(region.walk(), twin.walk(), strict=True):
            if node in self.codings:
                self.codings[copy] = self.codings[node]
            if node in self.kept:
                self.kept.add(copy)


def fine_values(graph: Graph, context: Context) -> set[Value]:
    """Returns the values for which a recipe chooses more than 8 bits.

    Where a rule can't be followed there are none: it is for the pass that gives codes to say so.

    Args:
        graph: A program that is not quantized yet.
        context: What the pass was given.
    """
    if context.recipe is None:
        return set()
    try:
        found = context.recipe.resolve(graph, ["activations"])
    except QirError:
        return set()
    return {value for value, each in found.items() if DType(each.get("activations")).bits > 8}


def tell_of_all(graph: Graph, options: Pass, names: Sequence[str]) -> None:
    """Keeps on a graph what the options of a pass say of all that no rule is about.

    Args:
        graph: The program.
        options: The pass.
        names: The kinds of choices that it follows; those that it has no option for are left out.
    """
    found = {name: getattr(options, name, None) for name in names if name != "keep_float"}
    told = tuple(ChosenOption(f"{name}={value}") for name, value in found.items() if value)
    graph.choices = {**graph.choices, OF_ALL: (*graph.choices.get(OF_ALL, ()), *told)}


def tell(graph: Graph, resolved: Mapping[Value, Effective]) -> None:
    """Keeps on a graph what is chosen, by the names of imported values, for `qir.explain`."""
    choices = dict(graph.choices)
    for value, effective in resolved.items():
        for name in value.origin or (value.name,):
            choices[name] = (*choices.get(name, ()), *effective.told)
    graph.choices = choices


def _keeps_code(node: Node) -> bool:
    return isinstance(node.op.quant, SameCode) and not node.regions


def serves_codes(name: str, value: Value) -> bool:
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
