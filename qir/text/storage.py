"""Programs on disk: a `.qir` text and, beside it, an `.npz` of raw bytes. Nothing is pickled."""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qir.errors import ParseError, QirError, did_you_mean
from qir.ir import Graph
from qir.text import build, parse_syntax, to_program
from qir.text.files import Writer, check_writable, write_atomically
from qir.text.syntax import DataEntry
from qir.types import Array, DType, FrozenArray, known


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes a program as `name.qir` and its arrays as `name.npz`.

    Both files are written under temporary names and then renamed, so that neither is ever half
    there and an error leaves what was there before. A pair of which only one half is new, as after
    a power cut between the two, does not load, by the digests in the text.

    Args:
        graph: The program.
        path: The path of the text, ending in `.qir`.

    Raises:
        QirError: The path does not end in `.qir`, or can't be written.
    """
    target = _check_suffix(Path(path))
    program = to_program(graph)
    entries = {entry.name: entry for entry in parse_syntax(program.text).data}
    packed = {
        name: pack(array, DType(entries[name].dtype)) for name, array in program.arrays.items()
    }
    files: dict[Path, Writer] = {target: lambda file: file.write(program.text.encode())}
    if packed:
        files[_arrays_of(target)] = lambda file: write_arrays(file, packed)
    write_atomically(files)


def check_savable(path: str | os.PathLike[str]) -> None:
    """Raises QirError where `save` could not write a program: before the work on it begins."""
    target = _check_suffix(Path(path))
    check_writable(target, _arrays_of(target))


def load(path: str | os.PathLike[str]) -> Graph:
    """Reads a program that `save` wrote.

    Args:
        path: The path of the text, ending in `.qir`; the `.npz` of the same name is read where the
            text refers to it.

    Raises:
        QirError: A file is missing, truncated or corrupted, or the two do not belong together.
    """
    source = _check_suffix(Path(path))
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise QirError(f"load: can't read {source}: {reason}") from error
    try:
        syntax = parse_syntax(text)
        if syntax.version is None:
            raise ParseError("load: expected the first line to be 'qir 1'")
        arrays = _read_arrays(_arrays_of(source), syntax.data) if syntax.data else {}
        return build(syntax, arrays)
    except QirError as error:
        raise error.at(f"in {source}") from error


def _check_suffix(path: Path) -> Path:
    if path.suffix != ".qir":
        raise QirError(f"file: expected a path ending in .qir, got {path}")
    return path


def _arrays_of(path: Path) -> Path:
    return path.with_suffix(".npz")


def _read_arrays(path: Path, entries: tuple[DataEntry, ...]) -> Mapping[str, FrozenArray]:
    if not path.exists():
        raise QirError(f"load: expected the arrays in {path}, which does not exist")
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            held = set(archive.namelist())
            for entry in entries:
                if _member(entry.name) not in held:
                    raise QirError(f"load: {path} holds no array @{entry.name}")
                arrays[entry.name] = _unpacked(_read_array(archive, entry.name), entry, path)
    except UNREADABLE as error:
        raise QirError(f"load: {path} is truncated or corrupted: {error}") from error
    return arrays


def _unpacked(packed: Array, entry: DataEntry, path: Path) -> FrozenArray:
    shape = tuple(known(size, "data") for size in entry.shape)
    try:
        array = FrozenArray.by_reference(unpack(packed, _dtype(entry), shape))
    except QirError as error:
        raise error.at(f"array @{entry.name} of {path}") from error
    if array.digest != entry.digest:
        raise QirError(
            f"load: the array @{entry.name} in {path} is not the one that the text was written with"
        )
    return array


UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise for files that are no arrays, or damaged ones."""


def _read_array(archive: zipfile.ZipFile, name: str) -> Array:
    # Read as a whole, so that the checksum is compared before the header is believed.
    with io.BytesIO(archive.read(_member(name))) as member:
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
    return array


def write_arrays(file: BinaryIO, arrays: Mapping[str, Array]) -> None:
    """Writes an `.npz`, in which arrays may have any names; `numpy.savez` takes not all.

    Args:
        file: The open file.
        arrays: The arrays, of plain numbers.
    """
    with zipfile.ZipFile(file, "w") as archive:
        for name, array in arrays.items():
            with archive.open(_member(name), "w", force_zip64=True) as member:
                np.lib.format.write_array(member, array, allow_pickle=False)


def _member(name: str) -> str:
    return f"{name}.npy"


def _dtype(entry: DataEntry) -> DType:
    try:
        return DType(entry.dtype)
    except ValueError:
        hint = did_you_mean(entry.dtype, [dtype.value for dtype in DType])
        raise QirError(f"load: no element type {entry.dtype}{hint}") from None


def pack(array: Array, dtype: DType) -> Array:
    """Returns the raw bytes of an array, little endian.

    Below 8 bits a byte holds several elements, the first one lowest.
    """
    if dtype.bits >= 8 or dtype is DType.BOOL:
        return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)
    per_byte = 8 // dtype.bits
    flat = array.reshape(-1).astype(np.uint8) & (2**dtype.bits - 1)
    padded = np.pad(flat, (0, -flat.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * dtype.bits
    packed: Array = np.bitwise_or.reduce(padded << shifts, axis=1)
    return packed.astype(np.uint8)


def unpack(raw: Array, dtype: DType, shape: tuple[int, ...]) -> Array:
    """Reverses `pack`.

    Raises:
        QirError: The number of bytes is not the shape's.
    """
    count = int(np.prod(shape))
    size = (
        count * dtype.numpy.itemsize
        if dtype.bits >= 8 or dtype is DType.BOOL
        else -(-count * dtype.bits // 8)
    )
    if raw.dtype != np.uint8 or raw.shape != (size,):
        raise QirError(
            f"load: expected {size} bytes for {dtype.value}{list(shape)}, got {raw.size}"
        )
    if dtype.bits >= 8 or dtype is DType.BOOL:
        whole: Array = raw.view(dtype.numpy).reshape(shape)
        whole.flags.writeable = False
        return whole
    shifts = np.arange(8 // dtype.bits, dtype=np.uint8) * dtype.bits
    fields: Array = (raw[:, None] >> shifts) & (2**dtype.bits - 1)
    values = fields.reshape(-1)[:count].astype(np.int16)
    if dtype.bounds[0] < 0:
        values = np.where(values > dtype.bounds[1], values - 2**dtype.bits, values)
    return values.astype(dtype.numpy).reshape(shape)
