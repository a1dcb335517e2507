"""Attributes: the fields of op and pass classes, checked against their annotations."""

from __future__ import annotations

import re
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from functools import cache
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np

from qir.errors import QirError, did_you_mean, kind_of
from qir.types import Affine, Dim, DType, FrozenArray, TensorType

T = TypeVar("T")


def by_type(read: Callable[[TensorType], T], default: Any = MISSING) -> T:
    """Declares a field that the result type shows: not printed, read off the type when parsed.

    Args:
        read: Returns the field of a result type.
        default: What the field is when an op is built in Python without it.
    """
    return cast(T, field(default=default, metadata={"by_type": read}))


def left_out(default: T, means_default: Callable[[Any], bool]) -> T:
    """Declares a field of an op of which several values mean what the default means.

    The op has the default for all of them, so that ops that mean the same are equal.

    Args:
        default: The default, and the one form.
        means_default: Tells of a value whether it means the same.
    """
    return field(default=default, metadata={"means_default": means_default})


def all_ones(values: Iterable[int]) -> bool:
    """Whether steps or distances are all 1, in any number of dimensions."""
    return all(value == 1 for value in values)


def all_zeros(padding: str | Iterable[Iterable[int]]) -> bool:
    """Whether explicit padding is none, in any number of dimensions."""
    return not isinstance(padding, str) and not any(map(any, padding))


@dataclass(frozen=True)
class AttributeSpec:
    """A field of an op or pass.

    Attributes:
        name: Its name.
        annotation: Its type.
        default: Its default, or `MISSING`.
        by_type: Reads it off a result type, or None; see `by_type`.
        means_default: Whether a value means the default, or None; see `left_out`.
    """

    name: str
    annotation: Any
    default: Any
    by_type: Callable[[TensorType], Any] | None
    means_default: Callable[[Any], bool] | None


def expect_class(given: object, base: type, subject: str) -> None:
    """Raises QirError for what is registered though it is no class that derives from a base."""
    if not isinstance(given, type):
        raise QirError(
            f"{subject}: expected a class that derives from qir.{base.__name__}, got "
            f"{kind_of(given)}"
        )
    if base not in given.__mro__:
        raise QirError(
            f"{subject}: expected {given.__qualname__} to derive from qir.{base.__name__}"
        )


def is_taken(name: str, table: Mapping[str, type], cls: type) -> bool:
    """Whether a name is that of another class; one defined anew, as in a notebook, is the same.

    A class of QIR is defined anew by its own module only.
    """
    known = table.get(name)
    if known is None:
        return False
    of_qir = known.__module__.partition(".")[0] == "qir"
    return known.__qualname__ != cls.__qualname__ or (of_qir and known.__module__ != cls.__module__)


def declared_fields(cls: type[T], subject: str, *, repr: bool = True) -> type[T]:
    """Makes a class a frozen dataclass and checks that text can hold each of its fields.

    Args:
        cls: The class of an op or pass.
        subject: What errors begin with.
        repr: Whether the class gets the `__repr__` of a dataclass.

    Raises:
        QirError: The fields make no dataclass, or one is of a type that no text can hold.
    """
    try:
        # Methods of a class without fields of its own are those of its base: making them anew for
        # each takes a tenth of the time in which QIR loads.
        declared = cls if _adds_no_field(cls) else dataclass(frozen=True, repr=repr)(cls)
        specs = attribute_fields(declared)
    except (TypeError, ValueError, NameError) as error:
        raise QirError(f"{subject}: expected the fields of a dataclass, got {error}") from error
    for spec in specs:
        if spec.by_type is not None or _has_text(spec.annotation):
            continue
        remedy = ""
        if Affine in (spec.annotation, *get_args(spec.annotation)):
            remedy = (
                "; a code is read off the result type: "
                f"{spec.name}: Affine | None = by_type(result_code, None)"
            )
        raise QirError(
            f"{subject}: expected field '{spec.name}' to be of int, float, bool, str, Literal, "
            "DType, FrozenArray, a tuple of these or None, got "
            f"{getattr(spec.annotation, '__name__', spec.annotation)}{remedy}"
        )
    return declared


def _adds_no_field(cls: type) -> bool:
    own = vars(cls)
    return is_dataclass(cls) and not ("__annotations__" in own or "__post_init__" in own)


def _has_text(annotation: Any) -> bool:
    """Whether the printer and the parser know the values of a field."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType, tuple):
        return all(_has_text(choice) for choice in arguments if choice is not Ellipsis)
    if origin is Literal:
        return all(isinstance(choice, str | int) for choice in arguments)
    return annotation in (int, float, bool, str, DType, FrozenArray, Any, None, type(None))


def attribute_fields(owner: type) -> tuple[AttributeSpec, ...]:
    """Lists the attributes of an op class, or the options of a pass class."""
    return _specs(owner)


@cache
def _specs(owner: type) -> tuple[AttributeSpec, ...]:
    hints = get_type_hints(owner)

    def default(spec: Field[Any]) -> Any:
        if spec.default_factory is not MISSING:
            return spec.default_factory()
        return spec.default

    return tuple(
        AttributeSpec(
            spec.name,
            hints[spec.name],
            default(spec),
            spec.metadata.get("by_type"),
            spec.metadata.get("means_default"),
        )
        for spec in fields(owner)
    )


def coerce(value: Any, annotation: Any, subject: str) -> Any:
    """Fits a value to a field's annotation: lists become tuples, and integers floats.

    Raises:
        QirError: The value does not fit; the message begins with the subject.
    """
    fitted = _fit(value, annotation)
    if fitted is _MISFIT:
        hint = did_you_mean(value, _words(annotation)) if isinstance(value, str) else ""
        raise QirError(f"{subject}: expected {describe(annotation)}, got {_show(value)}{hint}")
    return fitted


def _words(annotation: Any) -> list[str]:
    """The words that a field accepts."""
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if annotation is DType:
        return [dtype.value for dtype in DType]
    if get_origin(annotation) in (Union, types.UnionType):
        return [word for choice in get_args(annotation) for word in _words(choice)]
    return []


_MISFIT: Any = object()


def _fit(value: Any, annotation: Any) -> Any:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return next(
            (fitted for choice in arguments if (fitted := _fit(value, choice)) is not _MISFIT),
            _MISFIT,
        )
    if origin is Literal:
        return value if value in arguments else _MISFIT
    if origin is tuple:
        return _fit_tuple(value, arguments)
    if annotation is Any:
        return value
    if annotation is None or annotation is type(None):
        return None if value is None or (isinstance(value, str) and value == "none") else _MISFIT
    if annotation is DType and isinstance(value, str):
        return next((dtype for dtype in DType if dtype.value == value), _MISFIT)
    if annotation is bool:
        return {"true": True, "false": False}.get(str(value).lower(), _MISFIT)
    if isinstance(value, bool | np.bool_):
        return _MISFIT
    if annotation is float and isinstance(value, int | float | np.integer | np.floating):
        return float(value)
    if annotation is int and isinstance(value, int | np.integer):
        return int(value)
    if annotation is FrozenArray and isinstance(value, int | float | list | tuple | np.ndarray):
        return _fit_array(value)
    if isinstance(annotation, type) and isinstance(value, annotation):
        return value
    return _MISFIT


def _fit_array(value: Any) -> Any:
    try:
        array = np.asarray(value)
        DType.of(array.dtype)
    except (ValueError, OverflowError, QirError):
        return _MISFIT
    return FrozenArray(array)


def _fit_tuple(value: Any, arguments: tuple[Any, ...]) -> Any:
    if isinstance(value, str) or not isinstance(value, Iterable):
        return _MISFIT
    items = tuple(value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        annotations = (arguments[0],) * len(items)
    elif len(arguments) == len(items):
        annotations = arguments
    else:
        return _MISFIT
    fitted = tuple(
        _fit(item, annotation) for item, annotation in zip(items, annotations, strict=True)
    )
    return _MISFIT if any(item is _MISFIT for item in fitted) else fitted


def describe(annotation: Any) -> str:
    """Says in words what a field accepts, for error messages and help pages."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(choice) for choice in arguments)
    if origin is Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin is tuple:
        if len(arguments) == 2 and arguments[1] is Ellipsis:
            return f"a list of {_plural(describe(arguments[0]))}"
        return "[" + ", ".join(describe(choice) for choice in arguments) + "]"
    words = {
        int: "an integer",
        float: "a number",
        str: "a name",
        bool: "true or false",
        type(None): "none",
    }
    words |= {
        DType: "an element type",
        FrozenArray: "an array",
        np.ndarray: "an array's @name",
        Dim: "a dimension",
    }
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _plural(words: str) -> str:
    singular = re.fullmatch(r"an? (\w+)", words)
    return f"{singular[1]}s" if singular else words


def _show(value: Any) -> str:
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(_show, value)) + "]"
    return str(value)
