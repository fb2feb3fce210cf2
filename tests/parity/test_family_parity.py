"""Today's families against PyTorch: logits, loss, every gradient leaf, twenty steps of AdamW."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import FAMILIES, GEMMA3, LLAMA, OLMO3
from test_training_parity import (
    CLIPPED,
    MEAN_TOLERANCE,
    STEPS,
    mean_errors,
    train_in_jax,
    train_in_torch,
)
from torch.nn import functional

from jaxgpt.benchmark.torch_trainer import fast_model
from jaxgpt.config import Rope
from jaxgpt.model.gpt import GPT
from jaxgpt.parity import torch_reference
from jaxgpt.training.loss import cross_entropy

# Each switch alone beside Llama's, where no family has it alone; and what no family here has.
SINGLE = {
    "biases": {"qkv_bias": True},
    "all biases": {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    "one kv head": {"num_kv_heads": 1},
    "window in all layers": {"window": 7},
    "scaled in windows too": {
        **{"window": 7, "window_period": 2},
        "rope": dataclasses.replace(OLMO3.rope, rope_scale_local=True),
    },
    "yarn untruncated": {
        "rope": dataclasses.replace(OLMO3.rope, rope_truncate=False, rope_attention_factor=0.0)
    },
    "layer norms after": {"norm": "layer", "norm_place": "both"},
    "learned positions": {"positions": "learned", "rope": Rope()},
    "gelu by erf": {"gate": "gelu", "gelu": "erf"},
}
CONFIGS = FAMILIES | {name: dataclasses.replace(LLAMA, **x) for name, x in SINGLE.items()}
B, T = 2, 40
TOKENS = np.random.default_rng(0).integers(LLAMA.vocab_size, size=(B, T + 1), dtype=np.int32)
LOGITS, LOSS, GRADIENTS = 2e-5, 1e-6, 1e-5
QUICK = ("llama", "qwen3", "gemma3")


def in_jax(config, params):
    def mean_loss(params):
        logits = GPT(config, params)(jnp.asarray(TOKENS[:, :-1]))
        total, count = cross_entropy(logits, jnp.asarray(TOKENS[:, 1:]))
        return total / count, logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(params)
    return logits, loss, grads


def in_torch(config, params, make=torch_reference.from_params):
    model = make(config, params)
    tokens = torch.tensor(TOKENS, dtype=torch.int64)
    logits = model(tokens[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    grads = torch_reference.to_params(model, grads=True)
    return logits.detach().numpy(), np.float32(loss.item()), grads


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=() if x in QUICK else pytest.mark.whole_run) for x in CONFIGS],
)
def test_logits_loss_and_every_gradient_leaf(name, random_params, agree):
    config = CONFIGS[name]
    params = random_params(config)
    logits, loss, grads = in_jax(config, params)
    expected_logits, expected_loss, expected_grads = in_torch(config, params)
    agree(logits, expected_logits, LOGITS)
    agree(loss, expected_loss, LOSS)
    agree(grads, expected_grads, GRADIENTS)


@pytest.mark.parametrize("name", ["gemma3", pytest.param("olmo3", marks=pytest.mark.whole_run)])
def test_fused_attention_is_the_same(name, random_params, agree):
    params = random_params(FAMILIES[name])
    logits, _, _ = in_torch(FAMILIES[name], params, fast_model)
    agree(logits, in_torch(FAMILIES[name], params)[0], LOGITS)


@pytest.mark.whole_run
@pytest.mark.parametrize("name", FAMILIES)
def test_twenty_steps(name, random_params, agree):
    config = FAMILIES[name]
    noise = np.random.default_rng(0)
    batches = noise.integers(config.vocab_size, size=(STEPS, 3, 21), dtype=np.int32)
    params = random_params(config)
    losses, ours = train_in_jax(config, CLIPPED, params, batches)
    expected_losses, theirs = train_in_torch(config, CLIPPED, params, batches)
    agree(losses, expected_losses, LOSS)
    errors = mean_errors(ours, theirs, params)
    assert max(errors.values()) < MEAN_TOLERANCE, errors


# Planted in the JAX model: the comparison must fail for each, and does so by its size.
SETTINGS = {
    "window off by one": (OLMO3, {"window": 8}),
    "window ignored": (OLMO3, {"window": 0, "window_period": 0}),
    "another period": (OLMO3, {"window_period": 2}),
    "scaling ignored": (OLMO3, {"rope": Rope(rope_base=100.0)}),
    "attention factor ignored": (
        OLMO3,
        {"rope": dataclasses.replace(OLMO3.rope, rope_attention_factor=1.0)},
    ),
    "truncate flipped": (OLMO3, {"rope": dataclasses.replace(OLMO3.rope, rope_truncate=False)}),
    "another local base": (
        GEMMA3,
        {"rope": dataclasses.replace(GEMMA3.rope, rope_local_base=0.0)},
    ),
    "norm offset missing": (GEMMA3, {"norm_offset": False}),
    "embedding not scaled": (GEMMA3, {"scale_embedding": False}),
    "scale by the head's width": (GEMMA3, {"attention_scale": 0.0}),
    "exact GELU": (GEMMA3, {"gelu": "erf"}),
    "epsilon": (OLMO3, {"norm_epsilon": 1e-5}),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_planted_setting_shows(name, random_params, agree):
    config, change = SETTINGS[name]
    params = random_params(config)
    right = in_torch(config, params)[0]
    wrong = in_torch(dataclasses.replace(config, **change), params)[0]
    with pytest.raises(AssertionError, match="of the largest off"):
        agree(wrong, right, LOGITS)
