"""What a model computed on some tokens: every activation, the loss, every gradient."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxgpt.config import ModelConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Params
from jaxgpt.model.nested import flatten, nest
from jaxgpt.model.schema import SCHEMA
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.trace import check_tokens, loss_and_gradients, trace

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
    return _record(Variant(config, params), tokens, name, partial(_loss_and_gradients, config))


def record_variant(
    variant: Variant, tokens: Int[np.ndarray, "B T"], name: str = "variant"
) -> Recording:
    """Run a GPT with overrides on `tokens`, as `record_model` one without; all is of `trace`."""

    def logits(params: Params, tokens: Array) -> Array:
        return trace(replace(variant, params=params), tokens)["logits"]

    return _record(variant, tokens, name, partial(loss_and_gradients, logits))


def _record(
    variant: Variant,
    tokens: Int[np.ndarray, "B T"],
    name: str,
    differentiate: Callable[[Params, Array], tuple[Array, Params]],
) -> Recording:
    check_tokens(tokens, variant.config, name, least=2)
    with jax.default_matmul_precision("highest"):
        activations = trace(variant, jnp.asarray(tokens))
        loss, gradients = differentiate(variant.params, jnp.asarray(tokens))
    return Recording(
        name,
        np.asarray(tokens),
        {name: np.asarray(x, np.float32) for name, x in activations.items()},
        float(loss),
        to_leaves(gradients),
        variant.config,
        variant.params,
        str(variant.params["embed"]["tokens"].dtype),
    )


@partial(jax.jit, static_argnums=0)
def _loss_and_gradients(
    config: ModelConfig, params: Params, tokens: Int[Array, "B T"]
) -> tuple[Float[Array, ""], Params]:
    return loss_and_gradients(lambda params, x: GPT(config, params)(x), params, tokens)


def to_leaves(params: Params) -> Leaves:
    """Each leaf of nested dicts by path, in float32, in the order of the forward pass."""
    found = flatten(params)
    paths = (leaf.path for leaf in SCHEMA if leaf.path in found)
    return {path: np.asarray(found[path], np.float32) for path in paths}


def from_leaves(leaves: Leaves, dtype: str = "float32") -> Params:
    """Nested dicts of `leaves`, as jaxgpt takes them."""
    return nest({path: jnp.asarray(leaf, dtype) for path, leaf in leaves.items()})
