"""Decoding of models with windows: rings of slots, beside full caches, against the whole text."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig, Rope, TrainConfig
from jaxgpt.data.text import Document
from jaxgpt.generation import decoding, dispatch
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.model import attention
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training import evaluation
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import evaluate_documents

GREEDY = SamplingConfig(temperature=0.0)
LEARNED = ModelConfig(
    *(61, 48, 3, 4, 16), num_kv_heads=2, norm="rms", window=5, gelu="tanh", gate="silu"
)
ROTARY = dataclasses.replace(
    LEARNED,
    positions="rope",
    rope=Rope(rope_base=100.0, rope_local_base=20.0, rope_scaling="linear", rope_factor=2.0),
)
CONFIGS = {
    "learned, all local": LEARNED,
    "one kv head, a period of 2 and a rest": dataclasses.replace(
        LEARNED, num_kv_heads=1, window_period=2
    ),
    "rotary, one head each": dataclasses.replace(ROTARY, num_kv_heads=0, qk_norm="head"),
    "rotary, a period of 2 and a rest": dataclasses.replace(ROTARY, window_period=2, window=8),
    "rotary, a period of 3 and a rest": dataclasses.replace(
        ROTARY, num_layers=5, window_period=3, norm_place="both"
    ),
    "a window of 1": dataclasses.replace(ROTARY, window_period=2, window=1),
}
QUICK = ("one kv head, a period of 2 and a rest", "rotary, a period of 3 and a rest")
TOKENS = jnp.asarray(np.random.default_rng(0).integers(61, size=(3, 48)))


@pytest.fixture(
    params=[
        pytest.param(config, marks=() if name in QUICK else pytest.mark.whole_run, id=name)
        for name, config in CONFIGS.items()
    ],
    scope="module",
)
def model(request, random_params):
    """A config, its parameters, the logits of all tokens, and `decode` compiled."""
    config = request.param
    # Large enough that what lies beyond the window would show.
    params = jax.tree.map(lambda leaf: 2 * leaf, random_params(config))
    whole = jax.jit(lambda tokens: GPT(config, params)(tokens))
    step = jax.jit(lambda *given: GPT(config, params).decode(*given))
    return config, params, whole, step


@pytest.fixture(scope="module")
def logits(model):
    return np.asarray(model[2](TOKENS))


def near(ours, theirs, scale):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(scale).max())


def take_in(step, pieces, cache, logits):
    """Give the tokens as many at once as `pieces` are, and compare the logits after each."""
    for count, end in zip(pieces, np.cumsum(pieces), strict=True):
        start, last = jnp.full(3, end - count), jnp.full(3, count - 1)
        found, cache = step(TOKENS[:, end - count : end], cache, start, last)
        near(found, logits[:, end - 1], logits)


@pytest.mark.slow_but_first
def test_the_window_matters(model, logits):
    config, params, *_ = model
    wider = dataclasses.replace(config, window=config.window + 1)
    other = jax.jit(lambda: GPT(wider, params)(TOKENS))()
    assert np.abs(other - logits).max() > 0.01 * np.abs(logits).max()


PIECES = [1] * 48, [5, 1, 1, 5, 4, 1, 6, 25], [30, *[1] * 18], [13, 1, 12, 1, 1, 20], [48]


@pytest.mark.slow_but_first
@pytest.mark.parametrize("pieces", PIECES, ids=["1", "5", "30", "13", "48"])
def test_tokens_one_by_one_and_several_at_once_give_the_logits_of_the_whole(model, logits, pieces):
    config, _, _, step = model
    take_in(step, pieces, init_cache(config, 3, 48), logits)


@pytest.mark.slow
def test_padding_never_takes_the_place_of_a_key_nor_is_it_seen(model, logits):
    """Rows of other lengths, twice several tokens and then one by one, across the wrap."""
    config, _, _, step = model
    cache, start = init_cache(config, 3, 48), np.zeros(3, int)
    rows = np.arange(3)
    for counts, width in [([2, 20, 9], 24), ([13, 1, 4], 16), *[([1, 1, 1], 1)] * 14]:
        counts = np.array(counts)
        places = start[:, None] + np.arange(width)
        padding = np.arange(width) >= counts[:, None]
        new = np.where(padding, 7, TOKENS[rows[:, None], np.minimum(places, 47)])
        found, cache = step(new, cache, jnp.asarray(start), jnp.asarray(counts - 1))
        start = start + counts
        near(found, logits[rows, start - 1], logits)


def test_a_ring_has_no_more_slots_than_the_window(model):
    config, *_ = model
    full = {0: [], 2: [1], 3: [2]}[config.window_period]
    for i, (keys, values) in enumerate(init_cache(config, 3, 48)):
        assert keys.shape == values.shape
        assert keys.shape[2] == (48 if i in full else config.window)
    assert all(leaf.shape[2] <= 4 for leaf in jax.tree.leaves(init_cache(config, 3, 4)))


@pytest.mark.slow
@pytest.mark.parametrize("least", [4, 128], ids=["a cache that grows", "one that does not"])
def test_text_is_that_of_the_whole_model_for_each_token(model, monkeypatch, least):
    config, params, whole, _ = model
    monkeypatch.setattr(decoding, "_LEAST_CACHE_LENGTH", least)
    prompts = [TOKENS[0, :3].tolist(), TOKENS[1, :18].tolist(), TOKENS[2, :7].tolist()]
    texts = generate(config, params, prompts, max_new_tokens=29, sampling=GREEDY)
    expected = [list(prompt) for prompt in prompts]
    for _ in range(29):
        window = np.array([text + [0] * (48 - len(text)) for text in expected])
        found = np.asarray(whole(window))
        for text, row in zip(expected, found, strict=True):
            text.append(int(row[len(text) - 1].argmax()))
    assert texts == [text[len(prompt) :] for text, prompt in zip(expected, prompts, strict=True)]
    for prompt, text in zip(prompts, texts, strict=True):
        assert generate(config, params, [prompt], max_new_tokens=29, sampling=GREEDY) == [text]


@pytest.mark.slow
def test_a_long_text_is_taken_in_by_turns(model, logits, monkeypatch):
    """Some queries after others, both at the start of a text and amid it."""
    config, params, *_ = model
    monkeypatch.setattr(attention, "_MOST_QUERIES", 4)
    step = jax.jit(lambda *given: GPT(config, params).decode(*given))
    take_in(step, [18, 23, 7], init_cache(config, 3, 48), logits)


@pytest.mark.slow
def test_a_context_of_131072_tokens_is_allocated_by_use(random_params, monkeypatch):
    config = dataclasses.replace(ROTARY, vocab_size=256, context_length=131_072, window_period=3)
    params, lengths, bytes_taken = random_params(config), [], []
    own_init, own_total = dispatch.init_cache, evaluation.total_loss

    def watched_init(config, rows, length, dtype):
        lengths.append(length)
        return own_init(config, rows, length, dtype)

    def watched_total(measure, params, batches, *rest):
        first, *others = batches
        given = params, (jnp.asarray(first.inputs), jnp.asarray(first.targets))
        bytes_taken.append(measure.lower(*given).compile().memory_analysis().temp_size_in_bytes)
        return own_total(measure, params, [first, *others], *rest)

    monkeypatch.setattr(dispatch, "init_cache", watched_init)
    monkeypatch.setattr(evaluation, "total_loss", watched_total)
    texts = generate(config, params, [[1, 2, 3]], max_new_tokens=8, sampling=GREEDY)
    assert len(texts[0]) == 8
    assert set(lengths) == {128}
    run = TrainConfig(model=config, batch_size=1)
    loaded = LoadedModel(config, params, ByteTokenizer(), 0, run)
    assert evaluate_documents(loaded, [Document("A short text. " * 9)]).targets == 125
    # The scores of all heads, some times; one number of each place in the context were as many.
    assert max(bytes_taken) < 8 * 4 * 125 * 125 * 4 < 2**22
