"""Files that QIR writes: whole or not at all, and nothing in their place that is not a file."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Callable, Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

from qir.errors import QirError

WriteFile: TypeAlias = Callable[[BinaryIO], object]
"""Called with an open file, to write it."""


def write_atomically(files: Mapping[Path, WriteFile]) -> None:
    """Writes files under temporary names, then puts them all in their places.

    An error leaves the files that were there before, and nothing else. A link stays, and the file
    that it leads to is written. A file that is replaced keeps its permissions. A character device
    or a pipe (`/dev/null`, `/dev/stdout`) is never replaced: it gets the bytes when all of them are
    there.

    Args:
        files: The paths, and for each a function that is called with the open file.

    Raises:
        QirError: A file can't be written, a path leads to a folder, a disk or a socket, or two
            lead to one file.
    """
    staged: list[tuple[Path, Path, _Target]] = []
    try:
        for path, write in files.items():
            with _failing_at(path):
                target = _find(path)
                for other, _, taken in staged:
                    if taken.path == target.path and not target.stream:
                        raise QirError(f"file: {path} and {other} lead to one file, {target.path}")
                descriptor, name = tempfile.mkstemp(dir=target.folder, prefix=".qir-")
                staged.append((path, Path(name), target))
                with os.fdopen(descriptor, "wb") as file:
                    write(file)
        for path, temporary, target in staged:
            with _failing_at(path):
                target.take(temporary)
    finally:
        for _, temporary, _ in staged:
            temporary.unlink(missing_ok=True)


def check_companions(path: Path, companions: Iterable[Path]) -> None:
    """Raises QirError for a file that a program would replace though it is not of that program."""
    for companion in companions:
        if companion.is_file() and not path.exists():
            raise QirError(
                f"save: {companion} is there without {path}, so it is not what was saved with "
                "it; choose another name, or take it away"
            )


def check_writable(*paths: Path) -> None:
    """Raises QirError where `write_atomically` would, so that no work is done for nothing."""
    for path in paths:
        with _failing_at(path):
            _find(path)


def make_folder(path: Path) -> None:
    """Makes a folder, and those around it, where it is not there; raises QirError if it can't."""
    with _failing_at(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def _failing_at(path: Path) -> Generator[None]:
    try:
        yield
    except OSError as error:
        raise QirError(f"file: can't write {path}: {error.strerror or error}") from error


@dataclass(frozen=True)
class _Target:
    """Where the bytes of a path go.

    Args:
        path: The path, all links resolved.
        mode: Permissions of the file.
        stream: Whether the bytes are written into what is there, rather than put in its place.
        descriptor: The open file that the path is, where that is standard output or error.
    """

    path: Path
    mode: int
    stream: bool = False
    descriptor: int | None = None

    @property
    def folder(self) -> Path | None:
        """Where the temporary file lies: in the same folder, for a file that is renamed."""
        return None if self.stream else self.path.parent

    def take(self, temporary: Path) -> None:
        """Makes the bytes of a temporary file those of the target."""
        if not self.stream:
            os.chmod(temporary, self.mode)
            os.replace(temporary, self.path)
            return
        with temporary.open("rb") as source, self.open() as file:
            shutil.copyfileobj(source, file)

    def open(self) -> BinaryIO:
        """Opens a target that is written into."""
        if self.descriptor is None:
            return self.path.open("wb")
        for printed in (sys.stdout, sys.stderr):
            printed.flush()
        return os.fdopen(os.dup(self.descriptor), "wb")


def _find(path: Path) -> _Target:
    """Looks at what a path leads to.

    Raises:
        OSError: Nothing can be written there.
    """
    try:
        found = os.stat(path)
    except FileNotFoundError:
        resolved = Path(os.path.realpath(path))
        os.stat(resolved.parent / ".")
        _check_access(resolved.parent, os.W_OK | os.X_OK)
        umask = os.umask(0o077)  # to read it is to set it
        os.umask(umask)
        return _Target(resolved, 0o666 & ~umask)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    _check_access(path, os.W_OK)
    descriptor = _standard_stream(found)
    if descriptor is not None or stat.S_ISCHR(found.st_mode) or stat.S_ISFIFO(found.st_mode):
        return _Target(path, 0, stream=True, descriptor=descriptor)
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "expected the path of a file, got that of a device or socket")
    resolved = Path(os.path.realpath(path))
    _check_access(resolved.parent, os.W_OK | os.X_OK)
    return _Target(resolved, stat.S_IMODE(found.st_mode) & 0o777)


def _check_access(path: Path, mode: int) -> None:
    if not os.access(path, mode):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def _standard_stream(found: os.stat_result) -> int | None:
    """Returns 1 or 2 where a path is the process's own standard output or error."""
    for descriptor in (1, 2):
        with suppress(OSError):
            if os.path.samestat(found, os.fstat(descriptor)):
                return descriptor
    return None
