"""The compiled programs of a batch of slots; none of their shapes depends on what is served."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Shaped

from jaxgpt.config import ModelConfig
from jaxgpt.generation.sampling import SamplingRows, sample
from jaxgpt.model.attention import AttentionInForce
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.layers import Params
from jaxgpt.serving.engine_types import MAX_TOP_LOGPROBS

NOTHING, ENDED, FAILED = -1, -2, -3
"""In place of a token: a slot that writes nothing; an end-of-text token; logits that are no
numbers."""


class Rows(NamedTuple):
    """Texts of B slots between two tokens, and how each is to go on."""

    newest: Shaped[Any, " B"]
    """The last token, which is not yet in the cache."""
    length: Shaped[Any, " B"]
    """Tokens of prompt and answer."""
    made: Shaped[Any, " B"]
    """Tokens of the answer."""
    limit: Shaped[Any, " B"]
    """The most of them."""
    writing: Shaped[Any, " B"]
    """Whether the slot writes; of those that do not, the cache stays as it is."""
    seed: Shaped[Any, " B"]
    sample_index: Shaped[Any, " B"]
    ignore_end: Shaped[Any, " B"]
    logprobs: Shaped[Any, " B"]
    """Whether log-probabilities are asked for."""
    sampling: SamplingRows


class Written(NamedTuple):
    """Up to N new tokens of each slot, and the log-probabilities of those and the N likeliest."""

    tokens: Shaped[Any, "B N"]
    logprobs: Shaped[Any, "B N"]
    top_ids: Shaped[Any, "B N A"]
    top_logprobs: Shaped[Any, "B N A"]


@functools.partial(jax.jit, static_argnames=("config", "attention"), donate_argnames="cache")
def take_in(
    params: Params,
    cache: list[Any],
    slot: Int[Array, ""],
    tokens: Int[Array, " T"],
    start: Int[Array, ""],
    count: Int[Array, ""],
    *,
    config: ModelConfig,
    attention: AttentionInForce,
) -> list[Any]:
    """The cache with a chunk of a prompt in one slot: the first `count` of T, from `start` on."""
    del attention
    row = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, slot, 1), cache)
    model = GPT(config, params)
    _, row = model.decode(tokens[None], row, start[None], count[None] - 1)
    return _put(cache, row, slot)


@functools.partial(jax.jit, static_argnames=("config", "length"), donate_argnames="cache")
def begin(
    cache: list[Any],
    slot: Int[Array, ""],
    source: Int[Array, ""],
    *,
    config: ModelConfig,
    length: int,
) -> list[Any]:
    """The cache with a copy of the slot `source` in `slot`; of none below 0, as before a text."""
    row = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, source, 1), cache)
    new = init_cache(config, 1, length, jax.tree.leaves(cache)[0].dtype)
    return _put(cache, jax.tree.map(lambda a, b: jnp.where(source < 0, b, a), row, new), slot)


@functools.partial(jax.jit, donate_argnames="seen")
def mark(
    seen: Bool[Array, "B V"], slot: Int[Array, ""], tokens: Int[Array, " S"]
) -> Bool[Array, "B V"]:
    """What has occurred, with a slot's as in its prompt; ids from V on are padding."""
    return seen.at[slot].set(False).at[slot, tokens].set(True)


@functools.partial(
    jax.jit, static_argnames=("config", "attention", "most"), donate_argnames=("cache", "seen")
)
def decode(
    params: Params,
    cache: list[Any],
    seen: Bool[Array, "B V"],
    rows: Rows,
    steps: Int[Array, ""],
    ends: Int[Array, " E"],
    *,
    config: ModelConfig,
    attention: AttentionInForce,
    most: int,
) -> tuple[Written, list[Any], Bool[Array, "B V"]]:
    """Up to `steps` new tokens of each slot that writes, with room for `most`."""
    del attention
    batch, vocab_size = seen.shape
    model, row = GPT(config, params), jnp.arange(batch)
    keys = jax.vmap(lambda seed, index: jax.random.fold_in(jax.random.key(seed), index))(
        jnp.asarray(rows.seed), jnp.asarray(rows.sample_index)
    )

    def unfinished(state: tuple) -> Bool[Array, ""]:
        step, rows, *_ = state
        return (step < steps) & rows.writing.any()

    def write(state: tuple) -> tuple:
        step, rows, cache, seen, written = state
        # Past the cache's end nothing is kept, and of padding nothing is in a ring.
        start = jnp.where(rows.writing, rows.length - 1, config.context_length)
        last = jnp.where(rows.writing, 0, -1)
        logits, cache = model.decode(rows.newest[:, None], cache, start, last)
        logits = logits[:, :vocab_size]
        rngs = jax.vmap(jax.random.fold_in)(keys, rows.made)
        tokens = sample(logits, seen, rngs, rows.sampling).astype(jnp.int32)
        failed = ~jnp.isfinite(logits.max(axis=-1))
        ended = ~rows.ignore_end & (tokens[:, None] == ends).any(axis=1)
        goes_on = rows.writing & ~failed & ~ended
        shown = jnp.where(failed, FAILED, jnp.where(ended, ENDED, tokens))
        shown = jnp.where(rows.writing, shown, NOTHING)
        likelihoods = _likelihoods(logits, tokens, rows.logprobs & goes_on)
        written = jax.tree.map(
            lambda all, new: all.at[:, step].set(new), written, Written(shown, *likelihoods)
        )
        seen = seen.at[row, jnp.where(goes_on, tokens, vocab_size)].set(True)
        rows = rows._replace(
            newest=jnp.where(goes_on, tokens, rows.newest),
            length=rows.length + goes_on,
            made=rows.made + goes_on,
            writing=goes_on & (rows.made + 1 < rows.limit),
        )
        return step + 1, rows, cache, seen, written

    tops = min(MAX_TOP_LOGPROBS, vocab_size)
    written = Written(
        jnp.full((batch, most), NOTHING, jnp.int32),
        jnp.zeros((batch, most)),
        jnp.zeros((batch, most, tops), jnp.int32),
        jnp.zeros((batch, most, tops)),
    )
    rows = jax.tree.map(jnp.asarray, rows)
    *_, cache, seen, written = jax.lax.while_loop(
        unfinished, write, (jnp.int32(0), rows, cache, seen, written)
    )
    return written, cache, seen


def _likelihoods(
    logits: Float[Array, "B V"], tokens: Int[Array, " B"], wanted: Bool[Array, " B"]
) -> tuple[Float[Array, " B"], Int[Array, "B A"], Float[Array, "B A"]]:
    """Log-probability of each row's token, and the likeliest ones with theirs, if any row asks."""
    tops = min(MAX_TOP_LOGPROBS, logits.shape[1])

    def known(logits: Array) -> tuple[Array, Array, Array]:
        logprobs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        values, ids = jax.lax.top_k(logprobs, tops)
        own = jnp.take_along_axis(logprobs, tokens[:, None], axis=1)[:, 0]
        return own, ids.astype(jnp.int32), values

    def unknown(logits: Array) -> tuple[Array, Array, Array]:
        none = jnp.zeros((len(logits), tops))
        return none[:, 0], none.astype(jnp.int32), none

    return jax.lax.cond(wanted.any(), known, unknown, logits)


def _put(cache: list[Any], row: list[Any], slot: Int[Array, ""]) -> list[Any]:
    return jax.tree.map(
        lambda all, own: jax.lax.dynamic_update_slice_in_dim(all, own, slot, 0), cache, row
    )
