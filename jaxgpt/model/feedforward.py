"""The feed-forward network of a block: each token by itself, through a wider layer."""

from jaxtyping import Array, Float

from jaxgpt.model.layers import Gelu, Params, gelu, linear
from jaxgpt.model.record import Record, unrecorded


def feed_forward(
    x: Float[Array, "*B D"],
    *,
    up: Params,
    down: Params,
    form: Gelu = "tanh",
    record: Record = unrecorded,
) -> Float[Array, "*B D"]:
    """Feed-forward network `down(gelu(up(x)))`, D -> F -> D (Vaswani et al. 2017; GPT's GELU)."""
    hidden = record("hidden", gelu(record("up", linear(x, **up)), form))
    return record("out", linear(hidden, **down))
