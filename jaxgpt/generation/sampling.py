"""Logits -> token: filters, then a draw. Pure functions of whole batches."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt.generation.settings import SamplingConfig

__all__ = ["SamplingConfig", "filter_logits", "likeliest", "sample"]


def filter_logits(
    logits: Float[Array, "B V"], config: SamplingConfig, seen: Bool[Array, "B V"]
) -> Float[Array, "B V"]:
    """The logits to draw from, float32, with -inf for the tokens that are ruled out.

    `seen` marks the tokens that occurred in a row, in its prompt or after it. The order is Hugging
    Face's: repetition penalty, temperature, top-k, top-p, min-p, each on what the one before left.
    Temperature 0 scales nothing.
    """
    logits = logits.astype(jnp.float32)
    if config.repetition_penalty != 1:
        penalty = config.repetition_penalty
        lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
        logits = jnp.where(seen, lowered, logits)
    if config.temperature > 0:
        logits = logits / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        kept = likeliest(logits, jnp.ones_like(logits), float(config.top_k))
        logits = jnp.where(kept, logits, -jnp.inf)
    if config.top_p < 1:
        kept = likeliest(logits, jax.nn.softmax(logits, axis=-1), config.top_p)
        logits = jnp.where(kept, logits, -jnp.inf)
    if config.min_p > 0:
        floor = logits.max(axis=-1, keepdims=True) + math.log(config.min_p)
        logits = jnp.where(logits >= floor, logits, -jnp.inf)
    return logits


def likeliest(
    logits: Float[Array, "B V"], weights: Float[Array, "B V"], target: float
) -> Bool[Array, "B V"]:
    """The fewest tokens of the highest logits whose weights sum to `target` or more.

    Equal logits share one fate. All tokens remain where the sum of all falls short of `target`.

    Sorting V logits takes as long as GPT-2 itself takes for a token on a CPU, so the lowest logit
    that remains is searched for instead: bit by bit, in 32 sums.
    """
    top_bit = jnp.uint32(1 << 31)
    bits = jax.lax.bitcast_convert_type(logits, jnp.uint32)
    # Flipped so, the bits of floats are in the order of the floats.
    ranks = jnp.where(bits & top_bit, ~bits, bits | top_bit)

    def refine(place: Array, lowest: Array) -> Array:
        higher = lowest | (top_bit >> place)
        total = jnp.where(ranks >= higher, weights, 0).sum(axis=-1, keepdims=True)
        # A target that float32 rounds to 0 still keeps the likeliest token.
        return jnp.where((total >= target) & (total > 0), higher, lowest)

    places = jnp.uint32(0), jnp.uint32(32)
    return ranks >= jax.lax.fori_loop(*places, refine, jnp.zeros_like(ranks[:, :1]))


def sample(
    logits: Float[Array, "B V"],
    seen: Bool[Array, "B V"],
    rngs: Key[Array, " B"],
    config: SamplingConfig,
) -> Int[Array, " B"]:
    """One token for each row, drawn with the row's own key; temperature 0 takes the largest logit.

    A draw adds Gumbel noise and takes the largest, so a token at -inf can never come.
    """
    logits = filter_logits(logits, config, seen)
    if config.temperature == 0:
        return jnp.argmax(logits, axis=-1)
    return jax.vmap(jax.random.categorical)(rngs, logits)
