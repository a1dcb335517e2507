"""The units of choice: what one rule of a recipe gives more bits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from typing import Literal

import networkx as nx

from qir.analysis.simulation import Simulation
from qir.analysis.sites import Site
from qir.ir import Graph, Value
from qir.ir.passages import passing
from qir.ir.places import placed_name, walk_places
from qir.ops import Const, Embedding, ExpBelowMax, Recode, Return
from qir.ops.op import Op
from qir.ops.rules import Accumulate, SameCode
from qir.pipeline.recipes import RecipeRule
from qir.types import Array, Dim

WIDE = 2**16 - 1
"""Steps of a code of 16 bits."""

HEADROOM = 2
"""How far pass quantize lets a code of 16 bits for activations reach beyond their range."""

_FORM = re.compile(r"^(?P<name>.+)\.(q|acc|wide|real)(_\d+)?$")
"""What pass quantize calls the forms of a value."""


@dataclass(frozen=True, eq=False)
class Unit:
    """What gets more bits together, by one rule.

    Attributes:
        kind: Whether it is the results of ops, or their weights.
        names: What the rule selects: values of the program before pass quantize.
        sites: Where the program with codes rounds to 8 bits or fewer for it.
        values: How many tensors are stored in more bits.
        size: How many numbers they hold for each sample; of a named dimension one.
    """

    kind: Literal["activations", "weights"]
    names: tuple[str, ...]
    sites: tuple[Site, ...]
    values: int
    size: int

    @property
    def key(self) -> str:
        """The name by which it is kept and told."""
        return f"%{self.names[0]}" if self.kind == "activations" else f"weights of %{self.names[0]}"

    def rule(self, reason: str, per: str | None = None) -> RecipeRule:
        """Returns the rule that gives it 16 bits.

        Args:
            reason: Why.
            per: What of weights gets a scale of its own; None for what the pipeline says.
        """
        select = tuple(map(escape, self.names))
        if self.kind == "weights":
            return RecipeRule(select=select, weights="i16", per=per, reason=reason)
        return RecipeRule(select=select, activations="i16", reason=reason)

    def widened(self) -> dict[Site, tuple[float, float, float]]:
        """Returns what a simulation takes for its sites where it has 16 bits."""
        room = HEADROOM if self.kind == "activations" else 1
        found = {}
        for site in self.sites:
            _, low, high = site.numbers
            found[site] = room * (high - low) / WIDE, room * low, room * high
        return found


def known_weights(ranged: Graph, program: Graph) -> dict[Value, Array]:
    """Returns the real numbers of weights and of the biases beside them, outside of regions.

    Args:
        ranged: The float program as it was before pass quantize.
        program: What the pass made of it.
    """
    before = {value.name: value for value in ranged.values()}
    found: dict[Value, Array] = {}
    for node in program.nodes:
        rule, place = node.op.quant, _place_of_weights(node.op)
        if place is None or not _is_coded(kernel := node.inputs[place]):
            continue
        old = _stood_for(node.output.name, before)
        if old is None or old.op is None or type(old.op) is not type(node.op):
            continue
        weights = old.inputs[place]
        if not weights.is_constant or weights.type.shape != kernel.type.shape:
            continue
        if not weights.type.is_float or found.get(kernel, weights.array) is not weights.array:
            continue
        found[kernel] = weights.array
        if isinstance(rule, Accumulate) and len(node.inputs) > rule.bias:
            bias = node.inputs[rule.bias]
            given = old.inputs[rule.bias :]
            if all(value.is_constant and value.type.is_float for value in given):
                found[bias] = given[0].array if given else 0 * bias.real
    return found


def find_units(ranged: Graph, program: Graph, simulation: Simulation) -> list[Unit]:
    """Returns the units of a program, in order.

    Args:
        ranged: The float program as it was before pass quantize, whose values rules name.
        program: What the pass made of it.
        simulation: The twin of that, with `known_weights`.
    """
    return [
        *_activations(ranged, program, simulation),
        *_weights(ranged, simulation),
    ]


def _activations(ranged: Graph, program: Graph, simulation: Simulation) -> Iterable[Unit]:
    named = _placed_values(ranged)
    one_code: nx.Graph[Value] = nx.Graph()
    one_code.add_nodes_from(value for value in named.values() if value.type.is_float)
    for node in ranged.walk():
        if isinstance(node.op.quant, SameCode) and not node.regions:
            group = [value for value in (*node.inputs, *node.outputs) if value in one_code]
            nx.add_path(one_code, group)
    together = one_code.copy()
    for group in _selected_together(one_code).values():
        nx.add_path(together, group)
    # What goes through loops and branches has one code on its way, which no rule changes.
    tied = {value for node in ranged.walk() for passed in passing(node) for value in passed.values}
    sites: dict[Value, list[Site]] = {}
    for site in simulation.sites:
        value = _stood_for(_name_of_form(site), named)
        if value is not None and not site.value.is_constant and site.code.storage.bits <= 8:
            sites.setdefault(value, []).append(site)
    stored: dict[Value, list[Value]] = {}
    for name, value in _placed_values(program).items():
        old = _stood_for(name, named)
        if old is not None and value.type.quant is not None and value.type.dtype.bits <= 8:
            stored.setdefault(old, []).append(value)
    order = {value: index for index, value in enumerate(named.values())}
    groups = [sorted(group, key=order.__getitem__) for group in nx.connected_components(together)]
    for group in sorted(groups, key=lambda group: order[group[0]]):
        own = [site for value in group for site in sites.get(value, ())]
        if not own or tied.intersection(group):
            continue
        if any(isinstance(value.op, ExpBelowMax) for value in group):
            continue
        kept = [value for member in group for value in stored.get(member, ())]
        yield Unit(
            "activations",
            _selectors(group, one_code),
            tuple(own),
            len(kept),
            sum(map(numbers_of_sample, kept)),
        )


def _weights(ranged: Graph, simulation: Simulation) -> Iterable[Unit]:
    before = {value.name: value for value in ranged.values()}
    readers: nx.Graph[Value] = nx.Graph()
    sites: dict[Value, Site] = {}
    for site in simulation.sites:
        if not site.value.is_constant or site.code.storage.bits > 8:
            continue
        for node in site.value.users:
            value = _stood_for(node.output.name, before)
            if value is not None:
                readers.add_node(value)
                sites[value] = site
    together = readers.copy()
    for group in _selected_together(readers).values():
        nx.add_path(together, group)
    by_site: dict[Site, Value] = {}
    for value, site in sites.items():
        together.add_edge(by_site.setdefault(site, value), value)
    for component in nx.connected_components(together):
        group = [value for value in sites if value in component]
        own = tuple(dict.fromkeys(sites[value] for value in group))
        size = sum(numbers_of_sample(site.value) for site in own)
        yield Unit("weights", _selectors(group, readers), own, len(own), size)


def _placed_values(graph: Graph) -> dict[str, Value]:
    found = {value.name: value for value in graph.inputs}
    for node, around in walk_places(graph):
        if not isinstance(node.op, Const | Return):
            found |= {placed_name(value, around): value for value in node.outputs}
    return found


def _name_of_form(site: Site) -> str:
    """Returns the name of what a site rounds, which a recode behind the rounding may have."""
    users = site.value.users
    if len(users) == 1 and isinstance(users[0].op, Recode):
        around = site.name.removesuffix(site.value.name)
        return placed_name(users[0].output, around)
    return site.name


def _stood_for(name: str, values: Mapping[str, Value]) -> Value | None:
    """Returns the value of the float program that one with codes is a form of."""
    while name not in values and (match := _FORM.match(name)):
        name = match["name"]
    return values.get(name)


def _selected_together(values: nx.Graph[Value]) -> dict[str, list[Value]]:
    """Returns the values that the name of each selects: itself, and what stands for it too."""
    found: dict[str, list[Value]] = {value.name: [value] for value in values}
    for value in values:
        for name in value.origin:
            if name in found and value not in found[name]:
                found[name].append(value)
    return found


def _selectors(group: Sequence[Value], one_code: nx.Graph[Value]) -> tuple[str, ...]:
    """Returns the fewest names, in order, that with what moves their numbers cover a group."""
    covered, names = set[Value](), list[str]()
    for value in group:
        if value not in covered:
            names.append(value.name)
            covered |= nx.node_connected_component(one_code, value)
    return tuple(names)


def _place_of_weights(op: Op) -> int | None:
    """Returns which operand of an op is weights that a rule can give another storage."""
    if isinstance(op.quant, Accumulate):
        return op.quant.right
    return 0 if isinstance(op, Embedding) else None


def _is_coded(value: Value) -> bool:
    return value.is_constant and value.type.quant is not None


def numbers_of_sample(value: Value) -> int:
    """Returns how many numbers a tensor has, of each named dimension one."""
    total = 1
    for size in value.type.shape:
        total *= size.factor if isinstance(size, Dim) else size
    return total
