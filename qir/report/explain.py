"""Why is this op not an integer one? A line for every op of a program, with the reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from qir.analysis.properties import QUANTIZED, is_float_op
from qir.errors import counted
from qir.ir import OF_ALL, Accuracy, ChosenOption, Graph, Node, Value, expect_graph
from qir.ir.places import placed_name, walk_places
from qir.ops import Const, Dequantize, Quantize, QuantizeDynamic, Return
from qir.ops.rules import KeepFloat, Table
from qir.report.accuracy import lines_of
from qir.report.constant_inputs import constant_inputs
from qir.report.tables import table
from qir.targets import Obstacle, Target, find_target

CASTS = (Const, Dequantize, Quantize, QuantizeDynamic, Return)
"""What has no line: constants, the return, and what stands between codes and floating point."""


@dataclass(frozen=True)
class OpVerdict:
    """What became of one op.

    Args:
        op: The op's name.
        value: The name of its first result; behind that of the loop or branch that it stands in.
        loc: Where in the user's model it comes from.
        integer: Whether it computes on integers.
        reason: Why not; empty where it does.
        choices: What a recipe chose for it otherwise than for all, and why.
    """

    op: str
    value: str
    loc: str | None
    integer: bool
    reason: str
    choices: tuple[ChosenOption, ...] = ()


@dataclass(frozen=True, repr=False)
class Explanation:
    """The lines of a program, in order; printed as a table.

    Args:
        lines: One for each op but constants and the casts between codes and floating point.
        options: What the options of passes say of all that no rule of a recipe is about, by which
            the lines without choices read "as all"; empty where there was no recipe.
        chosen_inputs: What a recipe chose for inputs, by their names.
        accuracy: What `qir.quantize` measured of the program, None where it did not.
        inputs: A sentence for each input that held one number only in the calibration data.
        diagnostics: What the passes that made an integer program had to say; that nothing was
            quantized, the lines say.
        target: The name of the target that was asked about; None for none.
        obstacles: What of the program that target does not accept.
    """

    lines: tuple[OpVerdict, ...]
    options: tuple[ChosenOption, ...] = ()
    chosen_inputs: Mapping[str, tuple[ChosenOption, ...]] = field(default_factory=dict)
    accuracy: Accuracy | None = None
    inputs: tuple[str, ...] = ()
    diagnostics: tuple[str, ...] = ()
    target: str | None = None
    obstacles: tuple[Obstacle, ...] = ()

    @property
    def floats(self) -> tuple[OpVerdict, ...]:
        """The lines of the ops that compute in floating point."""
        return tuple(line for line in self.lines if not line.integer)

    @property
    def summary(self) -> str:
        """How many of the ops are integer ones."""
        if not self.lines:
            return "no ops: there is nothing to quantize"
        return f"{len(self.lines) - len(self.floats)} of {len(self.lines)} ops integer"

    def __str__(self) -> str:
        rows = [
            (line.op, f"%{line.value}", line.loc or "-", _KINDS[line.integer], line.reason)
            + ((", ".join(map(str, line.choices)) or "as all",) if self.options else ())
            for line in self.lines
        ]
        figures = lines_of(self.accuracy) if self.accuracy else []
        every = ", ".join(map(str, self.options))
        as_all = [
            f"input %{name}: {', '.join(map(str, choices))}"
            for name, choices in self.chosen_inputs.items()
        ]
        as_all += [f"as all, by the options of passes: {every}"] if self.options else []
        told = (*self._of_target, *self.inputs, *self.diagnostics)
        return "\n".join([*table(rows), *as_all, self.summary, *told, *figures])

    @property
    def _of_target(self) -> tuple[str, ...]:
        if self.target is None:
            return ()
        if not self.obstacles:
            return (f"target {self.target}: nothing stands in the way",)
        count = counted(len(self.obstacles), "rule")
        lines = (f"  {obstacle}" for obstacle in self.obstacles)
        return (f"target {self.target}: {count} broken", *lines)

    def __repr__(self) -> str:
        """Returns the table: it is what a notebook shows of the last expression of a cell."""
        return str(self)


_KINDS = {True: "integer", False: "float"}


def explain(graph: Graph, *, target: str | Target | None = None) -> Explanation:
    """Tells for every op of a program whether it computes on integers and, if not, why.

    The reason is the one that pass quantize noted on the node, or follows from the op and its
    operands, so that a program read from a file has it too.

    Args:
        graph: The program.
        target: A target of `qir.targets`, by its name or itself: which ops stand in the way of
            running there is told too, each with the rule that it breaks and what to do.

    Raises:
        QirError: There is no such target.
    """
    expect_graph(graph, "explain")
    found = None if target is None else find_target(target, "explain")
    quantized = QUANTIZED.missing(graph) is None
    return Explanation(
        tuple(_lines(graph, quantized)),
        graph.choices.get(OF_ALL, ()),
        {value.name: chosen for value in graph.inputs if (chosen := _of_values(graph, [value]))},
        graph.accuracy,
        tuple(constant_inputs(graph)),
        graph.diagnostics if quantized else (),
        None if found is None else found.name,
        () if found is None else found.obstacles(graph),
    )


def _lines(graph: Graph, quantized: bool) -> Iterator[OpVerdict]:
    for node, around in walk_places(graph):
        if isinstance(node.op, CASTS) or not node.outputs:
            continue
        integer = not is_float_op(node)
        reason = "" if integer else _reason(node, quantized)
        name = placed_name(node.outputs[0], around)
        yield OpVerdict(node.op.name, name, node.loc, integer, reason, _choices(graph, node))


def _choices(graph: Graph, node: Node) -> tuple[ChosenOption, ...]:
    """Returns what a recipe chose for an op, or for what it became a part of."""
    return _of_values(graph, node.outputs)


def _of_values(graph: Graph, values: Iterable[Value]) -> tuple[ChosenOption, ...]:
    names = [name for value in values for name in value.origin or _names(value)]
    return tuple(dict.fromkeys(each for name in names for each in graph.choices.get(name, ())))


def _names(value: Value) -> tuple[str, str]:
    """Returns the name of a value, and that of the value which it is a form of if it is one."""
    return value.name, value.name.rpartition(".")[0]


def _reason(node: Node, quantized: bool) -> str:
    if node.note:
        return node.note
    rule = node.op.quant
    if isinstance(rule, KeepFloat):
        return rule.reason
    varying = [value for value in node.inputs if value.type.is_float and not value.is_constant]
    if not varying:
        return "none of its operands is a floating-point tensor that data decides"
    if not quantized:
        return "the program has not been quantized"
    if isinstance(rule, Table) and len(varying) > 1 and rule.otherwise:
        return rule.otherwise
    if node.op.elementwise and all(map(_is_decoded, varying)):
        return "lookup-tables has made no table of it"
    source = next((value for value in varying if value.node and is_float_op(value.node)), None)
    if source is not None:
        return f"its operand %{source.name} is computed in floating point"
    return "no pass has given its result a code"


def _is_decoded(value: Value) -> bool:
    """Whether a value is a dequantized one or, one op further, a function of such."""
    return value.op is not None and (isinstance(value.op, Dequantize) or value.op.elementwise)
