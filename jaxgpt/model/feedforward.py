"""The feed-forward network of a block: each token by itself, through a wider layer."""

import jax
from jaxtyping import Array, Float, PRNGKeyArray

from jaxgpt.model.layers import Gelu, Params, gelu, init_linear, linear


def feed_forward(
    x: Float[Array, "*B D"], *, up: Params, down: Params, form: Gelu = "tanh"
) -> Float[Array, "*B D"]:
    """`down(gelu(up(x)))`: D -> F -> D (Vaswani et al. 2017, with GPT's GELU)."""
    return linear(gelu(linear(x, **up), form), **down)


def init_feed_forward(key: PRNGKeyArray, width: int, hidden: int, *, out_std: float) -> Params:
    """`up` (D, F) and `down` (F, D); `out_std` is for `down`, which writes into the residual."""
    up_key, down_key = jax.random.split(key)
    return {
        "up": init_linear(up_key, width, hidden),
        "down": init_linear(down_key, hidden, width, std=out_std),
    }
