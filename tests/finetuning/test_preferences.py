"""DPO starts at ln 2, prefers what was chosen, and does not mind how a batch is laid out."""

import io
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.instructions import token_row
from jaxgpt.finetuning.lora import init_adapters, lora_loss, merge
from jaxgpt.finetuning.pairs import PairRow, collate_pairs
from jaxgpt.finetuning.preferences import (
    evaluate_preferences,
    pair_likelihood,
    preference_loss,
    preference_sums,
)
from jaxgpt.finetuning.settings import LoraConfig, PreferenceConfig
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.loop import Hooks, fit
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.report import Reporter
from jaxgpt.training.step import gradients, init_state, train_step

SHAPE = ModelConfig(vocab_size=19, context_length=24, num_layers=1, num_heads=2, embed_dim=16)
OPTIMIZER = OptimizerConfig(learning_rate=1e-2, warmup_steps=0, schedule="constant")
TRAIN = TrainConfig(model=SHAPE, optimizer=OPTIMIZER, steps=20, sample_every=100)
DPO = PreferenceConfig(beta=0.5)
KEY = jax.random.key(0)


def make_pairs(count=4, seed=0):
    """Prompts of 3 tokens; answers of 2 to 8 tokens."""
    noise = np.random.default_rng(seed)

    def row(prompt, length):
        tokens = [*prompt, *noise.integers(1, 19, length).tolist()]
        return token_row(tokens, [i >= len(prompt) for i in range(len(tokens))])

    prompts = noise.integers(1, 19, (count, 3)).tolist()
    lengths = noise.integers(2, 9, (count, 2))
    return [PairRow(row(p, a), row(p, b)) for p, (a, b) in zip(prompts, lengths, strict=True)]


def collated(pairs, width=None):
    batch = collate_pairs(pairs, padding=0, widths=width and [width])
    return jax.tree.map(jnp.asarray, batch)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(SHAPE)


@pytest.fixture(scope="module")
def reference(random_params):
    return random_params(SHAPE, seed=1)


@pytest.fixture(scope="module")
def batch(reference):
    """Four pairs, measured under a reference that is not the model."""
    pairs = collated(make_pairs())
    return pairs._replace(reference=LIKELIHOOD(reference, pairs))


LIKELIHOOD = jax.jit(pair_likelihood(TRAIN.model, DPO, TRAIN.compute))
LOSS = preference_loss(TRAIN.model, DPO, TRAIN.compute)
GRADIENTS = jax.jit(partial(gradients, LOSS), static_argnums=3)


@pytest.mark.slow
@pytest.mark.parametrize("log_probability", ["sum", "mean"])
def test_it_starts_at_the_log_of_two_with_no_margin(params, log_probability):
    preference = PreferenceConfig(log_probability=log_probability)
    pairs, likelihood = (
        collated(make_pairs()),
        jax.jit(pair_likelihood(TRAIN.model, preference, TRAIN.compute)),
    )
    pairs = pairs._replace(reference=likelihood(params, pairs))
    nats, count = jax.jit(preference_loss(TRAIN.model, preference, TRAIN.compute))(
        params, pairs, None
    )
    assert count == 4
    assert float(nats / count) == pytest.approx(0.693147, abs=1e-6)
    measured = evaluate_preferences(
        jax.jit(preference_sums(TRAIN.model, preference, TRAIN.compute)), params, [pairs]
    )
    assert measured["margin"] == pytest.approx(0, abs=1e-5)
    assert measured["loss"] == pytest.approx(math.log(2), abs=1e-6)


def test_the_mean_is_the_sum_over_the_answer_by_its_length(params):
    pairs = collated(make_pairs())
    lengths = (pairs.targets != -100).sum(-1)
    mean = jax.jit(
        pair_likelihood(TRAIN.model, PreferenceConfig(log_probability="mean"), TRAIN.compute)
    )
    np.testing.assert_allclose(mean(params, pairs) * lengths, LIKELIHOOD(params, pairs), rtol=1e-6)


def test_the_measures_are_those_of_the_formula(params, batch):
    batch = batch._replace(reference=batch.reference.at[1, 0].add(40.0))  # now chosen less
    rewards = 0.5 * np.asarray(LIKELIHOOD(params, batch) - batch.reference, np.float64)
    margin = rewards[:, 0] - rewards[:, 1]
    expected = {
        "loss": np.log1p(np.exp(-margin)).mean(),
        "margin": margin.mean(),
        "accuracy": (margin > 0).mean(),
        "chosen_reward": rewards[:, 0].mean(),
        "rejected_reward": rewards[:, 1].mean(),
        "pairs": 4,
    }
    found = evaluate_preferences(
        jax.jit(preference_sums(TRAIN.model, DPO, TRAIN.compute)),
        params,
        [
            jax.tree.map(lambda leaf, part=part: leaf[part], batch)
            for part in (slice(3), slice(3, 4))
        ],
    )
    assert found == pytest.approx(expected, rel=1e-5)
    assert expected["accuracy"] == 0.75


def agree(ours, theirs, share):
    for one, other in zip(*map(jax.tree.leaves, (ours, theirs)), strict=True):
        largest = float(jnp.abs(other).max())
        np.testing.assert_allclose(one, other, rtol=0, atol=share * largest + 1e-7)


@pytest.mark.slow
def test_padding_changes_nothing(params, batch):
    wide = collated(make_pairs(), 24)._replace(reference=batch.reference)
    assert wide.inputs.shape[-1] > batch.inputs.shape[-1]
    tight, loose = (GRADIENTS(params, pairs, KEY) for pairs in (batch, wide))
    assert float(tight[1][0]) == pytest.approx(float(loose[1][0]), rel=1e-6)
    # Sums over 16 to 64 entries in another order, twice through the model. Measured: 2e-6.
    agree(loose[0], tight[0], 5e-6)


@pytest.mark.slow
@pytest.mark.parametrize("micro_batches", [2, 4])
def test_micro_batches_make_the_same_gradient(params, batch, micro_batches):
    whole, parts = (GRADIENTS(params, batch, KEY, n) for n in (1, micro_batches))
    assert int(parts[1][1]) == 4
    assert float(parts[1][0]) == pytest.approx(float(whole[1][0]), rel=1e-6)
    agree(parts[0], whole[0], 5e-6)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("side", [0, 1, slice(0, 2)])
def test_a_pair_without_an_answer_counts_for_nothing(params, batch, side):
    empty = batch._replace(
        targets=batch.targets.at[2, side].set(-100),
        reference=batch.reference.at[2].set(jnp.nan),
    )
    rest = jax.tree.map(lambda leaf: leaf[jnp.array([0, 1, 3])], batch)
    grads, (nats, count) = GRADIENTS(params, empty, KEY)
    wanted, (expected, _) = GRADIENTS(params, rest, KEY)
    assert int(count) == 3
    assert float(nats) == pytest.approx(float(expected), rel=1e-6)
    agree(grads, wanted, 5e-6)


def test_a_batch_without_answers_is_a_step_of_zeros(params, batch):
    nothing = batch._replace(targets=jnp.full_like(batch.targets, -100))
    grads, (nats, count) = GRADIENTS(params, nothing, KEY)
    assert (float(nats), int(count)) == (0, 0)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(grads))
    measured = evaluate_preferences(
        jax.jit(preference_sums(TRAIN.model, DPO, TRAIN.compute)), params, [nothing]
    )
    assert set(measured.values()) == {0}


def test_pairs_without_a_reference_are_refused(params):
    with pytest.raises(ConfigError, match="the pairs have no reference; measure it first"):
        LOSS(params, collated(make_pairs()), None)


@pytest.mark.slow
def test_fit_makes_the_chosen_answers_likelier(params, tmp_path):
    """With adapters: the base is the reference, and nothing else is kept of it."""
    lora, rows = LoraConfig(rank=4, alpha=8.0), collated(make_pairs())
    rows = rows._replace(reference=LIKELIHOOD(params, rows))
    optimizer = make_optimizer(OPTIMIZER, TRAIN.steps)
    state = init_state(init_adapters(params, lora, KEY), optimizer)
    measure = jax.jit(preference_sums(TRAIN.model, DPO, TRAIN.compute))

    @jax.jit
    def step(base, state, batch, number):
        loss_fn = lora_loss(LOSS, base, lora)
        state, metrics = train_step(
            state, batch, number, key=KEY, loss_fn=loss_fn, optimizer=optimizer
        )
        return state, metrics | {"learning_rate": 1e-2}

    def evaluate(state):
        return evaluate_preferences(measure, merge(params, state.params, lora), [rows])

    reporter = Reporter(tmp_path, TRAIN.steps, 0, io.StringIO())
    hooks = Hooks(evaluate=evaluate, save=lambda state: None)
    fit(
        state,
        TRAIN,
        step_fn=partial(step, params),
        batch_at=lambda number: rows,
        hooks=hooks,
        reporter=reporter,
    )
    before, *_, after = reporter.records
    assert (before["margin"], before["accuracy"]) == (pytest.approx(0, abs=1e-5), 0)
    assert before["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert after["loss"] < 0.2
    assert after["margin"] > 2
    assert after["accuracy"] == 1
    assert after["chosen_reward"] > after["rejected_reward"]


@pytest.mark.parametrize("beta", [0.0, -1.0, float("inf"), float("nan")])
def test_a_beta_that_teaches_nothing_is_refused(beta):
    with pytest.raises(ConfigError, match=f"beta is {beta}; it must be from 1e-06 to"):
        PreferenceConfig(beta=beta)
