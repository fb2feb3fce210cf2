"""How well a model predicts a text: loss per token, perplexity, bits per byte."""

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.encode import encode_documents
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import TokenSplit
from jaxgpt.errors import ConfigError, DataError, NonFiniteError
from jaxgpt.model.layers import Params
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.loss import Loss, pretraining_loss
from jaxgpt.training.step import eval_step

# Added up on the device, whose float32 would lose digits beyond, before a double takes the sum.
_BATCHES_AT_ONCE = 1024


@dataclass(frozen=True)
class Evaluation:
    """The measurements of one text; `targets` are the tokens that were predicted, all but one."""

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
        """The loss in bits for each byte of the text, whatever the tokenizer."""
        return self.loss / math.log(2) * (self.targets + 1) / self.num_bytes


def total_loss(
    measure: Callable[[Params, Any], Loss],
    params: Params,
    batches: Iterable[Any],
    sharding: Any = None,
) -> tuple[float, int]:
    """The summed loss in nats and the number of targets over `batches`, which have these two."""
    nats, count, left = 0.0, 0, iter(batches)
    while group := list(_measured(measure, params, islice(left, _BATCHES_AT_ONCE), sharding)):
        sums, counts = zip(*group, strict=True)
        nats += float(sums[-1])
        count += sum(map(int, jax.device_get(counts)))
    return nats, count


def _measured(
    measure: Callable[[Params, Any], Loss], params: Params, batches: Iterable[Any], sharding: Any
) -> Iterator[tuple[Any, Any]]:
    """The loss of the batches so far and the targets of each, on the device."""
    nats = jnp.zeros((), jnp.float32)
    for batch in batches:
        more, targets = measure(params, jax.device_put((batch.inputs, batch.targets), sharding))
        nats = nats + more
        yield nats, targets


def evaluate_documents(
    model: LoadedModel,
    documents: Iterable[Document],
    *,
    end_of_text: bool = False,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate `model` on documents, cut into tokens as for training; see `evaluate_tokens`.

    With `end_of_text` (see `sources.are_collected`) each document is followed by that token.
    Without, the documents run on as one text.
    """
    split = encode_documents(documents, model.tokenizer, end_of_text=end_of_text)
    return evaluate_tokens(model, split, stride=stride, batch_size=batch_size)


def evaluate_tokens(
    model: LoadedModel,
    split: TokenSplit,
    *,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate `model` on tokens: each but the first is predicted once.

    A window's first tokens are predicted from little context; a `stride` below the context length
    overlaps the windows, so that all but the first have more, at the price of more windows. By
    default it and `batch_size` are what the model's own run evaluates with, so that of its held-out
    text this is the run's figure.

    Raises:
        ConfigError: a stride or batch size below 1, or a stride above the context length.
        DataError: fewer than two tokens.
        NonFiniteError: a model without a finite loss.
    """
    length, run = model.config.context_length, model.train_config
    if stride is not None and not 1 <= stride <= length:
        raise ConfigError(f"stride is {stride}; it must be from 1 to context_length {length}")
    if len(split) < 2:
        raise DataError(f"the text has {len(split)} tokens; two are needed to predict one")
    stride = run.evaluation_stride or None if stride is None else stride
    if batch_size is None:
        batch_size = max(1, run.batch_size // run.gradient_accumulation)
    windows = SlidingWindows(split, min(length, len(split) - 1), stride)
    measure = jax.jit(partial(eval_step, loss_fn=pretraining_loss(run)))
    nats, count = total_loss(measure, model.params, windows.in_order(batch_size))
    return Evaluation(finite(nats / count), count, split.num_bytes)


def finite(loss: float) -> float:
    """The loss of a trained model; raises NonFiniteError if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the loss is {loss}: parameters of the model are not finite, or too large; take a "
            "checkpoint from before its training diverged"
        )
    return loss
