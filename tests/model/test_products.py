import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.products import (
    is_widened,
    multiply,
    multiply_by_columns,
    multiply_by_rows,
    transposed,
)
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.program import Program

ULP = 2.0**-8  # of bfloat16: what rounding to it moves a number by, of the number, at most
PRODUCTS = [multiply, multiply_by_rows, multiply_by_columns]
PLAIN = [lambda a, b: a @ b, lambda a, b: a @ b.mT, lambda a, b: a.mT @ b]
WIDE = (2, 3, 48, 8)
SHAPES = [  # of a and b: many rows, a wide result, an odd size, two axes in front
    [((96, 32), (32, 64)), ((96, 64), (64, 32)), ((33, 7), (7, 5)), (WIDE, (2, 3, 8, 40))],
    [((96, 32), (64, 32)), ((96, 64), (32, 64)), ((33, 7), (5, 7)), (WIDE, (2, 3, 40, 8))],
    [((96, 32), (96, 64)), ((96, 64), (96, 32)), ((33, 7), (33, 5)), (WIDE, (2, 3, 48, 9))],
]
CASES = [
    pytest.param(*kind, *shapes, id=f"{kind[0].__name__}-{shapes[0]}".replace(" ", ""))
    for *kind, many in zip(PRODUCTS, PLAIN, SHAPES, strict=True)
    for shapes in many
]


def normal(shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.bfloat16)


def pulled(product, a, b, dtype):
    """What `product` gives, and what it makes of a gradient, computed in `dtype`."""
    value, vjp_fn = jax.vjp(product, a.astype(dtype), b.astype(dtype))
    return value, *vjp_fn(normal(value.shape, 2).astype(dtype))


@pytest.mark.slow_but_first
@pytest.mark.parametrize(("product", "plain", "left", "right"), CASES)
def test_products_and_their_gradients_are_those_of_float32_but_for_one_rounding(
    product, plain, left, right
):
    a, b = normal(left), normal(right, 1)
    ours = jax.jit(lambda a, b: pulled(product, a, b, jnp.bfloat16))(a, b)
    for own, true in zip(ours, pulled(plain, a, b, jnp.float32), strict=True):
        assert own.dtype == jnp.bfloat16
        error = np.abs(own.astype(np.float32) - true)
        # Beside the rounding, sums of up to 96 terms in another order.
        assert (error <= ULP * np.abs(true) + 96 * 2.0**-24 * np.abs(true).max()).all()


@pytest.mark.parametrize("shape", [(48, 20), (33, 7), (2, 3, 32, 5)])
def test_a_transposed_copy_is_the_transpose(shape):
    x = normal(shape)
    np.testing.assert_array_equal(jax.jit(transposed)(x), x.mT)
    np.testing.assert_array_equal(jax.vmap(transposed)(x[None])[0], x.mT)


@pytest.mark.parametrize(("product", "plain"), [*zip(PRODUCTS, PLAIN, strict=True)])
def test_in_float32_and_for_few_rows_the_program_is_that_of_plain_products(product, plain):
    def instructions(function, a, b):
        return [str(each.primitive) for each in jax.make_jaxpr(function)(a, b).eqns]

    square = normal((32, 32))
    wide = square.astype(jnp.float32)
    assert instructions(product, wide, wide) == instructions(plain, wide, wide)
    few = square[:8, :8]
    assert instructions(product, few, few) == instructions(plain, few, few)
    copied = instructions(product, square, square) != instructions(plain, square, square)
    assert copied is not is_widened("a @ b")  # as before jax 0.11, where copies would not help


@pytest.mark.slow
def test_a_step_in_bfloat16_multiplies_bfloat16_alone_and_no_layer_twice():
    if is_widened("a @ b"):
        pytest.skip("XLA widens all products here")
    config = ModelConfig(vocab_size=100, context_length=96, embed_dim=64, num_heads=2, num_layers=3)
    tokens = jax.ShapeDtypeStruct((2, 96), jnp.int32)
    loss = next_token_loss(config, Compute("bfloat16"))
    gradient = jax.jit(jax.grad(lambda *given: loss(*given, None)[0]))
    lowered = gradient.lower(parameter_shapes(config), (tokens, tokens))
    program = Program(lowered.compile().as_text())
    shapes = {
        name: each.shape
        for inside in program.computations.values()
        for name, each in inside.items()
    }
    linear = 0
    for each, times in program.instructions():
        if each.kind == "dot":
            operands = [shapes[name] for name in each.operands[:2]]
            assert all(shape.startswith("bf16") for shape in operands), (operands, each.origin)
            linear += times * ("batch_dims" not in each.rest)
    # Four linear layers forward, each with two gradients, and those of the head.
    assert linear == 3 * 4 * 3 + 3
