"""What is fine-tuned: prompts, batches of rows and of pairs, and adapters (chapters 6, 7 and E)."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.data.batches import IGNORE, Batch
from jaxgpt.finetuning.instructions import (
    TokenRow,
    collate,
    conversation,
    encode_conversation,
    token_row,
)
from jaxgpt.finetuning.lora import init_adapters, lora_loss
from jaxgpt.finetuning.pairs import collate_pairs, encode_preference, preference
from jaxgpt.finetuning.records import Record
from jaxgpt.finetuning.settings import LORA_TARGETS, LoraConfig
from jaxgpt.finetuning.templates import TEMPLATES
from jaxgpt.model.layers import Params, init_linear
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.parity.torch_random import TorchGenerator
from jaxgpt.presets import get_preset
from jaxgpt.training.loss import cross_entropy, head_losses
from jaxgpt.worked.examples import EXAMPLES, Given, count, example

_END = 50256
_LISTS = ([0, 1, 2, 3, 4], [5, 6], [7, 8, 9])
_ALPACA = TEMPLATES["alpaca"]
_ADAPTED = LoraConfig(rank=16, alpha=16.0, targets=LORA_TARGETS)


def _batch() -> Batch:
    return collate([token_row([*tokens, _END]) for tokens in _LISTS], padding=_END)


@example("ch07.ce")
def _losses_with_ignored_target(given: Given) -> Any:
    """Of two targets, of three, and of three of which the last does not count."""
    logits = jnp.array([[-1.0, 1.0], [-0.5, 1.5], [-0.5, 1.5]])

    def mean(*targets: int) -> Any:
        nats, count = cross_entropy(logits[: len(targets)], jnp.array(targets))
        return nats / count

    return [mean(0, 1), mean(0, 1, 1), mean(0, 1, IGNORE)]


def _epoch(given: Given) -> list[list[Record]]:
    """The batches of 8 in an epoch over the first 85% of the records, shuffled."""
    records = given.records[: int(0.85 * len(given.records))]
    order = TorchGenerator(123).loader_order(len(records))
    batches = order[: len(order) // 8 * 8].reshape(-1, 8)
    return [[records[i] for i in batch] for batch in batches]


@example("ch07.loader_widths")
def _widths_of_batches(given: Given) -> Any:
    tokenizer = given.tokenizer

    def row(record: Record) -> TokenRow:
        turns = conversation(record).turns
        return encode_conversation(turns, _ALPACA, tokenizer, mask_prompt=False)

    batches = (collate([row(r) for r in batch], padding=_END) for batch in _epoch(given))
    return [batch.inputs.shape[1] for batch in batches]


@example("dpo.gather")
def _log_probabilities_of_answer(given: Given) -> Any:
    logits = jnp.array([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]])
    # A head that passes on what it is given.
    nats, count = head_losses(logits[None], jnp.eye(3), jnp.array([[0, 2]]))
    return (nats / count)[0]


@example("dpo.loader_widths")
def _widths_of_batches_of_pairs(given: Given) -> Any:
    epoch, tokenizer = _epoch(given), given.tokenizer
    pairs = ([encode_preference(preference(r), _ALPACA, tokenizer) for r in b] for b in epoch)
    # The notebook's rows are whole; here the last token is a target alone.
    return [collate_pairs(batch, padding=0).inputs.shape[-1] + 1 for batch in pairs]


def _adapters(params: Params) -> Any:
    return jax.eval_shape(lambda: init_adapters(params, _ADAPTED, jax.random.key(0)))


@example("appE.params")
def _parameters_of_classifier(given: Given) -> Any:
    """GPT-2 with a head of two classes in place of its own, which is tied."""
    head = jax.eval_shape(lambda: init_linear(jax.random.key(0), 768, 2))
    params = parameter_shapes(get_preset("gpt2").model) | {"head": head}
    adapters = _adapters(params)

    def total(params: Params, batch: Any, rng: Any) -> Any:
        return sum(leaf.sum() for leaf in jax.tree.leaves(params)), jnp.zeros((), int)

    def gradient(base: Params, adapters: Any) -> Any:
        loss = lora_loss(total, base, _ADAPTED)
        return jax.grad(loss, has_aux=True)(adapters, None, None)[0]

    trained = jax.eval_shape(gradient, params, adapters)
    return {
        "total": count(params),
        "frozen_trainable": count(trained) - count(adapters),
        "lora_r16": count(adapters),
    }


@example("ch07.lora_params_355M")
def _parameters_of_adapters(given: Given) -> int:
    untied = replace(get_preset("gpt2-medium").model, tie_head=False)
    return count(_adapters(parameter_shapes(untied)))


EXAMPLES |= {
    "ch06.prompt_ids": lambda given: given.tokenizer.encode("Do you have time"),
    "ch07.collate.inputs": lambda given: _batch().inputs,
    "ch07.collate.targets": lambda given: _batch().targets,
}
