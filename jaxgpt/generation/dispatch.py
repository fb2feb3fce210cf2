"""One dispatch of decoding: several tokens for each row, without a word to the host."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.fields import typed
from jaxgpt.generation.sampling import SamplingConfig, sample
from jaxgpt.generation.settings import WeightDtype
from jaxgpt.model.attention import AttentionInForce
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.layers import Params
from jaxgpt.model.narrow import NarrowTable, NarrowWeight, is_narrow, narrowed, widen
from jaxgpt.model.transformer import STANDARD, block_of, unstack

CACHED_STEPS = 16
"""Tokens in one dispatch: enough to keep a GPU busy, few enough to stop soon and to read along."""
SLIDING_STEPS = 4
"""The same past the context, where a token takes longer."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodingParams:
    """Parameters for decoding: those of each layer by themselves, weights transposed or narrow.

    A loop over layers that slices the stacked leaves would copy every weight for every token; and a
    product of a few rows reads a weight faster along the axis that it contracts, as the tied head
    does (on CPU by a quarter).
    """

    layers: list[Params]
    rest: Params
    """All but the blocks."""

    @property
    def dtype(self) -> Any:
        """Of the numbers, and so of the cache."""
        return self.rest["embed"]["tokens"].dtype

    def as_params(self) -> Params:
        """The model's parameters, with the blocks in L parts; under jit it moves nothing."""
        layers = [_transposed(layer) for layer in self.layers]
        blocks = tuple(jax.tree.map(lambda leaf: leaf[None], layer) for layer in layers)
        return self.rest | {"blocks": blocks}

    def for_rows(self, config: ModelConfig, rows: int) -> "DecodingParams":
        """Parameters that `rows` texts at once are written with, whole in place of narrow ones.

        Narrow weights are read faster by one row alone, and are known to the standard block alone.
        Whoever writes many batches calls this once, before.
        """
        on_cpu, own = jax.default_backend() == "cpu", block_of(config) != STANDARD
        leaves = jax.tree.leaves(self, is_leaf=is_narrow)
        if not any(map(is_narrow, leaves)) or not (own or (on_cpu and rows > 1)):
            return self
        return DecodingParams(
            _replaced(self.layers, _columns), _replaced(self.rest, jax.jit(widen))
        )


def _transposed(layer: Params) -> Params:
    return jax.tree.map(lambda leaf: leaf if is_narrow(leaf) else leaf.T, layer, is_leaf=is_narrow)


@jax.jit
def _columns(leaf: NarrowWeight | NarrowTable) -> Array:
    return widen(leaf).T


def _replaced(params: Any, form: Callable[[Any], Array]) -> Any:
    """Parameters with `form` of each narrow weight in its place."""
    return jax.tree.map(lambda x: form(x) if is_narrow(x) else x, params, is_leaf=is_narrow)


def prepare_params(
    params: Params | DecodingParams, weight_dtype: WeightDtype = "stored"
) -> DecodingParams:
    """The parameters as decoding reads them, a copy; what was prepared before is given back.

    Weights are kept in `weight_dtype`, but for those of experts, and narrow ones as they are. A CPU
    multiplies them in float32; elsewhere bfloat16 casts all parameters, and it is computed in.
    Raises ConfigError for int8, or on a CPU bfloat16, of parameters that lie on several devices.
    """
    typed("weight_dtype", weight_dtype, WeightDtype)
    if isinstance(params, DecodingParams):
        return params
    rest: Params = dict(params)
    blocks = jax.tree.map(jnp.asarray, rest.pop("blocks"))
    layers = [_transposed(_prepared(layer, weight_dtype)) for layer in unstack(blocks)]
    return DecodingParams(layers, _prepared(rest, weight_dtype))


def _prepared(params: Params, weight_dtype: WeightDtype) -> Params:
    """Parameters without an axis of layers in the dtype that is computed in; weights maybe not."""

    def prepared(path: Any, leaf: Any) -> Any:
        kind = path[-1].key
        if is_narrow(leaf):
            return leaf
        leaf = jnp.asarray(leaf)
        computed, kept = _dtypes(leaf, weight_dtype)
        if kept == computed or leaf.ndim != 2 or kind not in ("weight", "tokens"):
            return leaf.astype(computed)
        table = kind == "tokens"
        narrow = narrowed(leaf.T if table else leaf, kept, computed)
        return NarrowTable(narrow) if table else narrow

    return jax.tree.map_with_path(prepared, params, is_leaf=is_narrow)


def _dtypes(leaf: Array, weight_dtype: WeightDtype) -> tuple[Any, Any]:
    """In which dtype a leaf is computed with, and which one a weight is kept in."""
    on_cpu, traced = jax.default_backend() == "cpu", isinstance(leaf, Tracer)
    several = not traced and len(leaf.sharding.device_set) > 1
    kept: Any = leaf.dtype if weight_dtype == "stored" else jnp.dtype(weight_dtype)
    computed: Any = jnp.dtype(jnp.float32) if on_cpu else leaf.dtype
    if weight_dtype == "bfloat16" and not on_cpu:
        return kept, kept
    if several and weight_dtype != "stored":
        raise ConfigError(
            f"weights in {weight_dtype} are read by one device, but the model lies on several; "
            "leave out --mesh or --weight-dtype"
        )
    return computed, computed if several or kept.itemsize > computed.itemsize else kept


class Rows(NamedTuple):
    """B texts between two tokens: the end of each, padded on the right, and what has occurred."""

    window: Int[Array, "B T"]
    length: Int[Array, " B"]
    seen: Bool[Array, "B V"]
    done: Bool[Array, " B"]


@functools.partial(
    jax.jit, static_argnames=("config", "sampling", "attention", "cache_length", "same")
)
def prefill(
    params: DecodingParams,
    rows: Rows,
    keys: Key[Array, " B"],
    ends: Int[Array, " E"],
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
    attention: AttentionInForce,
    cache_length: int,
    same: bool,
) -> tuple[Int[Array, "B 1"], list[Any]]:
    """The first new token of each row, or -1, and a cache that holds the prompts.

    With `same`, all rows begin with the first one's prompt, which is taken in once. `attention` is
    `attention_in_force()`, so that the program is compiled anew where that is replaced.
    """
    del attention
    batch = len(rows.length)
    count = 1 if same else batch
    cache = init_cache(config, count, cache_length, params.dtype)
    start, last = jnp.zeros(count, dtype=jnp.int32), rows.length[:count] - 1
    taken_in = GPT(config, params.as_params()).decode(rows.window[:count], cache, start, last)
    logits, cache = jax.tree.map(lambda x: jnp.broadcast_to(x, (batch, *x.shape[1:])), taken_in)
    tokens, done = _draw(logits, rows, keys, 0, ends, sampling)
    return jnp.where(done, -1, tokens)[:, None], cache


@functools.partial(jax.jit, static_argnames=("config", "rows", "cache_length"))
def grow(cache: list[Any], *, config: ModelConfig, rows: int, cache_length: int) -> list[Any]:
    """The cache of `rows` with room for `cache_length` tokens, more than it has."""
    wanted = jax.eval_shape(lambda: init_cache(config, rows, cache_length))

    def padded(x: Array, larger: Any) -> Array:
        return jnp.pad(x, [(0, to - at) for at, to in zip(x.shape, larger.shape, strict=True)])

    return jax.tree.map(padded, cache, wanted)


@functools.partial(
    jax.jit, static_argnames=("config", "sampling", "attention"), donate_argnames="cache"
)
def extend(
    params: DecodingParams,
    cache: list[Any],
    rows: Rows,
    keys: Key[Array, " B"],
    made: Int[Array, ""],
    steps: Int[Array, ""],
    ends: Int[Array, " E"],
    *,
    config: ModelConfig,
    sampling: SamplingConfig,
    attention: AttentionInForce,
) -> tuple[Int[Array, "B N"], list[Any]]:
    """Up to `steps` new tokens of each row, then -1, and the cache; past the context that is empty.

    The newest token of a row is not yet in the cache. `attention` is as for `prefill`.
    """
    del attention

    def unfinished(state: tuple) -> Bool[Array, ""]:
        step, rows, _, _ = state
        return (step < steps) & ~rows.done.all()

    def write(state: tuple) -> tuple:
        step, rows, cache, written = state
        logits, cache = _next_logits(config, params, rows, cache)
        tokens, done = _draw(logits, rows, keys, made + step, ends, sampling)
        written = written.at[:, step].set(jnp.where(done, -1, tokens))
        return step + 1, _append(rows, tokens, done), cache, written

    written = jnp.full((len(rows.length), max(CACHED_STEPS, SLIDING_STEPS)), -1, jnp.int32)
    _, _, cache, written = jax.lax.while_loop(unfinished, write, (0, rows, cache, written))
    return written, cache


def _next_logits(
    config: ModelConfig, params: DecodingParams, rows: Rows, cache: list[Any]
) -> tuple[Float[Array, "B V"], list[Any]]:
    model = GPT(config, params.as_params())
    last, zeros = rows.length - 1, jnp.zeros_like(rows.length)
    if cache:
        newest = jnp.take_along_axis(rows.window, last[:, None], axis=1)
        return model.decode(newest, cache, start=last, last=zeros)
    count, width = rows.window.shape
    unused = init_cache(config, count, width, params.dtype)
    return model.decode(rows.window, unused, start=zeros, last=last)[0], cache


def _draw(
    logits: Float[Array, "B V"],
    rows: Rows,
    keys: Key[Array, " B"],
    place: int | Int[Array, ""],
    ends: Int[Array, " E"],
    sampling: SamplingConfig,
) -> tuple[Int[Array, " B"], Bool[Array, " B"]]:
    """The token at `place` of each row's output, and which rows have ended."""
    rngs = jax.vmap(jax.random.fold_in, (0, None))(keys, place)
    tokens = sample(logits[:, : rows.seen.shape[1]], rows.seen, rngs, sampling)
    return tokens, rows.done | ((tokens[:, None] == ends).any(axis=1))


def _append(rows: Rows, tokens: Int[Array, " B"], done: Bool[Array, " B"]) -> Rows:
    """The rows with one more token each; a full window drops its first."""
    row, width = jnp.arange(len(tokens)), rows.window.shape[1]
    full = (rows.length == width)[:, None]
    window = jnp.where(full, jnp.roll(rows.window, -1, axis=1), rows.window)
    window = window.at[row, jnp.minimum(rows.length, width - 1)].set(tokens)
    length = jnp.minimum(rows.length + 1, width)
    return Rows(window, length, rows.seen.at[row, tokens].set(True), done)
