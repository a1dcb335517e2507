"""JAX functions as graphs: traced, flattened, written by one rule a primitive, raised to ops."""

from qir.frontends.jaxpr.constants import Known
from qir.frontends.jaxpr.emitter import Emitter, Operand, primitive
from qir.frontends.jaxpr.trace import from_jax

__all__ = ["Emitter", "Known", "Operand", "from_jax", "primitive"]
