"""The folder of what QIR keeps between runs, and tables of JSON in it, one for each machine.

Nothing in it is needed: what is missing, damaged or of another machine is made anew, and a folder
that can't be written costs time, not the program.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

from qir.errors import QirError
from qir.text.files import write_atomically

Facts: TypeAlias = Mapping[str, str | int]
"""What entries depend on, by a name for the reader."""


def cache_folder() -> Path:
    """Returns `$QIR_CACHE_DIR`, else `$XDG_CACHE_HOME/qir`, else `~/.cache/qir`.

    A relative `$XDG_CACHE_HOME` counts for nothing, as the XDG base directory specification says.
    """
    if own := os.environ.get("QIR_CACHE_DIR"):
        return Path(own)
    shared = os.environ.get("XDG_CACHE_HOME", "")
    caches = shared if os.path.isabs(shared) else os.path.expanduser("~/.cache")
    return Path(caches, "qir")


@contextmanager
def locked(path: Path) -> Generator[None]:
    """Keeps other processes out of a file that is read, changed and written again.

    The lock is a file beside it, because a renamed file takes its lock along; it goes with the
    process. Without POSIX locks nobody is kept out, and of two writers one may lose its entries.

    Args:
        path: The file; its folder exists.

    Raises:
        OSError: The lock can't be made.
    """
    with path.with_name(f"{path.name}.lock").open("ab") as file:
        if sys.platform != "win32":
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class CacheTable:
    """A table in the cache, for a machine or whatever else its entries depend on.

    Args:
        kind: What it holds; its file's name begins so.
        facts: What the entries depend on. They stand in the file, and other facts are another file.

    Attributes:
        path: The file.
        warnings: What went wrong with the file, a clause each.
    """

    def __init__(self, kind: str, facts: Facts) -> None:
        self.kind = kind
        self.facts = dict(facts)
        text = json.dumps(self.facts, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.path = cache_folder() / f"{kind}-{digest}.json"
        self.warnings: list[str] = []

    def read(self) -> dict[str, object]:
        """Returns the entries; none where there is no file, or one that can't be used."""
        try:
            found = json.loads(self.path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return {}
        except OSError as error:
            self._warn(f"can't read {self.path}: {error.strerror}")
            return {}
        except (ValueError, RecursionError):
            self._warn(f"{self.path} is damaged; it is written anew when something is measured")
            return {}
        match found:
            case {"facts": facts, "entries": dict(entries)} if facts == self.facts:
                return entries
            case _:
                self._warn(f"{self.path} holds no {self.kind} of this machine; it is written anew")
                return {}

    def merge(self, entries: Mapping[str, object]) -> None:
        """Adds entries to the file, beside those that other processes have written meanwhile."""
        if not entries:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                merged = {**self.read(), **entries}
                content = {"facts": self.facts, "entries": dict(sorted(merged.items()))}
                text = json.dumps(content, indent=1) + "\n"
                write_atomically({self.path: lambda file: file.write(text.encode())})
        except OSError as error:
            self._warn(f"can't write {self.path}: {error.strerror}")
        except QirError as error:
            self._warn(error.message.removeprefix("file: "))

    def _warn(self, warning: str) -> None:
        if warning not in self.warnings:
            self.warnings.append(warning)
