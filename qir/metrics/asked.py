"""Which metrics a user asks for: by name, as text with options, as objects or as functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from qir.errors import ParseError, QirError, did_you_mean, kind_of
from qir.metrics import METRICS
from qir.metrics.own_function import OwnFunction
from qir.metrics.registry import AnyMetric
from qir.metrics.top_k import TopAccuracy
from qir.ops.attributes import attribute_fields
from qir.pipeline.grammar import read_items

_TOP = re.compile(r"top-(\d+)")


def asked(metrics: Any) -> dict[str, AnyMetric]:
    """Returns metrics by what reports call them: as they are asked for.

    Args:
        metrics: One or a sequence of these, or a dict of them by what reports are to call them: a
            text, as `f1` or `f1(average=micro)`; a metric; a function of outputs and targets.

    Raises:
        QirError: There is none, it does not exist, or two are called alike.
    """
    named: list[tuple[str, AnyMetric]]
    if isinstance(metrics, Mapping):
        named = [(str(name), _one(given, str(name))) for name, given in metrics.items()]
    else:
        pairs = [(given, _one(given)) for given in _listed(metrics)]
        named = [(given if isinstance(given, str) else each.label, each) for given, each in pairs]
    if not named:
        raise QirError(f"score: expected at least one metric of {_all_names()}, got none")
    names = [name for name, _ in named]
    for name in names:
        if names.count(name) > 1:
            raise QirError(
                f"score: expected each metric once, got '{name}' twice; a dict gives them names"
            )
    return dict(named)


def _listed(metrics: object) -> Sequence[Any]:
    if isinstance(metrics, str | AnyMetric) or callable(metrics):
        return [metrics]
    if not isinstance(metrics, Sequence):
        raise QirError(
            "score: expected metrics by name, as ['accuracy', 'latency'], or functions, got "
            f"{kind_of(metrics)}"
        )
    return metrics


def _one(given: Any, called: str = "") -> AnyMetric:
    if isinstance(given, AnyMetric):
        return given
    if isinstance(given, str):
        return _parse(given)
    if isinstance(given, type) and issubclass(given, AnyMetric):
        return given()
    if callable(given):
        return OwnFunction(called or getattr(given, "__name__", type(given).__name__), given)
    raise QirError(
        "score: expected a metric's name, a metric, or a function of outputs and targets, got "
        f"{kind_of(given)}"
    )


def _parse(text: str) -> AnyMetric:
    """Reads `name` or `name(option=value, …)`."""
    if text in METRICS:
        return _made(text, {})
    if match := _TOP.fullmatch(text):
        return TopAccuracy(int(match[1]))
    try:
        items = read_items(text)
    except ParseError as error:
        raise QirError(
            f"score: expected a metric as name(option=value), got '{text}'", error.places
        ) from error
    if len(items) != 1 or items[0].items:
        raise QirError(f"score: expected one metric as name(option=value), got '{text}'")
    name, options = items[0].name, dict(items[0].options)
    if match := _TOP.fullmatch(name):
        return _made("top-k", {"k": int(match[1]), **options})
    if name not in METRICS:
        hint = did_you_mean(name, [*METRICS, "top-5"])
        raise QirError(f"score: no metric '{name}'{hint or f'; there are {_all_names()}'}")
    return _made(name, options)


def _made(name: str, options: Mapping[str, Any]) -> AnyMetric:
    kind = METRICS[name]
    known = [spec.name for spec in attribute_fields(kind)]
    for option in options:
        if option not in known:
            listing = f"; its options are {', '.join(known)}" if known else "; it has none"
            raise QirError(
                f"score: {name} has no option '{option}'{did_you_mean(option, known) or listing}"
            )
    return kind(**options)


def _all_names() -> str:
    return ", ".join(sorted(METRICS))
