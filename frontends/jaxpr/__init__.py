"""JAX functions as graphs: traced, flattened, written by one rule a primitive, raised to ops."""

from qir.frontends.jaxpr.primitives import primitive
from qir.frontends.jaxpr.trace import from_jax
from qir.frontends.shared.emitter import Emitter, Operand
from qir.frontends.shared.known import Known

__all__ = ["Emitter", "Known", "Operand", "from_jax", "primitive"]
