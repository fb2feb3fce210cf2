"""Tokens -> more tokens: with a cache while the text fits the context, then by a sliding window.

A longer text is seen through its last `context_length` tokens, whose positions count from 0. Every
position then moves with every token, so nothing that a cache held would stay right: past the
context, each token takes a forward pass over the whole window.
"""

import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.fields import check_range
from jaxgpt.generation import dispatch
from jaxgpt.generation.dispatch import Rows
from jaxgpt.generation.prepared_params import DecodingParams, prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.generation.settings import MAX_NEW_TOKENS, MAX_SEED
from jaxgpt.model.attention import attention_in_force
from jaxgpt.model.layers import Params

_LEAST_CACHE_LENGTH = 128  # a cache doubles from here on: each token reads all of all rows


def generate(
    config: ModelConfig,
    params: Params | DecodingParams,
    prompts: Sequence[Sequence[int]],
    **options: Any,
) -> list[list[int]]:
    """The tokens that follow each prompt; `options` and errors are those of `stream`."""
    texts: list[list[int]] = [[] for _ in prompts]
    for chunk in stream(config, params, prompts, **options):
        for text, new in zip(texts, chunk, strict=True):
            text.extend(new)
    return texts


def stream(
    config: ModelConfig,
    params: Params | DecodingParams,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    sampling: SamplingConfig | None = None,
    seed: int = 0,
    sample_indices: Sequence[int] | None = None,
    end_of_text: int | Sequence[int] | None = None,
    vocab_size: int | None = None,
    done: Bool[np.ndarray, " B"] | None = None,
) -> Iterator[list[list[int]]]:
    """The tokens that follow each prompt, a few at a time: a list of new ids for each row.

    A row ends after `max_new_tokens`, before any id of `end_of_text`, or once the caller sets its
    entry of `done`. Its tokens do not depend on the rows beside it: the key of each is made from
    `seed`, the row's entry in `sample_indices` (0, 1, ... if not given) and the token's place in
    the output. Ids from `vocab_size` on, which pad the model's table, are never drawn. `params` may
    come from `prepare_params`, which saves a copy of them on each call. Raises ConfigError, before
    the first token, for a prompt that is empty, longer than the context or outside the vocabulary,
    or for a number outside its range.
    """
    sampling = SamplingConfig() if sampling is None else sampling
    vocab_size = config.vocab_size if vocab_size is None else vocab_size
    indices = list(range(len(prompts)) if sample_indices is None else sample_indices)
    _check(config, prompts, max_new_tokens, sampling, [seed, *indices], vocab_size)
    count = len(prompts)
    done = np.zeros(count, dtype=bool) if done is None else done
    if done.all():
        return
    # Rows that are done from the start fill the batch up, so that few sizes of it are compiled.
    unused = _power_of_two(count) - count
    texts = [list(prompt) for prompt in [*prompts, *[prompts[0]] * unused]]
    prepared = prepare_params(params).for_rows(config, len(texts))
    keys = jax.vmap(jax.random.fold_in, (None, 0))(
        jax.random.key(seed), np.array(indices + [0] * unused, "uint32")
    )
    seen = np.zeros((len(texts), vocab_size), dtype=bool)
    for row, text in enumerate(texts):
        seen[row, text] = True

    def rows(width: int) -> Rows:
        ended = np.pad(done, (0, unused), constant_values=True)
        return Rows(*_window(texts, width), jnp.asarray(seen), jnp.asarray(ended))

    ends = np.ravel(np.asarray([] if end_of_text is None else end_of_text, "int32"))
    ends = ends if ends.size else np.array([-1], "int32")  # which no token is
    width = _bucket(max(map(len, texts)), config)
    cache_length = _bucket(max(width, _LEAST_CACHE_LENGTH), config)
    same, steps, made = all(text == texts[0] for text in texts), 1, 0
    attention = attention_in_force()
    settings: dict[str, Any] = {"config": config, "sampling": sampling, "attention": attention}
    written, cache = dispatch.prefill(
        prepared, rows(width), keys, ends, **settings, cache_length=cache_length, same=same
    )
    while True:
        # By NumPy, which compiles nothing for a slice of another shape.
        tokens = np.asarray(written)[:count, :steps].tolist()
        chunk = [[token for token in row if token >= 0] for row in tokens]
        for row, new in enumerate(chunk):
            texts[row].extend(new)
            seen[row, new] = True
            done[row] |= len(new) < steps
        made += steps
        yield chunk
        if made == max_new_tokens or done.all():
            return
        longest = max(len(text) for text, ended in zip(texts, done, strict=False) if not ended)
        room = config.context_length - longest + 1
        if room < 1:
            cache_length, cache = config.context_length, []
        most = min(room, dispatch.CACHED_STEPS) if cache else dispatch.SLIDING_STEPS
        steps = min(max_new_tokens - made, most)
        if cache and longest + steps - 1 > cache_length:
            cache_length = _bucket(longest + steps - 1, config)
            cache = dispatch.grow(cache, config=config, rows=len(texts), cache_length=cache_length)
        written, cache = dispatch.extend(
            prepared, cache, rows(cache_length), keys, made, steps, ends, **settings
        )


def _window(texts: list[list[int]], width: int) -> tuple[Int[Array, "B T"], Int[Array, " B"]]:
    """The last `width` tokens of each text, padded on the right, and how many they are."""
    ends = [text[-width:] for text in texts]
    window = np.array([end + [0] * (width - len(end)) for end in ends], dtype=np.int32)
    return jnp.asarray(window), jnp.asarray([len(end) for end in ends], dtype=jnp.int32)


def _bucket(length: int, config: ModelConfig) -> int:
    """A power of two, so that few shapes are compiled, that holds `length` or the context."""
    return min(max(16, _power_of_two(length)), config.context_length)


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()


def _check(
    config: ModelConfig,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    sampling: SamplingConfig,
    seeds: list[int],
    vocab_size: int,
) -> None:
    check_range("max_new_tokens", max_new_tokens, 1, MAX_NEW_TOKENS)
    check_range("vocab_size", vocab_size, 1, config.vocab_size)
    for seed in seeds:
        check_range("a seed or sample index", seed, 0, MAX_SEED)
    if not prompts or len(seeds) != len(prompts) + 1:
        raise ConfigError(
            f"{len(seeds) - 1} sample indices for {len(prompts)} prompts; give one for each"
        )
    for prompt in prompts:
        if not prompt:
            raise ConfigError("a prompt has no tokens; begin it with the end-of-text token")
        if len(prompt) > config.context_length:
            raise ConfigError(
                f"the prompt has {len(prompt)} tokens, but the context has room for "
                f"{config.context_length}; shorten it, or keep only its end (--truncate left)"
            )
        for token in (min(prompt), max(prompt)):
            check_range("a token of the prompt", token, 0, vocab_size - 1)
    if sampling.top_k > vocab_size:
        top_k = f"top_k is {sampling.top_k}, but there are only {vocab_size} tokens"
        warnings.warn(f"{top_k}; all of them remain", stacklevel=3)
