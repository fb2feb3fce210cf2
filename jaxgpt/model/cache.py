"""Keys and values of earlier tokens, which decoding keeps: all, or those that a window reaches."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.model.schema import dimensions

KeyValueCache = tuple[Float[Array, "B G S K"], Float[Array, "B G S K"]]
"""One layer's keys and values of the tokens so far, with room for S."""


def key_value_cache(config: ModelConfig, rows: int, length: int, dtype: Any) -> KeyValueCache:
    """One layer's key-value cache, empty, of `rows` sequences of up to `length` tokens."""
    sizes = dimensions(config)
    shape = (rows, sizes["G"], length, sizes["K"])
    return jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)


def update_cache(
    cache: KeyValueCache,
    keys: Float[Array, "B G T K"],
    values: Float[Array, "B G T K"],
    start: Int[Array, " B"],
) -> KeyValueCache:
    """The cache with T new keys and values of each row in the places from `start[b]` on."""
    return _put(cache, keys, values, start[:, None] + jnp.arange(keys.shape[2]))


def update_ring(
    cache: KeyValueCache,
    keys: Float[Array, "B G T K"],
    values: Float[Array, "B G T K"],
    start: Int[Array, " B"],
    real: Bool[Array, "B T"],
) -> tuple[KeyValueCache, Float[Array, "B G N K"], Float[Array, "B G N K"], Int[Array, "B N"]]:
    """Ring cache of a layer with a window, updated; and N keys and values that T tokens may meet.

    A token's slot is its position modulo S: there it replaces the one that the window has left
    behind. Tokens that are not `real`, the last of a row, are not kept. Last come the positions of
    what is met, below 0 where there is nothing yet.
    """
    slots, new, first = cache[0].shape[2], jnp.arange(keys.shape[2]), start[:, None]
    kept = real & (new >= real.sum(axis=1, keepdims=True) - slots)
    # What is put outside of the cache is dropped.
    after = _put(cache, keys, values, jnp.where(kept, (first + new) % slots, slots))
    if len(new) == 1:
        return after, *after, first - (first - jnp.arange(slots)) % slots
    # The first of the new tokens still see what the last of them replace: the ring, oldest first.
    order = ((first + jnp.arange(slots)) % slots)[:, None, :, None]
    all_keys, all_values = (
        jnp.concatenate([jnp.take_along_axis(before, order, axis=2), added], axis=2)
        for before, added in zip(cache, (keys, values), strict=True)
    )
    return after, all_keys, all_values, first + jnp.arange(-slots, len(new))


def _put(cache: KeyValueCache, keys: Array, values: Array, places: Array) -> KeyValueCache:
    # Indexed by head too: as a slice of all heads, XLA:CPU copies the cache where B is 1.
    rows, heads = jnp.arange(keys.shape[0])[:, None, None], jnp.arange(keys.shape[1])[:, None]
    return (
        cache[0].at[rows, heads, places[:, None]].set(keys),
        cache[1].at[rows, heads, places[:, None]].set(values),
    )
