"""What was chosen for an op of a program otherwise than for all others."""

from __future__ import annotations

from dataclasses import dataclass

OF_ALL = "*"
"""The name by which `Graph.choices` holds what options of passes say where no rule does."""


@dataclass(frozen=True)
class ChosenOption:
    """One thing that a rule of a recipe chose, or an option of a pass where none did.

    Args:
        text: What, as in a recipe: `activations=i16`.
        reason: Why; empty where the rule does not say.
    """

    text: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.text} ({self.reason})" if self.reason else self.text
