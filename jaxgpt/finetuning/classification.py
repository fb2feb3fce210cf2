"""A GPT as a classifier: a small head on one of its vectors, trained on the class of each text."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Int32, PRNGKeyArray

from jaxgpt.compute import Compute
from jaxgpt.config import ModelConfig
from jaxgpt.data.batches import IGNORE
from jaxgpt.fields import typed
from jaxgpt.finetuning.labelled import LabelledBatch
from jaxgpt.model.layers import Params, init_linear, linear
from jaxgpt.training.loss import AS_IT_IS, Loss, LossFunction, cross_entropy, hidden
from jaxgpt.training.placing import place, to_host

Pooling = Literal["last", "first", "mean"]
"""Which vector stands for a text: that of its last real token, the only one that has seen the whole
text; of its first, which has seen nothing else; or the mean of all real ones."""


def classifier_params(params: Params, num_classes: int, key: PRNGKeyArray) -> Params:
    """A GPT's parameters with a new `head`, (D, C) and (C,), in place of its own."""
    width = params["norm"]["scale"].shape[0]
    return params | {"head": init_linear(key, width, num_classes)}


def classify(
    config: ModelConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    lengths: Int[Array, " B"],
    compute: Compute = AS_IT_IS,
    *,
    pooling: Pooling = "last",
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "B C"]:
    """The logits of each text's class; `lengths` tells how many of a row's tokens are real.

    What follows them changes nothing. The blocks compute in the dtype of `compute`, the head in
    float32.
    """
    x = hidden(config, params, tokens, compute, rng=rng)
    pooled = pool(x, lengths, pooling).astype(jnp.float32)
    with jax.named_scope("head"):
        return linear(pooled, **params["head"])


def pool(
    x: Float[Array, "B T D"], lengths: Int[Array, " B"], pooling: Pooling
) -> Float[Array, "B D"]:
    """One vector for each row, made of its first `lengths` only."""
    typed("pooling", pooling, Pooling)
    if pooling == "first":
        return x[:, 0]
    if pooling == "last":
        return jnp.take_along_axis(x, lengths[:, None, None] - 1, axis=1)[:, 0]
    real = jnp.arange(x.shape[1]) < lengths[:, None]
    total = jnp.where(real[..., None], x.astype(jnp.float32), 0).sum(axis=1)
    return total / lengths[:, None]


def class_loss(
    config: ModelConfig, compute: Compute = AS_IT_IS, pooling: Pooling = "last"
) -> LossFunction:
    """The surprise at each text's class, on batches of (tokens, lengths, labels).

    Rows with the label -100 do not count. The parameters are cast as in `next_token_loss`.
    """

    def loss(params: Params, batch: Any, rng: PRNGKeyArray | None) -> Loss:
        tokens, lengths, labels = batch
        logits = classify(config, params, tokens, lengths, compute, pooling=pooling, rng=rng)
        return cross_entropy(logits, labels)

    return loss


def class_probabilities(
    config: ModelConfig, compute: Compute = AS_IT_IS, pooling: Pooling = "last"
) -> Callable[[Params, Any], Float[Array, "B C"]]:
    """The function of parameters and a batch that gives each row's probability of each class."""

    def probabilities(params: Params, batch: Any) -> Float[Array, "B C"]:
        logits = classify(config, params, batch[0], batch[1], compute, pooling=pooling)
        return jax.nn.softmax(logits)

    return probabilities


def predict(
    probabilities: Callable[[Params, Any], Array],
    params: Params,
    batches: Iterable[LabelledBatch],
    sharding: Any = None,
) -> tuple[Int32[np.ndarray, " N"], Float32[np.ndarray, "N C"]]:
    """The class of every text in `batches` and the probabilities that the model gives it.

    `probabilities` is (compiled) `class_probabilities`. Rows with the label -100 are left out.
    """
    labels, given = [], []
    for batch in batches:
        counted = batch.labels != IGNORE
        labels.append(batch.labels[counted])
        rows = probabilities(params, place(tuple(batch), sharding))
        given.append(np.asarray(to_host(rows))[counted])
    return np.concatenate(labels), np.concatenate(given)
