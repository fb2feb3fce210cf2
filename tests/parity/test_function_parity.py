"""Every function of the model against its PyTorch twin on the same weights: values, gradients."""

import dataclasses

import attention_variants
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch import nn

from jaxgpt.config import ModelConfig
from jaxgpt.model import attention, embedding, layers
from jaxgpt.model.feedforward import feed_forward
from jaxgpt.model.schema import dimensions
from jaxgpt.model.transformer import block, block_settings, unstack
from jaxgpt.parity import torch_reference

CONFIG = ModelConfig(vocab_size=37, context_length=16, num_layers=2, num_heads=4, embed_dim=32)
ERF = ModelConfig(gelu="erf", num_heads=4, embed_dim=32, qkv_bias=False, norm_epsilon=1e-3)
D, F, K = (dimensions(CONFIG)[letter] for letter in "DFK")
B, T = 3, 11
HEADS = {"num_heads": CONFIG.num_heads}


class Calling(nn.Module):
    """A function as a module without parameters."""

    def __init__(self, function):
        super().__init__()
        self.forward = function


def by_heads(x, params):
    heads = list(unstack(params["heads"]))
    return attention.multi_head_attention_by_heads(x, heads=heads, out=params["out"])


# PyTorch's module; ours; the roundings from an input to an output: the lengths of the sums on the
# way, and the few of each function between. A sum over D is a linear map or a norm, over K a score,
# over T a softmax or a mean of values, over F the feed-forward's way down. Measured, values are at
# most 0.45 of the tolerance off (gelu erf), gradients 0.4.
CASES = {
    "linear": (nn.Linear(D, 20), lambda x, p: layers.linear(x, **p), D),
    "layer_norm": (
        nn.LayerNorm(D, eps=1e-5),
        lambda x, p: layers.layer_norm(x, **p, epsilon=1e-5),
        D,
    ),
    "gelu tanh": (nn.GELU(approximate="tanh"), lambda x, p: layers.gelu(x, "tanh"), 10),
    "gelu erf": (nn.GELU(approximate="none"), lambda x, p: layers.gelu(x, "erf"), 10),
    "feed_forward tanh": (
        torch_reference.FeedForward(CONFIG),
        lambda x, p: feed_forward(x, **p, form="tanh"),
        D + F,
    ),
    "feed_forward erf": (
        torch_reference.FeedForward(ERF),
        lambda x, p: feed_forward(x, **p, form="erf"),
        D + F,
    ),
    "unembed with a head": (
        nn.Linear(D, 37, bias=False),
        lambda x, p: embedding.unembed(x, tokens_table=jnp.zeros((37, D)), head=p),
        D,
    ),
    "unembed tied": (
        nn.Linear(D, 37, bias=False),
        lambda x, p: embedding.unembed(x, tokens_table=p["weight"].T),
        D,
    ),
    "simplified_attention": (
        # Smaller, so that no weight is 1 and its gradient 0.
        Calling(lambda x: attention_variants.simplified_attention(0.3 * x)),
        lambda x, p: attention.simplified_attention(0.3 * x),
        D + 2 * T,
    ),
    "self_attention": (
        attention_variants.SelfAttention(D, K),
        lambda x, p: attention.self_attention(x, **p),
        D + K + 2 * T,
    ),
    "causal_attention": (
        attention_variants.CausalAttention(D, K),
        lambda x, p: attention.causal_attention(x, **p),
        D + K + 2 * T,
    ),
    "multi_head_attention_by_heads": (
        attention_variants.MultiHeadAttentionByHeads(CONFIG),
        by_heads,
        D + K + 2 * T + D,
    ),
    "multi_head_attention": (
        torch_reference.MultiHeadAttention(CONFIG),
        lambda x, p: attention.multi_head_attention(x, **p, **HEADS),
        D + K + 2 * T + D,
    ),
    "block": (
        torch_reference.Block(CONFIG),
        lambda x, p: block(x, **p, **block_settings(CONFIG))[0],
        D + D + K + 2 * T + D + D + D + F,
    ),
    "block with other settings": (
        torch_reference.Block(ERF),
        lambda x, p: block(x, **p, **block_settings(ERF))[0],
        D + D + K + 2 * T + D + D + D + F,
    ),
}


def normal(*shape, seed):
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def move(module):
    """Move the module's parameters, so that no bias is 0 and no scale is 1."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    with torch.no_grad():
        for seed, parameter in enumerate(trained):
            parameter += 0.1 * torch.tensor(normal(*parameter.shape, seed=seed))
    return jax.tree.map(jnp.asarray, torch_reference.to_params(module))


@pytest.mark.parametrize("name", CASES)
def test_value_and_gradients(name, agree, rounding):
    torch.manual_seed(0)
    module, ours, roundings = CASES[name]
    params = move(module)
    x = normal(B, T, D, seed=100)

    x_torch = torch.tensor(x, requires_grad=True)
    expected = module(x_torch)
    upstream = normal(*expected.shape, seed=101)
    expected.backward(torch.tensor(upstream))
    expected_grads = (x_torch.grad.numpy(), torch_reference.to_params(module, grads=True))

    @jax.jit
    def value_and_gradients(x, params):
        value, pull_back = jax.vjp(ours, x, params)
        return value, pull_back(upstream)

    actual, grads = value_and_gradients(jnp.asarray(x), params)
    agree(actual, expected.detach().numpy(), rounding(roundings))
    # The way back passes the same sums again; a parameter's gradient is also a sum over tokens.
    agree(grads, expected_grads, rounding(2 * roundings + B * T))


@pytest.mark.parametrize("positions", ["learned", "sinusoidal"])
def test_embed(positions, agree, rounding):
    module = torch_reference.Embedding(dataclasses.replace(CONFIG, positions=positions))
    params = move(module)
    tokens = np.random.default_rng(0).integers(CONFIG.vocab_size, size=(B, T))
    expected = module(torch.tensor(tokens))
    upstream = normal(*expected.shape, seed=101)
    expected.backward(torch.tensor(upstream))

    def ours(params):
        table = params.get("positions")
        table = embedding.sinusoidal_positions(CONFIG.context_length, D) if table is None else table
        return embedding.embed(
            jnp.asarray(tokens), tokens_table=params["tokens"], positions_table=table
        )

    actual, pull_back = jax.vjp(ours, params)
    # One sum; a position's sine takes an angle of up to T, off by a few roundings of it.
    agree(actual, expected.detach().numpy(), rounding(1 if positions == "learned" else T**2))
    # A row's gradient is a sum over its tokens.
    agree(pull_back(upstream)[0], torch_reference.to_params(module, grads=True), rounding(B * T))
