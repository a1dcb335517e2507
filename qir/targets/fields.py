"""What the fields of a target may hold, checked when it is made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, get_args, get_type_hints

from qir.errors import QirError, did_you_mean, kind_of
from qir.numbers.quantize_mode import QUANTIZE_MODES
from qir.numbers.rounding import ROUNDINGS
from qir.ops import QuantizeDynamic
from qir.ops.op import OPS
from qir.types import CODES, Affine, DType

SCALES = ("tensor", "channel", "row", "block")
"""What of a tensor may have one scale."""

_STORAGE = ("activations", "weights", "casts", "sums")
_ELEMENTS = ("numbers", "outputs")
_FLAGS = (
    "symmetric_activations",
    "symmetric_weights",
    "zero_point_inside",
    "narrow_weights",
    "wide_sums",
    "lookup",
)
_OPS = ("integer_ops", "float_ops", "equal_codes")


def checked_fields(name: object, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a target as they are kept: tuples where order counts, sets of ops.

    Args:
        name: The name of the target.
        fields: The fields by name.

    Raises:
        QirError: One holds what no program can have, such as the name of an op that there is not.
    """
    found = dict(fields)
    for field in ("name", "runtime"):
        if not isinstance(fields[field], str) or not fields[field]:
            raise QirError(f"target: {field}: expected a text, got {_shown(fields[field])}")
    subject = f"target {name}"
    if fields["opset"] is not None and type(fields["opset"]) is not int:
        raise QirError(f"{subject}: opset: expected a number, got {_shown(fields['opset'])}")
    for field in _FLAGS:
        if not isinstance(fields[field], bool):
            raise QirError(f"{subject}: {field}: expected True or False, got {fields[field]!r}")
    for field in (*_STORAGE, *_ELEMENTS):
        found[field] = _storage(f"{subject}: {field}", fields[field], floats=field in _ELEMENTS)
    modes: dict[str, Iterable[str]] = {
        "kinds": CODES,
        "roundings": ROUNDINGS,
        "quantize_modes": QUANTIZE_MODES,
        "dynamic_modes": get_args(get_type_hints(QuantizeDynamic)["mode"]),
        "activation_scales": SCALES,
        "weight_scales": SCALES,
    }
    for field, known in modes.items():
        found[field] = _names(f"{subject}: {field}", fields[field], known)
    for field in _OPS:
        ops = _names(f"{subject}: {field}", fields[field], OPS, sets=True)
        found[field] = None if ops is None else frozenset(ops)
    for field in ("weight_scales_by_op", "fixed_codes", "reasons"):
        if not isinstance(fields[field], Mapping):
            expected = f"{subject}: {field}: expected a dict by the names of ops"
            raise QirError(f"{expected}, got {_shown(fields[field])}")
        _names(f"{subject}: {field}", tuple(fields[field]), OPS)
    found["weight_scales_by_op"] = {
        op: _names(f"{subject}: weight_scales_by_op: {op}", scales, SCALES)
        for op, scales in fields["weight_scales_by_op"].items()
    }
    for field, kind, expected in (
        ("fixed_codes", Affine, "a qir.Affine"),
        ("reasons", str, "a text"),
    ):
        for op, value in fields[field].items():
            if not isinstance(value, kind):
                raise QirError(
                    f"{subject}: {field}: {op}: expected {expected}, got {_shown(value)}"
                )
    return found


def _shown(value: object) -> str:
    return repr(value) if isinstance(value, str | int | float) else kind_of(value)


def _listed(
    subject: str, given: object, example: str, sets: bool = False
) -> tuple[Any, ...] | None:
    """Returns what a field lists, None for all; `sets` says that its order does not count."""
    if given is None:
        return None
    if isinstance(given, list | tuple) or (sets and isinstance(given, set | frozenset)):
        return tuple(given)
    form = f"({example},)" if not sets else f"frozenset({{{example}}})"
    raise QirError(
        f"{subject}: expected some, such as {form}, or None for all, got {_shown(given)}"
    )


def _storage(subject: str, given: object, floats: bool) -> tuple[Any, ...] | None:
    listed = _listed(subject, given, "DType.I8")
    for dtype in listed or ():
        if not isinstance(dtype, DType):
            nearest = did_you_mean(str(dtype).upper(), DType.__members__)
            raise QirError(f"{subject}: expected a qir.DType, got {_shown(dtype)}{nearest}")
        if not floats and dtype.is_float:
            raise QirError(f"{subject}: expected storage of codes, got {dtype.value}")
    return listed


def _names(
    subject: str, given: object, known: Iterable[str], sets: bool = False
) -> tuple[str, ...] | None:
    names = list(known)
    listed = _listed(subject, given, repr(names[0]), sets)
    for name in listed or ():
        if name not in names:
            nearest = did_you_mean(name, names) if isinstance(name, str) else ""
            if known is OPS:
                remedy = nearest or "; declare an op of your own before its target"
                raise QirError(f"{subject}: no op {_shown(name)}{remedy}")
            raise QirError(f"{subject}: expected {' or '.join(names)}, got {_shown(name)}{nearest}")
    return listed
