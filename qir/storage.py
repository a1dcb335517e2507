"""Programs on disk: a `.qir` text and, beside it, an `.npz` of raw bytes. Nothing is pickled."""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from qir.errors import ParseError, QirError
from qir.ir import Graph
from qir.text import build, parse_syntax, to_program
from qir.text.syntax import DataEntry
from qir.types import Array, DType, array_digest, known


def save(graph: Graph, path: str | os.PathLike[str]) -> None:
    """Writes a program as `name.qir` and its arrays as `name.npz`.

    Each file is written under a temporary name and renamed, so that neither is ever half there; a
    pair of which only one half is new does not load, by the digests in the text.

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
    try:
        if packed:
            write_atomically(
                target.with_suffix(".npz"),
                lambda file: np.savez(file, allow_pickle=False, **packed),
            )
        write_atomically(target, lambda file: file.write(program.text.encode()))
    except OSError as error:
        raise QirError(f"save: can't write {target}: {error.strerror or error}") from error


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
        arrays = _read_arrays(source.with_suffix(".npz"), syntax.data) if syntax.data else {}
        return build(syntax, arrays)
    except QirError as error:
        raise error.at(f"in {source}") from error


def _check_suffix(path: Path) -> Path:
    if path.suffix != ".qir":
        raise QirError(f"file: expected a path ending in .qir, got {path}")
    return path


def _read_arrays(path: Path, entries: tuple[DataEntry, ...]) -> Mapping[str, Array]:
    if not path.exists():
        raise QirError(f"load: expected the arrays in {path}, which does not exist")
    try:
        with np.load(path, allow_pickle=False) as archive:
            packed = {entry.name: archive[entry.name] for entry in entries if entry.name in archive}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise QirError(f"load: {path} is truncated or corrupted: {error}") from error
    arrays = {}
    for entry in entries:
        if entry.name not in packed:
            raise QirError(f"load: {path} holds no array @{entry.name}")
        arrays[entry.name] = unpack(
            packed[entry.name],
            DType(entry.dtype),
            tuple(known(size, "data") for size in entry.shape),
        )
        if array_digest(arrays[entry.name]) != entry.digest:
            raise QirError(
                f"load: the array @{entry.name} in {path} is not the one that the text was "
                "written with"
            )
    return arrays


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
    if raw.dtype != np.uint8 or raw.size != size:
        raise QirError(
            f"load: expected {size} bytes for {dtype.value}{list(shape)}, got {raw.size}"
        )
    if dtype.bits >= 8 or dtype is DType.BOOL:
        return np.frombuffer(raw.tobytes(), dtype.numpy).reshape(shape)
    shifts = np.arange(8 // dtype.bits, dtype=np.uint8) * dtype.bits
    fields: Array = (raw[:, None] >> shifts) & (2**dtype.bits - 1)
    values = fields.reshape(-1)[:count].astype(np.int16)
    if dtype.bounds[0] < 0:
        values = np.where(values > dtype.bounds[1], values - 2**dtype.bits, values)
    return values.astype(dtype.numpy).reshape(shape)


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Writes a file under a temporary name in the same folder and renames it.

    Nothing is left behind on an error.

    Args:
        path: The file.
        write: Called with the open file.
    """
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
