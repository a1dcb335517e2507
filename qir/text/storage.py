"""Programs on disk: a `.qir` text and, beside it, an `.npz` of raw bytes. Nothing is pickled."""

from __future__ import annotations

import os
import zipfile
from ast import literal_eval
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np

from qir.bench.machine import check_memory
from qir.errors import ParseError, QirError, counted, did_you_mean
from qir.ir import Graph
from qir.text import build, parse_syntax, to_program
from qir.text.files import WriteFile
from qir.text.packing import pack, packed_bytes, unpack, unpacked_bytes
from qir.text.syntax import VERSION, DataEntry
from qir.types import Array, DType, FrozenArray, known

NPY_MAGIC = b"\x93NUMPY"
MOST_HEADER_BYTES = 4096
"""Length of the header of an `.npy` at most; that of a plain array has about 120 bytes."""


class QirFile:
    """Writes a program as `name.qir` and its arrays as `name.npz`.

    A pair of which only one half is new, as after a power cut between the two, does not load, by
    the digests in the text.
    """

    companions = (".npz",)

    def files(self, graph: Graph, path: Path) -> Mapping[Path, WriteFile]:
        """Returns the text, and the arrays where there are any.

        Args:
            graph: The program.
            path: The path of the text.
        """
        program = to_program(graph)
        entries = {entry.name: entry for entry in parse_syntax(program.text).data}
        packed = {
            name: pack(array, DType(entries[name].dtype), entries[name].form)
            for name, array in program.arrays.items()
        }
        files: dict[Path, WriteFile] = {path: lambda file: file.write(program.text.encode())}
        if packed:
            files[_arrays_of(path)] = lambda file: write_arrays(file, packed)
        return files


WRITER = QirFile()
"""What `qir.save` writes a path with that ends in `.qir`."""


def load(source: Path) -> Graph:
    """Reads what `QirFile` wrote.

    Args:
        source: The path of the text; the `.npz` of the same name is read where the
            text refers to it.

    Raises:
        QirError: A file is missing, truncated or corrupted, or the two do not belong together.
    """
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text"
        raise QirError(f"load: can't read {source}: {reason}") from error
    try:
        syntax = parse_syntax(text)
        if syntax.version is None:
            raise ParseError(f"load: expected the first line to be 'qir {VERSION}'")
        arrays = _read_arrays(_arrays_of(source), syntax.data) if syntax.data else {}
        return build(syntax, arrays)
    except QirError as error:
        raise error.at(f"in {source}") from error


def _arrays_of(path: Path) -> Path:
    """Returns where the arrays lie: beside the text, or beside what a link to the text leads to."""
    beside = path.with_suffix(".npz")
    if beside.exists() or not path.is_symlink():
        return beside
    return Path(os.path.realpath(path)).with_suffix(".npz")


def _read_arrays(path: Path, entries: tuple[DataEntry, ...]) -> Mapping[str, FrozenArray]:
    if not path.exists():
        raise QirError(
            f"load: expected the arrays in {path}, which does not exist; qir.save writes both, a "
            "dump of passes is text alone"
        )
    sizes = [_bytes(entry, path) for entry in entries]
    # What is packed takes up to 64 times as many bytes once it is read.
    unpacked = sum(unpacked_bytes(_dtype(entry, path), _shape(entry)) for entry in entries)
    check_memory(unpacked, f"load: {path}")
    arrays = {}
    with reading(f"load: {path} is truncated or corrupted"), zipfile.ZipFile(path) as archive:
        held = set(archive.namelist())
        for entry, size in zip(entries, sizes, strict=True):
            if _member(entry.name) not in held:
                raise QirError(f"load: {path} holds no array @{entry.name}")
            with Npy.of_member(archive, entry.name) as packed:
                # What the text says of the array is compared before any memory is taken for it.
                if packed.dtype != np.uint8 or packed.shape != (size,):
                    raise QirError(
                        f"load: expected {counted(size, 'byte')} for "
                        f"{entry.dtype}{list(entry.shape)}, got "
                        + (
                            f"{packed.size}"
                            if packed.dtype == np.uint8 and len(packed.shape) == 1
                            else f"numbers of {packed.dtype} of shape {list(packed.shape)}"
                        )
                    ).at(f"array @{entry.name} of {path}")
                arrays[entry.name] = _unpacked(packed.read(), entry, path)
    return arrays


def _unpacked(packed: Array, entry: DataEntry, path: Path) -> FrozenArray:
    array = FrozenArray.by_reference(unpack(packed, _dtype(entry, path), _shape(entry), entry.form))
    if array.digest != entry.digest:
        raise QirError(
            f"load: the array @{entry.name} in {path} is not the one that the text was written with"
        )
    return array


def _bytes(entry: DataEntry, path: Path) -> int:
    try:
        return packed_bytes(_dtype(entry, path), _shape(entry), entry.form)
    except QirError as error:
        raise error.at(f"array @{entry.name} of {path}") from error


def _shape(entry: DataEntry) -> tuple[int, ...]:
    return tuple(known(size, "data") for size in entry.shape)


@contextmanager
def reading(subject: str) -> Generator[None]:
    """Turns what goes wrong with a file of arrays into a sentence.

    Args:
        subject: How the sentence begins.

    Raises:
        QirError: The file can't be read, or is damaged.
    """
    try:
        yield
    except QirError:
        raise
    except Exception as error:  # of a damaged archive zipfile raises almost anything
        reason = error.strerror if isinstance(error, OSError) else None
        raise QirError(f"{subject}: {reason or str(error) or type(error).__name__}") from error


@dataclass(frozen=True)
class Npy:
    """An open `.npy` whose header has been read, and whose numbers have not.

    The header says no more than the file has room for. numpy's own reader takes as much memory as
    the header asks for, and fails in ways of Python's tokenizer.

    Args:
        file: The file, at its first number.
        dtype: Type of the numbers: no objects, no records.
        shape: The shape.
        is_fortran: Whether the first index varies fastest.
    """

    file: IO[bytes]
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    is_fortran: bool

    @staticmethod
    def of(file: IO[bytes], length: int) -> Npy:
        """Reads a header.

        Args:
            file: A file at its start.
            length: Bytes of the file.

        Raises:
            ValueError: It is no `.npy` of numbers, or shorter than its header says.
        """
        magic, version = file.read(6), file.read(2)
        if magic != NPY_MAGIC or version not in (b"\x01\x00", b"\x02\x00"):
            raise ValueError("expected an .npy of version 1 or 2")
        field = 2 if version[0] == 1 else 4
        count = int.from_bytes(file.read(field), "little")
        if count > MOST_HEADER_BYTES:
            raise ValueError(f"expected a header of at most {MOST_HEADER_BYTES} bytes, got {count}")
        match literal_eval(file.read(count).decode("latin1")):
            case {"descr": str(word), "fortran_order": bool(order), "shape": tuple(shape)} if all(
                type(size) is int and size >= 0 for size in shape
            ):
                dtype = np.dtype(word)
            case _:
                raise ValueError("expected a header that gives the type and shape of an array")
        if dtype.hasobject:
            raise ValueError("expected numbers, got objects, which are not unpickled")
        found = Npy(file, dtype, shape, order)
        if found.bytes > length - 8 - field - count:
            raise ValueError(f"it ends before the {found.bytes:,} bytes of its numbers")
        return found

    @staticmethod
    @contextmanager
    def of_member(archive: zipfile.ZipFile, name: str) -> Generator[Npy]:
        """Opens an array of an `.npz`, stored or deflated as numpy does it."""
        member = archive.getinfo(_member(name))
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise ValueError(f"expected '{name}' to be stored or deflated")
        with archive.open(member) as file:
            yield Npy.of(file, member.file_size)

    @property
    def size(self) -> int:
        """How many numbers there are."""
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        """How many bytes they take."""
        return self.size * self.dtype.itemsize

    def read(self) -> Array:
        """Returns the numbers in the byte order of this machine.

        Raises:
            QirError: They take more than the memory of this machine.
            ValueError: The file ends before.
        """
        check_memory(self.bytes, "array")
        raw = self.file.read(self.bytes)
        if len(raw) < self.bytes:
            raise ValueError(f"it ends before the {self.bytes:,} bytes of its numbers")
        self.file.read(1)  # at the end of a member zipfile compares the checksum
        flat = np.frombuffer(raw, self.dtype)
        shaped = flat.reshape(self.shape, order="F" if self.is_fortran else "C")
        return shaped.astype(self.dtype.newbyteorder("="), copy=False)


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


def _dtype(entry: DataEntry, path: Path) -> DType:
    try:
        return DType(entry.dtype)
    except ValueError:
        hint = did_you_mean(entry.dtype, [dtype.value for dtype in DType])
        place = f"array @{entry.name} of {path}"
        raise QirError(f"load: no element type {entry.dtype}{hint}", [place]) from None
