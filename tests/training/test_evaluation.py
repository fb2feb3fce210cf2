"""Evaluation scores each token once, whatever the window."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import get_preset
from jaxgpt.data.sources import Document
from jaxgpt.data.tokenizer import load_tokenizer
from jaxgpt.errors import ConfigError, DataError, NonFiniteError
from jaxgpt.model.gpt import GPT, init_params
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import Evaluation, evaluate_documents


@pytest.fixture(scope="module")
def model():
    tiny = get_preset("tiny")
    config = dataclasses.replace(
        tiny, model=dataclasses.replace(tiny.model, vocab_size=256, context_length=8)
    )
    params = jax.tree.map(lambda leaf: 3 * leaf, init_params(config.model, jax.random.key(0)))
    return LoadedModel(config.model, params, load_tokenizer("bytes"), 0, config)


TEXT = "A small text, of which each byte but the first is predicted."


def _by_hand(model, stride):
    """Each target predicted from the longest window that begins at a multiple of the stride."""
    tokens = np.frombuffer(TEXT.encode(), np.uint8).astype(np.int32)
    nats, scored, start = 0.0, 0, 0
    while scored < len(tokens) - 1:
        window = tokens[start : start + 9]
        logits = GPT(model.config, model.params)(jnp.asarray(window[None, :-1]))[0]
        log_probs = jax.nn.log_softmax(logits)
        for place in range(scored - start, len(window) - 1):
            nats -= float(log_probs[place, window[place + 1]])
            scored += 1
        start += stride
    return nats / scored


@pytest.mark.parametrize("stride", [8, 3, 1])
def test_the_loss_is_that_of_the_windows_by_hand(model, stride):
    result = evaluate_documents(model, [Document(TEXT)], stride=stride, batch_size=4)
    assert result.targets == result.num_bytes == len(TEXT) - 1
    # 60 float32 losses of about 6 nats, summed: 60 * 2^-24 relative at worst.
    assert result.loss == pytest.approx(_by_hand(model, stride), rel=4e-6)
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2))
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_a_text_shorter_than_the_context_is_evaluated(model):
    assert evaluate_documents(model, [Document("abc")]).targets == 2


def test_what_cannot_be_evaluated_is_refused(model):
    with pytest.raises(DataError, match="1 tokens; two are needed"):
        evaluate_documents(model, [Document("a")])
    with pytest.raises(ConfigError, match="from 1 to context_length 8"):
        evaluate_documents(model, [Document(TEXT)], stride=9)


def test_a_model_that_diverged_has_no_loss(model):
    for number in (math.nan, math.inf):
        params = jax.tree.map(lambda leaf, number=number: leaf * number, model.params)
        broken = dataclasses.replace(model, params=params)
        with pytest.raises(NonFiniteError, match="the loss is nan: parameters of the model are"):
            evaluate_documents(broken, [Document(TEXT)])


def test_a_loss_that_is_too_large_to_be_a_perplexity():
    assert Evaluation(1e4, 1, 1).perplexity == math.inf
    assert Evaluation(0.0, 1, 1).perplexity == 1
