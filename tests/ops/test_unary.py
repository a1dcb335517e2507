from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.errors import QirError
from qir.numbers.interval import Interval
from qir.ops import (
    Abs,
    Ceil,
    Cos,
    Elu,
    Erf,
    Exp,
    Expm1,
    Floor,
    Gelu,
    HardSigmoid,
    HardSwish,
    LeakyRelu,
    Log,
    Log1p,
    Logistic,
    Mish,
    Neg,
    Reciprocal,
    Round,
    Rsqrt,
    Sign,
    Silu,
    Sin,
    Softplus,
    Sqrt,
    Square,
    Tanh,
)
from qir.ops.unary import Unary
from tests.ops.programs import program

FUNCTIONS = [
    (Abs(), jnp.abs),
    (Ceil(), jnp.ceil),
    (Cos(), jnp.cos),
    (Elu(alpha=0.5), lambda x: jax.nn.elu(x, 0.5)),
    (Erf(), lax.erf),
    (Exp(), jnp.exp),
    (Expm1(), jnp.expm1),
    (Floor(), jnp.floor),
    (Gelu(), lambda x: jax.nn.gelu(x, approximate=False)),
    (Gelu(approximate=True), jax.nn.gelu),
    (HardSigmoid(), jax.nn.hard_sigmoid),
    (HardSwish(), jax.nn.hard_swish),
    (LeakyRelu(slope=0.25), lambda x: jax.nn.leaky_relu(x, 0.25)),
    (Log(), jnp.log),
    (Log1p(), jnp.log1p),
    (Logistic(), jax.nn.sigmoid),
    (Mish(), jax.nn.mish),
    (Neg(), jnp.negative),
    (Reciprocal(), jnp.reciprocal),
    (Round(), lambda x: lax.round(x, lax.RoundingMethod.TO_NEAREST_EVEN)),
    (Round(ties="away"), lax.round),
    (Rsqrt(), lax.rsqrt),
    (Sign(), jnp.sign),
    (Silu(), jax.nn.silu),
    (Sin(), jnp.sin),
    (Softplus(), jax.nn.softplus),
    (Sqrt(), jnp.sqrt),
    (Square(), jnp.square),
    (Tanh(), jnp.tanh),
]


@pytest.mark.parametrize(
    ("op", "function"), FUNCTIONS, ids=lambda part: str(getattr(part, "name", ""))
)
def test_equals_jax(op: Unary, function: Callable[..., jax.Array]) -> None:
    x = np.concatenate([np.linspace(-6, 6, 97), [0.49999997, -2.5, 3.5]]).astype(np.float32)
    # Both are within a few steps of float32 of the real value, relative to terms of at most 40.
    np.testing.assert_allclose(op.evaluate(x), function(x), rtol=2**-20, atol=2**-20)


@pytest.mark.parametrize("op", [op for op, _ in FUNCTIONS], ids=lambda op: str(op.name))
@pytest.mark.parametrize("bounds", [(-3.0, 4.0), (0.5, 2.0), (-6.0, -0.75), (-1.5, -1.0)])
def test_intervals_contain_the_values(op: Unary, bounds: tuple[float, float]) -> None:
    values = op.evaluate(np.linspace(*bounds, 1001))
    defined = values[~np.isnan(values)]
    found = op.interval(Interval.of(*bounds))
    assert found.contains(defined, slack=1e-12)


@pytest.mark.parametrize("name", ["sign", "floor", "mish"])
def test_only_floating_point_numbers(name: str) -> None:
    with pytest.raises(QirError, match=f"{name}: expected floating-point numbers, got i32"):
        program("%x: i32[4]", f"{name}(%x) : i32[4]")
    with pytest.raises(QirError, match=f"{name}: expected operands of one plain element type"):
        program("%q: i8[4]{scale=0.5}", f"{name}(%q) : i8[4]{{scale=0.5}}")
