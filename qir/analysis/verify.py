"""The verifier: structure, names, uses, constants, every type by its type rule, claims."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from qir.analysis.claims import false_claims
from qir.errors import QirError, VerifyError, counted
from qir.ir import Graph, Node, Value, node_types
from qir.ops.core import Const, Return
from qir.text.printer import line_of
from qir.types.names import check_symbol, check_value


def verify(graph: Graph) -> None:
    """Checks a graph and its regions, and proves what its ops claim again.

    Raises:
        VerifyError: Rules are broken. All of them are listed, each with its place and the line of
            text; claims are looked at where the rest is right.
    """
    verify_structure(graph)
    _refuse([_Fault(f"{node.op.name}: {wrong}", node) for node, _, wrong in false_claims(graph)])


def verify_structure(graph: Graph) -> None:
    """Checks everything but claims; see `verify`."""
    _refuse(
        [
            _Fault(message, node, places)
            for part, places in _graphs(graph, ())
            for message, node in (*_name_errors(part, part is not graph), *_errors(part))
        ]
    )


class _Fault(NamedTuple):
    """A rule that is broken.

    Attributes:
        message: Which one.
        node: The node that breaks it, None where it is the graph.
        places: In which regions the node stands, from the inside out.
    """

    message: str
    node: Node | None
    places: tuple[str, ...] = ()


def _refuse(faults: Sequence[_Fault]) -> None:
    if not faults:
        return
    messages = []
    for message, node, places in faults:
        lines = [f"verify: {message}"]
        if node is not None:
            lines += [f"  {node.place()}", f"  |  {line_of(node)}"]
        lines += [f"  {place}" for place in places]
        messages.append("\n".join(lines))
    raise VerifyError("\n".join(messages))


def _name_errors(graph: Graph, is_region: bool) -> Iterator[tuple[str, Node | None]]:
    try:
        if not is_region:
            check_symbol(graph.name, "graph")
    except QirError as error:
        yield error.message, None
    for value in graph.values():
        try:
            check_value(value.name)
        except QirError as error:
            yield error.message, value.node


def _shown(graph: Graph) -> str:
    return f"@{graph.name}" if graph.name else "a region"


def _graphs(graph: Graph, places: tuple[str, ...]) -> Iterator[tuple[Graph, tuple[str, ...]]]:
    yield graph, places
    for node in graph.nodes:
        for index, region in enumerate(node.regions):
            yield from _graphs(region, (node.region_place(index), *places))


def _errors(graph: Graph) -> Iterator[tuple[str, Node | None]]:
    seen: set[Value] = set(graph.inputs)
    names: set[str] = {value.name for value in graph.inputs}
    nodes = list(graph.nodes)
    if not nodes or not isinstance(nodes[-1].op, Return):
        yield f"graph: {_shown(graph)} does not end with a return", nodes[-1] if nodes else None
    for node in nodes:
        if isinstance(node.op, Return) and node is not nodes[-1]:
            yield f"graph: {_shown(graph)} has a return before its end", node
        for index, value in enumerate(node.inputs):
            if value not in seen:
                yield (
                    f"{node.op.name}: reads %{value.name}, which is not computed above it "
                    f"in {f'@{graph.name}' if graph.name else 'its region'}",
                    node,
                )
            if (node, index) not in value.uses:
                yield f"{node.op.name}: is missing among the uses of %{value.name}", node
        for value in node.outputs:
            if value.name in names:
                yield f"graph: {_shown(graph)} has two values called %{value.name}", node
            names.add(value.name)
        seen.update(node.outputs)
        yield from ((message, node) for message in _type_errors(graph, node))
    for value in seen:
        for user, index in value.uses:
            if user.erased or index >= len(user.inputs) or user.inputs[index] is not value:
                yield f"graph: %{value.name} lists a use that is not one", user


def _type_errors(graph: Graph, node: Node) -> Iterator[str]:
    if isinstance(node.op, Const):
        array, type = node.op.array.array, node.op.type
        if array.shape != type.shape or array.dtype != type.dtype.numpy:
            found = f"{array.dtype}{list(array.shape)}"
            yield f"const: expected an array of {type}, got {found}"
        elif type.quant is not None and array.size:
            low, high = type.quant.range
            if array.min() < low or array.max() > high:
                found = f"{array.min()} to {array.max()}"
                yield (f"const: expected stored numbers in [{low}, {high}], got {found}")
    try:
        inferred = node_types(node.op, [value.type for value in node.inputs], node.regions)
    except QirError as error:
        yield error.message
        return
    if len(inferred) != len(node.outputs):
        wanted = counted(len(inferred), "result")
        yield f"{node.op.name}: expected {wanted}, got {len(node.outputs)}"
        return
    for value, right in zip(node.outputs, inferred, strict=True):
        if value.type != right:
            yield f"{node.op.name}: expected %{value.name} to be {right}, got {value.type}"
