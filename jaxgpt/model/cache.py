"""Keys and values of earlier tokens, which decoding keeps."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

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
    places = start[:, None] + jnp.arange(keys.shape[2])
    # Indexed by head too: as a slice of all heads, XLA:CPU copies the cache where B is 1.
    rows, heads = jnp.arange(keys.shape[0])[:, None, None], jnp.arange(keys.shape[1])[:, None]
    return (
        cache[0].at[rows, heads, places[:, None]].set(keys),
        cache[1].at[rows, heads, places[:, None]].set(values),
    )
