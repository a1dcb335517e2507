"""calibrate: what the values of a float program range over, observed on data."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from qir.analysis.properties import RANGED
from qir.errors import PassError, QirError, did_you_mean, what_failed
from qir.ir import Graph, Node, Value
from qir.numbers.interval import Interval
from qir.observe.histograms import BINS
from qir.observe.methods import METHODS, CalibrationMethod
from qir.observe.statistics import TensorStatistics
from qir.ops.attributes import attribute_fields
from qir.passes.shared.chosen_codes import tell, tell_of_all
from qir.passes.shared.collection import collect, look_up, tell_apart
from qir.passes.shared.tally import float_values, is_observed, sources
from qir.pipeline import Context, Pass, Recipe, register

NEVER_RUN = "calibration never ran it"
"""The note of what stands in a region that no data took."""

_LARGEST = float(np.finfo(np.float32).max)


@register
class Calibrate(Pass):
    """Observes every floating-point value on `Context.data`: what it ranges over.

    Each batch is reduced to one histogram a tensor, which merge exactly: but for the moving
    average, neither the order of the batches nor how data is cut into them makes a difference, and
    memory does not grow with the number of batches. The statistics stay in the context. Without
    data, ranges are solved anew from the statistics that the context has.

    Values inside of loops and branches are observed in each trip; the extremes of a batch are those
    over its trips. What stands in a branch that no data took has no range, and is told.

    Beside that, the statistics get the extremes and the mean square of the channels of what
    products read, mean and variance of those and of what convolutions read, the least row maximum
    of what a softmax reads, the extremes and the mean square at each position of what attention
    returns, and the extremes of the channels between layers whose channels are uneven. Of what the
    first of such layers reads a few rows are kept, for pass equalize.

    The options of the method stand beside it, as in `calibrate(method=percentile, percentile=99)`,
    or behind its name, `calibrate(method="percentile(percentile=99)")`.

    Attributes:
        method: How a range follows from what was seen; see qir.observe.methods.
        optional: Whether it does nothing where there is neither data nor a statistic, as for
            weights alone, whose biases are better for data.
    """

    method: str = "minmax"
    optional: bool = False

    name = "calibrate"
    whole_program = True
    ensures = (RANGED,)
    follows = ("method",)

    @classmethod
    def options_of(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Gives the method the options that are its own."""
        own = {name: given[name] for name in ("method", "optional") if name in given}
        rest = {name: value for name, value in given.items() if name not in own}
        if not rest:
            return own
        chosen = _named(str(own.get("method", cls.method)))
        if isinstance(chosen, CalibrationMethod):
            raise QirError(f"calibrate: expected the options of {chosen} in its parentheses only")
        known = {spec.name: spec for spec in attribute_fields(chosen)}
        for name, value in dict(rest).items():
            if name not in known:
                _refuse(chosen.name, name, value)
                del rest[name]
        return {**own, "method": str(chosen(**rest))}

    def check(self) -> None:
        object.__setattr__(self, "method", str(self.chosen))

    @property
    def chosen(self) -> CalibrationMethod:
        """The method with its options."""
        return _method(self.method)

    def run(self, graph: Graph, context: Context) -> None:
        recipe = context.recipe or Recipe()
        with_methods = [rule for rule in recipe.rules if rule.method is not None]
        if self.optional and context.data is None and not context.statistics:
            with recipe.placed(*with_methods[:1]):
                if with_methods:
                    raise QirError("calibrate: expected data for the method of a rule, got none")
            context.unattained.add(RANGED)
            return
        method = self.chosen
        others = {}
        for rule in with_methods:
            with recipe.placed(rule):
                others[rule.method] = _method(str(rule.method))
        tell_apart(graph)
        if context.observations is not None:
            most = max(BINS, *(each.most_bins for each in (method, *others.values())))
            collect(graph, context.observations, most, context)
        elif context.data is None:
            context.layer_rows = {}
            context.statistics = context.statistics.of_program(graph)
        found = look_up(graph, context.statistics)
        _check_known(graph, found, context)
        never = _never_run(graph, found)
        context.diagnostics += [_said_of(node, region) for node, region in never]
        left = {
            value
            for _, region in never
            for value in filter(is_observed, region.values_inside())
            if not _is_seen(found[value])
        }
        for node in graph.walk():
            if any(value in left for value in node.outputs):
                node.note = NEVER_RUN
            elif node.note == NEVER_RUN:
                node.note = None
        values = [value for value in float_values(graph) if value not in left]
        chosen = recipe.resolve(
            graph, ["method"], lambda _, value: value in found, context.reference
        )
        tell(graph, chosen)
        if context.recipe is not None:
            tell_of_all(graph, self, self.follows)
        methods = [
            others[chosen[value].get("method")] if value in chosen else method for value in values
        ]
        ranges = _solved(methods, values, found)
        for value in left:
            value.observed = None
        for value, (low, high) in zip(values, ranges, strict=True):
            value.observed = Interval.of(low, high)


def _method(text: str) -> CalibrationMethod:
    """Returns the method that a text names, with its options or those by default."""
    found = _named(text)
    return found if isinstance(found, CalibrationMethod) else found()


def _named(text: str) -> CalibrationMethod | type[CalibrationMethod]:
    """Returns the class that a text names, or the method where it has options in parentheses."""
    name, opened, _ = text.partition("(")
    if name not in METHODS:
        hint = did_you_mean(name, METHODS)
        raise QirError(
            f"calibrate: method: expected one of {', '.join(sorted(METHODS))}, got {name}{hint}"
        )
    if not opened:
        return METHODS[name]
    from qir.pipeline.grammar import read_items  # takes longer to load than all the rest

    items = read_items(text)
    if len(items) != 1 or items[0].items:
        raise QirError(f"calibrate: method: expected name(option=value, …), got {text}")
    options = dict(items[0].options)
    known = [spec.name for spec in attribute_fields(METHODS[name])]
    for option in options:
        if option not in known:
            raise QirError(
                f"calibrate: expected an option of {name} "
                f"({', '.join(known) or 'it has none'}), got {option}{did_you_mean(option, known)}"
            )
    return METHODS[name](**options)


def _refuse(method: str, option: str, value: object) -> None:
    """Raises QirError for an option of another method, unless it is what that one has anyway."""
    specs = {
        name: spec
        for name, kind in METHODS.items()
        for spec in attribute_fields(kind)
        if spec.name == option
    }
    if not specs:
        options = {spec.name for kind in METHODS.values() for spec in attribute_fields(kind)}
        names = ["method", "optional", *sorted(options)]
        known = did_you_mean(option, names) or f"; its options are {', '.join(names)}"
        raise QirError(f"calibrate has no option '{option}'{known}")
    if any(value == spec.default for spec in specs.values()):
        return
    METHODS[min(specs)](**{option: value})  # says first what is wrong with the value itself
    raise QirError(
        f"calibrate: expected no {option} with {method}, which does without, got "
        f"{str(value).lower() if isinstance(value, bool) else value}; "
        f"add method={' or '.join(sorted(specs))}"
    )


def _check_known(graph: Graph, found: Mapping[Value, TensorStatistics], context: Context) -> None:
    """Raises PassError where the statistics of a value are not known."""
    missing = [f"%{value.name}" for value in float_values(graph) if value not in found]
    if missing and not any(seen.histogram is not None for seen in context.statistics.values()):
        raise PassError("calibrate: expected data, or statistics of the model, got neither")
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise PassError(
            f"calibrate: expected data, or statistics of {', '.join(missing[:3])}{more}; "
            "those given are of other values, or of the model prepared by another pipeline or for "
            "another target, which qir.calibrate takes too"
        )


def _never_run(graph: Graph, found: Mapping[Value, TensorStatistics]) -> list[tuple[Node, Graph]]:
    """Returns the regions that no data took, each with its node; not those inside of them."""
    source = sources(graph)

    def inside(graph: Graph) -> Iterator[tuple[Node, Graph]]:
        for node in graph.nodes:
            for region in node.regions:
                # Of what goes in, and is the same outside, more may have been seen.
                own = [value for value in region.values_inside() if source.get(value) is value]
                own = [value for value in own if value.type.size != 0]
                is_told = any(value.owner is region for value in own)
                if is_told and not any(_is_seen(found[value]) for value in own):
                    yield node, region
                else:
                    yield from inside(region)

    return list(inside(graph))


def _is_seen(known: TensorStatistics) -> bool:
    return known.histogram is not None and known.histogram.count > 0


def _said_of(node: Node, region: Graph) -> str:
    place = f"{node.op.name} {node.place().removeprefix('at ')}"
    which = f"region {node.regions.index(region)} of " if len(node.regions) > 1 else ""
    return (
        f"calibrate: no data ran {which}{place}: what it computes has no range of its own, and "
        "what it returns is cut off at what was seen of the results; add data that runs it"
    )


def _solved(
    methods: Sequence[CalibrationMethod],
    values: Sequence[Value],
    found: Mapping[Value, TensorStatistics],
) -> list[tuple[float, float]]:
    """Returns the range of each of some values, by its method."""
    # Values that hold the same numbers share statistics, which need be solved only once.
    keys = [
        (method, *map(id, found[value].parts.values()))
        for method, value in zip(methods, values, strict=True)
    ]
    solved: dict[tuple[object, ...], tuple[float, float]] = {}
    for method, key, value in zip(methods, keys, values, strict=True):
        if key not in solved:
            solved[key] = _range(method, value, found[value])
    return [solved[key] for key in keys]


def _range(method: CalibrationMethod, value: Value, seen: TensorStatistics) -> tuple[float, float]:
    """Returns the range that a method gives; raises QirError with the place where it gives none."""
    subject = f"calibrate: method {method.name}"
    try:
        given: Any = method.range(seen)
    except QirError as error:
        raise error.at(f"at %{value.name}") from error
    except Exception as error:  # any: a method may be the user's, and the place helps
        raise QirError(f"{subject} failed: {what_failed(error)}", [f"at %{value.name}"]) from error
    try:
        low, high = given
        low, high = float(low), float(high)
    except (TypeError, ValueError):
        low = high = math.nan
    # NaN is in no order.
    if not -_LARGEST <= low <= high <= _LARGEST:
        raise QirError(
            f"{subject}: expected two finite numbers of float32, the lower one first, got {given}",
            [f"at %{value.name}"],
        )
    return low, high
