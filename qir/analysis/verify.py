"""The verifier: structure, names, uses, constants, every type by its type rule, claims."""

from __future__ import annotations

from collections.abc import Iterator

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
    _refuse([(f"{node.op.name}: {wrong}", node) for node, _, wrong in false_claims(graph)])


def verify_structure(graph: Graph) -> None:
    """Checks everything but claims; see `verify`."""
    _refuse(
        [
            entry
            for part in _graphs(graph)
            for entry in (*_name_errors(part, part is not graph), *_errors(part))
        ]
    )


def _refuse(errors: list[tuple[str, Node | None]]) -> None:
    if not errors:
        return
    messages = []
    for message, node in errors:
        lines = [f"verify: {message}"]
        if node is not None:
            lines += [f"  {node.place()}", f"  |  {line_of(node)}"]
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


def _graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        for region in node.regions:
            yield from _graphs(region)


def _errors(graph: Graph) -> Iterator[tuple[str, Node | None]]:
    seen: set[Value] = set(graph.inputs)
    names: set[str] = {value.name for value in graph.inputs}
    nodes = list(graph.nodes)
    if not nodes or not isinstance(nodes[-1].op, Return):
        yield f"graph: @{graph.name} does not end with a return", nodes[-1] if nodes else None
    for node in nodes:
        if isinstance(node.op, Return) and node is not nodes[-1]:
            yield f"graph: @{graph.name} has a return before its end", node
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
                yield f"graph: @{graph.name} has two values called %{value.name}", node
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
