"""Packed texts have the loss and the gradient of rows of their own, and few rows."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from jaxgpt.data.batches import IGNORE
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.instructions import collate, token_row
from jaxgpt.finetuning.packing import pack, packed_rows
from jaxgpt.presets import get_preset
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.step import gradients

TINY = get_preset("tiny")
NOISE = np.random.default_rng(0)


def texts(*lengths):
    return [
        token_row(NOISE.integers(0, 50, n + 1).tolist(), (NOISE.random(n + 1) < 0.7).tolist())
        for n in lengths
    ]


def test_packing_is_tight_and_complete():
    lengths = [5, 1, 7, 3, 2, 6, 8]
    rows = pack(lengths, 8)
    assert sorted(i for row in rows for i in row) == list(range(7))
    assert all(sum(lengths[i] for i in row) <= 8 for row in rows)
    assert len(rows) == 4  # of 32 tokens in all
    many = NOISE.integers(1, 129, 500).tolist()
    assert len(pack(many, 128)) <= 11 / 9 * -(-sum(many) // 128) + 4


def test_a_text_longer_than_the_row():
    with pytest.raises(DataError, match="9 tokens do not fit into rows of 8"):
        pack([3, 9], 8)


def test_collation():
    rows = packed_rows([token_row([1, 2, 3]), token_row([4, 5])], width=4, padding=9)
    (batch,) = rows.in_order(2)
    assert batch.inputs.tolist() == [[1, 2, 4, 9], [9, 9, 9, 9]]
    assert batch.targets.tolist() == [[2, 3, 5, IGNORE], [IGNORE] * 4]
    assert batch.segments.tolist() == [[1, 1, 2, 0], [0] * 4]


@pytest.mark.slow
@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
@pytest.mark.parametrize("width", [40, 130])
def test_packing_changes_neither_loss_nor_gradient(random_params, width, positions):
    # Rows of 130 are attended to in runs of 64 tokens, whose borders fall within texts.
    model = dataclasses.replace(TINY.model, vocab_size=50, context_length=130, positions=positions)
    loss_fn = next_token_loss(model, TINY.compute)
    params, key = random_params(model), jax.random.key(0)
    rows = texts(11, 7, 40, 1, 23, 17, 30, 9, 5, 38)
    batch = collate(rows, padding=0)
    compiled = jax.jit(partial(gradients, loss_fn))
    whole, (nats, count) = compiled(params, jax.device_put((batch.inputs, batch.targets)), key)
    packed = packed_rows(rows, width=width, padding=0)
    (batch,) = packed.in_order(len(packed))
    ours, (packed_nats, packed_count) = compiled(params, jax.device_put(tuple(batch)), key)
    assert len(packed) == (5 if width == 40 else 2)
    assert int(packed_count) == int(count)
    # Some 130 terms in another order: sqrt(130) roundings of 2^-24, about 7e-7.
    assert float(packed_nats) == pytest.approx(float(nats), rel=2e-6)
    largest = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(whole))
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(whole), strict=True):
        assert float(np.abs(one - other).max()) < 3e-6 * largest


def test_without_the_numbers_the_loss_is_another(random_params):
    model = dataclasses.replace(TINY.model, vocab_size=50, context_length=130)
    loss_fn = jax.jit(next_token_loss(model, TINY.compute))
    params, packed = random_params(model), packed_rows(texts(11, 7, 40), width=64, padding=0)
    (batch,) = packed.in_order(1)
    apart, _ = loss_fn(params, jax.device_put(tuple(batch)), None)
    as_one, _ = loss_fn(params, jax.device_put(tuple(batch[:2])), None)
    assert abs(float(apart) - float(as_one)) > 1e-3


def test_a_kernel_that_cannot_is_refused(random_params):
    model = dataclasses.replace(TINY.model, vocab_size=50, context_length=64)
    config = dataclasses.replace(TINY, model=model, attention="cudnn")
    (batch,) = packed_rows(texts(11), width=64, padding=0).in_order(1)
    with pytest.raises(ConfigError, match="attention cudnn needs"):
        next_token_loss(config.model, config.compute)(
            random_params(model), jax.device_put(tuple(batch)), None
        )
