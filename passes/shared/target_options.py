"""The options of pass quantize within what a target accepts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar, get_args, get_type_hints

from qir.errors import QirError, did_you_mean
from qir.passes.shared.weight_codes import SCHEMES
from qir.targets import Target
from qir.types import DType

KINDS = {
    "affine": "affine",
    "log2": "power_of_two",
    "log2_half": "power_of_two",
    "apot": "codebook",
    "nf4": "codebook",
    "fp8": "fp8_e4m3fn",
    "fp8_e5m2": "fp8_e5m2",
    "mxfp4": "mxfp4",
    "nvfp4": "nvfp4",
}
"""The kind of code that each scheme of weights makes."""


OptionsT = TypeVar("OptionsT", bound=Any)


def for_target(options: OptionsT, target: Target) -> OptionsT:
    """Returns the options of pass quantize that a target accepts.

    An option at its default becomes what the target has; another one has to be accepted.

    Raises:
        QirError: An option that is not at its default is not accepted; the nearest that is, is
            named.
    """
    plain = type(options)()
    chosen: dict[str, Any] = {
        "weights": _storage(options, plain, "weights", target.weights, target),
        "rounding": _one_of(options, plain, "rounding", target.roundings, target),
        "symmetric": options.symmetric or target.symmetric_activations,
        "scheme": _scheme(options, target),
        "per": _per(options, plain, target),
    }
    if options.activations != "float":
        chosen["activations"] = _storage(options, plain, "activations", target.activations, target)
    return replace(options, **chosen)


def expect_accepted(options: Any, wanted: Mapping[str, Any], target: Target) -> None:
    """Checks what a rule of a recipe chooses: nothing makes it what the target has instead.

    Args:
        options: The pass that follows the rule.
        wanted: The options that are chosen.
        target: The target.

    Raises:
        QirError: An option is not accepted; those that are, are named.
    """
    for name, value in wanted.items():
        if name == "scheme":
            _scheme(replace(options, scheme=value), target)
            continue
        if name == "per":
            accepted = target.weight_scales
            names = accepted and [f"{each}:32" if each == "block" else each for each in accepted]
            value = "block:32" if value.startswith("block:") else value
        else:
            storages = target.weights if name == "weights" else target.activations
            if storages is not None and name == "weights" and options.activations == "float":
                storages = (*storages, *target.casts)
            names = storages if storages is None else [each.value for each in storages]
        if names is not None and value not in names:
            raise QirError(_refused(name, value, names, target))


def _one_of(
    options: Any, plain: Any, name: str, accepted: Sequence[str] | None, target: Target
) -> Any:
    value = getattr(options, name)
    if accepted is None or value in accepted:
        return value
    if value == getattr(plain, name):
        makes = get_args(get_type_hints(type(options))[name]) or tuple(accepted)
        for choice in accepted:
            if choice in makes:
                return choice
        if accepted:
            raise QirError(
                f"quantize: {name}: expected a target that accepts {' or '.join(makes)}, got "
                f"{target.name}, which accepts {' or '.join(accepted)}"
            )
    raise QirError(_refused(name, value, accepted, target))


def _refused(name: str, value: object, accepted: Iterable[str], target: Target) -> str:
    known = list(accepted)
    nearest = did_you_mean(str(value), known)
    return (
        f"quantize: {name}: expected what target {target.name} accepts, "
        f"{' or '.join(known) or 'which is none'}, got {value}{nearest}"
    )


def _storage(
    options: Any, plain: Any, name: str, accepted: Sequence[DType] | None, target: Target
) -> Any:
    names = None if accepted is None else [dtype.value for dtype in accepted]
    if name == "weights" and options.activations == "float" and names is not None:
        names += [dtype.value for dtype in target.casts]
    return _one_of(options, plain, name, names, target)


def _scheme(options: Any, target: Target) -> str:
    if target.kinds is None or KINDS[options.scheme] in target.kinds:
        return str(options.scheme)
    accepted = [scheme for scheme in SCHEMES if KINDS[scheme] in target.kinds]
    raise QirError(_refused("scheme", options.scheme, accepted, target))


def _per(options: Any, plain: Any, target: Target) -> str:
    accepted = target.weight_scales
    if accepted is None or options.per.partition(":")[0] in accepted:
        return str(options.per)
    names = ["block:32" if scale == "block" else scale for scale in accepted]
    if options.per == plain.per and names:
        return next(
            wanted for wanted in ("channel", "tensor", "row", "block:32") if wanted in names
        )
    raise QirError(_refused("per", options.per, names, target))
