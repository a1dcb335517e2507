"""What `qir.compare` finds: figures of values, culprits, what would help; as tables and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import isfinite
from typing import Any, Literal

from qir.errors import QirError, did_you_mean
from qir.ir import OutputAccuracy
from qir.report.tables import table

RemedyName = Literal[
    "per channel", "16 bits", "another clip", "smooth-quant", "separate codes", "keep float"
]
"""What may bring accuracy back; see `qir.report.compare.remedies`."""

MadeBy = Literal["weights", "clipping", "rounding"]
"""What an op's own error is made by."""

SHOWN = 20
"""How many values the printed table has, those with the largest errors."""


@dataclass(frozen=True)
class Subject:
    """What figures are of.

    Args:
        value: Name of the float program's value, behind that of the loop or branch it stands in.
        op: The float program's op, `input` for what the program takes.
        loc: Where in the user's model it comes from.
        stands: Name of the integer program's value.
        code: That one's element: its storage, or a plain type.
    """

    value: str
    op: str
    loc: str | None
    stands: str
    code: str


@dataclass(frozen=True)
class ValueAccuracy(Subject):
    """A value of the float program beside the one of the integer program that stands for it.

    `own` and `inherited` add up to `noise`, and `weights`, `clipping` and `rounding` to 1: each is
    what the error that it is a part of has in its direction. One that is below 0 makes up for some
    of the others.

    Args:
        sqnr: Signal to quantization noise in dB, as of `OutputAccuracy`.
        rows: The 5th percentile of the same figure by rows, which lie along the last axis.
        cosine: The cosine between the numbers of both programs.
        largest: The largest absolute error.
        peak: The greatest magnitude of the float program's numbers.
        saturation: The share of stored numbers that are at an end of the code, one that means 0
            aside; None without a code.
        noise: The sum of the squares of the errors.
        own: What of that the op makes itself of operands that are exact but for their codes.
        inherited: What of it comes with the operands.
        own_sqnr: Signal to noise in dB of the own error alone; infinite where there is none.
        weights: The share of the own error that the numbers of weights and biases make.
        clipping: The share of what lies outside of the code.
        rounding: The share of steps: of the code, and of tables and sums on the way.
    """

    sqnr: float
    rows: float
    cosine: float
    largest: float
    peak: float
    saturation: float | None
    noise: float
    own: float
    inherited: float
    own_sqnr: float
    weights: float
    clipping: float
    rounding: float

    @property
    def own_share(self) -> float:
        """Which part of the noise is the op's own; 0 without noise."""
        return self.own / self.noise if self.noise else 0.0

    @property
    def source(self) -> MadeBy:
        """What makes most of the own error."""
        shares: list[tuple[float, MadeBy]] = [
            (self.weights, "weights"),
            (self.clipping, "clipping"),
            (self.rounding, "rounding"),
        ]
        return max(shares)[1]


@dataclass(frozen=True)
class GoneValue:
    """A value of the float program that no value of the integer one stands for alone.

    Args:
        value: Its name.
        op: The op that computes it.
        loc: Where in the user's model it comes from.
        into: The value of the float program that it went into, of which there are figures; None
            where it went into nothing that is compared.
    """

    value: str
    op: str
    loc: str | None
    into: str | None


@dataclass(frozen=True)
class Remedy:
    """What would make a value's own error smaller, and what the output would gain by it.

    Args:
        name: What it is.
        gain: The predicted gain in dB at the output, where errors of values add independently.
        detail: What it does to the value's own error.
        rule: The rule of a recipe that gives it, by the names of its fields; None where no rule
            does.
    """

    name: RemedyName
    gain: float
    detail: str
    rule: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Culprit:
    """A value whose own error alone costs an output accuracy.

    Args:
        value: Its name, as in the table of values.
        op: The op.
        loc: Where in the user's model it comes from.
        output: The output where that costs most, the least accurate one first.
        sqnr: Signal to noise in dB at that output with the error of this value alone.
        share: The share of the noise there, where errors of values add independently.
        effects: The same as `sqnr` for every output.
        source: What makes most of the own error.
        remedies: What would help, the best first.
    """

    value: str
    op: str
    loc: str | None
    output: str
    sqnr: float
    share: float
    effects: Mapping[str, float]
    source: MadeBy
    remedies: tuple[Remedy, ...] = ()


@dataclass(frozen=True)
class MeasuredRemedy:
    """What a remedy of the first culprit was worth when the program was quantized with it.

    It is the best one as predicted, or the next that gains anything.

    Args:
        value: The value that it was for.
        name: The remedy.
        output: The output.
        before: Signal to noise in dB of the program quantized again as it was.
        after: The same with the remedy.
        predicted: The gain in dB that was predicted.
        rule: The rule of the recipe, by the names of its fields.
    """

    value: str
    name: RemedyName
    output: str
    before: float
    after: float
    predicted: float
    rule: Mapping[str, Any]

    @property
    def gain(self) -> float:
        """The gain in dB."""
        return self.after - self.before


@dataclass(frozen=True, repr=False)
class ComparisonReport:
    """Where the accuracy of an integer program went; printed as tables.

    Args:
        samples: On what it was measured, and on how many of these the effects on the outputs.
        outputs: The figures of each floating-point output, the least accurate first.
        independent: Signal to noise in dB at each output with the sum of the noises that the
            values' own errors make there alone: as far as it is from what was measured, the errors
            add otherwise than independently.
        values: The figures of each value that has a counterpart, in the order of the program.
        gone: The values that have none.
        culprits: The values by the effect of their own errors on the outputs, the worst first.
        measured: What the best remedy of the first one was worth; None where it was not tried.
        notes: What else is to be said.
    """

    samples: str
    outputs: tuple[OutputAccuracy, ...]
    independent: Mapping[str, float]
    values: tuple[ValueAccuracy, ...]
    gone: tuple[GoneValue, ...]
    culprits: tuple[Culprit, ...]
    measured: MeasuredRemedy | None = None
    notes: tuple[str, ...] = field(default=())

    def value(self, name: str) -> ValueAccuracy:
        """Returns the figures of a value; raises QirError with the nearest name for another."""
        bare = name.removeprefix("%")
        for one in self.values:
            if one.value == bare:
                return one
        into = next((one.into for one in self.gone if one.value == bare), None)
        hint = (
            f"; it went into %{into}"
            if into
            else did_you_mean(bare, [v.value for v in self.values])
        )
        raise QirError(f"compare: no figures of %{bare}{hint}")

    def as_json(self) -> str:
        """Returns all of it as JSON; a number that is not finite is a string, such as "inf"."""
        return json.dumps(_plain(asdict(self)), indent=1)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def __repr__(self) -> str:
        """Returns the tables: they are what a notebook shows of the last expression of a cell."""
        return str(self)

    def _lines(self) -> Iterator[str]:
        yield f"accuracy on {self.samples}, signal to noise (5th percentile of rows, last axis):"
        for output in self.outputs:
            alone = self.independent.get(output.name)
            noise = "" if alone is None else f"; values' own errors alone add up to {alone:.1f} dB"
            yield f"  output %{output.name}: {output.sqnr:.1f} dB ({output.rows:.1f} dB){noise}"
        if self.culprits:
            yield ""
            worst = self.culprits[:SHOWN]
            more = _more(len(self.culprits) - len(worst))
            yield f"culprits, by what the output has with their own error alone{more}:"
            yield from table([_CULPRITS, *map(_culprit, worst)], right=(3, 4))
        if self.measured is not None:
            one = self.measured
            yield (
                f"measured: {one.name} for %{one.value} brings %{one.output} from "
                f"{one.before:.1f} to {one.after:.1f} dB: {one.gain:+.1f} dB, predicted "
                f"{one.predicted:+.1f} dB"
            )
            rule = (f"{key} = {json.dumps(said)}" for key, said in one.rule.items())
            yield f"  by the rule of a recipe: {', '.join(rule)}"
        if self.values:
            shown = sorted(self.values, key=lambda one: one.sqnr)[:SHOWN]
            yield ""
            yield f"values, the least accurate first{_more(len(self.values) - len(shown))}:"
            yield from table([_VALUES, *map(_value, shown)], right=range(3, 11))
            yield _LEGEND
        for gone in self.gone:
            where = f"into %{gone.into}" if gone.into else "into nothing that is compared"
            yield f"  {gone.op} %{gone.value} went {where}"
        yield from self.notes


_CULPRITS = ("op", "value", "output", "dB", "share", "made by", "predicted gain")
_VALUES = (
    "op",
    "value",
    "code",
    "dB",
    "rows",
    "cosine",
    "largest",
    "ends",
    "own",
    "of it weights",
    "clipping",
)

_LEGEND = """\
  rows: the 5th percentile of dB by rows; largest: the largest error; ends: how many numbers are at
  an end of their code; own: how much of the noise the op makes itself, the rest came with its
  operands; of it weights, clipping: how much of its own these make, the rest is rounding"""


def _more(count: int) -> str:
    return f" ({count} more are in the JSON)" if count else ""


def _culprit(one: Culprit) -> tuple[str, ...]:
    gains = ", ".join(f"{remedy.name} {remedy.gain:+.1f}" for remedy in one.remedies[:3])
    return (
        one.op,
        f"%{one.value}",
        f"%{one.output}",
        f"{one.sqnr:.1f}",
        f"{one.share:.1%}",
        one.source,
        gains or "-",
    )


def _value(one: ValueAccuracy) -> tuple[str, ...]:
    return (
        one.op,
        f"%{one.value}",
        one.code,
        f"{one.sqnr:.1f}",
        f"{one.rows:.1f}",
        f"{one.cosine:.5f}",
        f"{one.largest:.3g}",
        "-" if one.saturation is None else f"{one.saturation:.2%}",
        f"{one.own_share:.0%}",
        f"{one.weights:.0%}",
        f"{one.clipping:.0%}",
    )


def _plain(found: Any) -> Any:
    if isinstance(found, Mapping):
        return {name: _plain(value) for name, value in found.items()}
    if isinstance(found, list | tuple):
        return [_plain(value) for value in found]
    if isinstance(found, float) and not isfinite(found):
        return str(found)
    return found
