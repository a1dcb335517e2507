"""Sentences to embed: the docstrings of SciPy's functions, which every installation has."""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

MODULES = (
    "cluster.hierarchy",
    "fft",
    "integrate",
    "interpolate",
    "linalg",
    "ndimage",
    "optimize",
    "signal",
    "sparse",
    "spatial",
    "special",
    "stats",
)


@dataclass(frozen=True)
class Docstring:
    """What a function says of itself.

    Args:
        name: Its qualified name.
        summary: The first sentence.
        description: The text between the summary and the sections; empty where there is none.
    """

    name: str
    summary: str
    description: str


@cache
def docstrings() -> tuple[Docstring, ...]:
    """The docstrings of SciPy by name, one of each summary."""
    found = {item.summary: item for item in _collected()}
    return tuple(sorted(found.values(), key=lambda item: item.name))


def _collected() -> Iterator[Docstring]:
    for name in MODULES:
        module = importlib.import_module(f"scipy.{name}")
        for member in sorted(module.__all__):
            value = getattr(module, member)
            text = inspect.getdoc(value) if callable(value) else None
            if text:
                yield _parsed(f"{name}.{member}", text)


def _parsed(name: str, text: str) -> Docstring:
    """Splits a docstring in numpy's style; signatures and directives are left out."""
    text = re.split(r"\n[^\n]+\n-{3,}\n", text)[0]
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    paragraphs = [part for part in paragraphs if not re.match(r"\.\.|[\w.]+\(.*\)", part)]
    summary, *description = paragraphs or [""]
    return Docstring(name, summary, " ".join(description))
