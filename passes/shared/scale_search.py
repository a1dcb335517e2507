"""Scales near those of the weights for which requantizes agree in several rounding modes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from qir.analysis.reach import Places, StoredReach, followed
from qir.errors import QirError
from qir.ir import Node, Value
from qir.numbers.agreement import differing
from qir.numbers.int32 import INT32_MAX
from qir.numbers.rounding import Multiplier, rounding_mode
from qir.ops import Const, Requantize
from qir.ops.agreement import compare
from qir.ops.claims import BoundedOperand
from qir.ops.op import infer
from qir.ops.rules import Accumulate, SameCode
from qir.types import SMALLEST_SCALE, Array, Code, FrozenArray, TensorType


def other_roundings(op: Requantize, roundings: Sequence[str]) -> list[str]:
    """Lists the modes to hold a requantize against: those wanted and those certified already."""
    return [name for name in dict.fromkeys((*op.agrees, *roundings)) if name != op.rounding]


@dataclass(frozen=True, eq=False)
class Layer:
    """A sum of products with constant weights, and the requantizes that read it.

    Attributes:
        node: The node of the sum.
        readers: The requantizes.
        channels: For the operand of each of them, the channel of the weights at each place.
        movers: The ops between, in order.
        obstacle: Why the scale of the weights can't move, or an empty text.
    """

    node: Node
    readers: tuple[Node, ...]
    channels: tuple[NDArray[np.int64], ...]
    movers: tuple[Node, ...]
    obstacle: str

    @property
    def weights(self) -> Value:
        rule = self.node.op.quant
        assert isinstance(rule, Accumulate)
        return self.node.inputs[rule.right]

    @property
    def bias(self) -> Value | None:
        rule = self.node.op.quant
        assert isinstance(rule, Accumulate)
        return self.node.inputs[rule.bias] if len(self.node.inputs) > rule.bias else None


def find_layer(node: Node) -> Layer | None:
    """Finds the readers of a sum of products of codes; None for a node that is none."""
    rule = node.op.quant
    if not isinstance(rule, Accumulate) or node.output.type.quant is None:
        return None
    weights = node.inputs[rule.right]
    biases = node.inputs[rule.bias : rule.bias + 1]
    obstacle = ""
    if weights.type.dtype.bits > 16:
        obstacle = f"the scales of %{weights.name} are no float32 numbers"
    elif not weights.is_constant:
        obstacle = f"the weights %{weights.name} are computed"
    elif any(not bias.is_constant for bias in biases):
        obstacle = f"the bias %{biases[0].name} is computed"
    x, shape = node.inputs[rule.left], node.output.type.quant.scale.shape
    if x.type.quant is not None and x.type.quant.scale.shape:
        obstacle = obstacle or f"the scales of %{x.name} vary along rows"
        shape = ()
    places = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    readers, channels, movers = list[Node](), list[NDArray[np.int64]](), list[Node]()
    pending = [(node.output, places)]
    while pending:
        value, places = pending.pop()
        for user in value.users:
            if isinstance(user.op, Requantize):
                readers.append(user)
                channels.append(places)
                if user.op.multiplier is not None:
                    obstacle = obstacle or f"%{user.output.name} has its multiplier written out"
                elif user.op.to.storage.bits > 8:
                    obstacle = obstacle or f"%{user.output.name} has more than 8 bits"
                elif not rounding_mode(user.op.rounding).nearest:
                    obstacle = obstacle or f"{user.op.rounding} is not to the nearest integer"
            elif (reached := _through(user, places)) is not None:
                movers.append(user)
                pending += reached
            else:
                obstacle = obstacle or f"%{value.name} is read by {user.op.name} too"
    return Layer(node, tuple(readers), tuple(channels), tuple(movers), obstacle)


def _through(node: Node, places: NDArray[np.int64]) -> list[tuple[Value, NDArray[np.int64]]] | None:
    """Follows channels through an op that moves the numbers of one operand; None for others."""
    if (
        not isinstance(node.op.quant, SameCode)
        or sum(x.type.quant is not None for x in node.inputs) != 1
    ):
        return None
    reached = []
    for value in node.outputs:
        if value.type.quant is not None:
            origins = followed(value, places.shape)
            if origins is None:
                return None
            reached.append((value, places.reshape(-1)[origins]))
    return reached


@dataclass(frozen=True, eq=False)
class Rows:
    """A requantize to be held against another mode: flat arrays, a row for each of its channels.

    Attributes:
        op: The requantize.
        x: The type of its operand.
        channels: The channel of the weights at each place of the operand, in the scale's shape.
        reach: What the operand can be.
        rounding: The other mode.
        channel: The channel of the weights of each row.
        output_scale: Scale of the result.
        low: Least accumulator.
        high: Greatest accumulator.
        least: Smallest result before the zero point.
    """

    op: Requantize
    x: TensorType
    channels: NDArray[np.int64]
    reach: Places
    rounding: str
    channel: NDArray[np.int64]
    output_scale: Array
    low: NDArray[np.int64]
    high: NDArray[np.int64]
    least: NDArray[np.int64]

    @staticmethod
    def of(
        op: Requantize,
        x: TensorType,
        channels: NDArray[np.int64],
        reach: Places,
        rounding: str,
    ) -> Rows:
        least = op.bounds[0] - op.to.zero_points.astype(np.int64)
        arrays = np.broadcast_arrays(channels, op.to.scale.array.astype(np.float64), *reach, least)
        flat = (array.reshape(-1) for array in arrays)
        return Rows(op, x, channels, reach, rounding, *flat)

    def operand(self, scales: Array) -> BoundedOperand:
        """Returns the operand for other scales of the sum, one for each channel."""
        code = replace(self.x.code, scale=FrozenArray(scales[self.channels]))
        return BoundedOperand(self.x.with_element(code), *self.reach)

    def suspects(self, rows: NDArray[np.int64], scales: Array) -> NDArray[np.bool_]:
        """Tells for some rows and for several scales of each where the modes seem to differ.

        They can differ only near the accumulators that are halfway between two results. A float32
        product errs by at most four roundings, 2^-22 of itself, so no others are looked at; no
        proof rests on that, as what passes is proved by `compare`.

        Args:
            rows: The rows.
            scales: Scales of the sum [rows, candidates].
        """
        count = self.op.bounds[1] - self.op.bounds[0]
        found = np.zeros(scales.size, np.bool_)
        if not count:
            return found.reshape(scales.shape)
        flat, repeated = scales.reshape(-1), np.repeat(rows, scales.shape[1])
        chunk = max(2**15 // count, 1)
        for start in range(0, flat.size, chunk):
            part = slice(start, start + chunk)
            found[part] = self._suspects(repeated[part], flat[part], count)
        return found.reshape(scales.shape)

    def _suspects(self, rows: NDArray[np.int64], scales: Array, count: int) -> NDArray[np.bool_]:
        output, low, high = self.output_scale[rows], self.low[rows], self.high[rows]
        half = self.least[rows, None] + (np.arange(count) + 0.5)
        half *= (output / scales)[:, None]
        risky = np.abs(half - np.rint(half)) <= np.abs(half) * 2.0**-22
        row, column = np.divmod(np.flatnonzero(risky), count)
        steps = self.least[rows[row]] + 1 + column
        stairs = []
        for name in (self.op.rounding, self.rounding):
            made = rounding_mode(name).multipliers(scales, output)
            stairs.append((name, Multiplier(made.value[row], made.shift[row])))
        places = differing(stairs[0], stairs[1], steps, low[row], high[row])
        return np.bincount(row[places <= INT32_MAX], minlength=len(rows)) > 0


class ScaleSearch:
    """Looks for the scale of each channel of a layer's weights that is nearest and agrees.

    Args:
        layer: The layer, without an obstacle.
        stored: What its operands can store.
        roundings: The modes that are to agree.
        ulps: By how many units in the last place a scale may move.

    Attributes:
        ulps: By how much the scale of each channel moves.
    """

    def __init__(
        self, layer: Layer, stored: StoredReach, roundings: Sequence[str], ulps: int
    ) -> None:
        self.layer = layer
        self.most = ulps
        code = layer.weights.type.affine
        self.code = code
        self.bits = code.scale.array.reshape(-1).view(np.int32)
        # The scale of the sum is the float64 product of two float32 ones.
        rule = layer.node.op.quant
        assert isinstance(rule, Accumulate)
        other = layer.node.inputs[rule.left].type.affine
        self.factor = float(other.scale.array)
        self.ulps = np.zeros(self.bits.size, np.int64)
        self.rows = [
            Rows.of(op, x.type, channels, stored.steps_by_place(x), rounding)
            for op, x, channels in (
                (node.op, node.inputs[0], channels)
                for node, channels in zip(layer.readers, layer.channels, strict=True)
                if isinstance(node.op, Requantize)
            )
            for rounding in other_roundings(op, roundings)
        ]

    def run(self) -> str:
        """Finds the moves; returns why there are none, or an empty text."""
        try:
            lost = self.find()
        except QirError as error:
            return error.message
        return "" if lost is None else f"no scale within {self.most} ulps agrees in channel {lost}"

    def find(self) -> int | None:
        """Moves each channel on until all readers agree; returns one that has nowhere to go."""
        turn = np.zeros(self.bits.size, np.int64)
        wrong = np.arange(self.bits.size)
        while wrong.size:
            if (lost := self.choose(wrong, turn)) is not None:
                return lost
            self.ulps[wrong] = _ulps(turn[wrong])
            wrong = self.disproved()
            turn[wrong] += 1
        return None

    def choose(self, channels: NDArray[np.int64], turn: NDArray[np.int64]) -> int | None:
        """Takes the turns of channels on to the next scales that seem to agree.

        Args:
            channels: The channels.
            turn: For each channel of the weights, which scale it is at; changed in place.

        Returns:
            A channel without such a scale, or None.
        """
        size = 1
        while channels.size:
            turns = turn[channels, None] + np.arange(size)
            scales, allowed = self.scales(channels, turns)
            allowed &= turns <= 2 * self.most
            fine = allowed & ~self.suspects(channels, scales)
            hit = fine.any(axis=1)
            turn[channels] = np.where(hit, turns[:, 0] + fine.argmax(axis=1), turns[:, -1] + 1)
            channels = channels[~hit]
            lost = channels[turn[channels] > 2 * self.most]
            if lost.size:
                return int(lost[0])
            size = min(2 * size + 1, 32)
        return None

    def scales(
        self, channels: NDArray[np.int64], turns: NDArray[np.int64]
    ) -> tuple[Array, NDArray[np.bool_]]:
        """Returns the scales of sums whose weights' scales have had some turns, and which exist."""
        bits = self.bits[channels].reshape(-1, *(1,) * (turns.ndim - 1)) + _ulps(turns)
        moved = bits.astype(np.int32).view(np.float32).astype(np.float64)
        allowed = (moved >= SMALLEST_SCALE) & (moved <= 1 / SMALLEST_SCALE)
        return np.where(allowed, moved, 1.0) * self.factor, allowed

    def suspects(self, channels: NDArray[np.int64], scales: Array) -> NDArray[np.bool_]:
        """Tells for channels and candidate scales of each whether any reader seems to differ."""
        found = np.zeros(scales.shape, np.int64)
        position = np.full(self.bits.size, -1)
        position[channels] = np.arange(channels.size)
        for rows in self.rows:
            chosen = np.flatnonzero(position[rows.channel] >= 0)
            where = position[rows.channel[chosen]]
            np.add.at(found, where, rows.suspects(chosen, scales[where]))
        return found > 0

    def disproved(self) -> NDArray[np.int64]:
        """Returns the channels for which the readers do differ, with the scales moved as chosen."""
        scales, _ = self.scales(np.arange(self.bits.size), _turns(self.ulps))
        wrong = np.zeros(self.bits.size, np.bool_)
        for rows in self.rows:
            comparison = compare(rows.op, rows.operand(scales), rows.rounding)
            wrong[rows.channel[comparison.found.reshape(-1)]] = True
        return np.flatnonzero(wrong)

    def apply(self) -> None:
        """Gives the weights, the bias and what lies between them and the readers the new scales."""
        if not np.any(self.ulps):
            return
        node, weights, bias = self.layer.node, self.layer.weights, self.layer.bias
        moved = (self.bits + self.ulps).astype(np.int32).view(np.float32)
        code = replace(self.code, scale=FrozenArray(moved.reshape(self.code.scale.array.shape)))
        _recode(node, weights, code)
        if bias is not None and bias.type.quant is not None:
            total = moved.astype(np.float64) * self.factor
            scale = FrozenArray(total.reshape(bias.type.quant.scale.array.shape))
            _recode(node, bias, replace(bias.type.quant, scale=scale))
        for each in (node, *self.layer.movers):
            types = infer(each.op, [value.type for value in each.inputs])
            for value, type in zip(each.outputs, types, strict=True):
                value.type = type


def _recode(node: Node, constant: Value, code: Code) -> None:
    """Gives a constant that a node reads another code; its other readers keep the one it has."""
    op = constant.op
    assert isinstance(op, Const)
    type = constant.type.with_element(code)
    if constant.users == (node,):
        assert constant.node is not None
        constant.node.op, constant.type = Const(op.array, type), type
        return
    copy = node.graph.before(node).emit(Const(op.array, type), name=constant.name)
    for index, value in enumerate(node.inputs):
        if value is constant:
            node.set_input(index, copy)


def _ulps(turns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Maps 0, 1, 2, 3, 4, … to 0, 1, -1, 2, -2, and so on."""
    return np.where(turns % 2 == 1, (turns + 1) // 2, -(turns // 2))


def _turns(ulps: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.where(ulps > 0, 2 * ulps - 1, -2 * ulps)
