"""What an op is: a frozen dataclass, its fields the attributes and its methods the meaning."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from functools import cache
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

from qir.errors import QirError, counted, did_you_mean
from qir.numbers.affine_map import AffineMap
from qir.numbers.interval import EVERYTHING, Interval
from qir.numbers.reach import Reach
from qir.ops.attributes import attribute_fields, coerce, declared_fields, expect_class, is_taken
from qir.ops.claims import Claim
from qir.ops.orders import Order, Turned
from qir.ops.rules import Coded, FixedCode, KeepFloat, QuantRule, Rescale, Results
from qir.ops.traits import (
    Carried,
    Depth,
    Edge,
    Formed,
    Inward,
    Linear,
    Maps,
    Moves,
    Outward,
    StoredOperand,
    carried_by_broadcasting,
    hindrance,
    travelled,
)
from qir.types import Array, Code, Size, TensorType

OpT = TypeVar("OpT", bound="Op")


@dataclass(frozen=True)
class Op:
    """Base of every op. Subclasses are declared with `@op("name")` and become frozen dataclasses.

    The parameters of `result` name the operands: one with a default may be left out, `*xs` takes
    any number.
    """

    # The rules below take `**_` so that type checkers let each op name its own operands.
    name: ClassVar[str] = ""
    quant: ClassVar[QuantRule] = KeepFloat("no rule for codes")
    elementwise: ClassVar[bool] = False
    """Whether each number of the result depends on the operands' numbers at the same place only."""
    compares: ClassVar[bool] = False
    """Whether the op compares stored numbers, whose order has to be that of the real ones."""
    region_count: ClassVar[int] = 0
    """How many regions it has, or ONE_OR_MORE; see qir.ops.regions."""

    # Traits: what passes ask of an op beside its meaning. An op that is silent of them is correct,
    # and left alone.
    moves: ClassVar[Moves] = Moves.NONE
    """Which numbers of its operands the results are made of."""
    commutes: ClassVar[Maps] = Maps.NONE
    """The affine maps that the op commutes with."""
    saturates: ClassVar[bool] = False
    """Whether it is a function of one number that never falls and has a bound on either side."""
    edge: ClassVar[Edge | None] = None
    """The end of the numbers for which the op is finite."""
    broadcasts: ClassVar[bool] = False
    """Whether operands that `turned` turns broadcast, though the op is not elementwise in all."""

    def result(self, *operands: Any, **_: Any) -> TensorType | tuple[TensorType, ...]:
        """Infers the result types from the operand types; raises QirError where they don't fit."""
        raise NotImplementedError

    def region_result(
        self,
        operands: Sequence[TensorType],
        regions: Sequence[tuple[tuple[TensorType, ...], tuple[TensorType, ...]]],
    ) -> tuple[TensorType, ...]:
        """Infers the result types of an op with regions.

        Args:
            operands: The operand types.
            regions: The input types and the result types of each region.

        Raises:
            QirError: They don't fit the op.
        """
        raise NotImplementedError

    def interval(self, *operands: Any, **_: Any) -> Interval:
        """Bounds the result from bounds of the operands; the default knows nothing."""
        return EVERYTHING

    def evaluate(self, *operands: Any, **_: Any) -> Results:
        """Computes the op on numpy arrays of plain numbers, in the precision of the arrays."""
        raise QirError(f"{self.name}: can't be evaluated on its own")

    def integer(self, operands: Sequence[Coded], result: TensorType) -> Results:
        """Computes the op on codes.

        Args:
            operands: The operands.
            result: The type of the (first) result.

        Returns:
            The stored numbers of the results, as int64 or in the storage type.
        """
        return self.quant.integer(self, operands, result)

    def integer_tables(self, operands: Sequence[TensorType]) -> dict[str, Array]:
        """Returns the arrays that the integer form takes as further operands, by name.

        They are computed at compile time and become constants of the program.
        """
        return {}

    def multiply_adds(self, operands: Sequence[TensorType], result: TensorType) -> Size:
        """Returns the number of multiply-accumulates: those of sums of products, 0 for others."""
        return 0

    def weight(self, operands: Sequence[TensorType]) -> int:
        """Returns the sum of the weights of an exact sum: how often a step may count in it."""
        return 1

    def divisor(self, operands: Sequence[TensorType]) -> int | None:
        """Returns what an exact sum stands divided by; None where that varies by the place."""
        return 1

    def needs_zero(self, *operands: TensorType) -> bool:
        """Whether codes of operands must have a stored number for 0.

        That is so where the op puts zeros beside its operands' numbers, as padding does, or
        compares with 0; an op that is silent of it may.

        Args:
            operands: The types of the operands.
        """
        return True

    def needed_axes(self) -> tuple[int, ...]:
        """Returns the axes of the first operand along which there must be at least one number."""
        return ()

    def carried(
        self, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Carried]:
        """Lists the axes of operands that are axes of results; those of elementwise ops are known.

        Args:
            operands: The operand types.
            results: The result types.
        """
        return carried_by_broadcasting(operands, results) if self.elementwise else []

    def turned(self, order: Order, operands: Sequence[TensorType]) -> Turned | None:
        """Tells what the op becomes when the axes of operands stand in another order.

        Args:
            order: The order of the operands' axes in terms of those of what is to be operands
                instead; where operands broadcast, of the result's.
            operands: The operand types.

        Returns:
            None where the op is tied to the order of its axes.
        """
        return Turned(self, range(len(operands)), (order,)) if self.elementwise else None

    def affine_inward(
        self, affine: AffineMap, operands: Sequence[TensorType], results: Sequence[TensorType]
    ) -> Sequence[Inward] | str:
        """Takes an affine map of the (first) result to operands.

        Args:
            affine: The map.
            operands: The operand types.
            results: The result types.

        Returns:
            Each way to do so, or why there is none. Ops of one operand follow from `commutes`.
        """
        moved = self._commuted(affine, operands, results, inward=True)
        return moved if isinstance(moved, str) else [Inward(self, (moved,))]

    def affine_outward(
        self,
        maps: Sequence[AffineMap],
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
    ) -> Outward | str:
        """Takes affine maps of the operands to the (first) result.

        Args:
            maps: The map of each operand, one at least not the identity.
            operands: The operand types.
            results: The result types.

        Returns:
            The way to do so, or why there is none. Ops of one operand follow from `commutes`.
        """
        moved = self._commuted(maps[0], operands, results, inward=False)
        return moved if isinstance(moved, str) else Outward(self, moved)

    def _commuted(
        self,
        affine: AffineMap,
        operands: Sequence[TensorType],
        results: Sequence[TensorType],
        *,
        inward: bool,
    ) -> AffineMap | str:
        reason = hindrance(self, affine)
        if reason is None and len(operands) != 1:
            reason = f"it does not commute with {self.name}, which has several operands"
        return reason or travelled(self, affine, operands, results, inward=inward)

    def linear(self, constants: Sequence[Array | None]) -> Linear | None:
        """Returns the affine map that the op is of one operand where the others are constants.

        Args:
            constants: The numbers of each operand, float64; None for the one that varies.

        Returns:
            None where it is none.
        """
        return None

    def swapped(self) -> Op | None:
        """Returns the op for its two operands in the other order; None where there is none."""
        return None

    def is_idle(self, operands: Sequence[TensorType], results: Sequence[TensorType]) -> bool:
        """Whether the op does nothing: its result is the first operand, perhaps reshaped.

        Args:
            operands: The operand types.
            results: The result types, of as many numbers of the same element.
        """
        return False

    def clip_bounds(self) -> tuple[float, float] | None:
        """Returns the real bounds between which the op clips its operand, if it does that alone."""
        return None

    def told_apart(self) -> Interval:
        """Returns the numbers of its one operand beside which the op tells none apart.

        What lies outside gives the same result as the nearest bound.
        """
        bounds = self.clip_bounds()
        return EVERYTHING if bounds is None else Interval.of(*bounds)

    def depth(self) -> Depth | None:
        """Returns how far below the greatest of a row a number counts as nothing, if so."""
        return None

    def formed(self, steps: Sequence[Reach], operands: Sequence[TensorType]) -> Formed | None:
        """Bounds the integers that an op which rounds by itself forms on codes before that.

        Args:
            steps: The reach of each operand's steps; of plain integers, of these.
            operands: The operand types.

        Returns:
            None where no bound is known; check-overflow refuses such programs.
        """
        return None

    def stored(self, operands: Sequence[StoredOperand], result: TensorType) -> Reach | None:
        """Bounds the stored numbers of the result where the op narrows those of its code.

        Args:
            operands: What is known of the operands.
            result: The type of the (first) result.
        """
        return None

    def error(self, message: str) -> QirError:
        """Returns an error whose subject is the op."""
        return QirError(f"{self.name}: {message}")

    def __post_init__(self) -> None:
        for spec in attribute_fields(type(self)):
            value = coerce(getattr(self, spec.name), spec.annotation, f"{self.name}: {spec.name}")
            object.__setattr__(self, spec.name, value)
        self.check()
        for spec in attribute_fields(type(self)):
            if spec.means_default is not None and spec.means_default(getattr(self, spec.name)):
                object.__setattr__(self, spec.name, spec.default)

    def check(self) -> None:
        """Raises QirError for attributes that can't stand together; the default accepts all."""

    def with_code(self, code: Code) -> Self:
        """Returns the op with another code for its result, which its field `to` holds.

        Raises:
            QirError: It has no such field.
        """
        fields = {spec.name: getattr(self, spec.name) for spec in attribute_fields(type(self))}
        if "to" not in fields:
            raise self.error(_NO_CODE)
        return type(self)(**{**fields, "to": code})

    def attributes(self) -> dict[str, Any]:
        """The attributes that the text shows: not at their default, and not told by the type."""
        shown = {}
        for spec in attribute_fields(type(self)):
            value = getattr(self, spec.name)
            if spec.by_type is None and value != spec.default:
                shown[spec.name] = value
        return shown

    def claims(self) -> tuple[Claim, ...]:
        """Returns what the op claims of its operands beyond its type rule, by attributes.

        The verifier proves it, and what a rewrite has made untrue is taken back after each pass and
        before a program is compiled.
        """
        return ()


_NO_CODE = (
    "expected a field that holds the code of the result, "
    "to: Affine | None = by_type(result_code, None), as ops of rule Rescale or FixedCode have"
)

OPS: dict[str, type[Op]] = {}
"""Every declared op by the name that the text uses."""


@dataclass_transform(frozen_default=True)
def op(name: str) -> Callable[[type[OpT]], type[OpT]]:
    """Declares an op: makes the class a frozen dataclass and enters it into the registry.

    Args:
        name: The name in the text, snake_case.

    Raises:
        QirError: The name is taken, or none that a text can hold; the class does not derive from
            Op, has no type rule, or has fields that no text can hold, or lacks that of its code.
    """

    def declare(cls: type[OpT]) -> type[OpT]:
        if not (str(name).isascii() and str(name).isidentifier()):
            raise QirError(f"op: expected a name of letters, digits and '_', got '{name}'")
        expect_class(cls, Op, f"op {name}")
        if is_taken(name, OPS, cls):
            raise QirError(f"op: '{name}' is already declared by {OPS[name].__qualname__}")
        if cls.region_count == 0 and cls.result is Op.result:
            raise QirError(
                f"op {name}: expected {cls.__qualname__} to define its type rule, "
                "def result(self, x: TensorType) -> TensorType"
            )
        declared = declared_fields(cls, f"op {name}")
        coded = isinstance(declared.quant, Rescale | FixedCode)
        if coded and "to" not in (spec.name for spec in attribute_fields(declared)):
            raise QirError(f"op {name}: {_NO_CODE}")
        declared.name = name
        OPS[name] = declared
        return declared

    return declare


def find_op(name: str) -> type[Op]:
    """Returns the op class of a name, or raises QirError with the nearest name."""
    found = OPS.get(name)
    if found is None:
        raise QirError(f"op: no op '{name}'{did_you_mean(name, OPS)}")
    return found


@cache
def _operands(type_rule: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    return tuple(inspect.signature(type_rule).parameters.values())[1:]


def arity(cls: type[Op]) -> tuple[int, int]:
    """Returns the least and the greatest number of operands, 2^31 where there is no limit."""
    least = most = 0
    for parameter in _operands(cls.result):
        if parameter.kind is inspect.Parameter.VAR_POSITIONAL:
            return least, 2**31
        most += 1
        least += parameter.default is inspect.Parameter.empty
    return least, most


def operand_names(cls: type[Op]) -> tuple[str, ...]:
    """Returns the names of an op's operands, as the parameters of its type rule."""
    return tuple(parameter.name for parameter in _operands(cls.result))


def infer(operation: Op, operands: Sequence[TensorType]) -> tuple[TensorType, ...]:
    """Runs the type rule of an op.

    Raises:
        QirError: The number of operands or their types don't fit the op.
    """
    least, most = arity(type(operation))
    if not least <= len(operands) <= most:
        wanted = (
            counted(least, "operand")
            if least == most
            else f"{least} or more operands"
            if most == 2**31
            else f"{least} to {most} operands"
        )
        raise operation.error(f"expected {wanted}, got {len(operands)}")
    for operand in operands:
        if operand.quant and not operand.quant.holds_zero and operation.needs_zero(*operands):
            raise operation.error(
                f"expected operands whose codes hold the number 0, got {operand}; requantize it to "
                "a code whose zero point is a stored number"
            )
        if operand.quant and operation.compares and not operand.quant.is_ordered:
            raise operation.error(
                f"expected codes whose stored numbers have the order of the real ones, got "
                f"{operand}; dequantize it"
            )
    result = operation.result(*operands)
    results = result if isinstance(result, tuple) else (result,)
    for type_ in results:
        if not isinstance(type_, TensorType):
            raise operation.error(f"expected its result to be a TensorType, got {type_!r}")
    return results


def from_attributes(cls: type[Op], attributes: dict[str, Any], results: Sequence[TensorType]) -> Op:
    """Builds an op from the attributes in a text and the types that follow it.

    Raises:
        QirError: An attribute is unknown, missing or of the wrong type.
    """
    values = dict(attributes)
    specs = attribute_fields(cls)
    names = [spec.name for spec in specs if spec.by_type is None]
    for name in attributes:
        if name not in names:
            raise QirError(f"{cls.name}: no attribute '{name}'{did_you_mean(name, names)}")
    for spec in specs:
        if spec.by_type is not None:
            if not results:
                raise QirError(f"{cls.name}: expected a result type")
            values[spec.name] = spec.by_type(results[0])
        elif spec.name not in values and spec.default is MISSING:
            raise QirError(f"{cls.name}: expected attribute '{spec.name}'")
    return cls(**values)
