"""Tokens -> vectors, and vectors -> logits."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.errors import ConfigError
from jaxgpt.model.agreement import check_ids
from jaxgpt.model.layers import Params, linear


def embed(
    tokens: Int[Array, "*B T"],
    *,
    tokens_table: Float[Array, "V D"],
    positions_table: Float[Array, "S D"],
    places: Int[Array, "*B T"] | None = None,
) -> Float[Array, "*B T D"]:
    """The token's row plus the position's row, for each token.

    Positions count from 0 unless `places` are given. Raises ConfigError if T exceeds S, and
    DataError for an id outside [0, V) or a position outside [0, S); a lookup under `jit` cannot
    raise, so there they are checked where data is read.
    """
    check_ids("token id", tokens, len(tokens_table), "; encode with the model's own tokenizer")
    if places is not None:
        check_ids("position", places, len(positions_table), "; take a longer context")
    length, longest = tokens.shape[-1], len(positions_table)
    if length > longest:
        raise ConfigError(f"{length} tokens are longer than context_length {longest}")
    if places is None:
        return tokens_table[tokens] + positions_table[:length]
    return tokens_table[tokens] + positions_table[places]


def places_within(segments: Int[Array, "*B T"]) -> Int[Array, "*B T"]:
    """The position of each token in its text, where several lie in a row, each with its number."""
    places = jnp.arange(segments.shape[-1])
    begins = jnp.diff(segments, axis=-1, prepend=segments[..., :1]) != 0
    return places - jax.lax.cummax(jnp.where(begins, places, 0), axis=segments.ndim - 1)


def sinusoidal_positions(length: int, width: int) -> Float[Array, "T D"]:
    """Fixed position vectors: sines in the even columns, cosines in the odd ones.

    The wavelengths run in a geometric row from 2 pi to 10,000 * 2 pi (Vaswani et al. 2017). `width`
    is even.
    """
    # By NumPy in float64: a float32 angle of 1,000 would be off by 6e-5.
    frequencies = 10_000.0 ** (-np.arange(0, width, 2) / width)
    angles = np.arange(length)[:, None] * frequencies
    waves = np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, width)
    return jnp.asarray(waves, jnp.float32)


def unembed(
    x: Float[Array, "*B D"],
    *,
    tokens_table: Float[Array, "V D"],
    head: Params | None = None,
) -> Float[Array, "*B V"]:
    """Logits: by the head's own `weight` (D, V) if it has one, else by the token table (tied).

    Reading one table twice is what ties the head (Press & Wolf 2017): its gradient is the sum of
    both uses.
    """
    return linear(x, **head) if head is not None else linear(x, weight=tokens_table.T)
