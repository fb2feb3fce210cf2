"""One dispatch of decoding: several tokens for each row, without a word to the host."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt.config import ModelConfig
from jaxgpt.generation.prepared_params import DecodingParams
from jaxgpt.generation.sampling import SamplingConfig, sample
from jaxgpt.model.attention import AttentionInForce
from jaxgpt.model.gpt import GPT, init_cache

CACHED_STEPS = 16
"""Tokens in one dispatch: enough to keep a GPU busy, few enough to stop soon and to read along."""
SLIDING_STEPS = 4
"""The same past the context, where a token takes longer."""


class Rows(NamedTuple):
    """B texts between two tokens: the end of each, padded on the right, and what has occurred."""

    window: Int[Array, "B T"]
    length: Int[Array, " B"]
    seen: Bool[Array, "B V"]
    done: Bool[Array, " B"]


@functools.partial(
    jax.jit, static_argnames=("config", "sampling", "attention", "cache_length", "same")
)
def prefill(
    params: DecodingParams,
    rows: Rows,
    keys: Key[Array, " B"],
    ends: Int[Array, " E"],
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
    attention: AttentionInForce,
    cache_length: int,
    same: bool,
) -> tuple[Int[Array, "B 1"], list[Any]]:
    """The first new token of each row, or -1, and a cache that holds the prompts.

    With `same`, all rows begin with the first one's prompt, which is taken in once. `attention` is
    `attention_in_force()`, so that the program is compiled anew where that is replaced.
    """
    del attention
    batch = len(rows.length)
    count = 1 if same else batch
    cache = init_cache(config, count, cache_length, params.dtype)
    start, last = jnp.zeros(count, dtype=jnp.int32), rows.length[:count] - 1
    taken_in = GPT(config, params.as_params()).decode(rows.window[:count], cache, start, last)
    logits, cache = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), taken_in)
    tokens, done = _draw(logits, rows, keys, 0, ends, sampling)
    return jnp.where(done, -1, tokens)[:, None], cache


@functools.partial(jax.jit, static_argnames=("config", "rows", "cache_length"))
def grow(cache: list[Any], *, config: ModelConfig, rows: int, cache_length: int) -> list[Any]:
    """The cache of `rows` with room for `cache_length` tokens, more than it has."""
    wanted = jax.eval_shape(lambda: init_cache(config, rows, cache_length))

    def padded(x: Array, larger: Any) -> Array:
        return jnp.pad(x, [(0, to - at) for at, to in zip(x.shape, larger.shape, strict=True)])

    return jax.tree.map(padded, cache, wanted)


@functools.partial(
    jax.jit, static_argnames=("config", "sampling", "attention"), donate_argnames="cache"
)
def extend(
    params: DecodingParams,
    cache: list[Any],
    rows: Rows,
    keys: Key[Array, " B"],
    made: Int[Array, ""],
    steps: Int[Array, ""],
    ends: Int[Array, " E"],
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
    attention: AttentionInForce,
) -> tuple[Int[Array, "B N"], list[Any]]:
    """Up to `steps` new tokens of each row, then -1, and the cache; past the context that is empty.

    The newest token of a row is not yet in the cache. `attention` is as for `prefill`.
    """
    del attention

    def unfinished(state: tuple) -> Bool[Array, ""]:
        step, rows, _, _ = state
        return (step < steps) & ~rows.done.all()

    def write(state: tuple) -> tuple:
        step, rows, cache, written = state
        logits, cache = _next_logits(config, params, rows, cache)
        tokens, done = _draw(logits, rows, keys, made + step, ends, sampling)
        written = written.at[:, step].set(jnp.where(done, -1, tokens))
        return step + 1, _append(rows, tokens, done), cache, written

    written = jnp.full((len(rows.length), max(CACHED_STEPS, SLIDING_STEPS)), -1, jnp.int32)
    _, _, cache, written = jax.lax.while_loop(unfinished, write, (0, rows, cache, written))
    return written, cache


def _next_logits(
    config: ModelConfig, params: DecodingParams, rows: Rows, cache: list[Any]
) -> tuple[Float[Array, "B V"], list[Any]]:
    model = GPT(config, params.as_params())
    last, zeros = rows.length - 1, jnp.zeros_like(rows.length)
    if cache:
        newest = jnp.take_along_axis(rows.window, last[:, None], axis=1)
        return model.decode(newest, cache, start=last, last=zeros)
    count, width = rows.window.shape
    unused = init_cache(config, count, width, params.dtype)
    return model.decode(rows.window, unused, start=zeros, last=last)[0], cache


def _draw(
    logits: Float[Array, "B V"],
    rows: Rows,
    keys: Key[Array, " B"],
    place: int | Int[Array, ""],
    ends: Int[Array, " E"],
    sampling: SamplingConfig,
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """The token at `place` of each row's output, and which rows have ended."""
    rngs = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    tokens = sample(logits[:, : rows.seen.shape[1]], rows.seen, rngs, sampling)
    return tokens, rows.done | ((tokens[:, None] == ends).any(axis=1))


def _append(rows: Rows, tokens: Int[Array, " B"], done: Bool[Array, " B"]) -> Rows:
    """The rows with one more token each; a full window drops its first."""
    row, width = jnp.arange(len(tokens)), rows.window.shape[1]
    full = (rows.length == width)[:, None]
    window = jnp.where(full, jnp.roll(rows.window, -1, axis=1), rows.window)
    window = window.at[row, jnp.minimum(rows.length, width - 1)].set(tokens)
    length = jnp.minimum(rows.length + 1, width)
    return Rows(window, length, rows.seen.at[row, tokens].set(True), done)
