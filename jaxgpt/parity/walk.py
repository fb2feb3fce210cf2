"""A GPT's forward pass with every number in sight: each activation from tokens to logits, by name.

The same functions as `jaxgpt.model.gpt.GPT` calls, one block after another, without jit. What a
foreign implementation may do differently with the same weights is a `Habits`.
"""

import math
from collections.abc import Generator, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model import attention
from jaxgpt.model.agreement import check_ids, check_rank
from jaxgpt.model.embedding import embed, sinusoidal_positions, unembed
from jaxgpt.model.gpt import check_agreement
from jaxgpt.model.layers import Params, gelu, layer_norm, linear
from jaxgpt.parity.habits import AS_JAXGPT, Habits
from jaxgpt.training.loss import cross_entropy

Activations = dict[str, Float[Array, "B T _"]]
"""Activations by name, in the order in which they are computed; see `activation_names`."""

Steps = Iterator[tuple[str, Float[Array, "B T _"]]]
"""The same, one at a time."""

_INNER = (
    *(".norm1", ".attn.qkv", ".attn.context", ".attn.out", ".middle"),
    *(".norm2", ".mlp.up", ".mlp.gelu", ".mlp.down", ""),
)


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
    habits: Habits = AS_JAXGPT,
) -> Activations:
    """Every activation of the model on `tokens`; (B, T, D), (B, T, 3 D), (B, T, F) or (B, T, V).

    The parameters' dtype is the one computed in. Raises as `check_agreement` and as `check_tokens`,
    of at least one token.
    """
    check_agreement(config, params)
    return dict(steps(config, params, tokens, habits))


def check_tokens(
    tokens: Int[Array, "B T"] | Int[np.ndarray, "B T"],
    config: ModelConfig,
    name: str = "the model",
    least: int = 1,
) -> None:
    """Refuse tokens that the model has no room or no row for; ids under jit are not looked at.

    Raises ConfigError if there are fewer than `least` or more than the context holds, DataError if
    an id is outside the vocabulary.
    """
    check_rank("tokens", tokens, "B T")
    length, vocab_size = tokens.shape[1], config.vocab_size
    if not least <= length <= config.context_length:
        raise ConfigError(
            f"{name} takes {least} to {config.context_length} tokens, not {length}; give a "
            f"{'longer' if length < least else 'shorter'} text"
        )
    vocabulary = f", the vocabulary of {name}; encode with the model's own tokenizer"
    check_ids("token id", tokens, vocab_size, vocabulary)


def steps(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    habits: Habits = AS_JAXGPT,
) -> Steps:
    """Each name and activation of `walk`, computed when it is asked for."""
    check_tokens(tokens, config)
    table, blocks = params["embed"]["tokens"], params["blocks"]
    vectors = embed(tokens, tokens_table=table, positions_table=_positions(config, params, habits))
    x = habits.dropout(vectors)
    yield "embed", x
    for i, place in enumerate(habits.order or range(config.num_layers)):
        own = habits.layers.get(i, (config, habits))
        layer = jax.tree.map(lambda leaf, place=place: leaf[place], blocks)
        x = yield from _block_steps(x, layer, *own, f"blocks.{i}")
    x = _norm("norm", x, params, config, habits)
    yield "norm", x
    head = None if config.tie_head else {"weight": habits.operand(params["head"]["weight"])}
    yield "logits", unembed(habits.operand(x), tokens_table=habits.operand(table), head=head)


def _block_steps(
    x: Array, layer: Params, config: ModelConfig, habits: Habits, name: str
) -> Generator[tuple[str, Array], None, Array]:
    if habits.norm_place != "before":
        made = _normed_later(x, layer, config, habits)
        yield from ((name + inner, made[inner]) for inner in _INNER)
        return made[""]
    normed = _norm("norm1", x, layer, config, habits)
    yield f"{name}.norm1", normed
    attention_output = yield from _named(_attention(normed, layer["attn"], config, habits), name)
    x = _shortcut("attn", x, normed, habits) + habits.dropout(attention_output)
    yield f"{name}.middle", x
    normed = _norm("norm2", x, layer, config, habits)
    yield f"{name}.norm2", normed
    down = yield from _named(_feed_forward(normed, layer["mlp"], config, habits), name)
    x = _shortcut("mlp", x, normed, habits) + habits.dropout(down)
    yield name, x
    return x


def _named(parts: Steps, name: str) -> Generator[tuple[str, Array], None, Array]:
    """The parts under the block's name; the last is returned."""
    x = jnp.zeros(())
    for inner, x in parts:
        yield name + inner, x
    return x


def _normed_later(x: Array, layer: Params, config: ModelConfig, habits: Habits) -> Activations:
    """A block's activations where its norms come later; `middle` is what enters the second."""
    made = dict(_attention(x, layer["attn"], config, habits))
    attention_output, on_sums = habits.dropout(made[".attn.out"]), habits.norm_place == "sum"
    made[".norm1"] = _norm(
        "norm1", x + attention_output if on_sums else attention_output, layer, config, habits
    )
    x = made[".norm1"] if on_sums else x + made[".norm1"]
    made |= dict(_feed_forward(x, layer["mlp"], config, habits))
    down = habits.dropout(made[".mlp.down"])
    made[".middle"] = x + down if on_sums else down
    made[".norm2"] = _norm("norm2", made[".middle"], layer, config, habits)
    made[""] = made[".norm2"] if on_sums else x + made[".norm2"]
    return made


def _attention(x: Array, attn: Params, config: ModelConfig, habits: Habits) -> Steps:
    qkv = _dense(x, attn["qkv"], habits)
    yield ".attn.qkv", qkv
    context = _attend(habits.qkv(qkv), config, habits)
    yield ".attn.context", context
    yield ".attn.out", _dense(context, attn["out"], habits)


def _feed_forward(x: Array, mlp: Params, config: ModelConfig, habits: Habits) -> Steps:
    up = _dense(x, mlp["up"], habits)
    yield ".mlp.up", up
    hidden = habits.activation(up) if habits.activation else gelu(up, config.gelu)
    yield ".mlp.gelu", hidden
    yield ".mlp.down", _dense(hidden, mlp["down"], habits)


def _shortcut(part: str, x: Array, normed: Array, habits: Habits) -> Array | float:
    kind = habits.shortcuts.get(part)
    return x if kind is None else normed if kind == "normed" else 0.0


def _dense(x: Array, params: Params, habits: Habits) -> Array:
    weight = habits.operand(params["weight"])
    return habits.product(linear(habits.operand(x), weight=weight, bias=params.get("bias")))


def _attend(
    qkv: Float[Array, "B T E"], config: ModelConfig, habits: Habits
) -> Float[Array, "B T C"]:
    (rows, length, _), num_heads = qkv.shape, config.num_heads
    queries, *others = attention.split_heads(qkv, num_heads, config.num_kv_heads)
    keys, values = (attention.share_heads(part, num_heads) for part in others)
    if habits.attends_as_jaxgpt:
        contexts = attention.attend_causally(queries, keys, values)
        return contexts.transpose(0, 2, 1, 3).reshape(rows, length, -1)
    queries, keys, values = map(habits.operand, (queries, keys, values))
    ahead = jnp.arange(length) - jnp.arange(length)[:, None]
    mask = None if habits.looks_ahead is None else ahead <= habits.looks_ahead
    weights = attention.attention_weights(
        queries, keys, scale=habits.scale(queries.shape[-1]), mask=mask
    )
    contexts = habits.operand(habits.dropout(weights)) @ values
    return contexts.transpose(0, 2, 1, 3).reshape(rows, length, -1)


def _norm(name: str, x: Array, params: Params, config: ModelConfig, habits: Habits) -> Array:
    scale, bias = params[name]["scale"], params[name]["bias"]
    width, epsilon = x.shape[-1], habits.epsilons.get(name, config.norm_epsilon)
    kind = habits.norms.get(name)
    if kind is not None:
        return x if kind == "none" else _rms_norm(x, scale, epsilon)
    if not habits.unbiased_variance:
        return layer_norm(x, scale=scale, bias=bias, epsilon=epsilon)
    # The root of (D / (D - 1)) v + e is the factor's root times that of v + e (D - 1) / D.
    share = (width - 1) / width
    normed = layer_norm(x, scale=scale, bias=0 * bias, epsilon=epsilon * share)
    return normed * math.sqrt(share) + bias


def _rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    """Root mean square norm (Zhang and Sennrich, 2019), in float32."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean + epsilon)).astype(x.dtype) * scale


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
    habits: Habits = AS_JAXGPT,
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """The mean loss of predicting `tokens[:, 1:]`, in nats, and its gradient by parameter."""

    def loss(params: Params) -> Array:
        logits = walk(config, params, tokens[:, :-1], habits)["logits"]
        nats, count = cross_entropy(logits, tokens[:, 1:])
        return nats / count

    return jax.value_and_grad(loss)(params)
