"""How many parameters low-rank adapters have (appendix E, and an exercise of chapter 7)."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.finetuning.lora import init_adapters, lora_loss
from jaxgpt.finetuning.settings import LORA_TARGETS, LoraConfig
from jaxgpt.model.layers import Params, init_linear
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.presets import get_preset
from jaxgpt.worked.examples import Given, example

_ALL = LoraConfig(rank=16, alpha=16.0, targets=LORA_TARGETS)


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _adapters(params: Params) -> Any:
    return jax.eval_shape(lambda: init_adapters(params, _ALL, jax.random.key(0)))


@example("appE.params")
def _parameters_of_classifier(given: Given) -> Any:
    """GPT-2 with a head of two classes in place of its own, which is tied."""
    head = jax.eval_shape(lambda: init_linear(jax.random.key(0), 768, 2))
    params = parameter_shapes(get_preset("gpt2").model) | {"head": head}
    adapters = _adapters(params)

    def gradient(base: Params, adapters: Any) -> Any:
        loss = lora_loss(lambda params, batch, rng: (_sum(params), jnp.zeros((), int)), base, _ALL)
        return jax.grad(loss, has_aux=True)(adapters, None, None)[0]

    trained = jax.eval_shape(gradient, params, adapters)
    return {
        "total": _count(params),
        "frozen_trainable": _count(trained) - _count(adapters),
        "lora_r16": _count(adapters),
    }


def _sum(params: Params) -> Any:
    return sum(leaf.sum() for leaf in jax.tree.leaves(params))


@example("ch07.lora_params_355M")
def _parameters_of_adapters(given: Given) -> int:
    untied = replace(get_preset("gpt2-medium").model, tie_head=False)
    return _count(_adapters(parameter_shapes(untied)))
