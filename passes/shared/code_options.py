"""What is wanted of codes, wherever in a program a value gets one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from qir.passes.shared.chosen_codes import ChosenCodes
from qir.passes.shared.weight_codes import WeightCoding
from qir.targets import Target
from qir.types import DType

Carries: TypeAlias = Literal["auto", "i8", "i16"]
"""The storage of what loops carry; auto has 16 bits where 8 are predicted to be too few."""


@dataclass(frozen=True)
class CodeOptions:
    """What is wanted of codes.

    Attributes:
        storage: Storage of activations but for those chosen otherwise.
        symmetric: Whether activations have their zero point in the middle.
        weights: The codes that weights get, likewise.
        rounding: The rounding mode of requantizes.
        correct_bias: Whether biases take in what rounding the weights costs on average.
        carries: The storage of what loops carry.
        target: The runtime that the program is for; None for all that QIR has.
        chosen: What is chosen for some values and ops.
    """

    storage: DType
    symmetric: bool
    weights: WeightCoding
    rounding: str
    correct_bias: bool
    carries: Carries
    target: Target | None
    chosen: ChosenCodes
