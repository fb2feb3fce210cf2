"""The head sees real tokens only, what is frozen stays bit for bit, and a classifier learns."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.errors import ConfigError
from jaxgpt.finetuning.classification import (
    class_loss,
    class_probabilities,
    classifier_params,
    classify,
    pool,
    predict,
)
from jaxgpt.finetuning.freezing import frozen_loss, join_params, split_params
from jaxgpt.finetuning.labelled import Labelled, class_names, collate, labelled_rows
from jaxgpt.finetuning.measures import accuracy, confusion_matrix
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import gradients, init_state, train_step

TINY = get_preset("tiny")
CONFIG = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, vocab_size=256, context_length=32, num_layers=3),
    optimizer=dataclasses.replace(TINY.optimizer, learning_rate=1e-2, warmup_steps=0),
)
KEY = jax.random.key(0)
GRADIENTS = jax.jit(partial(gradients, class_loss(CONFIG.model, CONFIG.compute)))
ROWS = [([5, 6, 7], 0), ([8], 1), ([9, 10, 11, 12, 13], 1), ([14, 15, 16], 0)]
POOLINGS = ("last", "first", "mean")


def on_device(batch):
    return jax.device_put(tuple(batch))


@pytest.fixture(scope="module")
def params(random_params):
    return classifier_params(random_params(CONFIG.model), 2, jax.random.key(1))


@pytest.mark.parametrize(
    ("pooling", "rows"), [("last", [2, 0]), ("first", [0, 0]), ("mean", [1.0, 0.0])]
)
def test_pooling(pooling, rows):
    x = jnp.arange(8.0).reshape(2, 4, 1) * jnp.array([[[1.0]], [[0.0]]])
    pooled = pool(x.at[:, 3].set(jnp.nan), jnp.array([3, 1]), pooling)
    assert pooled[:, 0].tolist() == rows


@pytest.mark.slow
def test_padding_changes_nothing(params):
    @jax.jit
    def measure(batch):
        return [
            class_loss(CONFIG.model, CONFIG.compute, pooling)(params, batch, None)
            for pooling in POOLINGS
        ]

    alone = np.array([measure(on_device(collate([row], padding=0))) for row in ROWS])
    for padding, width in ((0, 8), (99, 32)):
        together = measure(on_device(collate(ROWS, padding=padding, widths=[width])))
        for pooled, (nats, count) in enumerate(together):
            assert int(count) == 4
            # Four terms behind three blocks in float32.
            assert float(nats) == pytest.approx(alone[:, pooled, 0].sum(), rel=2e-6)


@pytest.mark.slow
def test_the_last_token_sees_all_and_the_first_only_itself(params):
    compiled = jax.jit(partial(classify, CONFIG.model), static_argnames="pooling")

    def logits(tokens, pooling):
        return compiled(params, jnp.array([tokens]), jnp.array([len(tokens)]), pooling=pooling)

    for pooling, sees in (("last", True), ("mean", True), ("first", False)):
        first, second = logits([5, 6, 7], pooling), logits([5, 9, 7], pooling)
        assert bool((first != second).any()) == sees, pooling
    assert (logits([5, 6, 7], "last") != logits([9, 6, 7], "last")).any()


@pytest.mark.slow
def test_rows_without_a_class_do_not_count(params):
    loss_fn = jax.jit(class_loss(CONFIG.model, CONFIG.compute))
    some = loss_fn(params, on_device(collate(ROWS[:2], padding=0, widths=[8])), None)
    more = loss_fn(
        params, on_device(collate([*ROWS[:2], ([3], -100)], padding=0, widths=[8])), None
    )
    assert int(more[1]) == int(some[1]) == 2
    assert float(more[0]) == pytest.approx(float(some[0]), rel=1e-6)
    grads, (nats, count) = GRADIENTS(params, on_device(collate([([3], -100)], padding=0)), KEY)
    assert (float(nats), int(count)) == (0, 0)
    assert not any(leaf.any() for leaf in jax.tree.leaves(grads))


@pytest.mark.slow
def test_micro_batches_do_not_change_the_gradient(params):
    batch = on_device(collate(ROWS, padding=0))
    whole, _ = GRADIENTS(params, batch, KEY)
    parts, _ = jax.jit(
        partial(gradients, class_loss(CONFIG.model, CONFIG.compute), micro_batches=2)
    )(params, batch, KEY)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    for ours, theirs in zip(jax.tree.leaves(parts), jax.tree.leaves(whole), strict=True):
        assert float(jnp.abs(ours - theirs).max()) < 2e-6 * largest


def test_bfloat16_computes_the_head_in_float32(params):
    config = dataclasses.replace(CONFIG, compute_dtype="bfloat16")
    batch = on_device(collate(ROWS, padding=0))
    coarse, fine = (
        jax.jit(class_probabilities(item.model, item.compute))(params, batch)
        for item in (config, CONFIG)
    )
    assert coarse.dtype == jnp.float32
    assert np.asarray(coarse) == pytest.approx(np.asarray(fine), abs=0.05)


@pytest.mark.parametrize("trained", [0, 1, 2, 3, "all"])
def test_split_and_join(params, trained):
    ours, rest = split_params(params, trained)
    assert ("blocks" in ours) == (trained != 0)
    assert ("blocks" in rest) == (trained in (0, 1, 2))
    assert ("embed" in ours) == (trained == "all")
    assert ("norm" in ours) == (trained != 0)
    joined = join_params(ours, rest)
    assert jax.tree.structure(joined) == jax.tree.structure(params)
    for one, other in zip(jax.tree.leaves(joined), jax.tree.leaves(params), strict=True):
        assert (one == other).all()


def test_what_cannot_be_trained(params):
    with pytest.raises(ConfigError, match="trained blocks are 4; it must be all, or from 0 to 3"):
        split_params(params, 4)
    with pytest.raises(ConfigError, match="-1"):
        split_params(params, -1)
    tied = {name: leaf for name, leaf in params.items() if name != "head"}
    with pytest.raises(ConfigError, match="tied"):
        split_params(tied, 0)


def make_step(trained_config=CONFIG):
    optimizer = make_optimizer(trained_config.optimizer, trained_config.steps)

    @jax.jit
    def step(frozen, state, batch, number):
        loss_fn = frozen_loss(class_loss(trained_config.model, trained_config.compute), frozen)
        return train_step(
            state, batch, number, key=jax.random.key(0), loss_fn=loss_fn, optimizer=optimizer
        )

    return step, optimizer


@pytest.mark.slow_but_first
@pytest.mark.parametrize("trained", [0, 1])
def test_what_is_frozen_stays_and_the_rest_moves(params, trained):
    step, optimizer = make_step()
    ours, rest = split_params(params, trained)
    state = init_state(ours, optimizer)
    for number in range(2):
        state, _ = step(rest, state, on_device(collate(ROWS, padding=0)), np.int32(number))
    joined = join_params(state.params, rest)
    moved = jax.tree.map(lambda new, old: np.asarray(new != old), joined, params)
    assert not any(leaf.any() for leaf in jax.tree.leaves(moved["embed"]))
    for leaf in jax.tree.leaves(moved["blocks"]):
        assert not leaf[: 3 - trained].any()
        assert leaf[3 - trained :].any() or trained == 0
    assert all(leaf.any() == (trained > 0) for leaf in jax.tree.leaves(moved["norm"]))
    assert all(leaf.any() for leaf in jax.tree.leaves(moved["head"]))


@pytest.mark.slow
def test_the_gradient_of_what_is_trained_is_the_whole_models(params):
    batch = on_device(collate(ROWS, padding=0))
    ours, rest = split_params(params, 2)

    @jax.jit
    def of_trained(frozen, trained):
        return gradients(
            frozen_loss(class_loss(CONFIG.model, CONFIG.compute), frozen), trained, batch, KEY
        )[0]

    of_part, (of_all, _) = of_trained(rest, ours), split_params(GRADIENTS(params, batch, KEY)[0], 2)
    for one, other in zip(jax.tree.leaves(of_part), jax.tree.leaves(of_all), strict=True):
        assert np.asarray(one) == pytest.approx(np.asarray(other), rel=1e-5, abs=1e-7)


@pytest.mark.slow
def test_a_classifier_learns_and_says_how_sure_it_is(params):
    words = {"x": "ac", "y": "bd"}
    noise = np.random.default_rng(0)
    texts = [
        Labelled("".join(noise.choice(list(words[name]), 6)), name, f"f:{i}")
        for i, name in enumerate("xy" * 20)
    ]
    rows = labelled_rows(texts, class_names(texts), ByteTokenizer(), context_length=32)
    step, optimizer = make_step()
    ours, rest = split_params(params, 1)
    state = init_state(ours, optimizer)
    for number in range(30):
        state, _ = step(rest, state, on_device(rows.batch(8 * number, 8, seed=0)), np.int32(number))
    probabilities = jax.jit(class_probabilities(CONFIG.model, CONFIG.compute))
    whole = join_params(state.params, rest)
    labels, given = predict(probabilities, whole, rows.in_order(16))
    assert labels.tolist() == [0, 1] * 20
    assert given.shape == (40, 2)
    assert given.sum(axis=1) == pytest.approx(np.ones(40))
    assert accuracy(confusion_matrix(labels, given.argmax(axis=1), 2)) == 1
    # Evaluated otherwise, the same.
    _, again = predict(probabilities, whole, rows.in_order(7))
    assert again == pytest.approx(given, abs=1e-5)


def test_the_untrained_head_of_gpt2_small():
    shapes = jax.eval_shape(
        partial(classifier_params, num_classes=2), _gpt2_shapes(), key=jax.random.key(0)
    )
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == 124_441_346


def _gpt2_shapes():
    from jaxgpt.model.parameters import parameter_shapes

    return parameter_shapes(get_preset("gpt2").model)
