"""What a compiled program refuses, and how it shows itself."""

import copy
import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

import qir
from qir.backends.xla.kernel_choice import kernels_here

FLOAT = """
graph @f(%x: f32[2,4]) {
  %w = const [[0.5, -1.0], [1.0, 0.25], [2.0, -0.5], [0.0, 1.0]] : f32[4,2]
  %y = dot(%x, %w) : f32[2,2]
  %z = relu(%y) : f32[2,2]
  return %z
}
"""
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


def integer():
    return qir.quantize(qir.parse(FLOAT), [X])


def with_kernels():
    if isinstance(why := kernels_here(), str):
        pytest.skip(why)
    return qir.compile(integer(), kernels=True)


def gradient(program):
    return jax.grad(lambda x: program(x)[0].sum())(X)


def test_a_float_program_has_gradients():
    wanted = jax.grad(lambda x: jax.nn.relu(x @ jnp.array(qir.parse(FLOAT).value("w").array)).sum())
    np.testing.assert_allclose(gradient(qir.compile(qir.parse(FLOAT))), wanted(X), rtol=1e-6)


@pytest.mark.parametrize(
    "differentiate",
    [
        gradient,
        lambda program: jax.jvp(lambda x: program(x)[0], (X,), (X,)),
        lambda program: jax.vmap(lambda x: jax.jacfwd(lambda y: program(y)[0])(x))(X[None]),
        lambda program: gradient(jax.jit(program)),
    ],
)
def test_an_integer_program_has_no_gradient_of_zeros(differentiate):
    with pytest.raises(qir.QirError) as refused:
        differentiate(qir.compile(integer(), kernels=False))
    assert str(refused.value) == (
        "gradient: expected a float program, got one that rounds to the integers of %x.q; "
        "differentiate the program that it was quantized from"
    )


def test_what_does_not_depend_on_the_integers_keeps_its_gradient():
    program = qir.compile(integer(), kernels=False)
    found = jax.grad(lambda scale: (scale * program(X)[0]).sum())(2.0)
    np.testing.assert_allclose(found, program(X)[0].sum(), rtol=1e-6)


def test_kernels_have_no_gradient():
    with pytest.raises(qir.QirError, match="got a generated kernel; differentiate the float"):
        gradient(with_kernels())


def test_a_batch_of_calls_keeps_its_numbers():
    for program in (qir.compile(integer(), kernels=False), with_kernels()):
        found = jax.vmap(program)(np.stack([X, -X]))[0]
        for given, array in zip((X, -X), found, strict=True):
            np.testing.assert_array_equal(array, program(given)[0])


def test_kernels_do_not_leave_the_process_by_jax_export():
    program = with_kernels()
    with pytest.raises(qir.QirError, match=r"generated kernels; use program\.export\(\), or"):
        export.export(jax.jit(program))(X)
    np.testing.assert_array_equal(program.export().call(X)[0], program(X)[0])


def test_without_kernels_jax_export_takes_a_program():
    program = qir.compile(integer(), kernels=False)
    np.testing.assert_array_equal(export.export(jax.jit(program))(X).call(X)[0], program(X)[0])


@pytest.mark.parametrize("divisor", ["%y", "%sum"])
def test_a_division_leaves_the_process_with_an_open_batch(divisor):
    graph = qir.parse(
        "graph @f(%x: f32[B,4], %y: f32[B,4]) {\n"
        "  %sum = reduce_sum(%y) {axes = [1], keep_axes = true} : f32[B,1]\n"
        f"  %z = div(%x, {divisor}) : f32[B,4]\n"
        "  return %z, %sum\n}"
    )
    quotients = qir.quantize(graph, [(X, X + 3)])
    assert "div" in {node.op.name for node in quotients.nodes}
    portable = export.deserialize(qir.compile(quotients).export().serialize())
    np.testing.assert_array_equal(portable.call(X, X + 3)[0], qir.evaluate(quotients, X, X + 3)[0])


def test_a_compiled_program_is_not_pickled():
    with pytest.raises(qir.QirError, match=r"qir\.save its graph and compile that where it is to"):
        pickle.dumps(qir.compile(qir.parse(FLOAT)))


def test_a_compiled_program_copies_as_itself():
    program = qir.compile(qir.parse(FLOAT))
    assert copy.copy(program) is program
    assert copy.deepcopy({"model": program})["model"] is program


def test_programs_show_what_they_take_and_return():
    graph = qir.parse(FLOAT)
    assert repr(graph) == "<@f(%x: f32[2,4]) -> (f32[2,2]), 2 ops>"
    assert repr(qir.compile(graph)) == "<compiled @f(%x: f32[2,4]) -> (f32[2,2]), 2 ops>"
    assert repr(qir.compile(graph, "reference")) == (
        "<interpreted @f(%x: f32[2,4]) -> (f32[2,2]), 2 ops>"
    )
    assert repr(qir.Graph("empty")) == "<@empty() -> (), 0 ops>"


def test_the_memory_of_a_call_counts_what_kernels_keep():
    # What lies between two products takes more than all else, and kernels keep it themselves.
    text = """
    graph @f(%x: f32[B,8]) {
      %v = const 0.25 : f32[8,512]
      %w = const 0.25 : f32[512,4]
      %h = dot(%x, %v) : f32[B,512]
      %y = dot(%h, %w) : f32[B,4]
      return %y
    }"""
    graph = qir.parse(text)
    x = np.random.default_rng(0).normal(size=(64, 8)).astype(np.float32)
    planned = qir.compile(graph).memory({"B": 64})
    weights = 4 * (8 * 512 + 512 * 4)
    assert (planned.arguments, planned.outputs) == (4 * 64 * 8 + weights, 4 * 64 * 4)
    assert planned.temporary >= 4 * 64 * 512
    assert planned.kernels == 0
    assert planned.total == sum((planned.arguments, planned.outputs, planned.temporary))
    if not isinstance(kernels_here(), str):
        integer = qir.quantize(graph, [x])
        found = qir.compile(integer, kernels=True).memory({"B": 64})
        assert found.outputs == planned.outputs
        assert 64 * 512 < found.kernels < planned.temporary
        assert qir.compile(integer, kernels=False).memory({"B": 64}).kernels == 0
    with pytest.raises(qir.QirError, match=r"memory: expected a size for the dimension B"):
        qir.compile(graph).memory()
