"""The pre-norm block, what can stand in its place, and L of them in a row."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.config import BlockConfig, ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.attention import cached_attention, multi_head_attention
from jaxgpt.model.attention_kernels import Attention, keep_products_and_kernels
from jaxgpt.model.cache import KeyValueCache, key_value_cache
from jaxgpt.model.embedding import positions_within
from jaxgpt.model.experts import Loads, mix_experts
from jaxgpt.model.feedforward import feed_forward
from jaxgpt.model.layers import Gelu, Params, Rate, dropout, layer_norm, rms_norm
from jaxgpt.model.record import Record, unrecorded, within
from jaxgpt.model.rope import turns
from jaxgpt.model.schema import BLOCK_LEAVES, Rows, dimensions, rows_of


def attend(
    x: Float[Array, "*B T D"],
    *,
    cache: KeyValueCache | None = None,
    start: Int[Array, " B"] | None = None,
    attention: Attention = "auto",
    segments: Int[Array, "*B T"] | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
    **arguments: Any,
) -> tuple[Float[Array, "*B T D"], KeyValueCache | None]:
    """Attention of a block: `multi_head_attention`, or where there is a cache `cached_attention`.

    Gives the cache with the T tokens in it. Raises ConfigError for a cache without `start`.
    """
    if cache is None:
        options: Any = {"attention": attention, "segments": segments}
        options |= {"dropout_rate": dropout_rate, "rng": rng}
        return multi_head_attention(x, **arguments, **options), None
    if start is None:
        raise ConfigError("a cache goes with start, the number of tokens in it of each row")
    return cached_attention(x, cache, start, segments=segments, **arguments)


def block(
    x: Float[Array, "*B T D"],
    *,
    attn: Params,
    mlp: Params,
    norm1: Params | None = None,
    norm2: Params | None = None,
    post_norm1: Params | None = None,
    post_norm2: Params | None = None,
    num_heads: int,
    num_kv_heads: int = 0,
    gelu: Gelu = "tanh",
    epsilon: float = 1e-5,
    attention: Attention = "auto",
    segments: Int[Array, "*B T"] | None = None,
    dropout_rate: Rate = 0.0,
    rng: PRNGKeyArray | None = None,
    cache: Any = None,
    start: Int[Array, " B"] | None = None,
    record: Record = unrecorded,
    norm: Callable[..., Array] = layer_norm,
    attend: Callable[..., tuple[Array, Any]] = attend,
    feed: Callable[..., Array] = feed_forward,
) -> tuple[Float[Array, "*B T D"], Any]:
    """Transformer block: attention, then feed-forward, each added to `x`.

    The sum is the shortcut connection; a norm stands before each, as in GPT-2, or after. With a
    `cache`, the T tokens of row b follow the `start[b]` that are in it, and the result has the
    cache with them; those with a segment other than 0 are padding. `record` sees `norm1`, `attn.*`,
    `middle`, `norm2`, `mlp.*` and `out`; see `recorded_names`. `norm`, `attend` and `feed` are its
    parts, for a block that has others. Raises ConfigError for a cache without `start`.
    """

    for before, after, name in ((norm1, post_norm1, "norm1"), (norm2, post_norm2, "norm2")):
        if before is None and after is None:
            raise TypeError(f"block() needs {name}, or post_{name}, which stands after")

    def normed(x: Array, params: Params | None, name: str) -> Array:
        return x if params is None else record(name, norm(x, **params, epsilon=epsilon))

    weights_rng, attn_rng, mlp_rng = (None,) * 3 if rng is None else jax.random.split(rng, 3)
    with jax.named_scope("attention"):
        attention_output, cache = attend(
            normed(x, norm1, "norm1"),
            **attn,
            num_heads=num_heads,
            num_kv_heads=num_kv_heads,
            attention=attention,
            segments=segments,
            dropout_rate=dropout_rate,
            rng=weights_rng,
            cache=cache,
            start=start,
            record=within(record, "attn"),
        )
        attention_output = normed(attention_output, post_norm1, "post_norm1")
        x = record("middle", x + dropout(attention_output, dropout_rate, attn_rng))
    with jax.named_scope("feed_forward"):
        normed2 = normed(x, norm2, "norm2")
        mlp_output = feed(normed2, **mlp, form=gelu, record=within(record, "mlp"))
        mlp_output = normed(mlp_output, post_norm2, "post_norm2")
        return record("out", x + dropout(mlp_output, dropout_rate, mlp_rng)), cache


@dataclass(frozen=True)
class Block:
    """Block of a model: a function with the arguments of `block`, its leaves and its cache."""

    apply: Callable[..., tuple[Array, Any]]
    """`x`, a layer's parameters and settings by name -> what leaves the block, and the cache."""
    leaves: Rows = BLOCK_LEAVES
    """A row of the schema for each of its parameters, whose paths begin with `blocks.`."""
    init_cache: Callable[[ModelConfig, int, int, Any], Any] = key_value_cache
    """The cache of one layer before the first token, by config, B, S and dtype; the first axis of
    its arrays is B. Where S grows, they are padded with zeros to what this gives."""
    name: str = ""
    """What a run's record calls it; by default `file:name` of the function, as `alibi:alibi`."""

    def __post_init__(self):
        """Refuse what has no name, and rows that lie elsewhere."""
        if not str(self):
            raise ConfigError(f"{self.apply} has no name to record; give Block a name")
        if not self.leaves or not all(leaf.stacked for leaf in self.leaves):
            paths = ", ".join(leaf.path for leaf in self.leaves) or "none"
            raise ConfigError(f"a block has leaves whose paths begin with blocks., not {paths}")

    def __call__(self, x: Float[Array, "*B T D"], **arguments: Any) -> tuple[Array, Any]:
        """What leaves the block, and the cache."""
        return self.apply(x, **arguments)

    def __str__(self) -> str:
        """Its name."""
        own, module = getattr(self.apply, "__qualname__", ""), self.apply.__module__
        if module == "__main__":  # the same file may be a program now and imported later
            module = Path(getattr(sys.modules[module], "__file__", module)).stem
        return self.name or (own and f"{module.rpartition('.')[2]}:{own}")


STANDARD = Block(block)


def with_block(config: ModelConfig, block: Block | Callable[..., Any]) -> ModelConfig:
    """Config of a model whose blocks are `block`, or a function with the arguments of `block`.

    All that takes a config then trains, shards, saves and decodes with it.
    """
    own = block if isinstance(block, Block) else Block(block)
    shape: Any = {item.name: getattr(config, item.name) for item in fields(ModelConfig)}
    return ModelConfig(**shape) if own == STANDARD else BlockConfig(**shape, block=own)


def block_of(config: ModelConfig) -> Block:
    """The block of a model of `config`; raises ConfigError as `rows_of` does."""
    rows_of(config)
    own: Any = config.block if isinstance(config, BlockConfig) else STANDARD
    return own


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
    counted: Float[Array, "*B T"] | None = None,
    note: Callable[[Loads], object] | None = None,
    record: Record = unrecorded,
) -> Float[Array, "*B T D"]:
    """Stack of all L blocks, whose parameters have a leading axis, by `jax.lax.scan`.

    Compile time then does not grow with L. The backward pass keeps what linear layers and attention
    kernels computed and computes the cheap rest again, such as norms and GELU; with `remat`, whole
    blocks. `unroll` is how many blocks one turn of the loop holds; from L on, there is no loop.
    Where the blocks come in several parts, there is a loop for each, and no backward pass through
    the first ones if they have no gradient. `note` is given the sum of all layers' loads, of the
    tokens that are `counted`, of a mixture of experts (`mix_experts`). Where there is something to
    `record`, as `blocks.i.*`, the layers come one after the other.
    """
    apply, period = block_of(config), config.window_period or 1
    given = {"attention": attention, "segments": segments, "dropout_rate": config.dropout}
    positions = jnp.arange(x.shape[-2]) if segments is None else positions_within(segments)
    settings = [
        block_settings(config, positions, local=is_local(config, i)) | given for i in range(period)
    ]
    rngs = None if rng is None else jax.random.split(rng, config.num_layers)
    if record is not unrecorded:
        for i, params in enumerate(unstack(blocks)):
            layer_rng, inner = None if rngs is None else rngs[i], within(record, f"blocks.{i}")
            x, _ = apply(x, **params, **settings[i % period], rng=layer_rng, record=inner)
        return x
    # Outside a loop, XLA would take the second computation for the first, and keep that.
    feed: Any = partial(settings[0]["feed"], counted=counted) if note is not None else None
    outside, kept = unroll >= config.num_layers, None if remat else keep_products_and_kernels
    turn = [
        jax.checkpoint(partial(_layer, apply, own, feed), prevent_cse=outside, policy=kept)
        for own in settings
    ]
    done, loads = 0, []
    for part in blocks if isinstance(blocks, tuple) else (blocks,):
        count = len(jax.tree.leaves(part)[0])
        part_rngs = None if rngs is None else rngs[done : done + count]
        # The kinds of layers repeat; where a part begins amid a period, they do from there on.
        kinds = [turn[(done + i) % period] for i in range(period)]
        x, more = _scan(kinds, x, (part, part_rngs), count, unroll)
        done, loads = done + count, loads + more
    if note is not None:
        note(jnp.stack(loads).sum(axis=0))
    return x


def _layer(
    apply: Block,
    settings: dict[str, Any],
    feed: Callable[..., Array] | None,
    x: Array,
    layer: tuple[Params, PRNGKeyArray | None],
) -> tuple[Array, list[Loads]]:
    (params, rng), loads = layer, []
    if feed is not None:
        settings = settings | {"feed": partial(feed, note=loads.append)}
    # What a block of one's own gives may be in its parameters' dtype.
    return apply(x, **params, **settings, rng=rng)[0].astype(x.dtype), loads


def _scan(
    kinds: list[Callable[..., Any]], x: Array, layers: Any, count: int, unroll: int
) -> tuple[Array, list[Loads]]:
    """Loop over `count` stacked layers whose kinds repeat: a turn a period, then the rest."""
    period = len(kinds)
    if period == 1:
        x, loads = jax.lax.scan(kinds[0], x, layers, unroll=min(unroll, count))
        return x, [each.sum(axis=0) for each in loads]

    def turn(x: Array, layers: Any) -> tuple[Array, list[Loads]]:
        loads = []
        for i, kind in enumerate(kinds):
            x, more = kind(x, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
            loads += more
        return x, loads

    whole, loads = count // period, []
    if whole:
        folded = jax.tree.map(
            lambda leaf: leaf[: whole * period].reshape(whole, period, *leaf.shape[1:]), layers
        )
        x, loads = jax.lax.scan(turn, x, folded, unroll=max(1, min(unroll // period, whole)))
        loads = [each.sum(axis=0) for each in loads]
    for i in range(whole * period, count):
        x, more = kinds[i % period](x, jax.tree.map(lambda leaf, i=i: leaf[i], layers))
        loads += more
    return x, loads


def is_local(config: ModelConfig, layer: int) -> bool:
    """Whether a layer attends within the window alone."""
    whole = config.window_period and (layer + 1) % config.window_period == 0
    return bool(config.window) and not whole


def norm_of(config: ModelConfig) -> Callable[..., Array]:
    """The norm of a model, of `x`, its parameters and `epsilon`."""
    return partial(rms_norm, offset=config.norm_offset) if config.norm == "rms" else layer_norm


def block_settings(
    config: ModelConfig, positions: Int[Array, "*B T"] | None = None, *, local: bool = False
) -> dict[str, Any]:
    """The arguments of `block` that are settings of the model, not parameters.

    `positions` are those of the tokens, which rotary ones need, `local` is whether the layer has
    the window. What is as in GPT-2 is left out, which a block of one's own need not take.
    """
    settings: dict[str, Any] = {
        "num_heads": config.num_heads,
        "num_kv_heads": config.num_kv_heads,
        "gelu": config.gelu,
        "epsilon": config.norm_epsilon,
    }
    form: dict[str, Any] = {"window": config.window} if local else {}
    if config.attention_scale:
        form["scale"] = config.attention_scale
    if config.positions == "rope" and positions is not None:
        form["turns"] = turns(positions, config.rope, dimensions(config)["K"], local=local)
    if config.qk_norm != "none":
        form["norm"] = partial(norm_of(config), epsilon=config.norm_epsilon)
    if form:
        settings["attend"] = partial(attend, **form)
    if config.norm != "layer":
        settings["norm"] = norm_of(config)
    gated: dict[str, Any] = {"activation": config.gate} if config.gate != "none" else {}
    if config.gate == "clamped":
        gated |= {"limit": config.gate_limit, "alpha": config.gate_alpha}
    if config.experts.num_experts:
        settings["feed"] = partial(mix_experts, experts=config.experts, **gated)
    elif gated:
        settings["feed"] = partial(feed_forward, **gated)
    return settings


def unstack(blocks: Params | tuple[Params, ...]) -> Iterator[Params]:
    """Parameters of the L blocks one after another, each a copy: before decoding, made once.

    A loop over layers that slices the stacked leaves would copy every weight for every token.
    """
    for part in blocks if isinstance(blocks, tuple) else (blocks,):
        for i in range(len(jax.tree.leaves(part)[0])):
            yield jax.tree.map(lambda leaf, i=i: leaf[i], part)
