"""Activations of a GPT by name: read them, or run with some of them changed.

What TransformerLens calls hook points (Nanda and Bloom 2022). Both functions are pure, so they work
under `jit`, `grad` and `vmap`.
"""

import difflib
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.schema import leaves

_BLOCK = (
    *("norm1", "attn.qkv", "attn.query_norm", "attn.key_norm", "attn.q", "attn.k", "attn.v"),
    *("attn.scores", "attn.weights", "attn.context", "attn.out", "post_norm1", "middle", "norm2"),
    *("mlp.router", "mlp.up", "mlp.gate", "mlp.hidden", "mlp.out", "post_norm2", "out"),
)
_OPTIONAL = {
    *("norm1", "norm2", "post_norm1", "post_norm2"),
    *("attn.query_norm", "attn.key_norm", "mlp.gate", "mlp.router"),
}
_INSIDE = {"mlp.up", "mlp.gate", "mlp.hidden", "mlp.gelu"}


def present(config: ModelConfig, names: Iterable[str]) -> list[str]:
    """Those of a block's record points that a model has: not all have each norm, a gate, experts.

    What is inside an expert is not recorded.
    """
    parts = {leaf.path.rpartition(".")[0].removeprefix("blocks.") for leaf in leaves(config)}
    absent = _OPTIONAL - parts | (_INSIDE if config.experts.num_experts else set())
    return [name for name in names if name not in absent]


def recorded_names(config: ModelConfig) -> list[str]:
    """Names of the activations in the order in which they are computed.

    `embed` (B, T, D) enters the first block. In block i: `blocks.i.norm1` (B, T, D);
    `blocks.i.attn.qkv` (B, T, E), the three side by side; `attn.q` (B, H, T, K), `k` and `v`
    (B, G, T, K); `scores`, before the mask, and `weights` (B, H, T, T); `context` (B, H, T, K),
    what each head brings together; `attn.out` (B, T, D); `middle`, the residual stream between
    attention and feed-forward; `norm2`; `mlp.up` and `mlp.hidden` (B, T, F), before and after GELU;
    `mlp.out`; and `out`, the stream that leaves the block. `norm` (B, T, D) is the last layer norm,
    `logits` (B, T, V). Where the model has them: `attn.query_norm` and `attn.key_norm`, as `q` and
    `k`, which are then turned; `post_norm1` and `post_norm2` (B, T, D) after `attn.out` and
    `mlp.out`; `mlp.gate` (B, T, F), what opens `mlp.up`; and of experts, in place of these and of
    `hidden`, `mlp.router` (B, T, X).
    """
    names = present(config, _BLOCK)
    blocks = [f"blocks.{i}.{name}" for i in range(config.num_layers) for name in names]
    return ["embed", *blocks, "norm", "logits"]


def activations(
    model: GPT, tokens: Int[Array, "B T"], names: str | Iterable[str] = "*"
) -> dict[str, Float[Array, "B _ *_"]]:
    """Activations of `model` on `tokens` by name; see `recorded_names` for names and shapes.

    A name may hold `*`, as in `blocks.*.attn.weights`. Raises ConfigError for an unknown one.
    """
    wanted = set(_matching([names] if isinstance(names, str) else names, model.config))
    found: dict[str, Array] = {}

    def record(name: str, x: Array) -> Array:
        if name in wanted:
            found[name] = x
        return x

    model(tokens, record=record)
    return found


def intervene(
    model: GPT, tokens: Int[Array, "B T"], changes: Mapping[str, Callable[[Array], Array]]
) -> Float[Array, "B T V"]:
    """Logits of `model` on `tokens` where each named activation is what its function makes of it.

    To patch one from another prompt, give `lambda x: activations(model, other, [name])[name]`; to
    knock heads out, `keep_heads`. A name may hold `*`. Raises ConfigError for an unknown name, or a
    function that gives another shape.
    """
    by_name = {
        name: change
        for pattern, change in changes.items()
        for name in _matching([pattern], model.config)
    }

    def record(name: str, x: Array) -> Array:
        if name not in by_name:
            return x
        changed = by_name[name](x)
        if changed.shape != x.shape:
            raise ConfigError(f"{name} has shape {x.shape}, but was changed to {changed.shape}")
        return changed.astype(x.dtype)

    return model(tokens, record=record)


def keep_heads(
    config: ModelConfig, kept: Bool[ArrayLike, "L H"]
) -> dict[str, Callable[[Array], Array]]:
    """Changes for `intervene` that knock out the attention heads where `kept` is False.

    Such a head hands over nothing: its context is 0. `kept` may be traced, so that `vmap` and
    `jax.lax.map` run over many choices of heads. Raises ConfigError for another shape than (L, H).
    """
    rows, due = jnp.asarray(kept), (config.num_layers, config.num_heads)
    if rows.shape != due:
        raise ConfigError(f"the heads to keep have shape {rows.shape}; (L, H) is {due} here")
    return {
        f"blocks.{i}.attn.context": lambda x, row=row: jnp.where(row[:, None, None], x, 0)
        for i, row in enumerate(rows)
    }


def _matching(patterns: Iterable[str], config: ModelConfig) -> list[str]:
    names = recorded_names(config)
    found = []
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            near = ", ".join(difflib.get_close_matches(pattern, names, 3)) or ", ".join(names[:3])
            raise ConfigError(f"there is no activation {pattern!r}; near it are {near}")
        found += matching
    return found
