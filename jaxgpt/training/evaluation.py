"""How well a model predicts a text: loss per token, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.data.batches import Batch, SlidingWindows
from jaxgpt.data.sources import Document
from jaxgpt.data.tokenizer import Tokenizer
from jaxgpt.errors import ConfigError, DataError, NonFiniteError
from jaxgpt.model.layers import Params
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.loss import Loss, next_token_loss
from jaxgpt.training.step import eval_step


@dataclass(frozen=True)
class Evaluation:
    """The measurements of one text; `targets` are the tokens that were predicted."""

    loss: float
    targets: int
    num_bytes: int

    @property
    def perplexity(self) -> float:
        """The number of equally likely tokens that would surprise as much, exp(loss)."""
        try:
            return math.exp(self.loss)
        except OverflowError:
            return math.inf

    @property
    def bits_per_byte(self) -> float:
        """The loss in bits for each byte of the predicted text, whatever the tokenizer."""
        return self.loss * self.targets / math.log(2) / self.num_bytes


def total_loss(
    measure: Callable[[Params, Any], Loss],
    params: Params,
    batches: Iterable[Batch],
    sharding: Any = None,
) -> tuple[float, int]:
    """The summed loss in nats and the number of targets over `batches`, fetched once at the end."""
    nats, count = jnp.zeros(()), jnp.zeros((), jnp.int32)
    for batch in batches:
        more, targets = measure(params, jax.device_put((batch.inputs, batch.targets), sharding))
        nats, count = nats + more, count + targets
    return float(nats), int(count)


def evaluate_documents(
    model: LoadedModel,
    documents: Iterable[Document],
    *,
    stride: int | None = None,
    batch_size: int = 8,
) -> Evaluation:
    """Evaluate `model` on documents, read as one text: each token but the first is predicted once.

    A window's first tokens are predicted from little context; a `stride` below the context length
    overlaps the windows, so that all but the first have more, at the price of more windows.
    Raises:
        ConfigError: a stride or batch size below 1, or a stride above the context length.
        DataError: fewer than two tokens.
        NonFiniteError: a model without a finite loss.
    """
    length = model.config.context_length
    if stride is not None and not 1 <= stride <= length:
        raise ConfigError(f"stride is {stride}; it must be from 1 to context_length {length}")
    tokens, num_bytes = _tokenize(model.tokenizer, documents)
    if len(tokens) < 2:
        raise DataError(f"the text has {len(tokens)} tokens; two are needed to predict one")
    windows = SlidingWindows(tokens, min(length, len(tokens) - 1), stride)
    measure = jax.jit(partial(eval_step, loss_fn=next_token_loss(model.train_config)))
    nats, count = total_loss(measure, model.params, windows.in_order(batch_size))
    given = len(model.tokenizer.decode_bytes(tokens[:1].tolist()))
    return Evaluation(finite(nats / count), count, max(num_bytes - given, 1))


def finite(loss: float) -> float:
    """The loss of a trained model; raises NonFiniteError if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the loss is {loss}: parameters of the model are not finite, or too large; take a "
            "checkpoint from before its training diverged"
        )
    return loss


def _tokenize(tokenizer: Tokenizer, documents: Iterable[Document]) -> tuple[np.ndarray, int]:
    pieces, num_bytes = [np.zeros(0, np.int32)], 0
    for document in documents:
        pieces.append(np.array(tokenizer.encode(document.text), np.int32))
        num_bytes += len(document.text.encode())
    return np.concatenate(pieces), num_bytes
