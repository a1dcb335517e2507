"""What every frontend is built of, without jax.

A frontend reads a model node by node. What a node computes is written by a rule, with an `Emitter`;
operands whose numbers are known stay `Known` until an op reads them. `Refusals` gathers what has no
rule, so that one error lists all of it. The names of the source, which may hold any characters,
become names of the text, and stay in `Value.origin`.
"""

from qir.frontends.shared.emitter import Emitter, Operand, expect_type, known_integers
from qir.frontends.shared.known import Known, fold, is_known
from qir.frontends.shared.naming import dotted, identifier, name_values
from qir.frontends.shared.refusals import REFUSED, Refusals

__all__ = [
    "REFUSED",
    "Emitter",
    "Known",
    "Operand",
    "Refusals",
    "dotted",
    "expect_type",
    "fold",
    "identifier",
    "is_known",
    "known_integers",
    "name_values",
]
