"""The loss is the textbook's, in float32, and counts what it should."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.training.loss import cross_entropy


def test_uniform_logits_cost_the_log_of_the_vocabulary():
    nats, count = cross_entropy(jnp.zeros((2, 3, 7)), jnp.ones((2, 3), jnp.int32))
    assert count == 6
    assert nats / count == pytest.approx(np.log(7), rel=1e-6)


def test_ignored_targets_do_not_count():
    logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [9.0, -9.0]])
    nats, count = cross_entropy(logits, jnp.array([0, 1, -100]))
    assert (float(nats / count), int(count)) == (pytest.approx(1.1269, abs=6e-5), 2)


def test_large_logits_do_not_overflow_in_bfloat16():
    logits = jnp.array([[300.0, -300.0]], jnp.bfloat16)
    nats, _ = cross_entropy(logits, jnp.array([1]))
    assert nats.dtype == jnp.float32
    assert float(nats) == 600.0
