"""Logits -> token: filters, then a draw. Pure functions of whole batches."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key, Shaped

from jaxgpt.generation.settings import SamplingConfig


class SamplingRows(NamedTuple):
    """The numbers of a `SamplingConfig` for each row, as arrays: other rows, the same program."""

    repetition_penalty: Shaped[Any, " B"]
    temperature: Shaped[Any, " B"]
    top_k: Shaped[Any, " B"]
    top_p: Shaped[Any, " B"]
    min_p: Shaped[Any, " B"]


def filter_logits(
    logits: Float[Array, "B V"],
    config: SamplingConfig | SamplingRows,
    seen: Bool[Array, "B V"],
) -> Float[Array, "B V"]:
    """The logits to draw from, float32, with -inf for the tokens that are ruled out.

    `seen` marks the tokens that occurred in a row, in its prompt or after it. The order is Hugging
    Face's: repetition penalty, temperature, top-k, top-p, min-p, each on what the one before left.
    Temperature 0 scales nothing. A filter that is off in all rows takes no time.
    """
    own: Any = config
    if isinstance(config, SamplingRows):
        own = SamplingRows(*(jnp.asarray(numbers)[:, None] for numbers in config))
    log: Any = math.log if own is config else jnp.log

    def penalized(logits: Array) -> Array:
        penalty = own.repetition_penalty
        lowered = jnp.where(logits > 0, logits / penalty, logits * penalty)
        return jnp.where(seen, lowered, logits)

    def among_k(logits: Array) -> Array:
        target = _where(some_k, 1.0 * own.top_k, jnp.inf)
        return jnp.where(likeliest(logits, jnp.ones_like(logits), target), logits, -jnp.inf)

    def among_p(logits: Array) -> Array:
        target = _where(own.top_p < 1, own.top_p, jnp.inf)
        kept = likeliest(logits, jax.nn.softmax(logits, axis=-1), target)
        return jnp.where(kept, logits, -jnp.inf)

    def likely_enough(logits: Array) -> Array:
        floor = logits.max(axis=-1, keepdims=True) + log(own.min_p)
        return jnp.where(logits >= floor, logits, -jnp.inf)

    warm, some_k = own.temperature > 0, (own.top_k > 0) & (own.top_k < logits.shape[-1])
    logits = logits.astype(jnp.float32)
    logits = _where_any(own.repetition_penalty != 1, penalized, logits)
    logits = _where_any(warm, lambda logits: logits / _where(warm, own.temperature, 1.0), logits)
    logits = _where_any(some_k, among_k, logits)
    logits = _where_any(own.top_p < 1, among_p, logits)
    return _where_any(own.min_p > 0, likely_enough, logits)


def _where(holds: Any, number: Any, otherwise: float) -> Any:
    """The number of each row that it holds of; of one for all rows, which is not traced, that."""
    return number if isinstance(holds, bool) else jnp.where(holds, number, otherwise)


def _where_any(holds: Any, change: Callable[[Array], Array], logits: Array) -> Array:
    """The logits changed, if it holds of any row."""
    if isinstance(holds, bool):
        return change(logits) if holds else logits
    return jax.lax.cond(holds.any(), change, lambda logits: logits, logits)


def likeliest(
    logits: Float[Array, "B V"], weights: Float[Array, "B V"], target: float | Float[Array, "B 1"]
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
    config: SamplingConfig | SamplingRows,
) -> Int[Array, " B"]:
    """One token for each row, drawn with the row's own key; temperature 0 takes the largest logit.

    A draw adds Gumbel noise and takes the largest, so a token at -inf can never come.
    """
    logits = filter_logits(logits, config, seen)

    def draw(rngs: Array, logits: Array) -> Array:
        return jax.vmap(jax.random.categorical)(rngs, logits)

    def take_largest(_: Array, logits: Array) -> Array:
        return jnp.argmax(logits, axis=-1)

    if isinstance(config, SamplingConfig):
        return (draw if config.temperature > 0 else take_largest)(rngs, logits)
    warm = jnp.asarray(config.temperature) > 0
    drawn = jax.lax.cond(warm.any(), draw, take_largest, rngs, logits)
    return jnp.where(warm, drawn, take_largest(rngs, logits))
