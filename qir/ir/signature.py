"""How a program meets its caller: its inputs and outputs, and the sizes of named dimensions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from qir.errors import QirError, counted, did_you_mean, kind_of
from qir.ir import Node, Value
from qir.types import Affine, Array, Dim, DType, Shape, Size, TensorType, format_shape


class Shaped(Protocol):
    """An array of any library: numpy, jax, or an abstract one while jax traces."""

    @property
    def shape(self) -> tuple[Any, ...]:
        """The sizes."""
        ...

    @property
    def dtype(self) -> Any:
        """The numpy type of the elements."""
        ...


@dataclass(frozen=True)
class Port:
    """An input or output of a program, as its caller sees it.

    Args:
        name: Name of the value in the graph.
        type: Its type. Arrays hold stored numbers where the type has a code.
    """

    name: str
    type: TensorType

    @property
    def shape(self) -> Shape:
        """The sizes, named ones among them."""
        return self.type.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of the array; below 8 bits one byte an element."""
        return self.type.dtype.numpy

    @property
    def scale(self) -> Array | None:
        """Real size of one step, None for plain numbers; see `Affine`."""
        return None if self.type.quant is None else self.type.quant.scale.array

    @property
    def zero_point(self) -> Array | None:
        """The stored number that means 0, None for plain numbers and codes that are not affine."""
        return self.type.quant.zero_points if isinstance(self.type.quant, Affine) else None

    def __str__(self) -> str:
        code = self.type.quant
        text = f"{self.name}: {self.type.dtype.value}{format_shape(self.shape)}"
        if code is None:
            return text
        if not isinstance(code, Affine):
            return f"{text}, real by code {code.kind}"
        zero_point = "zero point" if code.zero_points.ndim else str(int(code.zero_points))
        axes = [str(axis) for axis, count in enumerate(code.grid) if count > 1]
        varying = f"scale of {'axis' if len(axes) == 1 else 'axes'} {' and '.join(axes)}"
        scale = f"{code.scale.array:.9g}" if code.per_tensor else varying
        difference = (
            "stored" if zero_point == "0" else f"(stored - {zero_point})".replace("- -", "+ ")
        )
        return f"{text}, real = {difference} * {scale}"


def ports(values: Iterable[Value]) -> tuple[Port, ...]:
    """Describes the inputs or outputs of a graph."""
    return tuple(Port(value.name, value.type) for value in values)


class Sizes:
    """What the named dimensions of a program are in one call.

    Args:
        names: The size of each name: an integer, or whatever computes like one while jax traces.
        products: The sizes of products of names that are known only together.
    """

    def __init__(
        self, names: Mapping[str, Any], products: Mapping[tuple[str, ...], Any] | None = None
    ) -> None:
        self.names = dict(names)
        self.products = dict(products or {})

    @property
    def empty(self) -> bool:
        """Whether a size is known to be 0."""
        known = (*self.names.values(), *self.products.values())
        return any(isinstance(size, int) and size == 0 for size in known)

    def size(self, size: Size) -> Any:
        """Returns a size in numbers; raises QirError for a name that no input tells."""
        if not isinstance(size, Dim):
            return size
        if size.names in self.products:
            return size.factor * self.products[size.names]
        for name in size.names:
            if name not in self.names:
                raise QirError(f"dimension: no input tells the size of {name} in {size}")
        return prod((self.names[name] for name in size.names), start=size.factor)

    def shape(self, shape: Shape) -> tuple[Any, ...]:
        """Returns a shape in numbers."""
        return tuple(self.size(size) for size in shape)


def to_array(given: Any, value: Value, subject: str, advice: str = "") -> Array:
    """Returns what a caller gives for an input as an array, of the input's type where it fits.

    Floating-point numbers of another precision are rounded to the input's, integers of another
    width are converted where all of them fit, and bytes are put into the order of this machine.

    Args:
        given: An array, a number or nested lists of numbers.
        value: The input.
        subject: What errors begin with.
        advice: What errors end with.

    Raises:
        QirError: It is no array of numbers.
    """
    if isinstance(given, np.ndarray) and given.dtype == value.type.dtype.numpy:
        return given
    try:
        array = np.asarray(given)
        array = array.astype(array.dtype.newbyteorder("="), copy=False)
        found = DType.of(array.dtype)
    except (ValueError, TypeError, QirError) as error:
        kind = f"an array of {given.dtype}" if isinstance(given, np.ndarray) else kind_of(given)
        raise QirError(
            f"{subject}: expected an array of numbers for input %{value.name}, got {kind}{advice}"
        ) from error
    wanted = value.type.dtype
    if found.is_float and wanted.is_float:
        with np.errstate(over="ignore"):
            return array.astype(wanted.numpy, copy=False)
    if found.is_integer and wanted.is_integer and array.dtype != wanted.numpy:
        low, high = wanted.bounds
        if not array.size or (low <= int(array.min()) and int(array.max()) <= high):
            return array.astype(wanted.numpy)
    return array


def fits(inputs: Sequence[Value], arrays: Sequence[Shaped]) -> bool:
    """Whether a graph with these inputs takes arrays, one for each."""
    try:
        bind(inputs, arrays)
    except QirError:
        return False
    return True


def bind(inputs: Sequence[Value], arrays: Sequence[Shaped], subject: str = "run") -> Sizes:
    """Checks arrays against the inputs of a graph and tells the sizes of its named dimensions.

    Args:
        inputs: The inputs of a graph.
        arrays: One array for each.
        subject: What errors begin with.

    Raises:
        QirError: The number of arrays, a shape or a type is wrong, or two arrays disagree about a
            named dimension.
    """
    if len(arrays) != len(inputs):
        raise QirError(f"{subject}: expected {counted(len(inputs), 'input')}, got {len(arrays)}")
    sizes = Sizes({})
    together: list[tuple[Dim, Value, Shaped, int]] = []
    for value, array in zip(inputs, arrays, strict=True):
        if len(array.shape) != value.type.rank or array.dtype != value.type.dtype.numpy:
            raise _wrong(subject, value, array)
        for size, actual in zip(value.type.shape, array.shape, strict=True):
            if not isinstance(size, Dim):
                if size != actual:
                    raise _wrong(subject, value, array)
                continue
            if actual % size.factor:
                raise _wrong(
                    subject, value, array, f"the size {actual} is not a multiple of {size.factor}"
                )
            together.append((size, value, array, actual // size.factor))
    # A name that stands alone in some shape is told there, before the products that it is part of.
    for size, value, array, quotient in sorted(together, key=lambda entry: len(entry[0].names)):
        known = _bind_product(sizes, size.names, quotient)
        if known != quotient:
            text = f"the dimension {'*'.join(size.names)} is {known} in another input"
            raise _wrong(subject, value, array, text)
    return sizes


def named_dimensions(inputs: Sequence[Value]) -> tuple[str, ...]:
    """Returns the names that stand in the shapes of some inputs, each once, in order."""
    sizes = [size for value in inputs for size in value.type.shape if isinstance(size, Dim)]
    return tuple(dict.fromkeys(name for size in sizes for name in size.names))


def check_sizes(inputs: Sequence[Value], sizes: Mapping[str, int]) -> None:
    """Raises QirError for a size that is negative, or whose name no input has."""
    names = named_dimensions(inputs)
    for name, size in sizes.items():
        if name not in names:
            raise QirError(f"dimension: no input has a dimension {name}{did_you_mean(name, names)}")
        if size < 0:
            raise QirError(f"dimension: expected {name} to be at least 0, got {size}")


def check_not_empty(nodes: Iterable[Node], sizes: Sizes) -> None:
    """Checks that named dimensions are not 0 along axes of which an op needs a number.

    Args:
        nodes: The nodes of a program.
        sizes: The sizes of its named dimensions; those that are not known yet are not checked.

    Raises:
        QirError: One is 0.
    """
    if not sizes.empty:
        return
    for node in nodes:
        for axis in node.op.needed_axes():
            type = node.inputs[0].type
            if isinstance(type.shape[axis], Dim) and sizes.size(type.shape[axis]) == 0:
                problem = f"expected at least one number along axis {axis}, got none in {type}"
                raise node.op.error(problem).at(node.place())


def _bind_product(sizes: Sizes, names: tuple[str, ...], size: int) -> int:
    """Returns what a product of names is already known to be, or the size that it is given here."""
    unknown = [name for name in names if name not in sizes.names]
    known: int = prod(sizes.names[name] for name in names if name in sizes.names)
    if not unknown:
        return known
    if len(unknown) == 1 and known and size % known == 0:
        sizes.names[unknown[0]] = size // known
        return size
    told: int = sizes.products.setdefault(names, size)
    return told


def _wrong(subject: str, value: Value, array: Shaped, *places: str) -> QirError:
    try:
        dtype = DType.of(array.dtype).value
    except QirError:
        dtype = str(array.dtype)
    got = f"{dtype}{format_shape(tuple(array.shape))}"
    floats = ("f16", "bf16", "f32", "f64")
    if value.type.quant is not None and dtype in floats:
        places = (*places, "it takes stored numbers: those of real ones are type.quant.encode(x)")
    elif value.type.is_float and dtype not in floats:
        places = (*places, "convert and scale the data as for the model itself")
    elif not value.type.is_float and dtype in floats:
        places = (*places, "convert the data by astype, where its numbers are whole")
    return QirError(f"{subject}: expected {value.type} for input %{value.name}, got {got}", places)
