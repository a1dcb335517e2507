"""Each primitive's rule: the op it becomes, and jax's own numbers."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qir.api import from_jax
from qir.backends.reference.interpreter import run
from qir.frontends.jaxpr.primitives import PRIMITIVES
from qir.ops import Conv
from qir.types import Array
from tests.frontends.agreement import agrees, op_names, uniform

Case: TypeAlias = tuple[Callable[..., Any], list[Array], list[str] | None]
"""A function that uses the primitive, its inputs, and the ops that it becomes."""

X = uniform(2, 3, 4)
Y = uniform(2, 3, 4, seed=1)
PLACE = np.asarray(1, np.int32)
POSITIVE = uniform(2, 3, 4, low=0.5)
MASK = X > 0
WHOLE = np.arange(-3, 3, dtype=np.int32).reshape(2, 3)
IMAGE = uniform(2, 8, 7, 4)

ELEMENTWISE: dict[str, Case] = {
    "abs": (jnp.abs, [X], ["abs"]),
    "add": (jnp.add, [X, Y], ["add"]),
    "and": (jnp.logical_and, [MASK, ~MASK], ["and"]),
    "ceil": (jnp.ceil, [X], ["ceil"]),
    "clamp": (lambda x, y: lax.clamp(-y, x, y), [X, POSITIVE], ["neg", "maximum", "minimum"]),
    "convert_element_type": (lambda x: x.astype(jnp.int32), [X], ["cast"]),
    "cos": (jnp.cos, [X], ["cos"]),
    "div": (jnp.divide, [X, POSITIVE], ["div"]),
    "eq": (lambda x, y: x == y, [WHOLE, -WHOLE], ["equal"]),
    "erf": (jax.scipy.special.erf, [X], ["erf"]),
    "erfc": (jax.scipy.special.erfc, [X], ["erf", "sub"]),
    "exp": (jnp.exp, [X], ["exp"]),
    "exp2": (jnp.exp2, [X], ["mul", "exp"]),
    "expm1": (jnp.expm1, [X], ["expm1"]),
    "floor": (jnp.floor, [X], ["floor"]),
    "ge": (lambda x, y: x >= y, [X, Y], ["greater_equal"]),
    "gt": (lambda x, y: x > y, [X, Y], ["greater"]),
    "integer_pow": (lambda x: x**5, [X], ["square", "square", "mul"]),
    "is_finite": (jnp.isfinite, [np.where(MASK, X, np.inf).astype(np.float32)], ["is_finite"]),
    "le": (lambda x, y: x <= y, [WHOLE, -WHOLE], ["less_equal"]),
    "log": (jnp.log, [POSITIVE], ["log"]),
    "log1p": (jnp.log1p, [POSITIVE], ["log1p"]),
    "logistic": (jax.nn.sigmoid, [X], ["logistic"]),
    "lt": (lambda x, y: x < y, [X, Y], ["less"]),
    "max": (jnp.maximum, [X, Y], ["maximum"]),
    "min": (jnp.minimum, [X, Y], ["minimum"]),
    "mul": (jnp.multiply, [X, Y], ["mul"]),
    "ne": (lambda x, y: x != y, [WHOLE, -WHOLE], ["not_equal"]),
    "neg": (jnp.negative, [X], ["neg"]),
    "not": (jnp.logical_not, [MASK], ["not"]),
    "or": (jnp.logical_or, [MASK, ~MASK], ["or"]),
    "pow": (jnp.power, [POSITIVE, Y], ["pow"]),
    "round": (jnp.round, [X * 2], ["round"]),
    "rsqrt": (lax.rsqrt, [POSITIVE], ["rsqrt"]),
    "select_n": (jnp.where, [MASK, X, Y], ["select"]),
    "sign": (jnp.sign, [X], ["sign"]),
    "sin": (jnp.sin, [X], ["sin"]),
    "sqrt": (jnp.sqrt, [POSITIVE], ["sqrt"]),
    "square": (jnp.square, [X], ["square"]),
    "sub": (jnp.subtract, [X, Y], ["sub"]),
    "tanh": (jnp.tanh, [X], ["tanh"]),
    "xor": (jnp.logical_xor, [MASK, ~MASK], ["not_equal"]),
}

MOVES: dict[str, Case] = {
    "broadcast_in_dim": (
        lambda x: jnp.broadcast_to(x[:, None], (2, 5, 3, 4)),
        [X],
        ["reshape", "broadcast"],
    ),
    "concatenate": (lambda x, y: jnp.concatenate([x, y], 1), [X, Y], ["concat"]),
    "dynamic_slice": (lambda x: lax.dynamic_slice(x, (1, 9, 0), (1, 2, 4)), [X], ["slice"]),
    "dynamic_update_slice": (
        lambda x, y: lax.dynamic_update_slice(x, y[:, 1:3], (0, 1, 0)),
        [X, Y],
        None,
    ),
    "gather": (lambda x, i: x[:, i], [X, np.array([[2, 0], [1, 1]], np.int32)], None),
    "iota": (lambda x: x + lax.broadcasted_iota(jnp.float32, x.shape, 1), [X], ["add"]),
    "pad": (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3)), constant_values=2), [X], ["pad"]),
    "reshape": (lambda x: x.reshape(4, -1), [X], ["reshape"]),
    "rev": (lambda x: x[:, ::-1], [X], ["reverse"]),
    "scatter": (lambda x, i: x.at[i, 1].set(2.0), [X, PLACE], None),
    "scatter-add": (lambda x, i: x.at[i, 1].add(2.0), [X, PLACE], None),
    "scatter-max": (lambda x, i: x.at[i, 1].max(0.5), [X, PLACE], None),
    "scatter-min": (lambda x, i: x.at[i, 1].min(0.5), [X, PLACE], None),
    "scatter-mul": (lambda x, i: x.at[i, 1].multiply(2.0), [X, PLACE], None),
    "slice": (lambda x: x[1:, ::2, 1:3], [X], ["slice"]),
    "split": (lambda x: jnp.split(x, [1, 3], axis=2), [X], ["split"]),
    "squeeze": (lambda x: lax.slice(x, (0, 1, 0), (2, 2, 4)).squeeze(1), [X], ["slice", "reshape"]),
    "stack": (lambda x, y: jnp.stack([x, y], 1), [X, Y], ["reshape", "reshape", "concat"]),
    "tile": (lambda x: jnp.tile(x, (1, 2, 1)), [X], ["tile"]),
    "transpose": (lambda x: x.transpose(2, 0, 1), [X], ["transpose"]),
}

REDUCTIONS: dict[str, Case] = {
    "argmax": (lambda x: jnp.argmax(x, 1), [X], ["argmax"]),
    "argmin": (lambda x: jnp.argmin(x, 1), [X], ["neg", "argmax"]),
    "reduce_and": (lambda x: jnp.all(x, 0), [MASK], ["reduce_min"]),
    "reduce_max": (lambda x: x.max((0, 2)), [X], ["reduce_max"]),
    "reduce_min": (lambda x: x.min(1, keepdims=True), [X], ["reduce_min"]),
    "reduce_or": (lambda x: jnp.any(x, 0), [MASK], ["reduce_max"]),
    "reduce_prod": (lambda x: x.prod(1), [X], ["reduce_prod"]),
    "reduce_sum": (lambda x: x.sum(-1), [X], ["reduce_sum"]),
}

CASES = ELEMENTWISE | MOVES | REDUCTIONS


@pytest.mark.parametrize("name", CASES)
def test_primitive(name):
    f, inputs, ops = CASES[name]
    jaxpr = str(jax.make_jaxpr(f)(*inputs))
    assert f" {name}" in jaxpr, "the case does not use its primitive"
    graph = agrees(f, *inputs, terms=4)
    if ops is not None:
        assert op_names(graph) == ops


def test_every_rule_has_a_case():
    windows = {
        "conv_general_dilated",
        "dot_general",
        "reduce_window_max",
        "reduce_window_min",
        "reduce_window_sum",
    }
    others = {"add_any", "dim_as_value"}
    assert set(PRIMITIVES) - set(CASES) - windows - others == set()


CONVOLUTIONS: dict[str, dict[str, Any]] = {
    "same": {"padding": "SAME"},
    "valid": {"padding": "VALID"},
    "strided": {"padding": "SAME", "window_strides": (2, 2)},
    "asymmetric": {"padding": ((0, 2), (1, 0))},
    "cropped": {"padding": ((-1, 2), (0, -2))},
    "dilated": {"padding": "SAME", "rhs_dilation": (2, 1)},
    "transposed": {"padding": ((1, 2), (2, 0)), "lhs_dilation": (2, 3)},
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolution(name):
    options = {
        "window_strides": (1, 1),
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    } | CONVOLUTIONS[name]
    kernel = jnp.asarray(uniform(3, 2, 4, 5, seed=1))
    graph = agrees(lambda x: lax.conv_general_dilated(x, kernel, **options), IMAGE, terms=24)
    ops = op_names(graph)
    assert ops[-1] == ("conv_transpose" if name == "transposed" else "conv")
    assert len(ops) == (2 if name == "cropped" else 1)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_is_spelled_by_its_word(padding):
    kernel = jnp.asarray(uniform(3, 3, 4, 5))
    layout = ("NHWC", "HWIO", "NHWC")
    graph = agrees(
        lambda x: lax.conv_general_dilated(
            x, kernel, (2, 1), padding.upper(), dimension_numbers=layout
        ),
        IMAGE,
        terms=36,
    )
    (conv,) = (node.op for node in graph.nodes if isinstance(node.op, Conv))
    assert conv.padding == padding


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_convolution(groups):
    kernel = jnp.asarray(uniform(3, 3, 4 // groups, 8))
    agrees(
        lambda x: lax.conv_general_dilated(
            x,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            feature_group_count=groups,
        ),
        IMAGE,
        terms=36,
    )


@pytest.mark.parametrize(
    ("layout", "x", "kernel"),
    [
        (("NCW", "OIW", "NCW"), uniform(2, 4, 9), uniform(5, 4, 3)),
        (("NCHW", "OIHW", "NCHW"), uniform(2, 4, 6, 7), uniform(5, 4, 3, 2)),
        (("NDHWC", "DHWIO", "NDHWC"), uniform(2, 4, 5, 6, 2), uniform(2, 3, 2, 2, 3)),
        (("HWNC", "IOHW", "CNHW"), uniform(6, 7, 2, 4), uniform(4, 5, 3, 2)),
        (("NC", "OI", "NC"), uniform(3, 4), uniform(5, 4)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_layouts(layout, x, kernel):
    rank = x.ndim - 2

    def f(x):
        return lax.conv_general_dilated(x, kernel, (1,) * rank, "SAME", dimension_numbers=layout)

    graph = agrees(f, x, terms=36)
    # Kernels are turned at import, activations by transposes.
    assert set(op_names(graph)) <= {"transpose", "conv", "dot"}
    assert op_names(graph).count("transpose") <= 2


@pytest.mark.parametrize(
    ("equation", "left", "right"),
    [
        ("ik,kj->ij", (3, 4), (4, 5)),
        ("bik,bkj->bij", (2, 3, 4), (2, 4, 5)),
        ("bhik,bhjk->bhij", (2, 3, 4, 5), (2, 3, 6, 5)),
        ("bihk,bjhk->bhij", (2, 4, 3, 5), (2, 6, 3, 5)),
        ("abc,bcde->ade", (2, 3, 4), (3, 4, 5, 2)),
        ("k,kj->j", (4,), (4, 5)),
        ("ik,k->i", (3, 4), (4,)),
        ("k,k->", (4,), (4,)),
        ("i,j->ij", (3,), (4,)),
        ("bk,bk->b", (3, 4), (3, 4)),
    ],
)
@pytest.mark.parametrize("constant", ["none", "left", "right"])
def test_contractions(equation, left, right, constant):
    x, y = uniform(*left), uniform(*right, seed=1)
    match constant:
        case "left":
            graph = agrees(lambda y: jnp.einsum(equation, x, y), y, terms=12)
        case "right":
            graph = agrees(lambda x: jnp.einsum(equation, x, y), x, terms=12)
        case _:
            graph = agrees(lambda x, y: jnp.einsum(equation, x, y), x, y, terms=12)
    assert set(op_names(graph)) <= {"dot", "reshape", "transpose", "mul", "reduce_sum"}
    if constant == "left" and "dot" in op_names(graph):
        (dot,) = (node for node in graph.nodes if node.op.name == "dot")
        assert dot.inputs[1].is_constant


WINDOWS: dict[str, Any] = {
    "channels last": ((1, 3, 2, 1), (1, 2, 1, 1), "SAME"),
    "channels first": ((1, 1, 3, 2), (1, 1, 2, 1), "VALID"),
    "one axis": ((1, 2, 1, 1), (1, 2, 1, 1), "VALID"),
    "channels": ((1, 1, 1, 3), (1, 1, 1, 1), "SAME"),
    "batch": ((2, 1, 1, 1), (1, 1, 1, 1), "VALID"),
    "asymmetric": ((1, 3, 3, 1), (1, 1, 2, 1), ((0, 0), (0, 2), (1, 0), (0, 0))),
}


@pytest.mark.parametrize(("element", "ops"), [(None, ["dot", "cast"]), (np.int32, ["dot"])])
def test_bytes_are_summed_in_32_bits(element, ops):
    x, k = (np.random.default_rng(i).integers(-128, 128, (4, 4)).astype(np.int8) for i in range(2))
    f = partial(jnp.matmul, preferred_element_type=element)
    assert op_names(agrees(f, x, k)) == ops


def test_a_convolution_of_bytes_is_summed_in_32_bits():
    x, k = (np.random.default_rng(i).integers(-128, 128, (3, 2, 5)).astype(np.int8) for i in (0, 1))
    f = partial(
        lax.conv_general_dilated,
        window_strides=(1,),
        padding="SAME",
        preferred_element_type=np.dtype(np.int32),
    )
    assert "cast" not in op_names(agrees(f, x, k))


@pytest.mark.parametrize("name", WINDOWS)
def test_windows(name):
    window, strides, padding = WINDOWS[name]

    def f(x):
        return (
            lax.reduce_window(x, -jnp.inf, lax.max, window, strides, padding),
            lax.reduce_window(x, jnp.inf, lax.min, window, strides, padding),
            lax.reduce_window(x, 0.0, lax.add, window, strides, padding),
        )

    graph = agrees(f, IMAGE, terms=16)
    assert {"max_pool", "avg_pool"} <= set(op_names(graph))


def test_a_window_over_a_vector():
    agrees(lambda x: lax.reduce_window(x, 0.0, lax.add, (3,), (1,), "VALID"), uniform(9), terms=3)


@pytest.mark.parametrize(
    "f",
    [
        lambda x: jnp.take(x, np.array([2, 0, 2]), axis=1),
        lambda x: x[:, 1],
        lambda x: x[-1, :, 2:],
        lambda x: jnp.take(x, np.array([[0, 1], [2, 3]]), axis=2),
        lambda x: x[np.array([1, 0])],
        lambda x: lax.dynamic_slice_in_dim(x, 1, 2, 1),
    ],
)
def test_places(f):
    agrees(f, X)


def test_an_embedding():
    table = uniform(11, 6)
    graph = agrees(lambda i: jnp.take(table, i, axis=0), np.array([[0, 10], [3, 3]], np.int32))
    assert "embedding" in op_names(graph)


@pytest.mark.parametrize("power", [-3, -1, 0, 1, 2, 3, 6, 7])
def test_integer_powers(power):
    agrees(lambda x: lax.integer_pow(x, power), POSITIVE, terms=8)


def test_rounding_away_from_zero():
    agrees(
        lambda x: lax.round(x, lax.RoundingMethod.AWAY_FROM_ZERO),
        np.array([0.5, -0.5, 1.5, 2.5], np.float32),
    )


def test_calls_are_inlined_and_identities_dropped():
    @jax.custom_vjp
    def double(x):
        return x * 2

    double.defvjp(lambda x: (double(x), None), lambda _, g: (g * 2,))

    @jax.custom_jvp
    def negative(x):
        return -x

    negative.defjvps(lambda t, y, x: -t)

    def f(x):
        x = jax.jit(lambda x: jax.checkpoint(lambda x: jnp.exp(x))(x))(x)
        return lax.stop_gradient(negative(double(jnp.copy(x)))).astype(jnp.float32)

    assert op_names(agrees(f, X)) == ["exp", "mul", "neg"]


def test_constants_are_computed_at_import():
    def f(x):
        table = jnp.sort(jnp.cumsum(jax.random.normal(jax.random.key(0), (4,))))  # none has a rule
        position = jnp.sin(jnp.arange(4) / 3.0)
        return x * table + jnp.where(jnp.arange(4) > 1, position, 0.0)

    assert op_names(agrees(f, X)) == ["mul", "add"]


def test_integers_and_masks_stay_what_they_are():
    graph = agrees(lambda i: (i + 1, (i * 2).astype(jnp.float32), jnp.where(i > 0, i, -1)), WHOLE)
    assert [str(value.type) for value in graph.outputs] == ["i32[2,3]", "f32[2,3]", "i32[2,3]"]


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision(dtype):
    kernel = jnp.asarray(uniform(4, 5), dtype)

    def f(x):
        return jax.nn.relu(x.astype(dtype) @ kernel).astype(jnp.float32)

    graph = from_jax(f, X)
    assert op_names(graph) == ["cast", "dot", "relu", "cast"]
    # A sum of 4 products of at most 4 is off by one rounding to the narrow type in each of 5 steps.
    bound = 5 * float(jnp.finfo(dtype).eps) * 16
    np.testing.assert_allclose(run(graph, X)[0], f(X), rtol=0, atol=bound)
