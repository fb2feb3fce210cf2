"""Evaluation scores each token once, whatever the window."""

import dataclasses
import hashlib
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.data.batches import Batch, SlidingWindows
from jaxgpt.data.prepare import prepare
from jaxgpt.data.text import Document
from jaxgpt.errors import ConfigError, DataError, NonFiniteError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.parameters import init_params
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.bpe import train_bpe
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training import evaluation
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import (
    Evaluation,
    evaluate_documents,
    evaluate_tokens,
    total_loss,
    validation,
)
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import init_state


@pytest.fixture(scope="module")
def model():
    tiny = get_preset("tiny")
    config = dataclasses.replace(
        tiny, model=dataclasses.replace(tiny.model, vocab_size=264, context_length=8)
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


@pytest.mark.slow
@pytest.mark.parametrize("stride", [8, 3, 1])
def test_the_loss_is_that_of_the_windows_by_hand(model, stride):
    result = evaluate_documents(model, [Document(TEXT)], stride=stride, batch_size=4)
    assert result.targets == result.num_bytes - 1 == len(TEXT) - 1
    # 60 float32 losses of about 6 nats, summed: 60 * 2^-24 relative at worst.
    assert result.loss == pytest.approx(_by_hand(model, stride), rel=4e-6)
    assert result.bits_per_byte == pytest.approx(result.loss / math.log(2))
    assert result.perplexity == pytest.approx(math.exp(result.loss))


def test_a_text_shorter_than_the_context_is_evaluated(model):
    assert evaluate_documents(model, [Document("abc")]).targets == 2


def test_a_long_context_is_not_taken_by_default_unless_a_run_was_trained_on_it(model, monkeypatch):
    shape = dataclasses.replace(model.config, context_length=131_072, positions="none")
    config = dataclasses.replace(model.train_config, model=shape)
    params = model.params | {"embed": {"tokens": model.params["embed"]["tokens"]}}
    long = dataclasses.replace(model, config=shape, params=params, train_config=config)
    whole = evaluate_documents(long, [Document(TEXT)])
    monkeypatch.setattr(evaluation, "_MOST_CONTEXT", 16)
    cut = evaluate_documents(long, [Document(TEXT)], context_length=16)
    assert cut.targets == whole.targets
    assert cut.loss != pytest.approx(whole.loss, rel=1e-3)
    assert evaluate_documents(long, [Document(TEXT)]) == cut
    pretrained = dataclasses.replace(long, step=1)
    assert evaluate_documents(pretrained, [Document(TEXT)]) == whole
    tuned = dataclasses.replace(pretrained, task={"kind": "instructions"})
    assert evaluate_documents(tuned, [Document(TEXT)]) == cut
    with pytest.raises(ConfigError, match="context_length is 131073; it must be from 1 to 131,072"):
        evaluate_documents(long, [Document(TEXT)], context_length=131_073)


@pytest.mark.slow
def test_documents_are_cut_as_for_training(model, tmp_path):
    """The figure of a run, of the documents that it held out and of its own tokens."""
    tokenizer = train_bpe(["Once upon a time, in Silverton, lived Ben. "], 260)
    rows = [f"Once {number} a time, {number}" for number in range(40)] + ["a"]
    path = tmp_path / "all.jsonl"
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    dataset = prepare([path], tokenizer, tmp_path / "out", validation_fraction=0.5)
    held_out = dataset.split("validation")
    kept = [row for row in rows if _is_held_out(row, 0.5)]
    assert held_out.num_documents == len(kept) > 5

    run = dataclasses.replace(model.train_config, evaluation_stride=3, batch_size=8)
    model = dataclasses.replace(model, tokenizer=tokenizer, train_config=run)
    of_run = validation(run, dataset, SlidingWindows(held_out, 8, 3), make_mesh(run))
    state = init_state(model.params, make_optimizer(run.optimizer, 20))
    wanted = of_run(state)

    documents = [Document(text) for text in kept]
    for result in (
        evaluate_tokens(model, held_out),
        evaluate_documents(model, documents, end_of_text=True),
    ):
        assert result.loss == pytest.approx(wanted["validation_loss"], rel=1e-6)
        assert result.bits_per_byte == pytest.approx(wanted["validation_bits_per_byte"], rel=1e-6)
    assert evaluate_documents(model, documents).targets < len(held_out) - len(kept)


def _is_held_out(text, fraction):
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") < fraction * 2**64


@pytest.mark.slow
def test_targets_are_counted_beyond_31_bits_and_losses_beyond_float32():
    def measure(params, batch):
        return jnp.float32(1e4 + 1), jnp.int32(2**30)

    batches = [Batch(np.zeros((1, 1), np.int32), np.zeros((1, 1), np.int32))] * 5000
    nats, count = total_loss(measure, {}, batches)
    assert count == 5000 * 2**30
    # In float32 alone it would be some 3e-5 off.
    assert nats == pytest.approx(5000 * (1e4 + 1), rel=2e-6)


def test_a_loss_beyond_a_double_is_infinitely_perplexing():
    assert Evaluation(1e3, 1, 1).perplexity == math.inf


def test_what_cannot_be_evaluated_is_refused(model):
    with pytest.raises(DataError, match="0 tokens; two are needed"):
        evaluate_documents(model, [])
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
