"""Attention in four steps, each built on the one before; then the same with a cache.

1. `simplified_attention`: every vector becomes a mean of all, weighted by dot products.
2. `self_attention`: trainable queries, keys and values.
3. `causal_attention`: no look at the future, and dropout.
4. `multi_head_attention_by_heads`, several of those side by side; and `multi_head_attention`, the
   same in one product, which is what the model runs.

Vaswani et al. 2017, "Attention Is All You Need".
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxgpt.errors import ConfigError
from jaxgpt.model.agreement import check_rank
from jaxgpt.model.attention_kernels import KERNELS, Attention, choose_attention
from jaxgpt.model.cache import KeyValueCache, update_cache
from jaxgpt.model.layers import Params, Rate, dropout, linear
from jaxgpt.model.record import Record, recorded, shaped, unrecorded

_CHUNK = 64  # queries; the fastest on CPU of 32, 64, 128 and 256
_MOST_CHUNKS = 8  # more would lengthen compilation for little


def attention_weights(
    queries: Float[Array, "*B T K"],
    keys: Float[Array, "*B S K"],
    *,
    scale: float = 1.0,
    mask: Bool[Array, "*#B T S"] | None = None,
    record: Record = unrecorded,
) -> Float[Array, "*B T S"]:
    """Attention weights: the softmax of the scaled dot products of queries and keys.

    Rows sum to 1; where `mask` is False the weight is 0. Softmax in float32.
    """
    scores = record("scores", (queries @ keys.mT).astype(jnp.float32) * scale)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    return record("weights", jax.nn.softmax(scores, axis=-1).astype(queries.dtype))


def causal_mask(length: int) -> Bool[Array, "T T"]:
    """Causal mask: True where a token (row) may attend to another (column), itself or earlier."""
    return jnp.tril(jnp.ones((length, length), dtype=bool))


def simplified_attention(x: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
    """Self-attention, variant 1: each vector becomes the mean of all, weighted by dot products."""
    return attention_weights(x, x) @ x


def self_attention(
    x: Float[Array, "*B T D"], *, query: Params, key: Params, value: Params
) -> Float[Array, "*B T K"]:
    """Self-attention, variant 2: queries, keys and values are trainable linear maps of `x`.

    Dividing by the root of K keeps the scores' variance near 1.
    """
    queries, keys, values = linear(x, **query), linear(x, **key), linear(x, **value)
    return attention_weights(queries, keys, scale=_scale(queries)) @ values


def causal_attention(
    x: Float[Array, "*B T D"],
    *,
    query: Params,
    key: Params,
    value: Params,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "*B T K"]:
    """Causal self-attention, variant 3: over itself and the past, with dropout on the weights."""
    queries, keys, values = linear(x, **query), linear(x, **key), linear(x, **value)
    mask = causal_mask(x.shape[-2])
    weights = attention_weights(queries, keys, scale=_scale(queries), mask=mask)
    return dropout(weights, dropout_rate, rng) @ values


def multi_head_attention_by_heads(
    x: Float[Array, "*B T D"],
    *,
    heads: list[Params],
    out: Params | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "*B T E"]:
    """Multi-head attention, variant 4a: a `causal_attention` for each head, then `out`.

    `heads` holds the query, key and value of each; E is H times K, or the width of `out`.
    """
    rngs = [None] * len(heads) if rng is None else list(jax.random.split(rng, len(heads)))
    contexts = [
        causal_attention(x, **head, dropout_rate=dropout_rate, rng=head_rng)
        for head, head_rng in zip(heads, rngs, strict=True)
    ]
    joined = jnp.concatenate(contexts, axis=-1)
    return joined if out is None else linear(joined, **out)


def multi_head_attention(
    x: Float[Array, "*B T D"],
    *,
    qkv: Params,
    out: Params,
    num_heads: int,
    num_kv_heads: int = 0,
    attention: Attention = "auto",
    segments: Int[Array, "*B T"] | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
    record: Record = unrecorded,
) -> Float[Array, "*B T E"]:
    """Multi-head attention, variant 4b: all heads at once, their inputs from one product.

    The columns of `qkv` are queries, keys, values, each with the heads in order, as in GPT-2. E is
    the width of `out`, in a block that of `x`. Of `num_kv_heads` heads of keys and values, each
    serves several of queries (Ainslie et al. 2023); 0 is one for each. Where several texts lie in
    one row, `segments` tells them apart, and none sees another. `record` sees `qkv`, `q`, `k`, `v`,
    `scores`, `weights`, `context` and `out`. Raises as `choose_attention` does, and ConfigError for
    heads that do not divide the columns.
    """
    queries, keys, values = _recorded_heads(linear(x, **qkv), num_heads, num_kv_heads, record)
    keys, values = share_heads(keys, num_heads), share_heads(values, num_heads)
    rate = 0.0 if rng is None else dropout_rate
    if recorded(record) or (attention == "auto" and attention_in_force() != _OWN):
        attention = "chunked"  # a kernel shows no weights, nor what has been put in its place
    kernel = choose_attention(
        attention, queries.shape, queries.dtype, dropout_rate=rate, packed=segments is not None
    )
    if kernel == "chunked":
        rows = None if segments is None else segments.reshape(-1, segments.shape[-1])
        contexts = attend_causally(
            *(queries, keys, values),
            segments=rows,
            dropout_rate=rate,
            rng=rng,
            **recorded(record),
        )
    else:
        contexts = KERNELS[kernel](queries, keys, values)
    contexts = join_heads(record("context", contexts)).reshape(*x.shape[:-1], -1)
    return record("out", linear(contexts, **out))


def attend_causally(
    queries: Float[Array, "B H T K"],
    keys: Float[Array, "B H S K"],
    values: Float[Array, "B H S K"],
    *,
    start: Int[Array, " B"] | None = None,
    segments: Int[Array, "B T"] | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
    record: Record = unrecorded,
) -> Float[Array, "B H T K"]:
    """Causal attention for all heads, one chunk of queries after another; S is T.

    Each chunk meets only the keys up to its own end, so that most of the masked half is never
    computed and the weights stay in the processor's cache, forward and backward. With `segments`,
    a query meets only the keys of its own. With `start`, as in decoding, row b's queries stand at
    position `start[b]` and after among S keys, and there is no dropout. What replaces this function
    in its module computes training, decoding and recording alike. Where there is something to
    `record`, all queries are one chunk.
    """
    if start is not None:
        return _attend_from(start, queries, keys, values, record)
    length = queries.shape[2]
    chunk = max(_CHUNK, math.ceil(length / _MOST_CHUNKS)) if record is unrecorded else length
    starts = range(0, length, chunk)
    rngs = [None] * len(starts) if rng is None else list(jax.random.split(rng, len(starts)))
    contexts = []
    for first, chunk_rng in zip(starts, rngs, strict=True):
        end = min(first + chunk, length)
        mask = jnp.arange(end) <= jnp.arange(first, end)[:, None]
        if segments is not None:
            mask &= segments[:, None, first:end, None] == segments[:, None, None, :end]
        weights = attention_weights(
            *(queries[:, :, first:end], keys[:, :, :end]),
            scale=_scale(queries),
            mask=mask,
            **recorded(record),
        )
        contexts.append(dropout(weights, dropout_rate, chunk_rng) @ values[:, :, :end])
    return jnp.concatenate(contexts, axis=2)


def _attend_from(
    start: Int[Array, " B"],
    queries: Float[Array, "B H T K"],
    keys: Float[Array, "B H S K"],
    values: Float[Array, "B H S K"],
    record: Record,
) -> Float[Array, "B H T K"]:
    num_heads, length = queries.shape[1:3]
    asking = start[:, None] + jnp.arange(length)
    mask = jnp.repeat(jnp.arange(keys.shape[2]) <= asking[..., None], num_heads, axis=0)
    # Rows and heads on one axis: on two, XLA:CPU copies all keys for each token where B is 1.
    flat = [array.reshape(-1, *array.shape[2:]) for array in (queries, keys, values)]
    by_head = shaped(record, (len(queries), num_heads, length, keys.shape[2]))
    weights = attention_weights(
        flat[0], flat[1], scale=_scale(queries), mask=mask, **recorded(by_head)
    )
    return (weights @ flat[2]).reshape(queries.shape)


AttentionInForce = tuple[Callable[..., Array], Callable[..., Array]]


def attention_in_force() -> AttentionInForce:
    """The two functions that compute attention in this module, which others may have replaced.

    Whoever keeps a compiled program keeps it by these.
    """
    return attend_causally, attention_weights


_OWN = attention_in_force()


def cached_attention(
    x: Float[Array, "B T D"],
    cache: KeyValueCache,
    start: Int[Array, " B"],
    *,
    qkv: Params,
    out: Params,
    num_heads: int,
    num_kv_heads: int = 0,
    record: Record = unrecorded,
) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """`multi_head_attention` of T new tokens, of which row b begins at position `start[b]`.

    Their keys and values are written into the cache's places from `start` on; each new token sees
    every one up to its own. Places after that may hold anything, so padding on the right of a
    prompt needs no mask. `start + T` must not exceed S.
    """
    check_rank("x", x, "B T D")
    projected = linear(x, **qkv)
    queries, new_keys, new_values = _recorded_heads(projected, num_heads, num_kv_heads, record)
    cache = update_cache(cache, new_keys, new_values, start)
    shared = (share_heads(part, num_heads) for part in cache)
    contexts = attend_causally(queries, *shared, start=start, **recorded(record))
    contexts = join_heads(record("context", contexts))
    return record("out", linear(contexts, **out)), cache


def _scale(queries: Array) -> float:
    return 1 / math.sqrt(queries.shape[-1])


def split_heads(
    qkv: Float[Array, "*B T E"], num_heads: int, num_kv_heads: int = 0
) -> list[Float[Array, "R _ T K"]]:
    """Queries (R, H, T, K), keys and values (R, G, T, K) from their columns side by side.

    Raises ConfigError for heads that do not divide the columns.
    """
    groups = num_kv_heads or num_heads
    count = num_heads + 2 * groups
    if qkv.ndim < 2 or qkv.shape[-1] % count:
        raise ConfigError(
            f"queries, keys and values have shape {qkv.shape}; it must be (T, E) or (B, T, E), "
            f"where E is a multiple of {count}: {num_heads} heads of queries, {groups} of keys and "
            f"{groups} of values"
        )
    rows = qkv.reshape(-1, *qkv.shape[-2:])
    heads = rows.reshape(*rows.shape[:2], count, rows.shape[2] // count)
    # Cut, then transposed: where a kernel wants tokens before heads, XLA then moves nothing.
    parts = jnp.split(heads, [num_heads, num_heads + groups], axis=2)
    return [part.swapaxes(1, 2) for part in parts]


def _recorded_heads(
    qkv: Float[Array, "*B T E"], num_heads: int, num_kv_heads: int, record: Record
) -> list[Float[Array, "R _ T K"]]:
    parts = split_heads(record("qkv", qkv), num_heads, num_kv_heads)
    return [record(name, part) for name, part in zip("qkv", parts, strict=True)]


def share_heads(x: Float[Array, "B G T K"], num_heads: int) -> Float[Array, "B H T K"]:
    """Keys or values for each head of queries, where one of G serves H / G of them."""
    return x if x.shape[1] == num_heads else jnp.repeat(x, num_heads // x.shape[1], axis=1)


def join_heads(x: Float[Array, "B H T K"]) -> Float[Array, "B T C"]:
    """What the heads bring together, side by side."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)
