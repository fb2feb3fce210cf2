"""The loss function, AdamW alone, and 20 steps by AdamW or Muon against PyTorch."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import torch
from torch.nn import functional

from jaxgpt.config import ModelConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.schema import dimensions
from jaxgpt.parity import torch_reference
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.loss import cross_entropy
from jaxgpt.training.optimizer import learning_rate, make_optimizer

GPT2 = ModelConfig(vocab_size=37, context_length=16, num_layers=2, num_heads=4, embed_dim=32)
OTHER = dataclasses.replace(
    GPT2, tie_head=False, qkv_bias=False, positions="sinusoidal", gelu="erf"
)
STEPS, B, T = 20, 3, 13
CLIPPED = OptimizerConfig(learning_rate=3e-3, warmup_steps=5, gradient_clip=1.0)
UNCLIPPED = OptimizerConfig(
    learning_rate=3e-3,
    schedule="wsd",
    warmup_steps=0,
    beta1=0.8,
    beta2=0.999,
    weight_decay_on="all",
    gradient_clip="none",
)
MUON, UNCLIPPED_MUON = (
    dataclasses.replace(config, optimizer="muon") for config in (CLIPPED, UNCLIPPED)
)


def test_cross_entropy(agree, rounding):
    V = GPT2.vocab_size
    noise = np.random.default_rng(0)
    logits = noise.standard_normal((B, T, V), dtype=np.float32)
    targets = noise.integers(V, size=(B, T))
    targets[0, :4] = -100
    theirs = torch.tensor(logits, requires_grad=True)
    expected = functional.cross_entropy(
        theirs.flatten(0, 1), torch.tensor(targets).flatten(), reduction="sum"
    )
    expected.backward()

    ours = jax.jit(jax.value_and_grad(cross_entropy, has_aux=True))
    (actual, count), grads = ours(jnp.asarray(logits), jnp.asarray(targets))
    assert count == B * T - 4
    # Sums over the vocabulary, then over the tokens. Measured: 1e-7 and 1e-7.
    agree(actual, np.float32(expected.item()), rounding(V + B * T))
    agree(grads, theirs.grad.numpy(), rounding(V))


def torch_optimizers(model, config):
    """AdamW; or Muon for the matrices of the blocks, and AdamW for the rest."""
    adamw = torch_reference.configure_adamw(model, config)
    if config.optimizer == "adamw":
        return [adamw]
    blocks = model.blocks.parameters()
    matrices = {id(parameter): parameter for parameter in blocks if parameter.ndim == 2}
    for group in adamw.param_groups:
        group["params"] = [leaf for leaf in group["params"] if id(leaf) not in matrices]
    muon = torch.optim.Muon(
        matrices.values(),
        weight_decay=config.weight_decay,
        momentum=config.momentum,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adamw, muon]


@pytest.fixture(autouse=True)
def newton_schulz_in_float32(monkeypatch):
    """PyTorch's Muon rounds to bfloat16, of which the rest of its step knows nothing."""
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)


def torch_steps(model, config):
    """Functions that each clip the gradients in `model` and make one step of the schedule."""
    optimizers = torch_optimizers(model, config)
    rates = jax.jit(jax.vmap(learning_rate(config, STEPS)))(jnp.arange(STEPS))

    def step(rate):
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = rate
        if config.gradient_clip != "none":
            # Divides by the norm plus 1e-6, Optax by the norm. A gradient that is smaller by a
            # share of 1e-6 makes the same step, since AdamW divides it by its own running size.
            torch.nn.utils.clip_grad_norm_(model.parameters(), config.gradient_clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()

    return [functools.partial(step, rate) for rate in rates.tolist()]


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(GPT2)


@pytest.fixture(scope="module")
def gradients(params):
    """One for each step, made by no model: of all sizes from 1e-9 on, around epsilon's."""
    noise = np.random.default_rng(1)

    def leaf(like):
        size = 10 ** noise.uniform(-9, 0, like.shape)
        return jnp.asarray(noise.standard_normal(like.shape) * size, jnp.float32)

    return [jax.tree.map(leaf, params) for _ in range(STEPS)]


def adamw_in_jax(config, params, gradients):
    """The parameters after a step with each of the gradients."""
    transform = make_optimizer(config, STEPS)

    @jax.jit
    def step(params, state, grads):
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state

    state = jax.jit(transform.init)(params)
    for grads in gradients:
        params, state = step(params, state, grads)
    return params


def adamw_in_torch(config, params, gradients):
    """The same from PyTorch."""
    model = torch_reference.from_params(GPT2, params)
    holder = torch_reference.GPT(GPT2)
    for step, grads in zip(torch_steps(model, config), gradients, strict=True):
        torch_reference.load_params(holder, grads)
        for parameter, grad in zip(model.parameters(), holder.parameters(), strict=True):
            parameter.grad = grad.detach().clone()
        step()
    return torch_reference.to_params(model)


@pytest.fixture(scope="module")
def right(params, gradients):
    return adamw_in_torch(CLIPPED, params, gradients)


# A parameter is rounded twice in a step, by the decay and the update. The factor of the decay is
# itself rounded, always to the same side, so the errors add up: 2 * 20 * 2^-24 = 2.4e-6 of the
# largest parameter. The updates are a hundred times smaller than that. Measured: 1e-6.
ADAMW_TOLERANCE = 2 * STEPS * 2.0**-24


@pytest.mark.slow_but_first
@pytest.mark.parametrize("config", [CLIPPED, UNCLIPPED], ids=["clipped", "unclipped"])
def test_adamw(config, params, gradients, agree):
    ours = adamw_in_jax(config, params, gradients)
    agree(ours, adamw_in_torch(config, params, gradients), ADAMW_TOLERANCE)


@pytest.mark.parametrize(
    "bug",
    [{"weight_decay_on": "all"}, {"epsilon": 1.1e-8}, {"beta2": 0.951}, {"gradient_clip": 2.0}],
    ids=str,
)
def test_a_planted_setting_of_adamw_shows(bug, params, gradients, right, agree):
    wrong = adamw_in_torch(dataclasses.replace(CLIPPED, **bug), params, gradients)
    with pytest.raises(AssertionError, match="of the largest off"):
        agree(wrong, right, ADAMW_TOLERANCE)


def train_in_jax(model_config, config, params, batches):
    """The losses (20,) in nats, and the parameters after."""
    transform = make_optimizer(config, STEPS)

    @jax.jit
    def step(params, state, tokens):
        def mean_loss(params):
            total, count = cross_entropy(GPT(model_config, params)(tokens[:, :-1]), tokens[:, 1:])
            return total / count

        loss, grads = jax.value_and_grad(mean_loss)(params)
        updates, state = transform.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    state, losses = jax.jit(transform.init)(params), []
    for tokens in batches:
        params, state, loss = step(params, state, jnp.asarray(tokens))
        losses.append(loss)
    return np.array(losses), params


def train_in_torch(model_config, config, params, batches):
    """The same from PyTorch."""
    model = torch_reference.from_params(model_config, params)
    losses = []
    for step, batch in zip(torch_steps(model, config), batches, strict=True):
        tokens = torch.tensor(batch, dtype=torch.int64)
        logits = model(tokens[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        step()
        losses.append(loss.item())
    return np.array(losses, np.float32), torch_reference.to_params(model)


def without_key_bias(params):
    """The parameters but for the bias of the keys.

    Its gradient is 0 but for rounding, for the softmax does not change when all scores of a row
    rise by the same. AdamW divides noise by the size of the noise and makes full steps of it, in
    each framework its own. They change no output.
    """
    params = jax.tree.map(np.asarray, params)
    qkv = params["blocks"]["attn"]["qkv"]
    if "bias" in qkv:
        queries, _, values = np.split(qkv["bias"], 3, axis=-1)
        qkv["bias"] = np.concatenate([queries, values], axis=-1)
    return params


def at(params, path):
    return functools.reduce(lambda node, entry: node[entry.key], path, params)


def mean_errors(ours, theirs, start):
    """By leaf, the mean distance of two results, in shares of the mean way from the start."""
    ours, theirs, start = map(without_key_bias, (ours, theirs, start))
    errors = {}
    for path, leaf in jax.tree.leaves_with_path(theirs):
        error, move = np.abs(at(ours, path) - leaf), np.abs(leaf - at(start, path))
        errors[jax.tree_util.keystr(path)] = error.mean() / move.mean()
    return errors


# AdamW divides each element by its own size, so what counts is the relative error of each, not of
# the largest. A gradient's tolerance is 4.6e-6 of the leaf's largest, which is about 4 times the
# typical: d = 1.8e-5 of a typical step. Elements near 0 are relatively further off: the mean of
# d / |g| over a normal g, up to 1, is 0.8 d ln(1 / d), or 9 d. Measured: 2e-5.
# Muon does the same to singular values, but multiplies those near 0 by 3.4445^5 = 485 at most,
# where the typical of D is multiplied by sqrt(D): it is further from 9 d. Measured: 8e-6.
MEAN_TOLERANCE = 1.6e-4


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("model_config", "config"),
    [
        pytest.param(GPT2, CLIPPED, id="gpt2"),
        pytest.param(OTHER, UNCLIPPED, id="other", marks=pytest.mark.whole_run),
        pytest.param(GPT2, MUON, id="gpt2-muon"),
        pytest.param(OTHER, UNCLIPPED_MUON, id="other-muon", marks=pytest.mark.whole_run),
    ],
)
def test_twenty_steps(model_config, config, random_params, agree, rounding):
    noise = np.random.default_rng(0)
    batches = noise.integers(model_config.vocab_size, size=(STEPS, B, T + 1), dtype=np.int32)
    params = random_params(model_config)
    losses, ours = train_in_jax(model_config, config, params, batches)
    expected_losses, theirs = train_in_torch(model_config, config, params, batches)

    # Roundings on the way to the logits, as in test_gpt_parity.py. Measured: 3e-7.
    D, F, K = (dimensions(model_config)[letter] for letter in "DFK")
    forward = model_config.num_layers * (5 * D + K + 2 * T + F) + 2 * D
    agree(losses, expected_losses, rounding(forward))

    errors = mean_errors(ours, theirs, params)
    assert max(errors.values()) < MEAN_TOLERANCE, errors


@pytest.mark.parametrize("bug", [{"momentum": 0.951}, {"weight_decay": 0.11}], ids=str)
def test_a_planted_setting_of_muon_shows(bug, params):
    noise = np.random.default_rng(0)
    batches = noise.integers(GPT2.vocab_size, size=(STEPS, B, T + 1), dtype=np.int32)
    wrong, right = (
        train_in_torch(GPT2, config, params, batches)[1]
        for config in (dataclasses.replace(MUON, **bug), MUON)
    )
    errors = mean_errors(wrong, right, params)
    assert errors["['blocks']['mlp']['up']['weight']"] > 10 * MEAN_TOLERANCE
