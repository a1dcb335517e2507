"""Arrays to feed a program with: random ones, and those of files."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from qir.errors import QirError, counted, did_you_mean
from qir.ir import Graph, Value
from qir.ir.signature import Sizes, bind, named_dimensions, to_array
from qir.text.storage import NPY_MAGIC, Npy, reading
from qir.types import Affine, Array, Dim, DType, expand

NAMED_SIZE = 2
"""The size that named dimensions get in random inputs."""

PLAIN_INTEGERS = (0, 2)
"""Least and greatest integer without a code: an index that most programs can take."""

FAR = 8.0
"""Where floats without a range end: standard deviations of the random ones."""


def random_inputs(
    graph: Graph,
    seed: int = 0,
    named_size: int = NAMED_SIZE,
    sizes: Mapping[str, int] | None = None,
) -> tuple[Array, ...]:
    """Returns a random array for each input.

    Codes go over all their bounds; of those wider than 8 bits half are small and middle numbers, as
    most large ones saturate what is computed from them. Other numbers lie in the input's range
    where it has one, and are normal elsewhere.

    Args:
        graph: The program.
        seed: Seed of the generator.
        named_size: The size of every named dimension that `sizes` leaves out.
        sizes: Sizes of named dimensions.

    Raises:
        QirError: The seed is negative.
    """
    if seed < 0:
        raise QirError(f"random inputs: expected a seed of at least 0, got {seed}")
    generator = np.random.default_rng(seed)
    names = named_dimensions(graph.inputs)
    known = Sizes({**dict.fromkeys(names, named_size), **(sizes or {})})
    return tuple(_random(value, known, generator) for value in graph.inputs)


def extreme_inputs(
    graph: Graph, seed: int = 0, named_size: int = NAMED_SIZE
) -> list[tuple[Array, ...]]:
    """Returns inputs at the ends of what `random_inputs` draws from: lowest, highest, and mixed.

    Plain integers of at most 8 bits are at the ends of their type.

    Args:
        graph: The program.
        seed: Seed of the mixture.
        named_size: The size of every named dimension.
    """
    generator = np.random.default_rng(seed)
    sizes = Sizes(dict.fromkeys(named_dimensions(graph.inputs), named_size))
    samples: list[list[Array]] = [[], [], []]
    for value in graph.inputs:
        shape, dtype = sizes.shape(value.type.shape), value.type.dtype.numpy
        low, high = (np.full(shape, end).astype(dtype) for end in _ends(value))
        mixed = np.where(generator.integers(0, 2, shape) == 0, low, high)
        for sample, array in zip(samples, (low, high, mixed), strict=True):
            sample.append(array)
    return [tuple(sample) for sample in samples]


def _ends(value: Value) -> tuple[Any, Any]:
    if value.type.dtype is DType.BOOL:
        return False, True
    if value.type.quant is not None:
        return value.type.quant.range
    if value.type.dtype.is_integer:
        # Bytes are numbers to compute with; wider integers are mostly indices, or counts.
        return value.type.dtype.bounds if value.type.dtype.bits <= 8 else PLAIN_INTEGERS
    if value.range is not None and value.range.is_finite:
        low, high = value.range.bounds
        return np.min(low), np.max(high)
    return -FAR, FAR


def _random(value: Value, sizes: Sizes, generator: np.random.Generator) -> Array:
    shape, dtype = sizes.shape(value.type.shape), value.type.dtype
    if dtype is DType.BOOL:
        return generator.integers(0, 2, shape).astype(np.bool_)
    if isinstance(value.type.quant, Affine):
        return _codes(value.type.quant, shape, generator).astype(dtype.numpy)
    if value.type.quant is not None:
        low, high = value.type.quant.range
        return generator.integers(low, high, shape, endpoint=True).astype(dtype.numpy)
    if dtype.is_integer:
        return generator.integers(*PLAIN_INTEGERS, shape, endpoint=True).astype(dtype.numpy)
    if value.range is not None and value.range.is_finite:
        return generator.uniform(*value.range.bounds, shape).astype(dtype.numpy)
    return generator.standard_normal(shape).astype(dtype.numpy)


def _codes(code: Affine, shape: Sequence[int], generator: np.random.Generator) -> Array:
    """Returns stored numbers, of a wide code half of them of any magnitude from its zero point."""
    low, high = code.range
    stored = generator.integers(low, high, shape, endpoint=True)
    bits = (high - low).bit_length()
    if bits <= 8:
        return stored
    shift = np.maximum(generator.integers(-bits, bits, shape), 0)
    points = expand(code.zero_points.astype(np.int64), tuple(shape))
    return np.asarray(points + ((stored - points) >> shift))


def given_samples(graph: Graph, check: object) -> bool | Sequence[Array]:
    """Returns `check`, arrays in it as one for each input; raises QirError where they do not fit.

    Args:
        graph: The program.
        check: Whether to check, or what to check on.
    """
    if isinstance(check, bool):
        return check
    if isinstance(check, list | tuple):
        given: Sequence[Any] = check
    elif hasattr(check, "shape"):
        given = [check]
    else:
        raise QirError(
            "check: expected True, False or a sequence of arrays, one for each input, "
            f"got {type(check).__name__}"
        )
    if len(given) != len(graph.inputs):
        raise QirError(
            f"check: expected {len(graph.inputs)} arrays, one for each input, got {len(given)}"
        )
    arrays = []
    for item, value in zip(given, graph.inputs, strict=True):
        if isinstance(item, list | tuple) and any(getattr(part, "shape", ()) for part in item):
            raise QirError(
                f"check: expected an array for input %{value.name}, got a {type(item).__name__} "
                "of arrays"
            )
        arrays.append(to_array(item, value, "check"))
    bind(graph.inputs, arrays, "check")
    return arrays


def read_samples(path: Path, graph: Graph) -> Mapping[str, Array]:
    """Reads arrays for a program's inputs from a file.

    Args:
        path: `.npy` for a program of one input; `.npz` with an array for each input, by name.
        graph: The program.

    Returns:
        An array for each input name; floating-point numbers in the input's own type.

    Raises:
        QirError: The file is missing, corrupted or of another kind, or an input is not in it.
    """
    names = [value.name for value in graph.inputs]
    with reading(f"data: can't read {path}"), path.open("rb") as file:
        start = file.read(len(NPY_MAGIC))
        length = file.seek(0, os.SEEK_END)
        file.seek(0)
        if start == NPY_MAGIC:
            if len(names) != 1:
                raise QirError(
                    f"data: expected an .npz with the arrays {', '.join(names)}, "
                    f"got a single array in {path}"
                )
            arrays = {names[0]: Npy.of(file, length).read()}
        elif start.startswith(b"PK"):
            arrays = _members(file, names, path)
        else:
            raise ValueError("it is neither .npy nor .npz")
    return {value.name: _in_type(arrays[value.name], value) for value in graph.inputs}


def _members(file: BinaryIO, names: Sequence[str], path: Path) -> dict[str, Array]:
    arrays = {}
    with zipfile.ZipFile(file) as archive:
        held = [name.removesuffix(".npy") for name in archive.namelist()]
        for name in names:
            if name not in held:
                raise QirError(f"data: {path} holds no array '{name}'{did_you_mean(name, held)}")
        for name in names:
            with Npy.of_member(archive, name) as array:
                arrays[name] = array.read()
    return arrays


def _in_type(array: Array, value: Value) -> Array:
    if value.type.dtype is DType.BF16 and array.dtype == np.dtype("V2"):
        return array.view(value.type.dtype.numpy)  # numpy has no word for bfloat16 in a file
    if value.type.is_float and array.dtype.kind == "f":
        with np.errstate(over="ignore"):
            return array.astype(value.type.dtype.numpy, copy=False)
    return array


def batches(samples: Mapping[str, Array], graph: Graph, size: int) -> Iterator[dict[str, Array]]:
    """Cuts samples along their first axis into batches.

    Args:
        samples: An array for each input; equally many samples in each.
        graph: The program; where the first dimension of its first input is fixed, that is the batch
            size, and samples that don't fill a batch are left out.
        size: Batch size where it is named, at least 1.

    Raises:
        QirError: The arrays have different numbers of samples, or too few of them.
    """
    for name, array in samples.items():
        if not array.ndim:
            raise QirError(f"data: expected samples along the first axis of '{name}', got a number")
    counts = {name: len(array) for name, array in samples.items()}
    if len(set(counts.values())) > 1:
        raise QirError(f"data: expected equally many samples for each input, got {counts}")
    first = graph.inputs[0].type.shape[0] if graph.inputs and graph.inputs[0].type.rank else size
    total = next(iter(counts.values()), 0)
    if not isinstance(first, Dim) and total < first:
        raise QirError(
            f"data: expected at least {counted(first, 'sample')}, one batch, got {total}"
        )
    step = first.factor * max(1, size // first.factor) if isinstance(first, Dim) else max(first, 1)
    for start in range(0, total if isinstance(first, Dim) else total - step + 1, step):
        yield {name: array[start : start + step] for name, array in samples.items()}
