"""The whole model against PyTorch: logits, loss, every gradient leaf; and bugs that must show."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch.nn import functional

from jaxgpt.config import ModelConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.schema import dimensions
from jaxgpt.parity import torch_reference
from jaxgpt.training.loss import cross_entropy

GPT2 = ModelConfig(vocab_size=37, context_length=16, num_layers=3, num_heads=4, embed_dim=32)
OTHER = {"tie_head": False, "qkv_bias": False, "positions": "sinusoidal", "gelu": "erf"}
# GPT-2's choices, and all others but one: any two settings then meet in each of their combinations.
CONFIGS = {"gpt2": GPT2} | {
    f"gpt2's {kept} alone": dataclasses.replace(
        GPT2, norm_epsilon=1e-4, **{name: OTHER[name] for name in OTHER if name != kept}
    )
    for kept in OTHER
}
CONFIGS["shared heads"] = dataclasses.replace(GPT2, num_kv_heads=2, head_dim=6, hidden_dim=40)
B, T = 3, 13
TOKENS = np.random.default_rng(0).integers(GPT2.vocab_size, size=(B, T + 1), dtype=np.int32)

# The lengths of the sums from tokens to logits. A block has five over D, one over K, two over T and
# one over F. Hence a tolerance of 3.8e-6 for logits and loss, 5.5e-6 for gradients, which pass the
# same sums twice, then those over the vocabulary and the tokens. Measured: 5e-7 and 1e-6.
D, F, K = (dimensions(GPT2)[letter] for letter in "DFK")
FORWARD = GPT2.num_layers * (5 * D + K + 2 * T + F) + 2 * D
BACKWARD = 2 * FORWARD + GPT2.vocab_size + B * T


def in_jax(config, params, rng=None):
    """Logits (B, T, V), mean loss in nats, and its gradient."""

    def mean_loss(params):
        logits = GPT(config, params)(jnp.asarray(TOKENS[:, :-1]), rng=rng)
        total, count = cross_entropy(logits, jnp.asarray(TOKENS[:, 1:]))
        return total / count, logits

    (loss, logits), grads = jax.jit(jax.value_and_grad(mean_loss, has_aux=True))(params)
    return SimpleNamespace(logits=logits, loss=loss, grads=grads)


def in_torch(config, params):
    """The same from PyTorch."""
    model = torch_reference.from_params(config, params)
    tokens = torch.tensor(TOKENS, dtype=torch.int64)
    logits = model(tokens[:, :-1])
    loss = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    grads = torch_reference.to_params(model, grads=True)
    logits, loss = logits.detach().numpy(), np.float32(loss.item())
    return SimpleNamespace(logits=logits, loss=loss, grads=grads)


@pytest.fixture(scope="module", params=CONFIGS)
def both(request, random_params):
    config = CONFIGS[request.param]
    params = random_params(config)
    return in_jax(config, params), in_torch(config, params)


@pytest.mark.slow_but_first
def test_logits(both, agree, rounding):
    ours, theirs = both
    agree(ours.logits, theirs.logits, rounding(FORWARD))


@pytest.mark.slow_but_first
def test_loss(both, agree, rounding):
    ours, theirs = both
    agree(ours.loss, theirs.loss, rounding(FORWARD))


@pytest.mark.slow_but_first
def test_every_gradient_leaf(both, agree, rounding):
    ours, theirs = both
    agree(ours.grads, theirs.grads, rounding(BACKWARD))


@pytest.mark.slow
def test_dropout_is_in_the_same_places(agree, rounding, random_params, monkeypatch):
    """With the same masks in both frameworks, dropout changes both in the same way."""

    def mask(shape):
        return np.random.default_rng(len(shape)).random(shape) < 0.7

    def torch_dropout(x, rate, training, inplace):
        return torch.where(torch.tensor(mask(x.shape)), x / (1 - rate), 0)

    monkeypatch.setattr(jax.random, "bernoulli", lambda rng, kept, shape: jnp.array(mask(shape)))
    monkeypatch.setattr(functional, "dropout", torch_dropout)
    config = dataclasses.replace(GPT2, dropout=0.3)
    params = random_params(config)
    ours, theirs = in_jax(config, params, rng=jax.random.key(0)), in_torch(config, params)
    agree(ours.logits, theirs.logits, rounding(FORWARD))
    agree(ours.grads, theirs.grads, rounding(BACKWARD))
    assert np.abs(theirs.logits - in_torch(GPT2, params).logits).max() > 0.1


# The comparison must fail where the models differ, however little. The bugs are planted in PyTorch.


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(GPT2)


@pytest.fixture(scope="module")
def right(params):
    return in_torch(GPT2, params)


@pytest.mark.parametrize(
    "bug", [{"gelu": "erf"}, {"norm_epsilon": 1e-6}, {"num_heads": 2}], ids=str
)
def test_a_planted_setting_shows(bug, params, right, agree, rounding):
    wrong = in_torch(dataclasses.replace(GPT2, **bug), params)
    with pytest.raises(AssertionError, match="of the largest off"):
        agree(wrong.logits, right.logits, rounding(FORWARD))
    with pytest.raises(AssertionError, match="of the largest off"):
        agree(wrong.grads, right.grads, rounding(BACKWARD))


def test_a_planted_order_of_layers_shows(params, right, agree, rounding):
    turned = jax.tree.map(lambda leaf: leaf[::-1], params["blocks"])
    wrong = in_torch(GPT2, params | {"blocks": turned})
    with pytest.raises(AssertionError, match="of the largest off"):
        agree(wrong.logits, right.logits, rounding(FORWARD))


def test_a_planted_untied_head_shows(params, right, agree, rounding):
    """A head of the same numbers gives the same logits, but keeps its gradient from the table."""
    head = {"weight": params["embed"]["tokens"].T}
    wrong = in_torch(dataclasses.replace(GPT2, tie_head=False), params | {"head": head})
    del wrong.grads["head"]
    agree(wrong.logits, right.logits, rounding(FORWARD))
    with pytest.raises(AssertionError, match=r"tokens.* of the largest off"):
        agree(wrong.grads, right.grads, rounding(BACKWARD))
