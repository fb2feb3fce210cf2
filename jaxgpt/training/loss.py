"""Logits -> loss: the sum over tokens and their number, so that any split of a batch adds up."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Params

Loss = tuple[Float[Array, ""], Int[Array, ""]]
"""The summed loss in nats, and the number of targets that it sums over."""


LossFunction = Callable[[Params, Any, PRNGKeyArray | None], Loss]
"""A loss of parameters on a batch; dropout is on where a random key is given."""


def cross_entropy(logits: Float[Array, "*B V"], targets: Int[Array, "*B"]) -> Loss:
    """The negative log-probability of the targets, in nats, summed; targets of -100 do not count.

    In float32 whatever the dtype of the logits. -100 is PyTorch's `ignore_index`.
    """
    counted = targets != IGNORE
    logits = logits.astype(jnp.float32)
    labels = jnp.where(counted, targets, 0)[..., None]
    picked = jnp.take_along_axis(logits, labels, axis=-1)[..., 0]
    nats = jax.nn.logsumexp(logits, axis=-1) - picked
    return jnp.where(counted, nats, 0).sum(), counted.sum()


def next_token_loss(config: TrainConfig) -> LossFunction:
    """The loss of pretraining: each token's surprise, on batches of (inputs, targets), each (B, T).

    The parameters are cast once to the compute dtype; the gradient comes back in theirs.
    """
    dtype = jnp.dtype(config.compute_dtype)

    def loss(
        params: Params,
        batch: tuple[Int[Array, "B T"], Int[Array, "B T"]],
        rng: PRNGKeyArray | None,
    ) -> Loss:
        inputs, targets = batch
        cast = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
        logits = GPT(config.model, cast)(inputs, rng=rng, remat=config.remat)
        with jax.named_scope("loss"):
            return cross_entropy(logits, targets)

    return loss
