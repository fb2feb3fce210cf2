"""Learning rates by their closed forms, and decay where it is meant."""

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.optimizer import decay_mask, learning_rate, make_optimizer


def test_warm_up_and_half_cosine():
    config = OptimizerConfig(
        learning_rate=1e-3, initial_learning_rate=1e-5, final_learning_rate=1e-5, warmup_steps=27
    )
    rate = learning_rate(config, 135)
    expected = {0: 1e-5, 1: 4.6666667e-5, 26: 9.6333333e-4, 27: 1e-3, 81: 5.05e-4, 134: 1.02094e-5}
    for step, value in expected.items():
        assert float(rate(step)) == pytest.approx(value, rel=1e-5)


def test_the_first_step_is_not_wasted():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=4)
    rate = learning_rate(config, 10)
    assert [float(rate(step)) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


def test_warm_up_stable_decay():
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=0, schedule="wsd", decay_fraction=0.5)
    rate = learning_rate(config, 8)
    assert [float(rate(step)) for step in range(9)] == pytest.approx(
        [1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    )


def test_constant():
    rate = learning_rate(OptimizerConfig(schedule="constant", learning_rate=0.5, warmup_steps=1), 9)
    assert float(rate(8)) == 0.5


PARAMS = {"norm": {"scale": jnp.ones((2, 3)), "bias": jnp.ones((2, 3))}, "weight": jnp.ones(4)}


def test_decay_goes_by_name_not_by_shape():
    assert decay_mask(PARAMS) == {"norm": {"scale": False, "bias": False}, "weight": True}


@pytest.mark.parametrize(("on", "shrunk"), [("matrices", ["weight"]), ("all", None)])
def test_decay_alone_shrinks_by_rate_times_decay(on, shrunk):
    config = OptimizerConfig(
        learning_rate=0.1, warmup_steps=0, weight_decay=0.5, weight_decay_on=on, schedule="constant"
    )
    optimizer = make_optimizer(config, 10)
    zeros = jax.tree.map(jnp.zeros_like, PARAMS)
    updates, _ = optimizer.update(zeros, optimizer.init(PARAMS), PARAMS)
    decayed = {path[-1].key for path, leaf in jax.tree.leaves_with_path(updates) if leaf.any()}
    assert decayed == set(shrunk or ["scale", "bias", "weight"])
    assert float(updates["weight"][0]) == pytest.approx(-0.05)


def test_clipping_limits_the_global_norm():
    grads = jax.tree.map(lambda leaf: leaf * 1e3, PARAMS)
    clipped, free = (
        make_optimizer(OptimizerConfig(gradient_clip=clip, epsilon=1.0, warmup_steps=0), 10)
        for clip in (1.0, "none")
    )
    with_clip, _ = clipped.update(grads, clipped.init(PARAMS), PARAMS)
    without, _ = free.update(grads, free.init(PARAMS), PARAMS)
    assert abs(with_clip["weight"][0]) < abs(without["weight"][0])


def test_an_ascent_as_long_as_the_run_is_refused():
    with pytest.raises(ConfigError, match="warmup_steps is 100, but the run has only 50 steps"):
        learning_rate(OptimizerConfig(), 50)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["cosine", "constant", "wsd"])
def test_numbers_may_be_traced(schedule, monkeypatch):
    """Several runs side by side by `vmap`, each as it is alone."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # a traced number is no float

    def trained(learning_rate, beta1, clip, warmup_steps, steps):
        config = OptimizerConfig(
            learning_rate, schedule, warmup_steps, beta1=beta1, gradient_clip=clip
        )
        optimizer, params = make_optimizer(config, steps), PARAMS
        state = optimizer.init(params)
        for _ in range(5):
            updates, state = optimizer.update(jax.tree.map(jnp.sin, params), state, params)
            params = jax.tree.map(jnp.add, params, updates)
        return params["weight"]

    runs = ([0.1, 0.2], [0.9, 0.5], [1.0, 0.1], [0, 2], [5, 9])
    side_by_side = jax.vmap(trained)(*map(jnp.asarray, runs))
    for lane, numbers in zip(side_by_side, zip(*runs, strict=True), strict=True):
        # Betas and rates are rounded to float32 before, not after, they are taken from 1.
        np.testing.assert_allclose(lane, trained(*numbers), rtol=1e-6)
