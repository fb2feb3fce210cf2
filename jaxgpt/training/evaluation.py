"""How well a model predicts a text: loss per token, perplexity, bits per byte."""

import math
import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import SlidingWindows
from jaxgpt.data.encode import encode_documents
from jaxgpt.data.mixed_windows import MixedWindows
from jaxgpt.data.mixture import Dataset
from jaxgpt.data.text import Document
from jaxgpt.data.tokens import TokenSplit
from jaxgpt.errors import ConfigError, DataError, NonFiniteError
from jaxgpt.fields import check_range
from jaxgpt.model.layers import Params
from jaxgpt.terminal import one_line
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.loss import Loss, LossFunction, pretraining_loss
from jaxgpt.training.mesh import batch_sharding, on_mesh
from jaxgpt.training.placing import computed, place
from jaxgpt.training.run_card import entropy_per_byte
from jaxgpt.training.sharing import mesh_of
from jaxgpt.training.step import TrainState, eval_step

# Added up on the device, whose float32 would lose digits beyond, before a double takes the sum.
_BATCHES_AT_ONCE = 1024
_MOST_CONTEXT = 4096  # tokens of a window, by default, unless a run was trained on more


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
        more, targets = measure(params, place((batch.inputs, batch.targets), sharding))
        nats = nats + more
        yield computed(nats), targets


def validation(
    config: TrainConfig,
    dataset: Dataset,
    windows: SlidingWindows,
    mesh: Mesh,
    make_loss: Callable[[TrainConfig], LossFunction] = pretraining_loss,
) -> Callable[[TrainState], dict[str, float]]:
    """Validation loss in nats per target, and in bits per byte beside the entropy where known.

    The bits are those of the next token, whatever the loss that `make_loss` gives. Of a mixture
    both are means over its sources by their shares, and the loss of each stands beside them; where
    `evaluation_batches` are given, so many are measured of each.
    """
    mixed = windows if isinstance(windows, MixedWindows) else None
    parts, counts = (mixed.parts, mixed.counts.tolist()) if mixed else ((windows,), [1])
    tokens_per_byte = [part.tokens.tokens_per_byte for part in parts]
    sharding, floor = batch_sharding(mesh), entropy_per_byte(dataset)

    def mean_loss(make_loss: Callable[[TrainConfig], LossFunction]) -> Callable[..., list[float]]:
        measure = jax.jit(on_mesh(partial(eval_step, loss_fn=make_loss(config)), mesh))

        def mean(state: TrainState, part: SlidingWindows) -> float:
            batches = part.in_order(config.batch_size // config.gradient_accumulation)
            some = islice(batches, config.evaluation_batches or None)
            nats, count = total_loss(measure, state.params, some, sharding)
            return nats / count

        return lambda state: [mean(state, part) for part in parts]

    def mixed_by_share(values: Iterable[float]) -> float:
        return math.fsum(map(operator.mul, values, counts)) / sum(counts)

    own = mean_loss(make_loss)
    standard = None if make_loss is pretraining_loss else mean_loss(pretraining_loss)

    def evaluate(state: TrainState) -> dict[str, float]:
        losses = own(state)
        nats = standard(state) if standard else losses
        bits = [loss / math.log(2) * each for loss, each in zip(nats, tokens_per_byte, strict=True)]
        measured = {
            "validation_loss": mixed_by_share(losses),
            "validation_bits_per_byte": mixed_by_share(bits),
        }
        if mixed:
            by_source = zip(mixed.names, losses, strict=True)
            measured |= {f"validation_loss/{one_line(name)}": loss for name, loss in by_source}
        return measured if floor is None else measured | {"entropy_bits_per_byte": floor}

    return evaluate


def evaluate_documents(
    model: LoadedModel,
    documents: Iterable[Document],
    *,
    end_of_text: bool = False,
    **options: Any,
) -> Evaluation:
    """Evaluate `model` on documents, cut into tokens as for training.

    `options` and errors are those of `evaluate_tokens`. With `end_of_text` (see
    `sources.are_collected`) each document is followed by that token. Without, the documents run on
    as one text.
    """
    split = encode_documents(documents, model.tokenizer, end_of_text=end_of_text)
    return evaluate_tokens(model, split, **options)


def evaluate_tokens(
    model: LoadedModel,
    split: TokenSplit,
    *,
    context_length: int | None = None,
    stride: int | None = None,
    batch_size: int | None = None,
) -> Evaluation:
    """Evaluate `model` on tokens: each but the first is predicted once.

    A window's first tokens are predicted from little context; a `stride` below the context length
    overlaps the windows, so that all but the first have more, at the price of more windows. By
    default all three are what the model's own run evaluates with, so that of its held-out text this
    is the run's figure; but the context of a model that no run here pretrained is at most 4,096.
    Raises ConfigError for a context length that the model has not, a stride or batch size below 1,
    or a stride above the context length; DataError for fewer than two tokens; NonFiniteError for a
    model without a finite loss.
    """
    longest, run = model.config.context_length, model.train_config
    pretrained = model.step and not model.task
    length = context_length or (longest if pretrained else min(longest, _MOST_CONTEXT))
    check_range("context_length", length, 1, longest)
    if stride is not None and not 1 <= stride <= length:
        raise ConfigError(f"stride is {stride}; it must be from 1 to context_length {length}")
    if len(split) < 2:
        raise DataError(f"the text has {len(split)} tokens; two are needed to predict one")
    stride = run.evaluation_stride or None if stride is None else stride
    if batch_size is None:
        batch_size = max(1, run.batch_size // run.gradient_accumulation)
    windows = SlidingWindows(split, min(length, len(split) - 1), stride)
    measure, mesh = partial(eval_step, loss_fn=pretraining_loss(run)), mesh_of(model.params)
    sharding = mesh and batch_sharding(mesh)
    if sharding is not None:
        batch_size = -(-batch_size // sharding.num_devices) * sharding.num_devices
    measure = jax.jit(measure if mesh is None else on_mesh(measure, mesh))
    nats, count = total_loss(measure, model.params, windows.in_order(batch_size), sharding)
    return Evaluation(finite(nats / count), count, split.num_bytes)


def finite(loss: float) -> float:
    """The loss of a trained model; raises NonFiniteError if it is NaN or infinite."""
    if not math.isfinite(loss):
        raise NonFiniteError(
            f"the loss is {loss}: parameters of the model are not finite, or too large; take a "
            "checkpoint from before its training diverged"
        )
    return loss
