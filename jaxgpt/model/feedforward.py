"""The feed-forward network of a block: each token by itself, through a wider layer."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxgpt.model.layers import Gelu, Params, gelu, linear
from jaxgpt.model.record import Record, unrecorded


def feed_forward(
    x: Float[Array, "*B D"],
    *,
    up: Params,
    down: Params,
    gate: Params | None = None,
    form: Gelu = "tanh",
    activation: Literal["gelu", "silu", "clamped"] = "gelu",
    limit: float = 7.0,
    alpha: float = 1.702,
    linear: Callable[..., Array] = linear,
    record: Record = unrecorded,
) -> Float[Array, "*B D"]:
    """Feed-forward network `down(gelu(up(x)))`, D -> F -> D (Vaswani et al. 2017; GPT's GELU).

    With a `gate`, `down(activation(gate(x)) * up(x))` (Shazeer 2020); where it is `clamped`, of
    what is at most `limit`, `g sigmoid(alpha g) * (up(x) + 1)` (gpt-oss).
    """
    wide = record("up", linear(x, **up))
    opened = wide if gate is None else record("gate", linear(x, **gate))
    if activation == "clamped":
        opened, wide = jnp.minimum(opened, limit), jnp.clip(wide, -limit, limit) + 1
        opened = opened * jax.nn.sigmoid(alpha * opened)
    else:
        opened = jax.nn.silu(opened) if activation == "silu" else gelu(opened, form)
    hidden = record("hidden", opened if gate is None else opened * wide)
    return record("out", linear(hidden, **down))
