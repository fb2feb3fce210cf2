"""The pre-norm block, and L of them in a row."""

from collections.abc import Iterator
from typing import Any

import jax
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention import (
    KeyValueCache,
    cached_attention,
    multi_head_attention,
)
from jaxgpt.model.attention_kernels import Attention, keep_products_and_kernels
from jaxgpt.model.feedforward import feed_forward
from jaxgpt.model.layers import Gelu, Params, Rate, dropout, layer_norm
from jaxgpt.model.record import Record, unrecorded, within


def block(
    x: Float[Array, "*B T D"],
    *,
    norm1: Params,
    attn: Params,
    norm2: Params,
    mlp: Params,
    num_heads: int,
    num_kv_heads: int = 0,
    gelu: Gelu = "tanh",
    epsilon: float = 1e-5,
    attention: Attention = "auto",
    segments: Int[Array, "*B T"] | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
    cache: KeyValueCache | None = None,
    start: Int[Array, " B"] | None = None,
    record: Record = unrecorded,
) -> tuple[Float[Array, "*B T D"], KeyValueCache | None]:
    """Transformer block, pre-norm: attention, then feed-forward, each added to `x`.

    The sum is the shortcut connection; the norm stands before, not after, as in GPT-2. With a
    `cache`, the T tokens of row b follow the `start[b]` that are in it, and the result has the
    cache with them. `record` sees `norm1`, `attn.*`, `middle`, `norm2`, `mlp.*` and `out`; see
    `recorded_names`. Raises ConfigError for a cache without `start`.
    """
    weights_rng, attn_rng, mlp_rng = (None,) * 3 if rng is None else jax.random.split(rng, 3)
    heads: Any = {"num_heads": num_heads, "num_kv_heads": num_kv_heads}
    heads["record"] = within(record, "attn")
    with jax.named_scope("attention"):
        normed = record("norm1", layer_norm(x, **norm1, epsilon=epsilon))
        if cache is not None:
            if start is None:
                raise ConfigError("a cache goes with start, the number of tokens in it of each row")
            attention_output, cache = cached_attention(normed, cache, start, **attn, **heads)
        else:
            attention_output = multi_head_attention(
                normed,
                **attn,
                **heads,
                attention=attention,
                segments=segments,
                dropout_rate=dropout_rate,
                rng=weights_rng,
            )
        x = record("middle", x + dropout(attention_output, dropout_rate, attn_rng))
    with jax.named_scope("feed_forward"):
        normed = record("norm2", layer_norm(x, **norm2, epsilon=epsilon))
        mlp_output = feed_forward(normed, **mlp, form=gelu, record=within(record, "mlp"))
        return record("out", x + dropout(mlp_output, dropout_rate, mlp_rng)), cache


def stack(
    x: Float[Array, "*B T D"],
    blocks: Params | tuple[Params, ...],
    config: ModelConfig,
    *,
    rng: PRNGKeyArray | None = None,
    attention: Attention = "auto",
    segments: Int[Array, "*B T"] | None = None,
    remat: bool = False,
    unroll: int = 1,
    record: Record = unrecorded,
) -> Float[Array, "*B T D"]:
    """Stack of all L blocks, whose parameters have a leading axis, by `jax.lax.scan`.

    Compile time then does not grow with L. The backward pass keeps what linear layers and attention
    kernels computed and computes the cheap rest again, such as norms and GELU; with `remat`, whole
    blocks. `unroll` is how many blocks one turn of the loop holds; from L on, there is no loop.
    Where the blocks come in several parts, there is a loop for each, and no backward pass through
    the first ones if they have no gradient. Where there is something to `record`, as `blocks.i.*`,
    the layers come one after the other.
    """
    settings: dict[str, Any] = block_settings(config) | {
        "attention": attention,
        "segments": segments,
        "dropout_rate": config.dropout,
    }

    def body(x: Array, layer: tuple[Params, PRNGKeyArray | None]) -> tuple[Array, None]:
        params, layer_rng = layer
        return block(x, **params, **settings, rng=layer_rng)[0], None

    rngs = None if rng is None else jax.random.split(rng, config.num_layers)
    if record is not unrecorded:
        for i, params in enumerate(unstack(blocks)):
            layer_rng, inner = None if rngs is None else rngs[i], within(record, f"blocks.{i}")
            x, _ = block(x, **params, **settings, rng=layer_rng, record=inner)
        return x
    # Outside a loop, XLA would take the second computation for the first, and keep that.
    outside, kept = unroll >= config.num_layers, None if remat else keep_products_and_kernels
    body = jax.checkpoint(body, prevent_cse=outside, policy=kept)
    for part in blocks if isinstance(blocks, tuple) else (blocks,):
        count = len(jax.tree.leaves(part)[0])
        part_rngs, rngs = (None, None) if rngs is None else (rngs[:count], rngs[count:])
        x, _ = jax.lax.scan(body, x, (part, part_rngs), unroll=min(unroll, count))
    return x


def block_settings(config: ModelConfig) -> dict[str, Any]:
    """The arguments of `block` that are settings of the model, not parameters."""
    return {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "gelu": config.gelu,
        "epsilon": config.norm_epsilon,
    }


def unstack(blocks: Params | tuple[Params, ...]) -> Iterator[Params]:
    """Parameters of the L blocks one after another, each a copy: before decoding, made once.

    A loop over layers that slices the stacked leaves would copy every weight for every token.
    """
    for part in blocks if isinstance(blocks, tuple) else (blocks,):
        for i in range(len(jax.tree.leaves(part)[0])):
            yield jax.tree.map(lambda leaf, i=i: leaf[i], part)
