"""What every frontend is built of, without jax.

A `Translation` reads a model node by node, under the names that the source has. What a node
computes is written by a rule, with an `Emitter`; operands whose numbers are known stay `Known`
until an op reads them. `Refusals` gathers what has no rule, so that one error lists all of it. The
names of the source, which may hold any characters, become names of the text, and stay in
`Value.origin`. `layouts` has channels-first tensors and kernels as QIR's ops take them.
"""

from qir.frontends.shared.constants import constant
from qir.frontends.shared.emitter import Emitter, Operand, expect_type, known_integers
from qir.frontends.shared.known import Known, fold, is_known
from qir.frontends.shared.locations import location
from qir.frontends.shared.naming import dotted, identifier, name_values
from qir.frontends.shared.refusals import REFUSED, Refusals
from qir.frontends.shared.translation import ImportRule, Translation

__all__ = [
    "REFUSED",
    "Emitter",
    "ImportRule",
    "Known",
    "Operand",
    "Refusals",
    "Translation",
    "constant",
    "dotted",
    "expect_type",
    "fold",
    "identifier",
    "is_known",
    "known_integers",
    "location",
    "name_values",
]
