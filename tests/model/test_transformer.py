import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.model.attention import multi_head_attention
from jaxgpt.model.feedforward import feed_forward
from jaxgpt.model.layers import layer_norm
from jaxgpt.model.transformer import block, block_settings, stack, unstack

CONFIG = ModelConfig(vocab_size=11, context_length=8, num_layers=2, num_heads=2, embed_dim=8)
DROPPING = dataclasses.replace(CONFIG, dropout=0.5)
B, T, D, L = 2, 6, CONFIG.embed_dim, CONFIG.num_layers
RNG = jax.random.key(0)
X = jnp.asarray(np.random.default_rng(0).standard_normal((B, T, D), dtype=np.float32))


@pytest.fixture(scope="module")
def blocks(random_params):
    return random_params(CONFIG)["blocks"]


@pytest.fixture(scope="module")
def one(blocks):
    return jax.tree.map(lambda leaf: leaf[0], blocks)


def loss(blocks, rng, **how):
    return jnp.sin(stack(X, blocks, DROPPING, rng=rng, **how)).sum()


@pytest.fixture(scope="module")
def scanned(blocks):
    """A loss after the stack with dropout, and its gradient, given a key."""
    compiled = jax.jit(jax.value_and_grad(loss))
    return lambda rng: compiled(blocks, rng)


def assert_same(ours, theirs, terms):
    """Equal but for the rounding of sums of `terms`, added in another order."""
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        near = 4 * math.sqrt(terms) * 2.0**-24 * np.abs(b).max()
        np.testing.assert_allclose(a, b, rtol=0, atol=near)


# The sums in a block, forward and back, of every layer, and over the tokens.
TERMS = 2 * L * (5 * D + D // 2 + 2 * T + 4 * D) + B * T


def test_a_block_adds_attention_then_the_feed_forward_network(one):
    settings = block_settings(CONFIG)

    def by_hand(x):
        x = x + multi_head_attention(layer_norm(x, **one["norm1"]), **one["attn"], num_heads=2)
        return x + feed_forward(layer_norm(x, **one["norm2"]), **one["mlp"])

    y = jax.jit(lambda x: block(x, **one, **settings)[0])(X)
    assert y.shape == X.shape
    assert_same(y, jax.jit(by_hand)(X), TERMS)


def test_a_block_that_adds_nothing_leaves_x(one):
    silent = one | {
        "attn": one["attn"] | {"out": jax.tree.map(jnp.zeros_like, one["attn"]["out"])},
        "mlp": one["mlp"] | {"down": jax.tree.map(jnp.zeros_like, one["mlp"]["down"])},
    }
    np.testing.assert_array_equal(block(X, **silent, num_heads=2)[0], X)


def test_a_missing_or_misspelt_weight_is_a_type_error(one):
    for name in one:
        rest = {other: value for other, value in one.items() if other != name}
        with pytest.raises(TypeError, match=name):
            block(X, **rest, num_heads=2)
    with pytest.raises(TypeError, match="nrom1"):
        block(X, **one, nrom1=one["norm1"], num_heads=2)
    with pytest.raises(TypeError, match="gain"):
        block(X, **one | {"norm1": one["norm1"] | {"gain": jnp.ones(D)}}, num_heads=2)


def test_no_gradient_comes_from_the_future(blocks):
    jacobian = jax.jit(jax.jacrev(lambda x: stack(x[None], blocks, CONFIG)[0]))(X[0])
    looks = np.abs(jacobian).max(axis=(1, 3)) > 0
    np.testing.assert_array_equal(looks, np.tri(T, dtype=bool))


def test_the_scan_is_a_loop_with_a_key_for_each_layer(blocks, scanned):
    @jax.jit
    def layer(x, params, rng):
        return block(x, **params, **block_settings(CONFIG), dropout_rate=0.5, rng=rng)[0]

    x = X
    for params, layer_rng in zip(unstack(blocks), jax.random.split(RNG, L), strict=True):
        x = layer(x, params, layer_rng)
    assert_same(jnp.sin(x).sum(), scanned(RNG)[0], TERMS)


def test_unrolling_changes_nothing(blocks):
    one_by_one = jax.jit(lambda x: stack(x, blocks, CONFIG))
    all_at_once = jax.jit(lambda x: stack(x, blocks, CONFIG, unroll=CONFIG.num_layers))
    assert_same(all_at_once(X), one_by_one(X), TERMS)


@pytest.mark.slow
def test_remat_changes_nothing(blocks, scanned):
    """Nor the dropout masks: the same operations, which the compiler may fuse otherwise."""
    recomputed = jax.jit(jax.value_and_grad(functools.partial(loss, remat=True)))
    assert_same(recomputed(blocks, RNG), scanned(RNG), TERMS)


def test_dropout_differs_between_layers(blocks):
    """Two layers that each add 1: with one mask for both, no element would get just one."""
    adds_1 = jax.tree.map(jnp.zeros_like, blocks)
    adds_1["mlp"]["down"]["bias"] += 1
    added = jax.jit(lambda rng: stack(jnp.zeros((B, T, D)), adds_1, DROPPING, rng=rng))(RNG)
    np.testing.assert_array_equal(np.unique(added), [0, 2, 4])


def test_dropout_is_decided_by_the_key(scanned):
    assert scanned(RNG)[0] == scanned(RNG)[0]
    assert scanned(RNG)[0] != scanned(jax.random.key(1))[0]


def test_unstack_makes_one_dict_for_each_layer(blocks):
    layers = list(unstack(blocks))
    assert len(layers) == L
    restacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
    jax.tree.map(np.testing.assert_array_equal, restacked, blocks)
