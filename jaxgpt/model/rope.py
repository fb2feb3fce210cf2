"""Rotary positions: queries and keys turn by angles that grow with their position."""

import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.config import Rope

Turns = tuple[Float[Array, "*P T K2"], Float[Array, "*P T K2"]]
"""Cosines and sines of the angles of each position, one for each pair of numbers; K2 is K / 2.

P is nothing, where all rows have the same positions.
"""


def turns(positions: Int[Array, "*B T"], rope: Rope, width: int, *, local: bool = False) -> Turns:
    """Turns of heads of `width` at `positions`, in layers with a window where `local`.

    Angles are float32, as of the models that were trained so (Su et al. 2021).
    """
    scaled = rope.rope_scale_local or not local
    base = (local and rope.rope_local_base) or rope.rope_base
    frequencies, size = _frequencies(rope, base, width) if scaled else (_plain(base, width), 1.0)
    angles = positions[..., None].astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    return jnp.cos(angles) * size, jnp.sin(angles) * size


def turn(x: Float[Array, "B H T K"], by: Turns) -> Float[Array, "B H T K"]:
    """Queries or keys, turned: number i and number i + K / 2 are a pair.

    Computed in float32 whatever the dtype of `x`, which the result keeps.
    """
    # Turns of one row of positions have no axis of rows; all lack the axis of heads.
    cosines, sines = (part if part.ndim == 2 else part[:, None] for part in by)
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    turned = (first * cosines - second * sines, second * cosines + first * sines)
    return jnp.concatenate(turned, axis=-1).astype(x.dtype)


def _plain(base: float, width: int) -> np.ndarray:
    return base ** (-np.arange(0, width, 2) / width)


def _frequencies(rope: Rope, base: float, width: int) -> tuple[np.ndarray, float]:
    """Frequencies for contexts longer than those of training, and what cosines are times."""
    plain, factor = _plain(base, width), rope.rope_factor
    match rope.rope_scaling:
        case "linear":  # Chen et al. 2023
            return plain / factor, 1.0
        case "llama3":  # Llama 3.1: only wavelengths that training did not see whole
            low, high = rope.rope_low_frequency, rope.rope_high_frequency
            seen = rope.rope_original_context * plain / (2 * math.pi)
            share = np.clip((seen - low) / (high - low), 0, 1)
            return (1 - share) * plain / factor + share * plain, 1.0
        case "yarn":  # Peng et al. 2023
            low, high = _yarn_range(rope, base, width)
            ramp = np.clip((np.arange(width // 2) - low) / max(high - low, 1e-3), 0, 1)
            size = rope.rope_attention_factor or 0.1 * math.log(max(factor, 1.0)) + 1
            return plain * (1 - ramp) + plain / factor * ramp, size
    return plain, 1.0


def _yarn_range(rope: Rope, base: float, width: int) -> tuple[float, float]:
    """The pairs between which YaRN goes from a frequency as it was to one that is divided."""

    def pair(rotations: float) -> float:
        ratio = rope.rope_original_context / (2 * math.pi * rotations)
        return width * math.log(ratio) / (2 * math.log(base))

    low, high = pair(rope.rope_beta_fast), pair(rope.rope_beta_slow)
    if rope.rope_truncate:
        low, high = math.floor(low), math.ceil(high)
    return float(max(low, 0)), float(min(high, width - 1))
