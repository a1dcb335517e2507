"""Functions of one number. On codes of 8 and 16 bits each is one lookup (op lookup)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np

from qir.numbers.interval import EVERYTHING, Interval
from qir.ops.op import Op, op
from qir.ops.rules import Table
from qir.ops.traits import Edge, Linear, Maps
from qir.ops.type_rules import same_float
from qir.types import Array, TensorType

_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: Array) -> Array:
    """The error function, by the C library in float64."""
    return np.asarray(_erf(x.astype(np.float64)), np.float64).astype(x.dtype)


class Unary(Op):
    """Base of the functions of one number: the type is the operand's, a plain floating-point one.

    Attributes:
        turns: The arguments between which the function is monotone, for interval arithmetic.
    """

    quant = Table()
    elementwise = True
    turns: ClassVar[tuple[float, ...]] = ()

    def result(self, x: TensorType) -> TensorType:
        same_float(self, x)
        if not x.is_float:
            raise self.error(f"expected floating-point numbers, got {x}")
        return x

    def interval(self, x: Interval) -> Interval:
        corners = [x.lo, x.hi, *(np.clip(turn, x.lo, x.hi) for turn in self.turns)]
        with np.errstate(all="ignore"):
            images = [self.at_limit(corner) for corner in corners]
        return Interval.of(np.minimum.reduce(images), np.maximum.reduce(images))

    def at_limit(self, x: Array) -> Array:
        """Evaluates at float64 bounds, infinite ones included."""
        finite = np.clip(x, -1e300, 1e300)
        return np.asarray(self.evaluate(finite))

    def evaluate(self, x: Array) -> Array:
        raise NotImplementedError


@op("tanh")
class Tanh(Unary):
    """tanh(x)."""

    saturates = True

    def evaluate(self, x: Array) -> Array:
        return np.tanh(x)


@op("logistic")
class Logistic(Unary):
    """1 / (1 + exp(-x)), the sigmoid."""

    saturates = True

    def evaluate(self, x: Array) -> Array:
        return np.asarray((np.tanh(x / 2) + 1) / 2)


@op("exp")
class Exp(Unary):
    """exp(x)."""

    def evaluate(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.exp(x)


@op("silu")
class Silu(Unary):
    """x * logistic(x), also called swish."""

    turns = (-1.2784645427610738,)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x * ((np.tanh(x / 2) + 1) / 2))


@op("gelu")
class Gelu(Unary):
    """x * Phi(x) with the normal distribution function Phi (arXiv:1606.08415).

    Attributes:
        approximate: Whether to use the tanh approximation.
    """

    approximate: bool = False

    turns = (-0.7524614220710162, -0.7517915246935645)

    def evaluate(self, x: Array) -> Array:
        if self.approximate:
            with np.errstate(over="ignore"):
                inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
            return np.asarray(x * ((np.tanh(inner) + 1) / 2))
        return np.asarray(x * ((erf(x / math.sqrt(2)) + 1) / 2))


@op("hard_swish")
class HardSwish(Unary):
    """x * clip(x + 3, 0, 6) / 6 (arXiv:1905.02244)."""

    turns = (-1.5, -3.0)

    def told_apart(self) -> Interval:
        return Interval.of(-3, np.inf)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(x * (np.clip(x + 3, 0, 6) / 6))


@op("hard_sigmoid")
class HardSigmoid(Unary):
    """clip(x + 3, 0, 6) / 6."""

    def told_apart(self) -> Interval:
        return Interval.of(-3, 3)

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.clip(x + 3, 0, 6) / 6)


@op("elu")
class Elu(Unary):
    """x where positive, alpha * (exp(x) - 1) elsewhere (arXiv:1511.07289)."""

    alpha: float = 1.0

    turns = (0.0,)

    def evaluate(self, x: Array) -> Array:
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0)))


@op("leaky_relu")
class LeakyRelu(Unary):
    """x where positive, slope * x elsewhere."""

    slope: float = 0.01

    turns = (0.0,)
    commutes = Maps.FACTORS

    def evaluate(self, x: Array) -> Array:
        return np.where(x > 0, x, self.slope * x)


@op("softplus")
class Softplus(Unary):
    """log(1 + exp(x))."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))))


@op("erf")
class Erf(Unary):
    """The error function."""

    saturates = True

    def evaluate(self, x: Array) -> Array:
        return erf(x)


@op("neg")
class Neg(Unary):
    """-x."""

    def linear(self, constants: Sequence[Array | None]) -> Linear:
        return Linear(0, np.asarray(-1.0), np.zeros(()))

    def evaluate(self, x: Array) -> Array:
        return np.negative(x)


@op("abs")
class Abs(Unary):
    """|x|."""

    turns = (0.0,)

    def evaluate(self, x: Array) -> Array:
        return np.abs(x)


@op("square")
class Square(Unary):
    """x * x."""

    turns = (0.0,)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.square(x)


@op("sqrt")
class Sqrt(Unary):
    """The square root; NaN below 0."""

    edge = Edge(included=True, steep=True)

    def interval(self, x: Interval) -> Interval:
        return x.clip(0, np.inf).monotone(np.sqrt)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.sqrt(x)


@op("rsqrt")
class Rsqrt(Unary):
    """1 / sqrt(x); infinite at 0, NaN below."""

    edge = Edge()

    def interval(self, x: Interval) -> Interval:
        return -x.clip(0, np.inf).monotone(lambda bound: -1 / np.sqrt(bound))

    def evaluate(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.asarray(1 / np.sqrt(x))


@op("log")
class Log(Unary):
    """The natural logarithm; -infinity at 0, NaN below."""

    edge = Edge()

    def interval(self, x: Interval) -> Interval:
        return x.clip(0, np.inf).monotone(np.log)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log(x)


@op("log1p")
class Log1p(Unary):
    """log(1 + x); -infinity at -1, NaN below."""

    edge = Edge(number=-1.0)

    def interval(self, x: Interval) -> Interval:
        return x.clip(-1, np.inf).monotone(np.log1p)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.log1p(x)


@op("expm1")
class Expm1(Unary):
    """exp(x) - 1."""

    def evaluate(self, x: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.expm1(x)


@op("reciprocal")
class Reciprocal(Unary):
    """1 / x; infinite at 0."""

    edge = Edge(both=True, divides=True)

    def interval(self, x: Interval) -> Interval:
        return EVERYTHING if np.any((x.lo <= 0) & (x.hi >= 0)) else Interval.of(1 / x.hi, 1 / x.lo)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(divide="ignore"):
            return np.asarray(1 / x)


@op("sign")
class Sign(Unary):
    """-1 below 0, 0 at 0, 1 above."""

    def evaluate(self, x: Array) -> Array:
        return np.sign(x)


@op("floor")
class Floor(Unary):
    """The greatest integer that is at most x."""

    def evaluate(self, x: Array) -> Array:
        return np.floor(x)


@op("ceil")
class Ceil(Unary):
    """The least integer that is at least x."""

    def evaluate(self, x: Array) -> Array:
        return np.ceil(x)


@op("round")
class Round(Unary):
    """The nearest integer.

    Attributes:
        ties: Where halves go: to the even integer, or away from 0.
    """

    ties: Literal["even", "away"] = "even"

    def evaluate(self, x: Array) -> Array:
        if self.ties == "even":
            return np.rint(x)
        whole = np.trunc(x)
        return np.where(np.abs(x - whole) >= 0.5, whole + np.sign(x), whole)


@op("sin")
class Sin(Unary):
    """The sine of x in radians."""

    def interval(self, x: Interval) -> Interval:
        return Interval.of(-1, 1)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.sin(x)


@op("cos")
class Cos(Unary):
    """The cosine of x in radians."""

    def interval(self, x: Interval) -> Interval:
        return Interval.of(-1, 1)

    def evaluate(self, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.cos(x)


@op("mish")
class Mish(Unary):
    """x * tanh(softplus(x)) (arXiv:1908.08681)."""

    turns = (-1.1924597930908203,)

    def evaluate(self, x: Array) -> Array:
        softplus = np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))
        return np.asarray(x * np.tanh(softplus))
