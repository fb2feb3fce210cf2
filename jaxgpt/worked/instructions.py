"""Rows of several lengths in one batch, and the loss of what counts in them (chapter 7)."""

from typing import Any

import jax.numpy as jnp

from jaxgpt.data.batches import IGNORE, Batch
from jaxgpt.finetuning.instructions import (
    TokenRow,
    collate,
    conversation,
    encode_conversation,
    token_row,
)
from jaxgpt.finetuning.templates import TEMPLATES
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.training.loss import cross_entropy
from jaxgpt.worked.examples import Given, example

_END = 50256
_LISTS = ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])


def _batch() -> Batch:
    return collate([token_row([*tokens, _END]) for tokens in _LISTS], padding=_END)


@example("ch07.collate.inputs")
def _padded_inputs(given: Given) -> Any:
    return _batch().inputs


@example("ch07.collate.targets")
def _padded_targets(given: Given) -> Any:
    return _batch().targets


@example("ch07.ce")
def _losses_with_ignored_target(given: Given) -> Any:
    """Of two targets, of three, and of three of which the last does not count."""
    logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])

    def mean(*targets: int) -> Any:
        nats, count = cross_entropy(logits[: len(targets)], jnp.array(targets))
        return nats / count

    return [mean(0, 1), mean(0, 1, 1), mean(0, 1, IGNORE)]


@example("ch07.loader_widths")
def _widths_of_batches(given: Given) -> Any:
    """Of the batches of 8 in an epoch over the first 85% of the records, shuffled, in tokens."""
    tokenizer, records = given.tokenizer, given.records
    records = records[: int(0.85 * len(records))]

    def row(turns: Any) -> TokenRow:
        return encode_conversation(turns, TEMPLATES["alpaca"], tokenizer, mask_prompt=False)

    rows = [row(conversation(record).turns) for record in records]
    order = TorchGenerator(123).loader_order(len(rows))
    batches = order[: len(order) // 8 * 8].reshape(-1, 8)
    return [collate([rows[i] for i in batch], padding=_END).inputs.shape[1] for batch in batches]
