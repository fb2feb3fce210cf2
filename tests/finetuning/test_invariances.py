"""How a batch is laid out decides no loss and no parameter, after several steps of AdamW too."""

from collections.abc import Iterator
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.finetuning import instructions, labelled
from jaxgpt.finetuning.classification import class_loss, classifier_params
from jaxgpt.finetuning.lora import init_adapters, lora_loss
from jaxgpt.finetuning.packing import packed_rows
from jaxgpt.finetuning.pairs import PairRow, collate_pairs
from jaxgpt.finetuning.preferences import preference_loss
from jaxgpt.finetuning.settings import LoraConfig, PreferenceConfig
from jaxgpt.model.parameters import init_params
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import init_state, train_step

SHAPE = ModelConfig(vocab_size=300, context_length=48, num_layers=1, num_heads=2, embed_dim=16)
# Adam divides by the gradient's size. An epsilon above the noise of rounding keeps it noise.
OPTIMIZER = OptimizerConfig(
    learning_rate=1e-2, warmup_steps=0, schedule="constant", epsilon=1e-2, weight_decay=0.1
)
TRAIN = TrainConfig(model=SHAPE, optimizer=OPTIMIZER)
LORA = LoraConfig(rank=4, alpha=8.0)
KINDS = ("instructions", "adapters", "classification", "preferences")
STEPS, LONGEST = 3, 20
KEY = jax.random.key(0)
BASE = jax.jit(init_params, static_argnums=0)(SHAPE, KEY)


def text(noise, *, learnt=True):
    tokens = noise.integers(0, 300, noise.integers(4, LONGEST)).tolist()
    counted = (noise.random(len(tokens)) < 0.6) & learnt
    counted[-1] = learnt
    return instructions.token_row(tokens, counted.tolist())


def examples(kind, step, *, any_learnt=True) -> Iterator[Any]:
    """Eight, of which three have no target: all of one of four micro-batches, half of another."""
    noise = np.random.default_rng(step)
    for number in range(8):
        learnt = any_learnt and number not in (1, 5, 6)
        if kind == "classification":
            yield text(noise).inputs.tolist(), number % 2 if learnt else IGNORE
        elif kind == "preferences":
            yield PairRow(text(noise, learnt=learnt), text(noise), (-40.0, -41.0))
        else:
            yield text(noise, learnt=learnt)


def batch(kind, step, width=LONGEST, **options):
    rows = list(examples(kind, step, **options))
    if kind == "classification":
        return tuple(labelled.collate(rows, padding=7, widths=[width]))
    if kind == "preferences":
        return collate_pairs(rows, padding=7, widths=[width])
    both = instructions.collate(rows, padding=7, widths=[width])
    return both.inputs, both.targets


def batches(kind, width=LONGEST):
    return [batch(kind, step, width) for step in range(STEPS)]


def start(kind):
    """What is trained, and the loss of it."""
    if kind == "classification":
        return classifier_params(BASE, 2, KEY), class_loss(TRAIN.model, TRAIN.compute)
    if kind == "preferences":
        return BASE, preference_loss(TRAIN.model, PreferenceConfig(), TRAIN.compute)
    if kind == "adapters":
        return init_adapters(BASE, LORA, KEY), lora_loss(
            next_token_loss(TRAIN.model, TRAIN.compute), BASE, LORA
        )
    return BASE, next_token_loss(TRAIN.model, TRAIN.compute)


@cache
def compiled(kind, micro_batches):
    params, loss_fn = start(kind)
    optimizer = make_optimizer(OPTIMIZER, 10)
    step = partial(
        train_step, key=KEY, loss_fn=loss_fn, optimizer=optimizer, micro_batches=micro_batches
    )
    return jax.jit(step), init_state(params, optimizer)


def train(kind, batches, micro_batches=1):
    """The parameters after a step on each batch, and the steps' metrics."""
    step, state = compiled(kind, micro_batches)
    metrics = []
    for number, batch in enumerate(batches):
        state, measured = step(state, jax.tree.map(jnp.asarray, batch), np.int32(number))
        metrics.append({name: float(value) for name, value in measured.items()})
    return state.params, metrics


@cache
def plainly(kind):
    return train(kind, batches(kind))


def check_same(kind, params, metrics):
    """Up to the rounding of sums of some 150 terms: d = sqrt(150) 2^-24 = 7e-7 of their size.

    A gradient, clipped to 1, is off by d; Adam's m / (sqrt(v) + epsilon), whose size is about 1, by
    4 d / epsilon at most; and parameters by as much times the learning rate in each step.
    """
    wanted, by_step = plainly(kind)
    assert [item["targets"] for item in metrics] == [item["targets"] for item in by_step]
    losses, others = ([item["loss"] for item in group] for group in (metrics, by_step))
    assert losses == pytest.approx(others, rel=2e-6)
    most = STEPS * OPTIMIZER.learning_rate * 4 * 7e-7 / OPTIMIZER.epsilon

    def distance(one, other):
        pairs = zip(*map(jax.tree.leaves, (one, other)), strict=True)
        return max(float(jnp.abs(ours - theirs).max()) for ours, theirs in pairs)

    assert distance(params, wanted) < most
    assert distance(start(kind)[0], wanted) > 1000 * most


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_padding_and_micro_batches_one_of_them_without_targets(kind):
    check_same(kind, *train(kind, batches(kind, 48), micro_batches=4))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["instructions", "adapters"])
def test_packing(kind):
    packed = [
        tuple(next(packed_rows(list(examples(kind, step)), width=40, padding=7).in_order(5)))
        for step in range(STEPS)
    ]
    check_same(kind, *train(kind, packed))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_without_targets_changes_nothing(kind):
    empty, (first, *rest) = batch(kind, 9, any_learnt=False), batches(kind)
    params, metrics = train(kind, [empty, first, empty, *rest])
    assert [item["loss"] for item in metrics[::2]][:2] == [0, 0]
    wanted, by_step = plainly(kind)
    assert [item for item in metrics if item["targets"]] == by_step
    for ours, theirs in zip(*map(jax.tree.leaves, (params, wanted)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
