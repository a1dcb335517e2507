"""Recipes as TOML: reading it, with the line of what does not fit, and writing it."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qir.errors import QirError, did_you_mean, kind_of

MOST_BYTES = 2**24
"""The size of the largest file that is read: far more than a rule for each op of a large model."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Returns what a file of a recipe holds.

    Raises:
        QirError: It can't be read, is too large, or is no text in UTF-8.
    """
    try:
        with Path(path).open("rb") as file:
            found = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        text = "; the text of a recipe goes through qir.Recipe.parse" if "\n" in str(path) else ""
        raise QirError(f"recipe: can't read {path}: {why}{text}") from error
    if len(found) > MOST_BYTES:
        raise QirError(f"recipe: expected a file of at most {MOST_BYTES} bytes, got {path}")
    try:
        return found.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = found.count(b"\n", 0, error.start) + 1
        raise QirError(f"recipe: expected TOML in UTF-8, got {path}", [f"line {line}"]) from error


def parse_toml(text: str) -> tuple[str | None, list[Mapping[str, Any]]]:
    """Returns the pipeline and the tables of the rules of a recipe.

    Raises:
        QirError: The text is no TOML, or holds something else.
    """
    try:
        found = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # of the syntax, of endless digits or brackets
        raise QirError(f"recipe: expected TOML: {error}") from error
    for name in found:
        if name not in ("pipeline", "rule"):
            hint = did_you_mean(name, ["pipeline", "rule"])
            line = _line_of(text.splitlines(), name, 0)
            raise QirError(f"recipe: expected pipeline and [[rule]], got '{name}'{hint}", line)
    pipeline, rules = found.get("pipeline"), found.get("rule", [])
    if pipeline is not None and not isinstance(pipeline, str):
        raise QirError(f"recipe: pipeline: expected passes as text, got {kind_of(pipeline)}")
    if not isinstance(rules, list):
        raise QirError(f"recipe: expected each rule to be a table [[rule]], got {kind_of(rules)}")
    return pipeline, rules


def place_of(text: str, index: int, message: str) -> str:
    """Returns where a rule of a text stands, for an error that names one of its keys or none.

    Args:
        text: The recipe.
        index: The place of the rule among all, from 0.
        message: What is wrong with it.
    """
    lines = text.splitlines()
    heads = [at for at, line in enumerate(lines) if re.match(r"\s*\[\[\s*rule\s*\]\]", line)]
    place = f"in rule {index + 1}"
    if index >= len(heads):  # Rules may be written in a line, as an array of tables.
        return place
    end = heads[index + 1] if heads[index + 1 :] else len(lines)
    words = re.findall(r"\w+", message)
    keys = (_line_of(lines[:end], word, heads[index] + 1) for word in words)
    found = next((key for key in keys if key), [f"line {heads[index] + 1}"])
    return f"{place}, {found[0]}"


def toml_of(pipeline: str | None, rules: Sequence[Mapping[str, Any]]) -> str:
    """Returns a recipe as TOML, which `parse_toml` reads."""
    lines = [] if pipeline is None else [f"pipeline = {_quoted(pipeline)}"]
    for rule in rules:
        lines += ["", "[[rule]]", *(f"{name} = {_quoted(value)}" for name, value in rule.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _line_of(lines: Sequence[str], key: str, start: int) -> list[str]:
    """Returns the first line behind a start that gives a key, or begins a table of its name."""
    pattern = re.compile(rf"""\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*[=\].]""")
    found = (at for at, line in enumerate(lines) if at >= start and pattern.match(line))
    return [f"line {at + 1}" for at in found][:1]


def _quoted(value: object) -> str:
    """Returns text, a truth value or a list of texts as TOML, whose strings are those of JSON."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
