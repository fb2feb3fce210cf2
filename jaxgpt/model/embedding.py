"""Tokens -> vectors, and vectors -> logits."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.errors import ConfigError
from jaxgpt.model.agreement import check_ids
from jaxgpt.model.layers import Params, linear
from jaxgpt.model.narrow import NarrowTable


def embed(
    tokens: Int[Array, "*B T"],
    *,
    tokens_table: Float[Array, "V D"] | NarrowTable,
    positions_table: Float[Array, "S D"] | None,
    positions: Int[Array, "*B T"] | None = None,
) -> Float[Array, "*B T D"]:
    """Token and position embedding: the sum of the two rows, for each token.

    Positions count from 0 unless `positions` are given; a table of None adds nothing. Raises
    ConfigError if T exceeds S, and DataError for an id outside [0, V) or a position outside [0, S);
    a lookup under `jit` cannot raise, so there they are checked where data is read.
    """
    check_ids("token id", tokens, len(tokens_table), "; encode with the model's own tokenizer")
    if positions_table is None:
        return tokens_table[tokens]
    if positions is not None:
        check_ids("position", positions, len(positions_table), "; take a longer context")
    check_length(tokens, len(positions_table))
    if positions is None:
        return tokens_table[tokens] + positions_table[: tokens.shape[-1]]
    return tokens_table[tokens] + positions_table[positions]


def check_length(tokens: Int[Array, "*B T"], longest: int) -> None:
    """Raise ConfigError if T exceeds the context length."""
    if tokens.shape[-1] > longest:
        raise ConfigError(f"{tokens.shape[-1]} tokens are longer than context_length {longest}")


def positions_within(segments: Int[Array, "*B T"]) -> Int[Array, "*B T"]:
    """Position of each token in its text, where several texts are packed into a row."""
    positions = jnp.arange(segments.shape[-1])
    begins = jnp.diff(segments, axis=-1, prepend=segments[..., :1]) != 0
    return positions - jax.lax.cummax(jnp.where(begins, positions, 0), axis=segments.ndim - 1)


def sinusoidal_positions(length: int, width: int) -> Float[Array, "T D"]:
    """Sinusoidal position vectors: sines in the even columns, cosines in the odd ones.

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
    tokens_table: Float[Array, "V D"] | NarrowTable,
    head: Params | None = None,
) -> Float[Array, "*B V"]:
    """Output head, x -> logits: by its own `weight` (D, V), else by the token table (tied).

    Reading one table twice is what ties the head (Press & Wolf 2017): its gradient is the sum of
    both uses.
    """
    return linear(x, **head) if head is not None else linear(x, weight=tokens_table.T)
