"""Each row's log-probability, in any number of chunks and without all logits at once."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.finetuning import likelihood
from jaxgpt.finetuning.likelihood import head_likelihood

RNG = np.random.default_rng(0)
X = jnp.array(RNG.normal(size=(3, 7, 16)), jnp.float32)
TABLE = jnp.array(RNG.normal(size=(30, 16)), jnp.float32)
TARGETS = jnp.array(RNG.integers(30, size=(3, 7))).at[1, 2:5].set(-100).at[2].set(-100)
WEIGHTS = jnp.array([1.0, -2.0, 0.5])  # rows count differently, as they do to DPO


def whole(x, table):
    """With all logits at once."""
    logits = jax.nn.log_softmax(x @ table.T)
    picked = jnp.take_along_axis(logits, jnp.maximum(TARGETS, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(TARGETS == -100, 0, picked).sum(axis=-1)


@pytest.mark.parametrize("positions", [1, 2, 3, 7])
def test_chunks_change_neither_value_nor_gradient(monkeypatch, positions):
    monkeypatch.setattr(likelihood, "_MOST_LOGITS", positions * 3 * 30)

    def both(function):
        return jax.jit(
            jax.value_and_grad(lambda *inputs: (function(*inputs) * WEIGHTS).sum(), (0, 1))
        )(X, TABLE)

    ours = jax.jit(lambda x, table: head_likelihood(x, table, TARGETS))(X, TABLE)
    np.testing.assert_allclose(ours, whole(X, TABLE), rtol=1e-6)
    assert ours[2] == 0
    value, grads = both(lambda x, table: head_likelihood(x, table, TARGETS))
    expected, wanted = both(whole)
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    for found, grad in zip(grads, wanted, strict=True):
        # Sums over at most 30 entries: 2 sqrt(30) roundings of 2^-24.
        np.testing.assert_allclose(found, grad, rtol=0, atol=7e-7 * float(jnp.abs(grad).max()))


def test_bfloat16_is_summed_in_float32():
    x = jnp.full((1, 4, 16), 2.0, jnp.bfloat16)
    ours = head_likelihood(x, jnp.zeros((30, 16)), jnp.zeros((1, 4), jnp.int32))
    assert ours.dtype == jnp.float32
    assert float(ours[0]) == pytest.approx(-4 * np.log(30), rel=1e-6)


def test_the_head_never_holds_all_logits(monkeypatch):
    monkeypatch.setattr(likelihood, "_MOST_LOGITS", 2**18)
    x, table, targets = jnp.zeros((1, 4096, 8)), jnp.zeros((1024, 8)), jnp.zeros((1, 4096), int)
    step = jax.jit(
        jax.value_and_grad(lambda x, table: head_likelihood(x, table, targets).sum(), (0, 1))
    )
    memory: Any = step.lower(x, table).compile().memory_analysis()
    assert 4 * 2**18 <= memory.temp_size_in_bytes < 4 * 4096 * 1024 / 4
