"""Programs so small that one can count on fingers what lives at once."""

import jax
import jax.numpy as jnp
import pytest

from jaxgpt.training.liveness import nbytes, peak_bytes

ROW = jax.ShapeDtypeStruct((256,), jnp.float32)
KB = nbytes(ROW)
MATRIX = jax.ShapeDtypeStruct((256, 256), jnp.float32)


def _peak(function, *arguments, donated=()):
    return peak_bytes(jax.make_jaxpr(function)(*arguments), donated)


def test_bytes_of_a_shape():
    assert nbytes(jax.ShapeDtypeStruct((3, 5), jnp.bfloat16)) == 30
    assert nbytes(jax.ShapeDtypeStruct((), jnp.float32)) == 4


def test_what_is_fused_is_not_written():
    assert _peak(lambda x: jnp.tanh((x * 2 + 1) ** 2), ROW) == 2 * KB


def test_what_is_dear_is_written_for_two_readers():
    def twice(x):
        y = jnp.exp(x)
        return y @ y

    assert _peak(twice, ROW) == 2 * KB + 4


def test_a_product_is_written_and_dies_with_its_last_reader():
    square = nbytes(MATRIX)
    assert _peak(lambda x: x @ x, MATRIX) == 2 * square
    assert _peak(lambda x: x @ x @ x @ x @ x, MATRIX) == 3 * square
    assert _peak(lambda x: (x @ x) @ (x.T @ x), MATRIX) == 4 * square  # and the product of two


def test_what_is_never_read_takes_nothing():
    def careless(x):
        jnp.outer(x, x) @ jnp.outer(x, x)
        return x + 1

    assert _peak(careless, ROW) == 2 * KB


def test_calls_are_looked_into():
    assert _peak(jax.jit(lambda x: jax.checkpoint(jnp.sin)(x) + 1), ROW) == 2 * KB


def test_the_turns_of_a_loop_share_their_memory():
    def loop(x, turns):
        return jax.lax.scan(lambda x, _: (x @ x @ x, None), x, length=turns)[0]

    peaks = {_peak(lambda x, turns=turns: loop(x, turns), MATRIX) for turns in (2, 99)}
    assert peaks == {3 * nbytes(MATRIX)}


def test_a_loop_keeps_what_it_stacks():
    def loop(x):
        return jax.lax.scan(lambda x, _: (x + 1, x), x, length=10)

    assert _peak(loop, ROW) == (1 + 10 + 1) * KB


@pytest.mark.parametrize(("donated", "arrays"), [([False, False], 2), ([True, False], 1)])
def test_a_result_takes_the_place_of_a_donated_argument(donated, arrays):
    def update(x, yes):
        return jax.lax.cond(yes, lambda: x * x.sum(), lambda: x)

    yes = jax.ShapeDtypeStruct((), jnp.bool)
    size = _peak(update, ROW, yes, donated=donated)
    assert size == pytest.approx(arrays * KB, abs=20)


def test_an_update_takes_the_place_of_what_it_updates():
    def update(x, y):
        return x + 1, y.sum()

    assert _peak(update, ROW, ROW, donated=[True, False]) == 2 * KB + 4
    assert _peak(update, ROW, ROW, donated=[False, False]) == 3 * KB + 4


def test_random_numbers_are_drawn_at_once():
    key = jax.eval_shape(jax.random.key, 0)
    alone = _peak(lambda x, key: x * 2, ROW, key)
    assert _peak(lambda x, key: x * jax.random.bernoulli(key, 0.5, x.shape), ROW, key) > alone + KB


def test_bytes_may_be_counted_otherwise():
    jaxpr = jax.make_jaxpr(lambda x: x @ x)(MATRIX)
    assert peak_bytes(jaxpr, size=lambda array: 7) == 14
