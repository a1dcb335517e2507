"""Targets: what runtimes accept, as data; one file each.

A target of one's own is added so::

    TARGETS.add("chip", Target(name="chip", runtime="the chip's simulator", lookup=False))
"""

from __future__ import annotations

from qir.errors import QirError
from qir.interop.registry import Registry
from qir.targets.obstacles import Obstacle
from qir.targets.target import Granularity, Target

__all__ = ["TARGETS", "Granularity", "Obstacle", "Target", "find_target", "refuse"]


def _wanted(name: str, entry: object) -> str | None:
    if not isinstance(entry, Target):
        return "a qir.targets.Target"
    return None if entry.name == name else f"the target under its own name, '{entry.name}'"


TARGETS: Registry[Target] = Registry(
    "the target",
    {"xla": "qir.targets.xla:TARGET", "onnx": "qir.targets.onnx:TARGET"},
    wanted=_wanted,
)
"""What options `target=` look a name up in."""


def find_target(target: str | Target, subject: str) -> Target:
    """Returns a target by its name, or as it was given.

    Raises:
        QirError: There is no such target; all names are listed, and the nearest one.
    """
    return target if isinstance(target, Target) else TARGETS.find(target, subject)


_SHOWN = 5


def refuse(found: tuple[Obstacle, ...], target: Target, subject: str) -> None:
    """Raises QirError where there are obstacles: the first ones are named."""
    if found:
        left = len(found) - _SHOWN
        more = [f"and {left} more; see qir.explain(graph, target='{target.name}')"]
        raise QirError(
            f"{subject}: expected a program that target {target.name} accepts, got "
            f"{len(found)} that it does not",
            [*map(str, found[:_SHOWN]), *(more if left > 0 else [])],
        )
