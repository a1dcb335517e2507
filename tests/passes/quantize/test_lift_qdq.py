"""lift-qdq over the registry: a Q/DQ program of each op becomes the integers that it stands for."""

from collections import defaultdict
from dataclasses import fields, replace

import numpy as np
import pytest

import qir
from qir.analysis.properties import is_float_op
from qir.backends.reference.interpreter import run
from qir.errors import QirError
from qir.ops import Const, Dequantize, Lookup, Lookup2, Quantize, Requantize, Return
from qir.ops.op import OPS, Op
from qir.ops.rules import ExactSum, FixedCode, Normalize, SameCode, Table
from qir.ops.sums import rounded
from qir.types import Affine, DType
from tests.drawing import drawn
from tests.qdq import OWN, Qdq, with_codes
from tests.strategies import STRATEGIES, Case
from tests.strategies.float_programs import float_programs
from tests.strategies.programs import integer_programs

OPERATIONS = [cls for cls in OPS.values() if cls not in (Const, Return) and not cls.region_count]

FP8 = "has no requantize"
WIDE = "expected operands coded per tensor in at most 16 bits"
STAY_FLOAT: dict[str, str] = {
    "add": WIDE,
    "sub": WIDE,
    "div": "holds 0, by which integers divide otherwise than floats",
    "clip": "no table serves scales that vary|expected operands whose codes hold the number 0",
    "pad": FP8,
} | dict.fromkeys(
    ["broadcast", "concat", "gather", "reshape", "reverse", "slice", "split", "tile", "transpose"],
    FP8,
)
"""The ops of which some programs on codes stay in floating point, with what their notes say: sums
of i32 codes, which no quantize makes; quotients whose divisor may be 0; moves of codes that have
two numbers for 0; clips of numbers far from 0."""


def as_integers(case: Case) -> tuple[qir.Graph, str]:
    """Returns the program of a case such that floats with codes can say it, and its rounding.

    What the strategies write out of multipliers and roundings is taken back, the tables of
    exponentials are those of the codes, and sums in i32 are requantized to 8 bits.

    Raises:
        QirError: It can't be said so, or the drawn roundings were needed for the drawn scales.
    """
    graph, rounding = case.graph.copy(), "fixed31"
    for node in graph.nodes:
        match node.op:
            case Const() | Return():
                continue
            case Requantize() as op:
                rounding = op.rounding
                node.op = replace(op, multiplier=None, shift=None, agrees=())
            case Quantize():
                continue
            case op:
                own = {each.name: each.default for each in fields(op) if each.name in OWN[1:]}
                node.op = replace(op, **own)
        if isinstance(node.op.quant, FixedCode) and node.outputs[0].type.quant is not None:
            *_, table = node.inputs
            types = [value.type for value in node.inputs if value is not table]
            (array,) = node.op.integer_tables(types).values()
            node.set_input(len(node.inputs) - 1, graph.before(node).const(array))
        for value in node.outputs:
            code, exact = value.type.quant, isinstance(node.op.quant, ExactSum | SameCode)
            if code is not None and code.storage.bits > 16 and not exact:
                is_sum = not isinstance(code, Affine) or code.bounds is None
                if not is_sum or isinstance(node.op, Requantize):
                    raise QirError("a code of i32 with bounds is made by no quantize")
    graph.set_outputs([_ended(graph, value, case) for value in graph.outputs])
    return graph, rounding


def _ended(graph: qir.Graph, value: qir.Value, case: Case) -> qir.Value:
    code, op = value.type.quant, value.op
    if code is None or code.storage.bits <= 16 or op is None:
        return value
    found = zip(graph.outputs, run(graph, *case.inputs), strict=True)
    (stored,) = (a for v, a in found if v is value)
    peak = float(np.abs(code.decode(stored)).max(initial=0)) or 1.0
    to = Affine.of(DType.I8, peak / 100, 3, expressed=code.expressed)
    if isinstance(op.quant, ExactSum):
        requantize = rounded(op, [operand.type for operand in value.inputs], to)
    else:
        requantize = Requantize(to)
    return graph.at_end().emit(requantize, value, name="rounded")


def floats_of(graph: qir.Graph) -> list[qir.Node]:
    return [node for node in graph.nodes if is_float_op(node)]


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_each_op_on_codes_is_lifted_to_the_same_integers_or_says_why_not(cls: type[Op]) -> None:
    found = defaultdict(list)
    cases = [case for case in drawn(STRATEGIES[cls], 36, pack=6) if case.coded]
    for case in cases:
        try:
            integers, rounding = as_integers(case)
            expected = run(integers, *case.inputs)
            floats = Qdq(integers).build()
        except QirError:
            found["not said in floats"].append(case)
            continue
        lifted = qir.optimize(floats, f"lift-qdq(rounding={rounding})")
        if left := [node for node in floats_of(lifted) if not _reads_plain(node)]:
            for node in left:
                assert node.note, f"{node.op.name} stays float and does not say why: {lifted}"
                wanted = STAY_FLOAT.get(node.op.name, "-").split("|")
                assert any(each in node.note for each in wanted), f"{node.note}: {lifted}"
            continue
        is_sum = case.node.inputs[0].type.dtype.bits > 16
        if (cls is Requantize and not is_sum) or any(map(_has_two_zeros, integers.values())):
            # A quantize of decoded numbers rounds ties as float does, and gives one of two zeros;
            # sums are rounded by the mode that was drawn.
            expected = run(floats, *case.inputs)
        for a, b in zip(expected, run(lifted, *case.inputs), strict=True):
            # Floats of coded tables have one rounding of scale and factor, or two.
            floating = b.dtype.kind not in "biu"
            same = np.allclose(a, b, 1e-6, 0, True) if floating else np.array_equal(a, b)
            assert same, f"{case.shown()}\n{lifted}"
        found["lifted"].append(case)
    if cases and cls.name != "div":
        assert found["lifted"] or cls.name == "quantize_dynamic"


def _has_two_zeros(value: qir.Value) -> bool:
    return value.type.quant is not None and not isinstance(value.type.quant, Affine)


@pytest.mark.hypothesis
def test_programs_of_many_ops_are_lifted_to_the_same_integers() -> None:
    checked = 0
    for case in drawn(integer_programs(), 120, pack=6):
        try:
            integers, _ = as_integers(case)
        except QirError:
            continue
        for node in integers.nodes:
            if isinstance(node.op, Requantize):
                node.op = replace(node.op, rounding="fixed31")
        if any(len(set(node.inputs)) < len(node.inputs) for node in integers.nodes):
            continue  # A function of one tensor becomes a table, which rounds ties otherwise.
        lifted = qir.optimize(Qdq(integers).build(), "lift-qdq")
        assert not floats_of(lifted), lifted
        for a, b in zip(run(integers, *case.inputs), run(lifted, *case.inputs), strict=True):
            assert np.array_equal(a, b), f"{case.shown()}\n{lifted}"
        checked += 1
    assert checked > 10


@pytest.mark.hypothesis
def test_programs_with_codes_at_random_places_are_lifted_and_stay_near_to_float64() -> None:
    rng, integer = np.random.default_rng(3), 0
    for case in drawn(float_programs(), 240, pack=6):
        floats = with_codes(case.graph, case.inputs, rng)
        lifted = qir.optimize(floats, "lift-qdq")
        lines = qir.explain(lifted).lines
        assert all(line.integer or line.reason for line in lines)
        integer += sum(line.integer for line in lines)
        meant = run(floats, *case.inputs, precision=np.float64)
        for exact, found in zip(meant, run(lifted, *case.inputs), strict=True):
            # A step of 8 bits here and there, of values that are a good part of their range.
            power, noise = np.sum(exact**2), np.sum((exact - found) ** 2)
            assert noise <= power * 10**-2.5, f"{case.graph}\n{lifted}"
    assert integer > 60


def _reads_plain(node: qir.Node) -> bool:
    """Whether an op is one of floats in the integer program too, such as a lookup of floats."""
    return isinstance(node.op, Lookup | Lookup2)


def quantized_floats(case: Case, *, shared: bool) -> qir.Graph:
    """Returns a case of floats with codes of 8 bits around its op, from the numbers it has.

    Args:
        case: A program of one op of floats.
        shared: Whether all operands have one code.
    """
    graph = qir.Graph("case")
    values = {value: graph.add_input(value.name, value.type) for value in case.graph.inputs}
    builder = graph.at_end()
    arrays = dict(zip(case.graph.inputs, case.inputs, strict=True))
    results = dict(zip(case.graph.outputs, run(case.graph, *case.inputs), strict=True))
    for node in case.graph.nodes:
        if isinstance(node.op, Return):
            graph.set_outputs(
                [
                    builder.emit(Quantize(code_of(results[old])), values[old])
                    if old.type.is_float
                    else values[old]
                    for old in node.inputs
                ]
            )
            continue
        numbers = [old.array if old.is_constant else arrays[old] for old in node.inputs]
        floats = [each for each in numbers if each.dtype.kind == "f"]
        common = code_of(np.concatenate([each.ravel() for each in floats])) if floats else None
        operands = []
        for index, (old, array) in enumerate(zip(node.inputs, numbers, strict=True)):
            new = values[old]
            if old.type.is_float and not (index and isinstance(node.op.quant, Normalize)):
                code = common if shared and common else code_of(array)
                new = builder.emit(Dequantize(), builder.emit(Quantize(code), new))
            operands.append(new)
        values.update(zip(node.outputs, builder.emit_node(node.op, operands).outputs, strict=True))
    return graph


def code_of(array: np.ndarray) -> Affine:
    """Returns a code of 8 bits for numbers, of a scale that makes no ties."""
    real = np.nan_to_num(array.astype(np.float64), nan=0.0, posinf=8.0, neginf=-8.0)
    peak = float(np.abs(real).max(initial=0)) or 1.0
    point = -128 if np.all(real >= 0) else 5
    return Affine.of(DType.I8, max(peak, 2.0**-20) / 113, point)


REASONS = (
    {
        "cast": "a cast between plain types",
        "iota": "counts places",
        "is_finite": "codes are always finite",
        "batch_norm": "fold-batch-norm has not folded it into a convolution or dot",
        "reduce_prod": "a product of many codes leaves every integer type",
        "pow": "the power of two codes has no integer meaning",
        "div": "the code of the divisor",
        "reduce_sum": "expected a known size, got the named dimension",
        "mean": "expected a known size, got the named dimension",
        "exp_below_max": "expected the result",
        "exp_below_max_high": "expected the result",
        "exp_below_max_low": "expected the result",
    }
    | dict.fromkeys(
        ["equal", "not_equal", "less", "less_equal", "greater", "greater_equal"],
        "its operands have different codes",
    )
    | dict.fromkeys(["layer_norm", "group_norm", "rms_norm", "l2_norm"], "is not a constant")
)
"""The ops of floats that stay such between codes, and why: all others become integers."""

SOME_STAY = {
    "conv": "is not a constant",
    "conv_transpose": "is not a constant",
    "dot": "is not a constant",
    "reduce_prod": "no pass has given its result a code",
}
"""Those that become integers but for some: with a bias that is computed, along axes of one number,
where canonicalize makes another op of one that stays."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=lambda cls: cls.name)
def test_each_op_of_floats_between_codes_becomes_the_integers_of_float64(cls: type[Op]) -> None:
    stayed, lifted_ones = 0, 0
    for index, case in enumerate(drawn(STRATEGIES[cls], 36, pack=6)):
        elements = {value.type.dtype for value in case.graph.values() if value.type.is_float}
        if case.coded or elements != {DType.F32} or case.node is not _only(case.graph):
            continue
        floats = quantized_floats(case, shared=index % 2 == 0)
        if not any(value.type.quant for value in floats.values()):
            continue
        lifted = qir.optimize(floats, "lift-qdq, lookup-tables, canonicalize")
        if floats_of(lifted):
            reasons = [line.reason for line in qir.explain(lifted).floats]
            known = [REASONS.get(cls.name, "-"), SOME_STAY.get(cls.name, "-")]
            assert all(any(text in reason for text in known) for reason in reasons), (
                f"{reasons}: {case.shown()}\n{lifted}"
            )
            stayed += 1
            continue
        lifted_ones += 1
        meant = run(floats, *case.inputs, precision=np.float64)
        for a, b in zip(meant, run(lifted, *case.inputs), strict=True):
            off = np.abs(a.astype(np.int64) - b.astype(np.int64)).max(initial=0)
            assert off <= in_steps(cls), f"{off} off: {case.shown()}\n{lifted}"
    assert lifted_ones or not stayed or cls.name in REASONS


def _only(graph: qir.Graph) -> qir.Node | None:
    """Returns the only op of a graph, or None where there are several."""
    ops = [node for node in graph.nodes if not isinstance(node.op, Const | Return)]
    return ops[0] if len(ops) == 1 else None


def in_steps(cls: type[Op]) -> int:
    """How many steps the integer op may be off: none, where it moves, compares or looks up."""
    return 0 if isinstance(cls.quant, SameCode | Table) else 1
