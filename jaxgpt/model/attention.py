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
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from jaxgpt.errors import ConfigError
from jaxgpt.model.agreement import check_rank
from jaxgpt.model.attention_kernels import KERNELS, Attention, choose_attention
from jaxgpt.model.cache import KeyValueCache, update_cache, update_ring
from jaxgpt.model.layers import Params, Rate, dropout, linear
from jaxgpt.model.layout import columns_by_tensor, tensor_devices
from jaxgpt.model.products import multiply, multiply_by_rows
from jaxgpt.model.record import Record, recorded, shaped, unrecorded
from jaxgpt.model.rope import Turns, turn

_CHUNK = 64  # queries; the fastest on CPU of 32, 64, 128 and 256
_MOST_CHUNKS = 8  # more would lengthen compilation for little
_MOST_QUERIES = 1024  # at once, so that the scores of a long text take no more memory than it


def attention_weights(
    queries: Float[Array, "*B T K"],
    keys: Float[Array, "*B S K"],
    *,
    scale: float = 1.0,
    mask: Bool[Array, "*#B T S"] | None = None,
    sinks: Float[Array, "*#B T 1"] | None = None,
    record: Record = unrecorded,
) -> Float[Array, "*B T S"]:
    """Attention weights: the softmax of the scaled dot products of queries and keys.

    Rows sum to 1; where `mask` is False the weight is 0. Softmax in float32. With `sinks`, scores
    of nothing, rows sum to what these leave (Xiao et al. 2024).
    """
    scores = record("scores", multiply_by_rows(queries, keys).astype(jnp.float32) * scale)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    if sinks is None:
        return record("weights", jax.nn.softmax(scores, axis=-1).astype(queries.dtype))
    sinks = sinks.astype(jnp.float32)
    largest = jax.lax.stop_gradient(jnp.maximum(scores.max(axis=-1, keepdims=True), sinks))
    powers, rest = jnp.exp(scores - largest), jnp.exp(sinks - largest)
    weights = powers / (powers.sum(axis=-1, keepdims=True) + rest)
    return record("weights", weights.astype(queries.dtype))


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
    **form: Any,
) -> Float[Array, "*B T E"]:
    """Multi-head attention, variant 4b: all heads at once, their inputs from one product.

    The columns of `qkv` are queries, keys, values, each with the heads in order, as in GPT-2. E is
    the width of `out`, in a block that of `x`. Of `num_kv_heads` heads of keys and values, each
    serves several of queries (Ainslie et al. 2023); 0 is one for each. Where several texts lie in
    one row, `segments` tells them apart, and none sees another. `form` is what other models do with
    heads (`prepare_heads`), and the `scale`, `window` and `sinks` of `attend_causally`. `record`
    sees `qkv`, `q`, `k`, `v`, `scores`, `weights`, `context` and `out`. Raises as
    `choose_attention` does, and ConfigError for heads that do not divide the columns.
    """
    queries, keys, values, bounds = prepare_heads(
        linear(x, **head_shares(qkv, num_heads, num_kv_heads)),
        *(num_heads, num_kv_heads),
        record=record,
        **form,
    )
    rate = 0.0 if rng is None else dropout_rate
    if recorded(record) or (attention == "auto" and attention_in_force() != _OWN):
        attention = "chunked"  # a kernel shows no weights, nor what has been put in its place
    kernel = choose_attention(
        *(attention, queries.shape, queries.dtype),
        dropout_rate=rate,
        packed=segments is not None,
        sinks="sinks" in bounds,
    )
    if kernel == "chunked":
        if attention_in_force() != _OWN:
            keys, values = share_heads(keys, num_heads), share_heads(values, num_heads)
        rows = None if segments is None else segments.reshape(-1, segments.shape[-1])
        contexts = attend_causally(
            *(queries, keys, values),
            segments=rows,
            dropout_rate=rate,
            rng=rng,
            **bounds,
            **recorded(record),
        )
    else:
        contexts = KERNELS[kernel](queries, keys, values, **bounds)
    contexts = join_heads(record("context", contexts)).reshape(*x.shape[:-1], -1)
    return record("out", linear(contexts, **out))


def prepare_heads(
    qkv: Float[Array, "*B T E"],
    num_heads: int,
    num_kv_heads: int,
    *,
    query_norm: Params | None = None,
    key_norm: Params | None = None,
    norm: Callable[..., Array] | None = None,
    turns: Turns | None = None,
    record: Record = unrecorded,
    **bounds: Any,
) -> tuple[Float[Array, "R H T K"], Float[Array, "R G T K"], Float[Array, "R G T K"], Any]:
    """Queries, keys and values of all heads from their columns, and the `bounds` as they are.

    The columns are as of `head_shares`. `norm` is taken of queries and keys, over each head or,
    where its scale is as wide, over all of them side by side; then both `turn` (rotary positions).
    Raises as `split_heads` does.
    """
    queries, keys, values = split_heads(
        record("qkv", qkv), num_heads, num_kv_heads, shares=tensor_devices()
    )
    if norm is not None and query_norm is not None and key_norm is not None:
        queries = record("query_norm", norm_heads(queries, norm, query_norm))
        keys = record("key_norm", norm_heads(keys, norm, key_norm))
    if turns is not None:
        queries, keys = turn(queries, turns), turn(keys, turns)
    return record("q", queries), record("k", keys), record("v", values), bounds


def norm_heads(
    x: Float[Array, "R H T K"], norm: Callable[..., Array], params: Params
) -> Float[Array, "R H T K"]:
    """Norm of queries or keys: of each head, or by a scale that is as wide, of all side by side."""
    if params["scale"].shape[-1] == x.shape[-1]:
        return norm(x, **params)
    rows, heads, length, width = x.shape
    return norm(join_heads(x), **params).reshape(rows, length, heads, width).swapaxes(1, 2)


def attend_causally(
    queries: Float[Array, "B H T K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    *,
    start: Int[Array, " B"] | None = None,
    places: Int[Array, "B S"] | None = None,
    segments: Int[Array, "B T"] | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
    scale: float = 0.0,
    window: int = 0,
    sinks: Float[Array, " H"] | None = None,
    record: Record = unrecorded,
) -> Float[Array, "B H T K"]:
    """Causal attention for all heads, one chunk of queries after another; S is T.

    Each chunk meets only the keys up to its own end, so that most of the masked half is never
    computed and the weights stay in the processor's cache, forward and backward. Each of G heads of
    keys and values serves H / G of queries. A `window` is the most keys that a query meets; `scale`
    is 1 over the root of K unless it is given; `sinks` are each head's score of nothing. With
    `segments`, a query meets only the keys of its own. With `start`, as in decoding, row b's
    queries stand at position `start[b]` and after among S keys, and there is no dropout; `places`
    are the positions of the keys, where these are not in order, below 0 of none. What replaces this
    function in its module computes training, decoding and recording alike, on keys and values of H
    heads. Where there is something to `record`, all queries are one chunk.
    """
    scale = scale or _scale(queries)
    if start is not None:
        return _attend_from(start, queries, keys, values, places, scale, window, sinks, record)
    rows, num_heads, length, _ = queries.shape
    shared = num_heads // keys.shape[1]
    chunk = max(_CHUNK, min(_MOST_QUERIES, math.ceil(length / _MOST_CHUNKS)))
    chunk = chunk if record is unrecorded else length
    starts = range(0, length, chunk)
    rngs = [None] * len(starts) if rng is None else list(jax.random.split(rng, len(starts)))
    contexts = []
    for first, chunk_rng in zip(starts, rngs, strict=True):
        end, begin = min(first + chunk, length), max(0, first + 1 - window) if window else 0
        asking = jnp.arange(first, end)[:, None]
        mask = _may_see(asking, jnp.arange(begin, end), window)
        if segments is not None:
            mask &= segments[:, None, first:end, None] == segments[:, None, None, begin:end]
        weights = attention_weights(
            *(_side_by_side(queries[:, :, first:end], shared), keys[:, :, begin:end]),
            scale=scale,
            mask=_for_each(mask, shared),
            **_sunk(sinks, shared, end - first),
            **recorded(shaped(record, (rows, num_heads, end - first, end - begin))),
        )
        weights = dropout(weights, dropout_rate, chunk_rng)
        context = multiply(weights, values[:, :, begin:end])
        contexts.append(context.reshape(rows, num_heads, end - first, -1))
    return jnp.concatenate(contexts, axis=2)


def _may_see(asking: Array, places: Array, window: int) -> Array:
    mask = places <= asking
    # Of what a ring may yet lack, the positions are below 0.
    return mask & (places > jnp.maximum(asking - window, -1)) if window else mask


def _side_by_side(queries: Float[Array, "B H T K"], shared: int) -> Float[Array, "B G X K"]:
    """Queries of the heads that share keys in one row of X = T H / G, so that none is copied."""
    rows, num_heads, length, width = queries.shape
    return queries.reshape(rows, num_heads // shared, shared * length, width)


def _for_each(mask: Bool[Array, "*B T S"], shared: int) -> Bool[Array, "*B X S"]:
    return mask if shared == 1 else jnp.concatenate([mask] * shared, axis=-2)


def _sunk(
    sinks: Float[Array, " H"] | None, shared: int, length: int, rows: int = 0
) -> dict[str, Float[Array, "*#B X 1"]]:
    """Keyword argument `sinks`, where there are any, for queries `_side_by_side`; perhaps flat."""
    if sinks is None:
        return {}
    each = jnp.repeat(sinks.reshape(-1, shared), length, axis=1)[..., None]
    return {"sinks": jnp.tile(each, (rows, 1, 1)) if rows else each}


def _attend_from(
    start: Int[Array, " B"],
    queries: Float[Array, "B H T K"],
    keys: Float[Array, "B G S K"],
    values: Float[Array, "B G S K"],
    places: Int[Array, "B S"] | None,
    scale: float,
    window: int,
    sinks: Float[Array, " H"] | None,
    record: Record,
) -> Float[Array, "B H T K"]:
    (num_heads, length), (groups, room) = queries.shape[1:3], keys.shape[1:3]
    if length > _MOST_QUERIES and record is unrecorded:
        return _attend_in_turns(start, queries, (keys, values, places), (scale, window, sinks))
    shared = num_heads // groups
    asking = (start[:, None] + jnp.arange(length))[..., None]
    mask = _may_see(asking, jnp.arange(room) if places is None else places[:, None], window)
    # Rows and heads on one axis: on two, XLA:CPU copies all keys for each token where B is 1.
    flat = [
        array.reshape(-1, *array.shape[2:])
        for array in (_side_by_side(queries, shared), keys, values)
    ]
    weights = attention_weights(
        *flat[:2],
        scale=scale,
        mask=_for_each(jnp.repeat(mask, groups, axis=0), shared),
        **_sunk(sinks, shared, length, len(queries)),
        **recorded(shaped(record, (len(queries), num_heads, length, room))),
    )
    return (weights @ flat[2]).reshape(queries.shape)


def _attend_in_turns(
    start: Array, queries: Array, met: tuple[Any, Any, Any], bounds: tuple[float, int, Any]
) -> Float[Array, "B H T K"]:
    """The same, some queries after others; of a ring's keys before T new ones, to each its part."""
    (rows, num_heads, length, width), size = queries.shape, _MOST_QUERIES
    turns, part = math.ceil(length / size), met[0].shape[2] - length + size
    queries = jnp.pad(queries, [(0, 0), (0, 0), (0, turns * size - length), (0, 0)])

    def attend(first: Array) -> Array:
        def cut(x: Array, count: int) -> Array:
            return jax.lax.dynamic_slice_in_dim(x, first, count, axis=x.ndim // 2)

        keys, values, places = met if met[2] is None else (cut(x, part) for x in met)
        given = start + first, cut(queries, size), keys, values, places
        return _attend_from(*given, *bounds, unrecorded)

    contexts = jax.lax.map(attend, size * jnp.arange(turns))
    return jnp.moveaxis(contexts, 0, 2).reshape(rows, num_heads, -1, width)[:, :, :length]


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
    segments: Int[Array, "B T"] | None = None,
    record: Record = unrecorded,
    **form: Any,
) -> tuple[Float[Array, "B T D"], KeyValueCache]:
    """`multi_head_attention` of T new tokens, of which row b begins at position `start[b]`.

    Their keys and values are written into the cache's places from `start` on; each new token sees
    every one up to its own. Places after that may hold anything, so padding on the right of a
    prompt needs no mask. `start + T` must not exceed S. With a `window` the cache is a ring, whose
    slots come round (`update_ring`); padding then has a segment other than 0.
    """
    check_rank("x", x, "B T D")
    queries, new_keys, new_values, bounds = prepare_heads(
        linear(x, **head_shares(qkv, num_heads, num_kv_heads)),
        *(num_heads, num_kv_heads),
        record=record,
        **form,
    )
    if bounds.get("window"):
        real = jnp.ones(x.shape[:2], bool) if segments is None else segments == 0
        cache, *met = update_ring(cache, new_keys, new_values, start, real)
        keys, values, bounds["places"] = met
    else:
        keys, values = cache = update_cache(cache, new_keys, new_values, start)
    if attention_in_force() != _OWN:
        keys, values = share_heads(keys, num_heads), share_heads(values, num_heads)
    contexts = attend_causally(queries, keys, values, start=start, **bounds, **recorded(record))
    contexts = join_heads(record("context", contexts))
    return record("out", linear(contexts, **out)), cache


def _scale(queries: Array) -> float:
    return 1 / math.sqrt(queries.shape[-1])


def head_shares(qkv: Params, num_heads: int, num_kv_heads: int) -> Params:
    """The parameters of `qkv`, with those of each `tensor` device's heads side by side, on it.

    Without such devices they are as they were.
    """
    shares, groups = tensor_devices(), num_kv_heads or num_heads
    if shares == 1:
        return qkv

    def arranged(leaf: Array) -> Array:
        inputs = leaf.shape[:-1]
        heads = leaf.reshape(*inputs, num_heads + 2 * groups, -1)
        parts = jnp.split(heads, [num_heads, num_heads + groups], axis=-2)
        own = [part.reshape(*inputs, shares, -1, part.shape[-1]) for part in parts]
        return columns_by_tensor(jnp.concatenate(own, axis=-2).reshape(leaf.shape))

    return {name: arranged(leaf) for name, leaf in qkv.items()}


def split_heads(
    qkv: Float[Array, "*B T E"], num_heads: int, num_kv_heads: int = 0, *, shares: int = 1
) -> list[Float[Array, "R _ T K"]]:
    """Queries (R, H, T, K), keys and values (R, G, T, K) from their columns side by side.

    In `shares`, of which each has its part of the heads so (`head_shares`). Raises ConfigError for
    heads that do not divide the columns.
    """
    groups = num_kv_heads or num_heads
    count = num_heads + 2 * groups
    if qkv.ndim < 2 or qkv.shape[-1] % count:
        raise ConfigError(
            f"queries, keys and values have shape {qkv.shape}; it must be (T, E) or (B, T, E), "
            f"where E is a multiple of {count}: {num_heads} heads of queries, {groups} of keys and "
            f"{groups} of values"
        )
    rows, width = qkv.reshape(-1, *qkv.shape[-2:]), qkv.shape[-1] // count
    # Cut, then transposed: where a kernel wants tokens before heads, XLA then moves nothing.
    if shares == 1:
        heads = rows.reshape(*rows.shape[:2], count, width)
        parts = jnp.split(heads, [num_heads, num_heads + groups], axis=2)
    else:
        heads = rows.reshape(*rows.shape[:2], shares, -1, width)
        ends = [num_heads // shares, (num_heads + groups) // shares]
        own = jnp.split(heads, ends, axis=3)
        parts = [part.reshape(*rows.shape[:2], -1, width) for part in own]
    return [part.swapaxes(1, 2) for part in parts]


def share_heads(x: Float[Array, "B G T K"], num_heads: int) -> Float[Array, "B H T K"]:
    """Keys or values for each head of queries, where one of G serves H / G of them."""
    return x if x.shape[1] == num_heads else jnp.repeat(x, num_heads // x.shape[1], axis=1)


def join_heads(x: Float[Array, "B H T K"]) -> Float[Array, "B T C"]:
    """What the heads bring together, side by side."""
    return x.transpose(0, 2, 1, 3).reshape(x.shape[0], x.shape[2], -1)
