"""A GPT's forward pass with activations by name, as two implementations are compared by them.

It is that of `jaxgpt.model.gpt.GPT`, block after block, without jit, with the overrides of a
`Variant`.
"""

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.activations import present
from jaxgpt.model.agreement import check_ids, check_rank
from jaxgpt.model.layers import Params
from jaxgpt.model.transformer import block_of, block_settings, is_local, with_block
from jaxgpt.parity.overrides import Points, Variant
from jaxgpt.training.loss import cross_entropy

Activations = dict[str, Float[Array, "B T _"]]
"""Activations by name, in the order in which they are computed; see `activation_names`."""

Note = Callable[[str, Float[Array, "B T _"]], None]
"""What is done with each of them."""

# Name in a comparison -> the model's record point; both as inside a block.
_INNER = {
    **{name: name for name in ("norm1", "attn.qkv", "attn.query_norm", "attn.key_norm")},
    **{name: name for name in ("attn.context", "attn.out", "post_norm1", "middle", "norm2")},
    **{name: name for name in ("mlp.router", "mlp.gate", "mlp.up")},
    **{"mlp.gelu": "mlp.hidden", "mlp.down": "mlp.out", "post_norm2": "post_norm2", "": "out"},
}


def activation_names(num_layers: int, config: ModelConfig | None = None) -> list[str]:
    """Names of the activations that `trace` gives, first to last; without a config those of GPT-2.

    `embed` is what enters the first block. In block i, `attn.context` is what the heads bring
    together and `attn.out` its projection; `middle` is the residual stream between attention and
    feed-forward, `mlp.gelu` what the activation function leaves, perhaps times another map, and
    `blocks.i` the stream that leaves the block. `norm` is the last norm.
    """
    inside = present(config or ModelConfig(), _INNER)
    names = [_name(i, inner) for i in range(num_layers) for inner in inside]
    return ["embed", *names, "norm", "logits"]


def _name(layer: int, inner: str) -> str:
    return f"blocks.{layer}.{inner}".removesuffix(".")


def trace(variant: Variant, tokens: Int[Array, "B T"]) -> Activations:
    """Activations of a model on `tokens`; (B, T, D), (B, T, 3 D), (B, T, F) or (B, T, V).

    The parameters' dtype is the one computed in. Raises as building a GPT does, and as
    `check_tokens`, of at least one token.
    """
    found: Activations = {}
    run(variant, tokens, found.__setitem__)
    return found


def run(variant: Variant, tokens: Int[Array, "B T"], note: Note) -> None:
    """Forward pass that notes each activation, those of a block when it is through.

    What `note` raises ends it.
    """
    check_tokens(tokens, variant.config)
    model, layers = variant.model(), itertools.count()
    apply = block_of(model.config)
    outside = Points(variant, model.params.get_value(), {})

    def record(name: str, x: Array) -> Array:
        x = outside(name, x)
        note(name, outside.seen[name])
        return x

    def overridden(x: Array, **arguments: Any) -> tuple[Array, None]:
        layer = next(layers)
        own = variant.layers.get(layer, variant)
        settings = block_settings(
            own.config, jnp.arange(x.shape[1]), local=is_local(own.config, layer)
        )
        form = getattr(settings.get("attend"), "keywords", {})
        points = Points(own, arguments, form, **{"in": x})
        arguments |= settings | {"record": points}
        x, _ = apply(x, **arguments)
        outside.seen["in"] = x
        for inner, at in _INNER.items():
            if at in points.seen:  # a block of one's own may record less
                note(_name(layer, inner), _by_token(points.seen[at]))
        return x, None

    # Not where it is built, which would keep the block, and so the parameters, by the config.
    model.config = with_block(model.config, overridden)
    model(tokens, record=record)


def _by_token(x: Array) -> Float[Array, "B T _"]:
    """`x`, or what it has of each head (B, H, T, K) side by side."""
    return x if x.ndim == 3 else x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)


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


def loss_and_gradients(
    forward: Callable[[Params, Array], Array], params: Params, tokens: Int[Array, "B T"]
) -> tuple[Float[Array, ""], dict[str, Any]]:
    """Mean loss of predicting `tokens[:, 1:]`, in nats, and its gradient by parameter.

    `forward` gives the logits of parameters and tokens.
    """

    def loss(params: Params) -> Array:
        nats, count = cross_entropy(forward(params, tokens)[:, :-1], tokens[:, 1:])
        return nats / count

    return jax.value_and_grad(loss)(params)
