"""Narrow weights stand for whole ones: the same products, within what rounding explains."""

import re
from importlib.metadata import version

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.layers import linear
from jaxgpt.model.narrow import NarrowTable, narrowed, widen

KEPT = ["bfloat16", "int8"]


def normal(*shape, seed=0):
    return jax.random.normal(jax.random.key(seed), shape)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("kept", KEPT)
@pytest.mark.parametrize("inputs", [48, 20, 7])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_product_is_that_of_the_weight_it_stands_for(kept, inputs, rows):
    weight, x, bias = normal(inputs, 10), normal(rows, 1, inputs, seed=1), normal(10, seed=2)
    narrow = narrowed(weight, jnp.dtype(kept), jnp.float32)
    assert narrow.shape == (inputs, 10)
    whole = narrow.widened()
    assert whole.dtype == jnp.float32
    found = jax.jit(linear)(x, weight=narrow, bias=bias)
    # Each of the sums of so many terms is rounded in another order.
    bound = inputs * 2**-23 * (np.abs(x) @ np.abs(whole) + np.abs(bias))
    assert (np.abs(found - linear(x, weight=whole, bias=bias)) <= bound).all()


def test_bfloat16_is_kept_and_int8_is_half_a_step_away():
    weight = normal(16, 5) * jnp.array([1.0, 100.0, 1e-6, 0.0, 1.0])
    half = weight.astype(jnp.bfloat16)
    np.testing.assert_array_equal(narrowed(half, half.dtype, jnp.float32).widened(), half)
    narrow = narrowed(weight, jnp.int8, jnp.float32)
    step = np.abs(weight).max(axis=0) / 127
    assert narrow.values.dtype == jnp.int8
    # Half a step, and what dividing by the step and multiplying again round.
    off = np.abs(narrow.widened() - weight)
    assert (off <= step * (0.5 + 127 * 2**-22)).all()
    np.testing.assert_array_equal(np.abs(narrow.values).max(axis=(0, 1)), [127, 127, 127, 0, 127])


@pytest.mark.parametrize("kept", KEPT)
def test_a_table_gives_the_vectors_of_the_weight(kept):
    table = NarrowTable(narrowed(normal(16, 11), jnp.dtype(kept), jnp.float32))
    assert (table.shape, len(table), table.dtype) == ((11, 16), 11, jnp.float32)
    tokens = jnp.array([[3, 0], [10, 3]])
    np.testing.assert_array_equal(table[tokens], widen({"tokens": table})["tokens"][tokens])


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of XLA:CPU")
@pytest.mark.parametrize("kept", KEPT)
def test_a_loop_reads_the_narrow_numbers_each_time(kept):
    if kept == "bfloat16" and version("jax").startswith("0.10."):
        pytest.skip("this XLA widens all of the weight before it cuts it into parts")
    narrow = narrowed(normal(64, 64), jnp.dtype(kept), jnp.float32)

    @jax.jit
    def loop(x, weight):
        return jax.lax.fori_loop(0, 3, lambda _, x: jnp.tanh(linear(x, weight=weight)), x)

    program = loop.lower(normal(1, 64), narrow).compile().as_text()
    read = {"bfloat16": "bf16", "int8": "s8"}[kept]
    (state,) = re.findall(r"ROOT %\S+ = (\(.*\)) tuple\(", program[: program.index("ENTRY")])
    assert f"{read}[8,8,64]" in state
    # A widened weight would be one that the loop carries, or that lies in memory.
    assert not re.findall(r"f32\[(?:8,8,64|64,64)\]", program)
