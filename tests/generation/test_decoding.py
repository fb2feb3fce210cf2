"""Cached and sliding decoding against a loop that runs the whole model for every token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.generation import dispatch
from jaxgpt.generation.decoding import generate, prepare_params, stream
from jaxgpt.generation.dispatch import CACHED_STEPS
from jaxgpt.generation.sampling import SamplingConfig, sample
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

    @jax.jit
    def logits_after(window, length):
        logits = GPT(CONFIG, params)(window[None])
        return jax.lax.dynamic_index_in_dim(logits, length - 1, axis=1, keepdims=False)

    draw = jax.jit(sample, static_argnames="config")

    def run(prompt, count, sampling=GREEDY, seed=0, index=0):
        text = list(prompt)
        for position in range(count):
            window = text[-CONFIG.context_length :]
            padded = jnp.asarray(window + [0] * (CONFIG.context_length - len(window)))
            key = jax.random.fold_in(jax.random.key(seed), index)
            key = jax.random.fold_in(key, position)
            seen = jnp.zeros((1, CONFIG.vocab_size), bool).at[0, jnp.asarray(text)].set(True)
            token = draw(logits_after(padded, len(window)), seen, key[None], sampling)
            text.append(int(token[0]))
        return text[len(prompt) :]

    return run


@pytest.mark.parametrize("sampling", [GREEDY, FILTERED], ids=["greedy", "sampled"])
def test_equals_the_definition_across_the_edge_of_the_context(params, oracle, sampling):
    prompts = [SHORT, MEDIUM, LONG]
    texts = generate(CONFIG, params, prompts, max_new_tokens=45, sampling=sampling, seed=3)
    expected = [oracle(prompt, 45, sampling, 3, row) for row, prompt in enumerate(prompts)]
    assert texts == expected
    assert len({tuple(text[-8:]) for text in texts}) > 1


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
    expected = oracle(MEDIUM, 30)
    end = expected[17]
    cut = expected[: expected.index(end)]
    other = oracle(SHORT, 30)
    other = other[: other.index(end)] if end in other else other
    options = {"max_new_tokens": 30, "sampling": GREEDY, "end_of_text": end}
    assert generate(CONFIG, params, [MEDIUM, SHORT], **options) == [cut, other]


def test_caller_ends_a_row(params, oracle):
    done = np.zeros(2, dtype=bool)
    texts = [[], []]
    options = {"max_new_tokens": 40, "sampling": GREEDY, "done": done}
    for chunk in stream(CONFIG, params, [LONG, SHORT], **options):
        for text, new in zip(texts, chunk, strict=True):
            text.extend(new)
        done[0] = True
    assert 0 < len(texts[0]) < 40
    assert texts[0] == oracle(LONG, len(texts[0]))
    assert texts[1] == oracle(SHORT, 40)
    assert done.tolist() == [True, False]


def test_stops_when_all_rows_are_done(params):
    done = np.zeros(1, dtype=bool)
    chunks = stream(CONFIG, params, [SHORT], max_new_tokens=1_000_000, done=done)
    assert len(next(chunks)[0]) == CACHED_STEPS
    done[0] = True
    assert list(chunks) == []


def test_padding_of_the_vocabulary_is_never_drawn(params):
    table = params["embed"]["tokens"]
    # Rows that win every draw: the logits are a product with the normed last vector.
    loud = params | {"embed": params["embed"] | {"tokens": table.at[50:].multiply(1000.0)}}
    options = {"max_new_tokens": 30, "seed": 1}
    assert max(max(generate(CONFIG, loud, [SHORT], **options))) >= 50
    assert max(max(generate(CONFIG, loud, [SHORT], vocab_size=50, **options))) < 50


def test_compiles_once_for_a_bucket_and_never_by_length(params, monkeypatch):
    counts = []

    def compiled():
        return dispatch.prefill._cache_size(), dispatch.extend._cache_size()

    jax.clear_caches()
    for prompt, new in [(SHORT, 10), (SHORT, 2), (MEDIUM, 4), (MEDIUM[:1], 13)]:
        generate(CONFIG, params, [prompt], max_new_tokens=new)
        counts.append(compiled())
    assert counts == [(1, 1)] * 4
    generate(CONFIG, params, [SHORT], max_new_tokens=22)
    assert compiled() == (2, 2)
    generate(CONFIG, params, [SHORT], max_new_tokens=60)
    generate(CONFIG, params, [LONG], max_new_tokens=9, end_of_text=3)
    assert compiled() == (3, 3)


def test_cache_is_updated_in_place(params):
    ready = prepare_params(params)
    prompt = jnp.asarray([SHORT + [0] * 13])
    cache = dispatch.prefill(ready, prompt, config=CONFIG, slots=16)
    places = [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(cache)]
    rows = dispatch.Rows(
        prompt, jnp.asarray([3]), jnp.zeros((1, 61), dtype=bool), jnp.asarray([False])
    )
    keys = jax.random.split(jax.random.key(0), 1)
    _, after = dispatch.extend(
        ready, cache, rows, keys, 0, 5, -1, config=CONFIG, sampling=GREEDY
    )
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(cache))
    assert [leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(after)] == places


def test_bfloat16_is_decoded_in_float32_on_a_cpu(params):
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    ready = prepare_params(half)
    assert {leaf.dtype for leaf in jax.tree.leaves(ready)} == {jnp.dtype("float32")}
    options = {"max_new_tokens": 5, "sampling": GREEDY}
    assert generate(CONFIG, half, [SHORT], **options) == generate(CONFIG, ready, [SHORT], **options)


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
        ([SHORT], {"max_new_tokens": 1_000_001}, "from 1 to 1000000"),
        ([SHORT], {"seed": 2**32}, "seed"),
        ([SHORT], {"seed": -1}, "seed"),
        ([SHORT], {"sample_indices": [0, 1]}, "2 sample indices for 1 prompts"),
        ([SHORT], {"vocab_size": 62}, "vocab_size is 62"),
    ],
)
def test_refuses_before_the_first_token(params, prompts, options, message):
    with pytest.raises(ConfigError, match=message):
        generate(CONFIG, params, prompts, **{"max_new_tokens": 4, **options})


def test_top_k_above_the_vocabulary_warns_and_is_off(params, capsys):
    options = {"max_new_tokens": 6, "seed": 2}
    sampling = SamplingConfig(top_k=62)
    kept = generate(CONFIG, params, [SHORT], sampling=sampling, **options)
    assert "top_k is 62, but there are only 61 tokens" in capsys.readouterr().err
    assert kept == generate(CONFIG, params, [SHORT], **options)
