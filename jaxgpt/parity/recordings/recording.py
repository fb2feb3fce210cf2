"""What a model computed on some tokens: every activation, the loss, every gradient."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Params
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.trace import check_tokens, loss_and_gradients, trace

_ORDER = (
    *("embed", "blocks", "norm", "head", "tokens", "positions", "norm1", "attn", "norm2", "mlp"),
    *("qkv", "out", "up", "down", "weight", "scale", "bias"),
)

Leaves = dict[str, np.ndarray]
"""Arrays by jaxgpt's path, its parts joined by dots."""


@dataclass(frozen=True)
class Recording:
    """What one model computed on `tokens`, in float32 whatever the dtype that it computed in."""

    name: str
    """Where the model comes from, in a word or two."""
    tokens: Int[np.ndarray, "B T"]
    activations: dict[str, np.ndarray]
    """By the names of `activation_names`; of a foreign model perhaps only `logits`."""
    loss: float | None = None
    """Mean loss of predicting each token but the first from those before it, in nats."""
    gradients: Leaves | None = None
    """The loss's gradient."""
    config: ModelConfig | None = None
    """As far as it can be seen from outside."""
    params: Params | None = None
    """Where a bias is absent, zeros."""
    dtype: str = "float32"
    """The coarsest in which activations come."""
    notes: tuple[str, ...] = ()
    """What a reader should know, each a sentence without a subject."""
    evaluated: "Recording | None" = None
    """Of a model that computes something else each time: the same in evaluation mode."""


def record_model(
    config: ModelConfig, params: Params, tokens: Int[np.ndarray, "B T"], name: str = "jaxgpt"
) -> Recording:
    """Run a jaxgpt model on `tokens` in the dtype of its parameters.

    Activations come from `trace`, loss and gradients from `GPT` itself, jitted. Matrix products are
    not rounded further, on any device. Raises ConfigError or DataError if the tokens do not fit.
    """
    check_tokens(tokens, config, name, least=2)
    with jax.default_matmul_precision("highest"):
        activations = to_numpy(trace(Variant(config, params), jnp.asarray(tokens)))
        loss, gradients = _loss_and_gradients(config, params, jnp.asarray(tokens))
    return Recording(
        name,
        np.asarray(tokens),
        activations,
        float(loss),
        dict(flatten(gradients)),
        config,
        params,
        str(params["embed"]["tokens"].dtype),
    )


@partial(jax.jit, static_argnums=0)
def _loss_and_gradients(
    config: ModelConfig, params: Params, tokens: Int[Array, "B T"]
) -> tuple[Float[Array, ""], Params]:
    return loss_and_gradients(lambda params, x: GPT(config, params)(x), params, tokens)


def to_numpy(activations: dict[str, Any]) -> dict[str, np.ndarray]:
    """The activations on the host, in float32."""
    return {name: np.asarray(x, np.float32) for name, x in activations.items()}


def flatten(params: Params, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """Each leaf of nested dicts with its path, in float32, in the order of the forward pass."""
    for name, value in sorted(params.items(), key=lambda item: _ORDER.index(item[0])):
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield prefix + name, np.asarray(value, np.float32)


def unflatten(leaves: dict[str, np.ndarray], dtype: str = "float32") -> Params:
    """Nested dicts of `leaves`, as jaxgpt takes them."""
    params: Params = {}
    for path, leaf in leaves.items():
        *folders, last = path.split(".")
        node = params
        for folder in folders:
            node = node.setdefault(folder, {})
        node[last] = jnp.asarray(leaf, dtype)
    return params
