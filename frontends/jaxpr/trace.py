"""Any jittable function as a graph."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import export

from qir.errors import QirError, kind_of
from qir.frontends.jaxpr import rules as rules
from qir.frontends.jaxpr.constants import constant
from qir.frontends.jaxpr.equations import flatten
from qir.frontends.jaxpr.importer import Importer
from qir.frontends.jaxpr.locations import calling_line, raised_at
from qir.frontends.jaxpr.modules import pure, refusal_of
from qir.frontends.jaxpr.named import raise_named
from qir.frontends.jaxpr.program import Slot
from qir.frontends.jaxpr.shapes import depends_on_size, to_type
from qir.frontends.jaxpr.weights import closed_over, leaves, path_name
from qir.frontends.shared.naming import dotted, identifier, name_values
from qir.interop.jax_internals import ClosedJaxpr, InconclusiveDimensionOperation
from qir.ir import Graph
from qir.types.names import check_dimension, check_symbol

_spec: Callable[..., Any] = jax.ShapeDtypeStruct


def from_jax(
    f: Callable[..., Any],
    *example: Any,
    weight_argnums: int | Sequence[int] = (),
    batch: str | None = None,
    name: str | None = None,
    improve: Callable[[Graph], None] | None = None,
) -> Graph:
    """Imports a function of arrays and pytrees.

    Arrays that the function closes over (a flax nnx module is such a function) and those in the
    arguments `weight_argnums` become named constants. Results are in the order of the flattened
    result. A gather clips indices that lie outside, also where `jnp.take` would fill in NaN.

    Args:
        f: Anything that `jax.jit` accepts.
        example: Arguments: arrays, `jax.ShapeDtypeStruct`s with known or symbolic sizes, and
            pytrees of them.
        weight_argnums: Positions of the arguments that hold weights; their leaves must be arrays.
        batch: A name for axis 0 of all other arguments, so that the graph runs at any batch size.
        name: The graph's name; that of the function when None.
        improve: What changes the graph before its values are named, as `qir.from_jax` lets the
            raising passes do; nothing does when None.

    Returns:
        A float graph whose inputs are the leaves of the arguments that are no weights.

    Raises:
        UnsupportedError: The function uses primitives that no rule covers; all of them are listed.
        QirError: An argument is no array, or a size is not an integer times names.
    """
    positions = {weight_argnums} if isinstance(weight_argnums, int) else set(weight_argnums)
    for position in positions:
        if not 0 <= position < len(example):
            raise QirError(
                f"from_jax: expected weight_argnums below {len(example)}, got {position}"
            )
    arguments = _arguments(f, example, positions)
    specs = [argument.spec for argument in arguments]
    if batch is not None:
        specs = _with_batch(arguments, batch)
    structure = jax.tree_util.tree_structure(example)
    try:
        closed = _trace(f, structure, specs)
    except (TypeError, ValueError) as error:
        if batch is None or not _traces(f, structure, [argument.spec for argument in arguments]):
            raise
        raise _depends_on_size(error) from error
    data = [argument for argument in arguments if argument.weight is None]
    names = closed_over(f)
    program = flatten(closed, calling_line())
    graph = Graph(_graph_name(f, name))
    given: dict[Slot, Any] = {}
    for place, (argument, slot) in enumerate(zip(arguments, program.inputs, strict=True)):
        if argument.weight is None:
            label = identifier(argument.name, f"x{place}")
            given[slot] = graph.add_input(label, to_type(slot.aval))
        else:
            given[slot] = constant(Slot(slot.aval, argument.weight), argument.name)
    importer = Importer(program, graph, given, names)
    importer.build()
    for part, calls in importer.named_calls():
        graph.diagnostics += raise_named(part, calls)
    if improve is not None:
        improve(graph)
    weight_names = {argument.name for argument in arguments if argument.weight is not None}
    name_values(graph, {dotted(name, "weight") for name in weight_names.union(names.values())})
    for value, argument in zip(graph.inputs, data, strict=True):
        value.origin = (argument.name,)
    graph.record_origins()
    return graph


@dataclass
class _Argument:
    """A leaf of the arguments.

    Attributes:
        name: Its path, as the source spells it.
        position: Which argument it is of.
        spec: What it is traced as.
        weight: The array, where it is a weight.
    """

    name: str
    position: int
    spec: Any
    weight: Any


def _arguments(f: Callable[..., Any], example: Sequence[Any], weights: set[int]) -> list[_Argument]:
    names = _parameter_names(f, len(example), len(example) - len(weights))
    arguments = []
    for position, tree in enumerate(example):
        for path, leaf in leaves(tree):
            place = ".".join((names[position], *path))
            if isinstance(leaf, bool):
                raise QirError(
                    f"from_jax: expected arrays, got {leaf} for {place}; "
                    "import a function that has it built in, such as a lambda that hands it on"
                )
            try:
                aval = leaf if isinstance(leaf, jax.ShapeDtypeStruct) else jax.typeof(leaf)
            except TypeError:
                raise QirError(
                    f"from_jax: expected arrays, got {kind_of(leaf)} for {place}"
                ) from None
            spec = _spec(aval.shape, aval.dtype, weak_type=getattr(aval, "weak_type", False))
            if position not in weights and jnp.issubdtype(aval.dtype, jax.dtypes.extended):
                raise QirError(
                    f"from_jax: expected an array of numbers for {place}, got {aval.dtype}; "
                    "let the function hold the random key, or draw the numbers outside of it"
                )
            if position not in weights:
                arguments.append(_Argument(place, position, spec, None))
            elif isinstance(leaf, jax.ShapeDtypeStruct):
                raise QirError(f"from_jax: expected numbers for the weight {place}, got {leaf}")
            else:
                name = path_name(path, names[position])
                arguments.append(_Argument(name, position, spec, leaf))
    return arguments


def _parameter_names(f: Callable[..., Any], count: int, inputs: int) -> list[str]:
    try:
        parameters = list(inspect.signature(f).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    names = [
        parameter.name
        for parameter in parameters
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    default = "x" if inputs == 1 else "x{}"
    return [names[place] if place < len(names) else default.format(place) for place in range(count)]


def _with_batch(arguments: Sequence[_Argument], batch: str) -> list[Any]:
    check_dimension(batch)
    data = [argument for argument in arguments if argument.weight is None]
    symbolic = [
        size for argument in data for size in argument.spec.shape if not isinstance(size, int)
    ]
    scope = symbolic[0].scope if symbolic else export.SymbolicScope()
    (size,) = export.symbolic_shape(batch, scope=scope)
    for argument in data:
        if not argument.spec.shape:
            raise QirError(
                "batch: expected inputs with at least one axis, "
                f"got a scalar for {argument.name}{_weights_remedy(arguments, argument)}"
            )
    counts = {argument.spec.shape[0]: argument.name for argument in data}
    if len(counts) > 1:
        found = " and ".join(f"{count} for {name}" for count, name in counts.items())
        sizes: dict[int, set[int]] = {}
        for argument in data:
            sizes.setdefault(argument.position, set()).add(argument.spec.shape[0])
        most = max(data, key=lambda argument: len(sizes[argument.position]))
        odd = most if len(sizes[most.position]) > 1 else None
        raise QirError(
            f"batch: expected inputs that agree on axis 0, got {found}"
            f"{_weights_remedy(arguments, odd)}"
        )
    return [
        argument.spec
        if argument.weight is not None
        else argument.spec.update(shape=(size, *argument.spec.shape[1:]))
        for argument in arguments
    ]


def _weights_remedy(arguments: Sequence[_Argument], odd: _Argument | None) -> str:
    """Returns how to mark weights, which have no batch axis; `odd` is of those that look so."""
    if odd is None:
        return "; if one of them holds weights, name its position by weight_argnums"
    marked = {argument.position for argument in arguments if argument.weight is not None}
    positions = sorted(marked | {odd.position})
    given = positions[0] if len(positions) == 1 else tuple(positions)
    return f"; if {odd.name.split('.')[0]} holds weights, name it by weight_argnums={given}"


def _trace(f: Callable[..., Any], structure: Any, specs: Sequence[Any]) -> ClosedJaxpr:
    try:
        return jax.make_jaxpr(pure(f))(*jax.tree_util.tree_unflatten(structure, specs))
    except InconclusiveDimensionOperation as error:
        raise _depends_on_size(error) from error
    except Exception as error:
        if (refusal := refusal_of(error)) is not None:
            raise refusal from error
        raise


def _traces(f: Callable[..., Any], structure: Any, specs: Sequence[Any]) -> bool:
    """Whether a function can be traced: then it was named sizes that it failed with."""
    with suppress(Exception):
        _trace(f, structure, specs)
        return True
    return False


def _depends_on_size(error: Exception) -> QirError:
    place = raised_at(error.__traceback__)
    refusal = depends_on_size(error)
    return refusal.at(f"at {place}") if place else refusal


def _graph_name(f: Callable[..., Any], name: str | None) -> str:
    if name is not None:
        return check_symbol(name, "from_jax")
    while isinstance(f, partial):
        f = f.func
    found = getattr(f, "__name__", type(f).__name__)
    return "main" if found == "<lambda>" else identifier(found, "main")
