"""What every op says of itself holds of what it computes, on the programs of its strategy."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qir.ir import Node
from qir.numbers.affine_map import AffineMap
from qir.numbers.rounding import RoundingMode
from qir.ops import Clip, Const, ExpBelowMax, Pow, Return, elementwise, quotient, softmax
from qir.ops.normalization import Normalization
from qir.ops.op import OPS, Op, arity, infer
from qir.ops.orders import Order, inverse
from qir.ops.products import Products
from qir.ops.rules import Coded, FixedCode, Rescale
from qir.ops.shape import Transpose
from qir.ops.softmax import Exponentials
from qir.ops.traits import Maps, Moves, StoredOperand
from qir.passes.shared.layouts import turned, turned_rank
from qir.types import Array, Dim, TensorType
from tests.drawing import drawn
from tests.layout import FOLDERS, ROOT
from tests.strategies import STRATEGIES, Case

OPERATIONS = [cls for cls in OPS.values() if cls not in (Const, Return)]
NEAR = 2.0**-36
"""Of the greatest number: what 2^17 roundings of float64 leave. No case adds up as many."""


def overriding(trait: str) -> list[type[Op]]:
    """Returns the ops that answer a question themselves."""
    return [cls for cls in OPERATIONS if getattr(cls, trait) is not getattr(Op, trait)]


def named(cls: type[Op]) -> str:
    return cls.name


def cases(cls: type[Op]) -> list[Case]:
    """Draws programs of an op, whose own attributes name no dimension."""
    return _cases(cls.name)


@cache
def _cases(name: str) -> list[Case]:
    return [
        case
        for case in drawn(STRATEGIES[OPS[name]], 216)
        if not any(isinstance(size, Dim) for size in getattr(case.node.op, "shape", ()))
    ]


def operands_of(case: Case) -> tuple[Node, list[Array]]:
    """Returns the op of a case with the arrays of its operands, floats in float64."""
    node = case.node
    given_ = dict(zip(case.graph.inputs, case.inputs, strict=True))
    arrays = [value.array if value.is_constant else given_[value] for value in node.inputs]
    pairs = zip(arrays, node.inputs, strict=True)
    return node, [array.astype(float) if x.type.is_float else array for array, x in pairs]


def computed(
    op: Op, arrays: Sequence[Array], types: Sequence[TensorType], result: TensorType
) -> list[Array]:
    """Computes an op: on stored numbers where a type has a code, else in float64."""
    with np.errstate(all="ignore"):
        if any(type.quant for type in (*types, result)):
            found = op.integer([Coded(*pair) for pair in zip(arrays, types, strict=True)], result)
        else:
            found = op.evaluate(*arrays)
    return [np.asarray(array) for array in (found if isinstance(found, tuple) else (found,))]


def results_of(node: Node, arrays: Sequence[Array]) -> list[Array]:
    return computed(node.op, arrays, types_of(node), node.outputs[0].type)


def types_of(node: Node) -> list[TensorType]:
    return [value.type for value in node.inputs]


def result_types(node: Node) -> list[TensorType]:
    return [value.type for value in node.outputs]


def assert_near(found: Array, expected: Array, case: Case) -> None:
    if found.dtype.kind != "f":
        assert np.array_equal(found, expected), case.shown()
        return
    whole = expected[np.isfinite(expected)]
    slack = NEAR * (1 + np.max(np.abs(whole), initial=0))
    assert np.allclose(found, expected, rtol=NEAR, atol=slack, equal_nan=True), case.shown()


def aligned(node: Node, arrays: Sequence[Array]) -> tuple[list[Array], list[TensorType]] | None:
    """Gives operands that broadcast the rank of the result; None where a code varies there."""
    types, arrays = types_of(node), list(arrays)
    if not (node.op.elementwise or node.op.broadcasts):
        return arrays, types
    rank = node.outputs[0].type.rank
    for index, type in enumerate(types[: 2 if node.op.broadcasts else None]):
        if type.rank < rank:
            if type.quant is not None and not type.quant.per_tensor:
                return None
            ones = (1,) * (rank - type.rank)
            arrays[index] = arrays[index].reshape(ones + arrays[index].shape)
            types[index] = TensorType(ones + type.shape, type.element)
    return arrays, types


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=named)
def test_an_op_on_turned_operands_gives_turned_results(cls: type[Op]) -> None:
    rng = np.random.default_rng(0)
    for case in cases(cls):
        node, arrays = operands_of(case)
        rank = turned_rank(node) if node.inputs else 0
        order: Order = tuple(map(int, rng.permutation(rank)))
        change, wide = turned(node, order), aligned(node, arrays)
        if change is None or wide is None:
            continue
        back, (operands, types) = inverse(order), wide
        for index in change.operands:
            operands[index] = operands[index].transpose(back)
            types[index] = Transpose(back).result(types[index])
        result = infer(change.op, types)[0]
        found = computed(change.op, operands, types, result)
        for before, after, turns in zip(
            results_of(node, arrays), found, change.orders, strict=True
        ):
            assert_near(after.transpose(turns), before, case)


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", OPERATIONS, ids=named)
def test_a_place_along_a_carried_axis_decides_that_place_alone(cls: type[Op]) -> None:
    rng = np.random.default_rng(0)
    for case in cases(cls):
        node, arrays = operands_of(case)
        carried = node.op.carried(types_of(node), result_types(node))
        carried = [each for each in carried if arrays[each.operand].shape[each.axis] > 1]
        if not carried:
            continue
        each = carried[rng.integers(len(carried))]
        operand = arrays[each.operand]
        place = int(rng.integers(operand.shape[each.axis]))
        other = operand.copy()
        where = (slice(None),) * each.axis + (place,)
        other[where] = rng.choice(operand.reshape(-1), other[where].shape)
        changed = [*arrays[: each.operand], other, *arrays[each.operand + 1 :]]
        before, after = (results_of(node, each_)[each.result] for each_ in (arrays, changed))
        assert before.shape[each.becomes] == operand.shape[each.axis]
        kept = np.delete(np.arange(operand.shape[each.axis]), place)
        assert_near(after.take(kept, each.becomes), before.take(kept, each.becomes), case)


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", [cls for cls in OPERATIONS if cls.moves.by_place], ids=named)
def test_scales_travel_along_carried_axes(cls: type[Op]) -> None:
    for case in cases(cls):
        operands, results = types_of(case.node), result_types(case.node)
        code = operands[0].quant
        if code is None or code.per_tensor:
            continue
        for each in case.node.op.carried(operands, results):
            result = results[each.result].quant
            if each.operand == 0 and result is not None and code.grid[each.axis] != 1:
                assert not result.per_tensor, case.shown()
                assert result.grid[each.becomes] == code.grid[each.axis], case.shown()


def maps(shape: tuple[int, ...]) -> Iterator[AffineMap]:
    """Gives affine maps of a tensor: of one factor, or one for each place along an axis."""
    rng = np.random.default_rng(0)
    for axis, sign, shift in product([None, *range(len(shape))], [1, -1], [0, 1]):
        count = 1 if axis is None else shape[axis]
        factor, offset = sign * rng.uniform(0.5, 2, count), shift * rng.normal(size=count)
        yield AffineMap(factor, offset, axis or 0)


def mapped(
    op: Op, arrays: Sequence[Array], result: Array, parts: Sequence[AffineMap | None]
) -> list[Array]:
    """Applies maps to operands, those of an elementwise op repeated to the result's shape."""
    if op.elementwise:
        arrays = [np.broadcast_to(array, result.shape) for array in arrays]
    pairs = zip(arrays, parts, strict=True)
    return [array if part is None else part(array, array.ndim) for array, part in pairs]


MAPPED = [
    cls for cls in OPERATIONS if cls.commutes is not Maps.NONE or cls in overriding("affine_inward")
]


def floats_alone(node: Node) -> bool:
    return node.outputs[0].type.is_float and not any(value.type.quant for value in node.inputs)


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", MAPPED, ids=named)
def test_a_map_of_the_result_is_one_of_operands(cls: type[Op]) -> None:
    tried = Counter[bool]()

    for case in cases(cls):
        node, arrays = operands_of(case)
        if not floats_alone(node):
            continue
        (result,) = results_of(node, arrays)
        for affine in maps(result.shape):
            ways = node.op.affine_inward(affine, types_of(node), result_types(node))
            tried[not isinstance(ways, str)] += 1
            for way in () if isinstance(ways, str) else ways:
                operands = mapped(node.op, arrays, result, way.maps)
                found = np.asarray(way.op.evaluate(*operands))
                assert_near(found, affine(result, result.ndim), case)
    assert tried[True]


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", [cls for cls in MAPPED if cls.commutes is not Maps.NONE], ids=named)
def test_maps_of_operands_are_one_of_the_result(cls: type[Op]) -> None:
    tried = Counter[bool]()

    for case in cases(cls):
        node, arrays = operands_of(case)
        if not floats_alone(node):
            continue
        (result,) = results_of(node, arrays)
        for affine in maps(arrays[0].shape):
            # Operands may have offsets of their own, and where they are joined factors too.
            parts = [
                AffineMap(affine.factor, (index + 1) * affine.offset, affine.axis)
                for index in range(len(arrays))
            ]
            sizes = [array.shape[affine.axis : affine.axis + 1] for array in arrays]
            if affine.varies and any(size != affine.factor.shape for size in sizes):
                continue
            way = node.op.affine_outward(parts, types_of(node), result_types(node))
            tried[not isinstance(way, str)] += 1
            if not isinstance(way, str):
                found = node.op.evaluate(*mapped(node.op, arrays, result, parts))
                inner = np.asarray(way.op.evaluate(*arrays))
                assert_near(np.asarray(found), way.affine(inner, inner.ndim), case)
    assert tried[True]


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", [cls for cls in OPERATIONS if issubclass(cls, Products)], ids=named)
def test_channels_meet_the_outputs_of_their_group_and_offsets_of_them_are_offsets(
    cls: type[Op],
) -> None:
    rng = np.random.default_rng(0)
    for case in cases(cls):
        node, (x, kernel, *_) = operands_of(case)
        assert isinstance(node.op, Products)
        if not floats_alone(node):
            continue
        before = np.asarray(node.op.evaluate(x, kernel))
        groups, channels = node.op.channel_groups, x.shape[-1]
        other = x.copy()
        other[..., : channels // groups] = rng.normal(size=(*x.shape[:-1], channels // groups))
        after, count = np.asarray(node.op.evaluate(other, kernel)), before.shape[-1] // groups
        assert_near(after[..., count:], before[..., count:], case)
        if node.op.cannot_shift(types_of(node)) is None:
            shifted = np.asarray(node.op.evaluate(x + rng.normal(size=channels), kernel)) - before
            assert_near(
                shifted,
                np.broadcast_to(shifted.reshape(-1, shifted.shape[-1])[0], shifted.shape),
                case,
            )


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", overriding("linear"), ids=named)
def test_an_op_of_constants_is_the_affine_map_that_it_says(cls: type[Op]) -> None:
    tried = Counter[bool]()

    for case in cases(cls):
        node, arrays = operands_of(case)
        if not floats_alone(node):
            continue
        for varying in range(len(arrays)):
            linear = node.op.linear([None if i == varying else a for i, a in enumerate(arrays)])
            tried[linear is not None] += 1
            if linear is not None:
                assert linear.operand == varying
                (result,) = results_of(node, arrays)
                assert_near(arrays[varying] * linear.factor + linear.offset, result, case)
    assert tried[True]


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", overriding("swapped"), ids=named)
def test_a_swapped_op_takes_its_operands_in_the_other_order(cls: type[Op]) -> None:
    for case in cases(cls):
        node, arrays = operands_of(case)
        swapped, result = node.op.swapped(), node.outputs[0].type
        assert swapped is not None
        found = computed(swapped, arrays[::-1], types_of(node)[::-1], result)
        assert_near(found[0], results_of(node, arrays)[0], case)


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", overriding("is_idle"), ids=named)
def test_an_idle_op_returns_its_operand(cls: type[Op]) -> None:
    for case in cases(cls):
        node, arrays = operands_of(case)
        x, y = node.inputs[0].type, node.outputs[0].type
        if x.element != y.element or x.size != y.size:
            continue
        if node.op.is_idle(types_of(node), result_types(node)):
            (result,) = results_of(node, arrays)
            assert np.array_equal(result.reshape(-1), arrays[0].reshape(-1), equal_nan=True)


@pytest.mark.hypothesis
@pytest.mark.parametrize(
    "cls", [cls for cls in OPERATIONS if cls.moves is not Moves.NONE], ids=named
)
def test_moved_numbers_are_those_of_the_operands(cls: type[Op]) -> None:
    for case in cases(cls):
        node, arrays = operands_of(case)
        results = results_of(node, arrays)
        if not cls.moves.by_place:
            pairs = zip(arrays, types_of(node), strict=True)
            like = [array for array, type in pairs if type.element == node.outputs[0].type.element]
            if not like:  # none has the element of the result, as codes of which a part is taken
                continue
            there = np.concatenate([array.reshape(-1) for array in like])
            assert all(np.all(np.isin(result, there)) for result in results), case.shown()
            continue
        places = np.arange(arrays[0].size).reshape(arrays[0].shape)
        found = node.op.evaluate(places, *arrays[1:])
        taken = found if isinstance(found, tuple) else (found,)
        for result, origin in zip(results, taken, strict=True):
            assert np.array_equal(result, arrays[0].reshape(-1)[origin], equal_nan=True)
        if cls.moves.keeps_all:
            assert np.array_equal(np.unique(taken[0]), places.reshape(-1))
        if cls.moves is Moves.ORDER:
            assert taken[0].size == places.size


NUMBERS = np.concatenate([np.linspace(-9, 9, 4001), [-1e6, -1e3, 1e3, 1e6, -0.0]])


@pytest.mark.parametrize("cls", [*overriding("told_apart"), *overriding("clip_bounds")], ids=named)
def test_numbers_that_an_op_does_not_tell_apart_give_one_result(cls: type[Op]) -> None:
    op = Clip(-1.0, 2.5) if cls is Clip else cls()
    told = op.told_apart()
    inside = np.clip(NUMBERS, *told.bounds)
    assert not np.array_equal(inside, NUMBERS)
    assert np.array_equal(op.evaluate(NUMBERS), op.evaluate(inside))
    if (bounds := op.clip_bounds()) is not None:
        assert np.array_equal(op.evaluate(NUMBERS), np.clip(NUMBERS, *bounds))


@pytest.mark.parametrize("cls", [cls for cls in OPERATIONS if cls.saturates], ids=named)
def test_what_saturates_rises_between_two_bounds(cls: type[Op]) -> None:
    images = np.asarray(cls().evaluate(np.sort(NUMBERS)))
    assert np.all(np.diff(images) >= 0)
    far = np.asarray(cls().evaluate(np.array([-1e6, -1e3, 1e3, 1e6])))
    assert far[0] == far[1] < far[2] == far[3]


@pytest.mark.parametrize("cls", [cls for cls in OPERATIONS if cls.edge], ids=named)
def test_an_op_is_finite_beside_its_edge_and_not_beyond(cls: type[Op]) -> None:
    op, edge = cls(), cls.edge
    assert edge is not None
    count = arity(cls)[1]

    def at(number: float) -> Array:
        others = np.array([-2.0 if cls is Pow else 1.0])
        operands = [others] * count
        operands[edge.operand] = np.array([number])
        with np.errstate(all="ignore"):
            return np.asarray(op.evaluate(*operands))

    assert np.isfinite(at(edge.number + 1e-3)).all()
    assert np.isfinite(at(edge.number)).all() == edge.included
    assert np.isfinite(at(edge.number - 1e-3)).all() == edge.both


@pytest.mark.parametrize("cls", overriding("depth"), ids=named)
@pytest.mark.parametrize("axis", [0, 1])
def test_what_lies_deep_counts_as_nothing(cls: type[Exponentials], axis: int) -> None:
    op = cls(axis)
    depth, x = op.depth(), np.random.default_rng(axis).normal(0, 15, (40, 50))
    assert depth.axes == (axis,)
    raised = np.maximum(x, x.max(axis=axis, keepdims=True) - depth.below)
    assert np.sum(raised != x) > 500
    # Each number that is raised adds so much to a row's sum, and to its own exponential.
    most = x.shape[axis] * np.exp(-depth.below)
    assert np.max(np.abs(np.subtract(op.evaluate(x), op.evaluate(raised)))) <= most


def reach_of(array: Array, type: TensorType) -> tuple[int, int]:
    steps = Coded(array, type).steps if array.dtype.kind in "iu" else np.zeros(1, int)
    return int(steps.min(initial=0)), int(steps.max(initial=0))


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", overriding("stored"), ids=named)
def test_stored_results_stay_within_the_reach_that_an_op_says(cls: type[Op]) -> None:
    for case in cases(cls):
        node, arrays = operands_of(case)
        if not all(array.size and array.dtype.kind in "iu" for array in arrays):
            continue
        known = [
            StoredOperand(type, (int(array.min()), int(array.max())), array)
            for array, type in zip(arrays, types_of(node), strict=True)
        ]
        reach = node.op.stored(known, node.outputs[0].type)
        if reach is not None and node.outputs[0].type.dtype.is_integer:
            (result,) = results_of(node, arrays)
            assert reach[0] <= result.min(), case.shown()
            assert result.max() <= reach[1], case.shown()


ROUNDED_BY = [
    (RoundingMode, "requantize", 1),
    (elementwise, "rounding_shift", 1),
    (quotient, "quotient", 2),
    (softmax, "quotient", 2),
]
"""What rounds the integers that ops form, and how many of its first arguments are such."""


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", overriding("formed"), ids=named)
def test_what_an_op_rounds_stays_within_what_it_forms(
    cls: type[Op], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Array] = []

    def watched(rounds: Callable[..., Any], owner: object, count: int) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            seen.extend(arguments[owner is RoundingMode :][:count])
            return rounds(*arguments, **options)

        return call

    for owner, name, count in ROUNDED_BY:
        monkeypatch.setattr(owner, name, watched(getattr(owner, name), owner, count))
    tried = 0
    for case in cases(cls):
        node, arrays = operands_of(case)
        if node.outputs[0].type.quant is None or not all(array.size for array in arrays):
            continue
        seen.clear()
        (result,) = results_of(node, arrays)
        pairs = zip(arrays, types_of(node), strict=True)
        formed = node.op.formed([reach_of(*pair) for pair in pairs], types_of(node))
        assert formed is not None
        if issubclass(cls, ExpBelowMax):
            seen.append(result)
        tried += len(seen)
        for array in seen:
            assert formed.least <= np.min(array), case.shown()
            assert np.max(array) <= formed.greatest, case.shown()
    assert tried or issubclass(cls, Normalization)


@pytest.mark.hypothesis
@pytest.mark.parametrize("cls", overriding("formed"), ids=named)
def test_wider_operands_form_wider_integers(cls: type[Op]) -> None:
    for case in cases(cls):
        node, arrays = operands_of(case)
        types = types_of(node)
        if node.outputs[0].type.quant is None or not all(array.size for array in arrays):
            continue
        actual = [reach_of(*pair) for pair in zip(arrays, types, strict=True)]
        wider = [(min(2 * low, low, -1), max(2 * high, high, 1)) for low, high in actual]
        less, more = node.op.formed(actual, types), node.op.formed(wider, types)
        assert less is not None
        assert more is not None
        assert more.least <= less.least <= less.greatest <= more.greatest


def test_every_op_that_rounds_by_itself_says_what_it_forms() -> None:
    rounding = [cls for cls in OPERATIONS if isinstance(cls.quant, Rescale | FixedCode)]
    assert set(rounding) <= set(overriding("formed"))


TABLES = {
    "shared/scores.py": {"_TERMS", "_CHANGES"},
    "shared/wide.py": {"SMOOTH"},
}
"""What passes list by class: how attention makes its scores, and functions that were measured to
lose by 8 bits."""


def listed(expression: ast.expr | None) -> set[str]:
    """Returns the names of ops among the items or keys of a tuple, list, set or dictionary."""
    match expression:
        case ast.Tuple(elts=items) | ast.List(elts=items) | ast.Set(elts=items):
            pass
        case ast.Dict(keys=items):
            pass
        case _:
            return set()
    classes = {cls.__name__ for cls in OPS.values()}
    return {item.id for item in items if isinstance(item, ast.Name)} & classes


def tables(path: Path) -> set[str]:
    """Returns the names of a module's constants that list op classes."""
    found = set()
    for statement in ast.parse(path.read_text()).body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if listed(value):
                found.add(name)
            case ast.AnnAssign(target=ast.Name(id=name), value=value) if listed(value):
                found.add(name)
            case _:
                pass
    return found


def test_no_pass_lists_ops() -> None:
    passes = FOLDERS["qir.passes"]
    # A form that is raised is made of ops of certain classes.
    paths = [path for path in passes.rglob("*.py") if path.parent.name != "raising"]
    paths += (ROOT / "qir/analysis").rglob("*.py")
    found = {path: tables(path) for path in paths}
    assert {
        str(path.relative_to(passes)): names for path, names in found.items() if names
    } == TABLES
