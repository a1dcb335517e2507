"""What pipelines call by a name, with options behind it: passes and calibration methods."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from qir.ops.attributes import attribute_fields, coerce
from qir.text.printer import format_attribute


@dataclass(frozen=True, repr=False)
class Configured:
    """A frozen dataclass whose fields are options, which are checked against their annotations.

    Attributes:
        name: Name in pipelines.
    """

    name: ClassVar[str]

    @property
    def subject(self) -> str:
        """What errors about options begin with."""
        return self.name

    def __post_init__(self) -> None:
        for spec in attribute_fields(type(self)):
            value = coerce(
                getattr(self, spec.name), spec.annotation, f"{self.subject}: {spec.name}"
            )
            object.__setattr__(self, spec.name, value)
        self.check()

    def check(self) -> None:
        """Raises QirError for options that can't stand together; the default accepts all."""

    def __str__(self) -> str:
        options = [
            f"{spec.name}={format_attribute(getattr(self, spec.name))}"
            for spec in attribute_fields(type(self))
            if getattr(self, spec.name) != spec.default
        ]
        return self.name + (f"({', '.join(options)})" if options else "")
