"""A GPT's forward pass with every number in sight: each activation from tokens to logits, by name.

The same functions as `jaxgpt.model.gpt.GPT` calls, one block after another, without jit. What a
foreign implementation may do differently with the same weights is a `Habits`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.model.attention import attention_weights
from jaxgpt.model.embedding import embed, sinusoidal_positions, unembed
from jaxgpt.model.layers import Params, gelu, layer_norm, linear
from jaxgpt.model.transformer import unstack
from jaxgpt.training.loss import cross_entropy

Activations = dict[str, Float[Array, "B T _"]]
"""Activations by name, in the order in which they are computed; see `activation_names`."""

_INNER = (
    *(".norm1", ".attn.qkv", ".attn.context", ".attn.out", ".middle"),
    *(".norm2", ".mlp.up", ".mlp.gelu", ".mlp.down", ""),
)


def _unchanged(x: Array) -> Array:
    return x


@dataclass(frozen=True)
class Habits:
    """How an implementation computes, apart from its config and weights; by default as jaxgpt."""

    operand: Callable[[Array], Array] = _unchanged
    """Applied to both factors of every matrix product, such as a rounding to bfloat16."""
    dropout: Callable[[Array], Array] = _unchanged
    """Applied wherever a model in training drops: to the embedding, each layer's attention weights,
    its attention's output and its feed-forward's, in this order."""
    looks_ahead: int | None = 0
    """Tokens after its own that a query may look at; None is no mask."""
    scale: Callable[[int], float] = lambda head_dim: 1 / math.sqrt(head_dim)
    """The factor of the scores, of the head's width."""
    unbiased_variance: bool = False
    """Whether a layer norm's variance divides by D - 1."""
    position_offset: int = 0
    """The position of the first token."""


def activation_names(num_layers: int) -> list[str]:
    """The names that `walk` gives, first to last.

    `embed` is what enters the first block. In block i, `attn.context` is what the heads bring
    together and `attn.out` its projection; `middle` is the residual stream between attention and
    feed-forward, and `blocks.i` the stream that leaves the block. `norm` is the last layer norm.
    """
    names = [f"blocks.{i}{inner}" for i in range(num_layers) for inner in _INNER]
    return ["embed", *names, "norm", "logits"]


def walk(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    habits: Habits = Habits(),
) -> Activations:
    """Every activation of the model on `tokens`; (B, T, D), (B, T, 3 D), (B, T, F) or (B, T, V).

    The parameters' dtype is the one computed in. T is at most the context length.
    """
    seen: Activations = {}

    def note(name: str, x: Array) -> Array:
        seen[name] = x
        return x

    table = params["embed"]["tokens"]
    vectors = embed(tokens, tokens_table=table, positions_table=_positions(config, params, habits))
    x = note("embed", habits.dropout(vectors))
    for i, layer in enumerate(unstack(params["blocks"])):
        x = note(f"blocks.{i}", _walk_block(x, layer, config, habits, note, f"blocks.{i}."))
    x = note("norm", _norm(x, params["norm"], config, habits))
    head = None if config.tie_head else {"weight": habits.operand(params["head"]["weight"])}
    note("logits", unembed(habits.operand(x), tokens_table=habits.operand(table), head=head))
    return seen


def _walk_block(
    x: Array,
    layer: Params,
    config: ModelConfig,
    habits: Habits,
    note: Callable[[str, Array], Array],
    prefix: str,
) -> Array:
    def dense(name: str, x: Array, params: Params) -> Array:
        weight = habits.operand(params["weight"])
        rows = linear(habits.operand(x), weight=weight, bias=params.get("bias"))
        return note(prefix + name, rows)

    attn, mlp = layer["attn"], layer["mlp"]
    normed = note(f"{prefix}norm1", _norm(x, layer["norm1"], config, habits))
    qkv = dense("attn.qkv", normed, attn["qkv"])
    context = note(f"{prefix}attn.context", _attend(qkv, config.num_heads, habits))
    x = note(f"{prefix}middle", x + habits.dropout(dense("attn.out", context, attn["out"])))
    normed = note(f"{prefix}norm2", _norm(x, layer["norm2"], config, habits))
    hidden = gelu(dense("mlp.up", normed, mlp["up"]), config.gelu)
    return x + habits.dropout(dense("mlp.down", note(f"{prefix}mlp.gelu", hidden), mlp["down"]))


def _attend(qkv: Float[Array, "B T E"], num_heads: int, habits: Habits) -> Float[Array, "B T D"]:
    rows, length, width = qkv.shape
    heads = qkv.reshape(rows, length, 3, num_heads, -1).transpose(2, 0, 3, 1, 4)
    queries, keys, values = map(habits.operand, heads)
    ahead = jnp.arange(length) - jnp.arange(length)[:, None]
    mask = None if habits.looks_ahead is None else ahead <= habits.looks_ahead
    weights = attention_weights(queries, keys, scale=habits.scale(queries.shape[-1]), mask=mask)
    contexts = habits.operand(habits.dropout(weights)) @ values
    return contexts.transpose(0, 2, 1, 3).reshape(rows, length, width // 3)


def _norm(x: Array, params: Params, config: ModelConfig, habits: Habits) -> Array:
    width, epsilon, bias = x.shape[-1], config.norm_epsilon, params["bias"]
    if not habits.unbiased_variance:
        return layer_norm(x, **params, epsilon=epsilon)
    # The root of (D / (D - 1)) v + e is the factor's root times that of v + e (D - 1) / D.
    share = (width - 1) / width
    normed = layer_norm(x, scale=params["scale"], bias=0 * bias, epsilon=epsilon * share)
    return normed * math.sqrt(share) + bias


def _positions(config: ModelConfig, params: Params, habits: Habits) -> Float[Array, "S D"]:
    table = params["embed"].get("positions")
    if table is None:
        table = sinusoidal_positions(config.context_length, config.embed_dim)
        table = table.astype(params["embed"]["tokens"].dtype)
    return table[habits.position_offset :]


def loss_and_gradients(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    habits: Habits = Habits(),
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The mean loss of predicting `tokens[:, 1:]`, in nats, and its gradient by parameter."""

    def loss(params: Params) -> Array:
        logits = walk(config, params, tokens[:, :-1], habits)["logits"]
        nats, count = cross_entropy(logits, tokens[:, 1:])
        return nats / count

    return jax.value_and_grad(loss)(params)
