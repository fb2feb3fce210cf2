"""The log-probabilities of answers, and how wide the batches of pairs are (chapter 7's DPO)."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxgpt.finetuning.pairs import collate_pairs, encode_preference, preference
from jaxgpt.finetuning.templates import TEMPLATES
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.training.loss import head_losses
from jaxgpt.worked.examples import Given, example


@example("dpo.gather")
def _log_probabilities_of_answer(given: Given) -> Any:
    logits = jnp.array([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]])
    # A head that passes on what it is given.
    nats, count = head_losses(logits[None], jnp.eye(3), jnp.array([[0, 2]]))
    return (nats / count)[0]


@example("dpo.loader_widths")
def _widths_of_batches_of_pairs(given: Given) -> Any:
    """Of the batches of 8 in an epoch over the first 85% of the records, shuffled, in tokens."""
    records, tokenizer = given.records, given.tokenizer
    records = records[: int(0.85 * len(records))]
    pairs = [encode_preference(preference(r), TEMPLATES["alpaca"], tokenizer) for r in records]
    order = TorchGenerator(123).loader_order(len(pairs))
    batches = order[: len(order) // 8 * 8].reshape(-1, 8)
    collated = (collate_pairs([pairs[i] for i in batch], padding=0) for batch in batches)
    # The notebook's rows are whole; here the last token is a target alone.
    return np.array([batch.inputs.shape[-1] + 1 for batch in collated])
