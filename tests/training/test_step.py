"""One step: any cut of a batch is the same step, and a bad batch changes nothing."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.model.parameters import init_params
from jaxgpt.presets import get_preset
from jaxgpt.training.compiled_step import numbered_step, step_numbers
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import eval_step, gradients, init_state, train_step

TINY = get_preset("tiny")
CONFIG = dataclasses.replace(
    TINY, model=dataclasses.replace(TINY.model, vocab_size=17, context_length=8, num_layers=1)
)
KEY = jax.random.key(0)
PARAMS = jax.jit(init_params, static_argnums=0)(CONFIG.model, KEY)
LOSS = next_token_loss(CONFIG.model, CONFIG.compute)
GRADIENTS = jax.jit(partial(gradients, LOSS), static_argnames="micro_batches")


def _batch(rows=8, ignored=0):
    tokens = np.random.default_rng(0).integers(0, 17, (rows, 9)).astype(np.int32)
    targets = tokens[:, 1:].copy()
    targets[0, :ignored] = -100
    return jnp.asarray(tokens[:, :-1]), jnp.asarray(targets)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("micro_batches", [2, 8])
def test_accumulation_is_the_big_batch(micro_batches):
    # Uneven targets: a mean of micro-batch means would be off by percents here.
    batch, key = _batch(ignored=7), jax.random.key(0)
    whole, (nats, count) = GRADIENTS(PARAMS, batch, key)
    parts, (nats_cut, count_cut) = GRADIENTS(PARAMS, batch, key, micro_batches=micro_batches)
    assert count == count_cut == 57
    assert float(nats_cut) == pytest.approx(float(nats), rel=1e-6)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        # A sum of 57 terms in another order: sqrt(57) roundings of 2^-24, about 5e-7.
        assert float(jnp.abs(ours - theirs).max()) < 2e-6 * largest


def test_a_batch_without_targets_has_no_gradient():
    inputs, targets = _batch()
    grads, (nats, count) = GRADIENTS(PARAMS, (inputs, jnp.full_like(targets, -100)), KEY)
    assert (float(nats), int(count)) == (0, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


@pytest.fixture(scope="module")
def step():
    optimizer = make_optimizer(CONFIG.optimizer, CONFIG.steps)
    return jax.jit(
        partial(train_step, key=jax.random.key(1), loss_fn=LOSS, optimizer=optimizer)
    ), init_state(PARAMS, optimizer)


def test_steps_lower_the_loss(step):
    step, state = step
    losses = []
    for number in range(20):
        state, metrics = step(state, _batch(), np.int32(number))
        losses.append(float(metrics["loss"]))
    assert int(state.step) == 20
    assert losses[-1] < losses[0] - 0.2


def test_a_bad_step_and_all_after_it_change_nothing(step):
    step, state = step
    broken = dataclasses.replace(
        state,
        params=state.params | {"norm": {"scale": jnp.full(32, jnp.nan), "bias": jnp.ones(32)}},
    )
    after, metrics = step(broken, _batch(), np.int32(0))
    assert not np.isfinite(metrics["loss"])
    assert int(after.step) == 0
    for ours, theirs in zip(
        jax.tree.leaves(after.opt_state), jax.tree.leaves(broken.opt_state), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)
    # The step after the one that was refused is refused too, although it is healthy.
    later, metrics = step(state, _batch(), np.int32(1))
    assert np.isfinite(metrics["loss"])
    assert int(later.step) == 0
    np.testing.assert_array_equal(later.params["embed"]["tokens"], state.params["embed"]["tokens"])


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_as_many_bad_steps_as_are_allowed_are_left_out(micro_batches, optimizer):
    def make_loss(config):
        def loss(params, batch, rng):
            nats, count = LOSS(params, batch[:2], rng)
            return nats * jnp.where(batch[2].any(), jnp.nan, 1), count

        return loss

    config = dataclasses.replace(
        CONFIG,
        skip_bad_steps=2,
        gradient_accumulation=micro_batches,
        optimizer=dataclasses.replace(CONFIG.optimizer, optimizer=optimizer),
    )
    step, numbers = jax.jit(numbered_step(config, make_loss)), step_numbers(config)
    state = init_state(PARAMS, make_optimizer(config.optimizer, config.steps))
    rates, seen = [], []
    for number, bad in enumerate([False, True, False, True, False, True, False]):
        before = state
        flags = jnp.zeros(8, bool).at[5].set(bad)
        state, metrics = step(before, (*_batch(), flags), np.int32(number), numbers)
        rates.append(float(metrics["learning_rate"]))
        seen.append((int(state.step), bool(metrics["skipped"])))
        if bad or number == 6:
            for ours, theirs in zip(
                jax.tree.leaves((state.params, state.opt_state)),
                jax.tree.leaves((before.params, before.opt_state)),
                strict=True,
            ):
                np.testing.assert_array_equal(ours, theirs)
    assert seen == [
        (1, False),
        (2, True),
        (3, False),
        (4, True),
        (5, False),
        (5, False),
        (5, False),
    ]
    assert rates[1] == rates[2] > rates[0]  # that of the step that was left out waits


OTHERS = {"adamw": optax.adamw(1e-2), "sgd": optax.GradientTransformation(*optax.sgd(1e-2))}


@pytest.mark.parametrize("name", OTHERS)
def test_any_optimizer_of_optax_is_held_where_a_step_is_bad(name):
    def loss(params, batch, rng):
        return (params["a"] * batch).sum(), batch.size

    optimizer = OTHERS[name]
    step = jax.jit(partial(train_step, key=KEY, loss_fn=loss, optimizer=optimizer))
    first = init_state({"a": jnp.ones(3)}, optimizer)
    state, metrics = step(first, jnp.ones((2, 3)), np.int32(0))
    assert (int(state.step), float(metrics["loss"])) == (1, 1.0)
    assert (state.params["a"] < 1).all()
    after, _ = step(state, jnp.full((2, 3), jnp.nan), np.int32(1))
    jax.tree.map(np.testing.assert_array_equal, after, state)


@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.parametrize(
    ("loss", "given"),
    [
        (lambda params, batch, rng: params["a"].sum(), r"returns shape \(\); it must return two"),
        (lambda params, batch, rng: (params["a"], 3), r"returns \('shape \(3,\)', 'shape \(\)'\)"),
    ],
)
def test_a_loss_that_is_no_sum_and_count_is_refused(loss, given, micro_batches):
    with pytest.raises(ConfigError, match=given):
        gradients(loss, {"a": jnp.ones(3)}, jnp.ones((2, 3)), KEY, micro_batches)
    with pytest.raises(ConfigError, match=given):
        eval_step({"a": jnp.ones(3)}, jnp.ones((2, 3)), loss_fn=loss)


def test_a_step_without_targets_only_counts(step):
    step, state = step
    inputs, targets = _batch()
    empty = inputs, jnp.full_like(targets, -100)
    state, metrics = step(state, empty, np.int32(0))  # before anything was learnt
    assert not any(metrics.values())
    state, _ = step(state, _batch(), np.int32(1))
    after, _ = step(state, empty, np.int32(2))
    assert [int(state.step), int(after.step)] == [2, 3]
    for ours, theirs in zip(*map(jax.tree.leaves, (after.params, state.params)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    (_, adam, _, rate), (_, old, _, old_rate) = after.opt_state, state.opt_state
    for ours, theirs in zip(*map(jax.tree.leaves, (adam, old)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # The learning rate goes by the steps of the run, Adam's correction by what it has seen.
    assert (int(old.count), int(old_rate.count), int(rate.count)) == (1, 2, 3)


def test_evaluation_has_no_dropout_and_training_does():
    config = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.5))
    loss_fn = jax.jit(next_token_loss(config.model, config.compute))
    first, second = (eval_step(PARAMS, _batch(), loss_fn=loss_fn)[0] for _ in range(2))
    assert float(first) == float(second)
    trained = loss_fn(PARAMS, _batch(), jax.random.key(0))[0]
    assert float(trained) != float(first)


def test_bfloat16_computes_over_float32_masters():
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    compiled = jax.jit(partial(gradients, next_token_loss(config.model, config.compute)))
    grads, (nats, count) = compiled(PARAMS, _batch(), KEY)
    _, (exact_nats, _) = GRADIENTS(PARAMS, _batch(), KEY)
    assert {leaf.dtype for leaf in jax.tree.leaves(grads)} == {jnp.dtype("float32")}
    # bfloat16 keeps 8 bits: 2^-8 relative for each activation.
    assert float(nats / count) == pytest.approx(float(exact_nats / count), rel=2**-7)
    assert float(nats) != float(exact_nats)


@pytest.mark.slow
def test_a_step_holds_no_second_copy_of_the_optimizer():
    model = dataclasses.replace(CONFIG.model, embed_dim=256)
    config = dataclasses.replace(CONFIG, model=model)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(lambda key: init_state(init_params(model, key), optimizer), KEY)
    step = partial(
        train_step,
        key=KEY,
        loss_fn=next_token_loss(config.model, config.compute),
        optimizer=optimizer,
    )
    batch = (jax.ShapeDtypeStruct((1, 8), jnp.int32),) * 2
    lowered = jax.jit(step, donate_argnums=0).lower(state, batch, jnp.int32(0))
    memory: Any = lowered.compile().memory_analysis()
    model_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.params))
    assert memory.alias_size_in_bytes > 3 * model_bytes
    # The gradient is one; what one row of eight tokens computes on the way is little.
    assert memory.temp_size_in_bytes < 1.3 * model_bytes


@pytest.mark.whole_run
def test_numbers_of_64_bits_change_only_roundings():
    dropped = dataclasses.replace(CONFIG, model=dataclasses.replace(CONFIG.model, dropout=0.3))
    # An epsilon that is large beside what gradients are rounded by, or Adam would make whole steps
    # of the rounding alone, as of a bias of keys, whose gradient is 0.
    gentle = dataclasses.replace(CONFIG.optimizer, epsilon=1e-3)
    loss_fn, optimizer = (
        next_token_loss(dropped.model, dropped.compute),
        make_optimizer(gentle, CONFIG.steps),
    )
    inputs, targets = map(np.asarray, _batch())

    def stepped():
        state = init_state(init_params(CONFIG.model, jax.random.key(0)), optimizer)
        run = jax.jit(partial(train_step, loss_fn=loss_fn, optimizer=optimizer, micro_batches=2))
        return run(state, (inputs, targets), 0, key=jax.random.key(1))

    with jax.enable_x64(True):
        wide = stepped()
    for ours, theirs in zip(jax.tree.leaves(wide), jax.tree.leaves(stepped()), strict=True):
        assert ours.dtype == theirs.dtype
        # Optax's powers of the betas are then exact to 53 bits; a rounding of 24 bits of
        # parameters up to 0.1, as these are, is 4e-9 or 7e-9.
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-8)
