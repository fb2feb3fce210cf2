"""Cached and sliding decoding against a loop that runs the whole model for every token."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.generation import decoding, dispatch
from jaxgpt.generation.decoding import generate, stream
from jaxgpt.generation.dispatch import CACHED_STEPS
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.generation.sampling import SamplingConfig, sample
from jaxgpt.model.attention import attention_in_force
from jaxgpt.model.gpt import GPT

CONFIG = ModelConfig(vocab_size=61, context_length=24, num_layers=2, num_heads=2, embed_dim=16)
GREEDY = SamplingConfig(temperature=0.0)
FILTERED = SamplingConfig(
    temperature=0.9, top_k=40, top_p=0.95, min_p=0.001, repetition_penalty=1.3
)
SHORT, MEDIUM, LONG = [5, 6, 7], list(range(10, 20)), list(range(30, 54))


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(CONFIG)


@pytest.fixture(scope="module")
def oracle(params):
    """Generation as in its definition: crop to the context, run everything, draw one token."""

    @functools.partial(jax.jit, static_argnames="sampling")
    def next_token(window, length, seen, seed, index, position, sampling):
        logits = GPT(CONFIG, params)(window[None])[:, length - 1]
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), index), position)
        return sample(logits, seen[None], key[None], sampling)[0]

    def run(prompt, count, sampling=GREEDY, seed=0, index=0):
        text = list(prompt)
        for position in range(count):
            window = text[-CONFIG.context_length :]
            padded = np.array(window + [0] * (CONFIG.context_length - len(window)))
            seen = np.isin(np.arange(CONFIG.vocab_size), text)
            token = next_token(padded, len(window), seen, seed, index, position, sampling)
            text.append(int(token))
        return text[len(prompt) :]

    return run


@pytest.mark.slow
@pytest.mark.parametrize("sampling", [GREEDY, FILTERED], ids=["greedy", "sampled"])
def test_equals_the_definition_across_the_edge_of_the_context(params, oracle, sampling):
    prompts = [SHORT, MEDIUM, LONG]
    texts = generate(CONFIG, params, prompts, max_new_tokens=45, sampling=sampling, seed=3)
    expected = [oracle(prompt, 45, sampling, 3, row) for row, prompt in enumerate(prompts)]
    assert texts == expected
    assert len({tuple(text[-8:]) for text in texts}) > 1


@pytest.mark.slow
def test_a_row_is_the_same_alone(params):
    options = {"max_new_tokens": 30, "sampling": FILTERED, "seed": 9}
    together = generate(CONFIG, params, [SHORT, SHORT, MEDIUM], **options)
    assert together[0] != together[1]
    for index, prompt in enumerate([SHORT, SHORT, MEDIUM]):
        alone = generate(CONFIG, params, [prompt], sample_indices=[index], **options)
        assert alone == [together[index]]


def test_seeds_differ_and_repeat(params):
    first, second, again = (
        generate(CONFIG, params, [SHORT], max_new_tokens=12, seed=seed)
        for seed in (0, 2**32 - 1, 0)
    )
    assert first == again != second


def test_ends_before_end_of_text(params, oracle):
    prompts = [MEDIUM, SHORT, LONG]
    whole = [oracle(prompt, 30) for prompt in prompts]
    end = whole[0][17]
    cut = [text[: text.index(end)] if end in text else text for text in whole]
    options = {"max_new_tokens": 30, "sampling": GREEDY, "end_of_text": end}
    assert generate(CONFIG, params, prompts, **options) == cut
    assert len(cut[0]) <= 17


def test_caller_ends_a_row(params, oracle):
    prompts = [LONG, SHORT, MEDIUM]
    done = np.zeros(3, dtype=bool)
    texts = [[], [], []]
    options = {"max_new_tokens": 40, "sampling": GREEDY, "done": done}
    for chunk in stream(CONFIG, params, prompts, **options):
        for text, new in zip(texts, chunk, strict=True):
            text.extend(new)
        done[0] = True
    assert 0 < len(texts[0]) < 40
    assert texts == [oracle(prompt, len(text)) for prompt, text in zip(prompts, texts, strict=True)]
    assert [len(text) for text in texts[1:]] == [40, 40]
    assert done.tolist() == [True, False, False]


def test_stops_when_all_rows_are_done(params):
    done = np.zeros(1, dtype=bool)
    options = {"max_new_tokens": 1_000_000, "sampling": FILTERED, "done": done}
    chunks = stream(CONFIG, params, [SHORT], **options)
    # The first is drawn from the prompt's own logits.
    assert [len(next(chunks)[0]) for _ in range(2)] == [1, CACHED_STEPS]
    done[0] = True
    assert list(chunks) == []


def test_padding_of_the_vocabulary_is_never_drawn(params):
    table = params["embed"]["tokens"]
    # Rows that win every draw: the logits are a product with the normed last vector.
    loud = params | {"embed": params["embed"] | {"tokens": table.at[50:].multiply(1000.0)}}
    options = {"max_new_tokens": 12, "seed": 1}
    assert max(max(generate(CONFIG, loud, [SHORT], **options))) >= 50
    assert max(max(generate(CONFIG, loud, [SHORT], vocab_size=50, **options))) < 50


@pytest.mark.whole_run
def test_few_shapes_are_compiled_whatever_the_prompts_and_the_batch(params):
    config = dataclasses.replace(CONFIG, norm_epsilon=1e-6)  # compiled by no other test
    start = dispatch.prefill._cache_size(), dispatch.extend._cache_size()

    def compiled(lengths, new=3, **options):
        prompts = [LONG[:length] for length in lengths]
        generate(config, params, prompts, max_new_tokens=new, sampling=GREEDY, **options)
        sizes = dispatch.prefill._cache_size(), dispatch.extend._cache_size()
        return sizes[0] - start[0], sizes[1] - start[1]

    assert compiled([3], 1) == (1, 0)
    for length, new in [(3, 10), (16, 2), (1, 24), (9, 4)]:
        assert compiled([length], new) == (1, 1)
    assert compiled([9], 60, end_of_text=3) == (1, 2)  # past the context
    # Prompts of up to 16 and 24 tokens; one row, two, four; rows that begin alike.
    for batch in range(1, 5):
        for length in (1, 5, 16, 17, 24):
            compiled([length, *range(1, batch)])
            compiled([length] * batch)
    assert compiled([24], 9) == (2 * (3 + 2), 2 * 3)

    events = []
    listener = lambda event, *_, **__: events.append(event)  # noqa: E731
    jax.monitoring.register_event_duration_secs_listener(listener)
    for length in (2, 15, 18, 23):
        compiled([length], length)
        compiled([length, 4, 1], length)
    jax.monitoring.unregister_event_duration_listener(listener)
    assert not [event for event in events if "backend_compile" in event]


def test_a_cache_that_grows_changes_nothing(params, oracle, monkeypatch):
    monkeypatch.setattr(decoding, "_LEAST_CACHE_LENGTH", 4)
    grown = dispatch.grow._cache_size()
    texts = generate(CONFIG, params, [SHORT, MEDIUM], max_new_tokens=30, sampling=GREEDY)
    assert dispatch.grow._cache_size() == grown + 1
    assert texts == [oracle(SHORT, 30), oracle(MEDIUM, 30)]


@pytest.mark.slow
def test_samples_of_one_prompt_take_it_in_once(params, monkeypatch):
    shapes = []

    class Watched(GPT):
        def decode(self, tokens, cache, start, last):
            shapes.append(tokens.shape)
            return super().decode(tokens, cache, start, last)

    monkeypatch.setattr(dispatch, "GPT", Watched)
    config = dataclasses.replace(CONFIG, norm_epsilon=1e-4)  # compiled by no other test
    options = {"max_new_tokens": 12, "sampling": FILTERED, "seed": 2}
    texts = generate(config, params, [MEDIUM] * 5, **options)
    assert set(shapes) == {(1, 16), (8, 1)}
    assert len(set(map(tuple, texts))) == 5
    for index, text in enumerate(texts):
        assert generate(config, params, [MEDIUM], sample_indices=[index], **options) == [text]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 2])
def test_cache_is_updated_in_place(params, batch):
    ready = prepare_params(params)
    window = jnp.asarray([SHORT + [0] * 13] * batch)
    rows = dispatch.Rows(
        window, jnp.full(batch, 3), jnp.zeros((batch, 61), bool), jnp.zeros(batch, bool)
    )
    keys = jax.random.split(jax.random.key(0), batch)
    settings = {"config": CONFIG, "sampling": GREEDY, "attention": attention_in_force()}
    ends = np.array([-1], "int32")
    _, cache = dispatch.prefill(ready, rows, keys, ends, **settings, cache_length=24, same=False)
    call = functools.partial(dispatch.extend, ready, cache, rows, keys, 0, 5, ends, **settings)
    program = dispatch.extend.lower(*call.args, **settings).compile().as_text()
    size = cache[0][0].size
    for dims in re.findall(r"= f32\[([\d,]+)\]\S* (?:copy|transpose)\(", program):
        assert math.prod(map(int, dims.split(","))) != size, dims
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(cache)]
    _, after = call()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(cache))
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after)] == places


@pytest.mark.parametrize(
    ("prompts", "options", "message"),
    [
        ([[]], {}, "no tokens"),
        ([], {}, "0 prompts"),
        ([SHORT, [*LONG, 1]], {}, "25 tokens, but the context has room for 24"),
        ([[1, 61]], {}, "token of the prompt is 61; it must be from 0 to 60"),
        ([[1, 50]], {"vocab_size": 50}, "is 50; it must be from 0 to 49"),
        ([[-1]], {}, "is -1"),
        ([SHORT], {"max_new_tokens": 0}, "max_new_tokens is 0"),
        ([SHORT], {"max_new_tokens": 1_000_001}, "from 1 to 1,000,000"),
        ([SHORT], {"seed": 2**32}, "seed"),
        ([SHORT], {"seed": -1}, "seed"),
        ([SHORT], {"sample_indices": [0, 1]}, "2 sample indices for 1 prompts"),
        ([SHORT], {"vocab_size": 62}, "vocab_size is 62"),
    ],
)
def test_refuses_before_the_first_token(params, prompts, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(CONFIG, params, prompts, **{"max_new_tokens": 4, **options})


def test_top_k_above_the_vocabulary_warns_and_is_off(params):
    options = {"max_new_tokens": 6, "seed": 2}
    with pytest.warns(UserWarning, match="top_k is 62, but there are only 61 tokens"):
        kept = generate(CONFIG, params, [SHORT], sampling=SamplingConfig(top_k=62), **options)
    assert kept == generate(CONFIG, params, [SHORT], **options)
