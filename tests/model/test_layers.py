import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.model.attention_kernels import keep_products_and_kernels
from jaxgpt.model.layers import (
    dropout,
    gelu,
    init_layer_norm,
    init_linear,
    layer_norm,
    linear,
    rms_norm,
)

X = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, 8), dtype=np.float32))
RNG = jax.random.key(0)


@pytest.mark.parametrize("shape", [(8,), (5, 8), (2, 5, 8), (2, 3, 5, 8)])
def test_linear_maps_the_last_axis(shape):
    noise = np.random.default_rng(1)
    x, weight = noise.standard_normal(shape), noise.standard_normal((8, 3))
    y = linear(jnp.float32(x), weight=jnp.float32(weight), bias=jnp.arange(3.0))
    assert y.shape == (*shape[:-1], 3)
    # 8 products of about 1, rounded at 2^-24 each.
    np.testing.assert_allclose(y, x @ weight + np.arange(3), atol=1e-5)


def test_linear_without_a_weight_is_a_type_error():
    with pytest.raises(TypeError, match="weight"):
        linear(X)


def test_linear_with_a_misspelt_weight_is_a_type_error():
    with pytest.raises(TypeError, match="biass"):
        linear(X, weight=jnp.ones((8, 3)), biass=jnp.ones(3))


def test_layer_norm_gives_mean_0_and_variance_1():
    y = layer_norm(3 * X + 7, **init_layer_norm(8), epsilon=1e-12)
    np.testing.assert_allclose(y.mean(-1), 0, atol=1e-6)
    np.testing.assert_allclose(y.var(-1), 1, rtol=1e-5)


def test_layer_norm_scales_then_shifts():
    scale, bias = jnp.arange(1.0, 9.0), jnp.arange(8.0) - 3
    normal = layer_norm(X, **init_layer_norm(8))
    np.testing.assert_allclose(
        layer_norm(X, scale=scale, bias=bias), normal * scale + bias, rtol=1e-6
    )


def test_layer_norms_epsilon_is_inside_the_root_and_its_variance_biased():
    x = jnp.array([-1.0, 1.0])
    y = layer_norm(x, **init_layer_norm(2), epsilon=3.0)
    np.testing.assert_allclose(y, [-0.5, 0.5], rtol=1e-6)


@pytest.mark.parametrize("norm", [layer_norm, rms_norm])
def test_a_norm_computes_in_float32_and_gives_the_dtype_of_its_scale(norm):
    params = {"scale": jnp.full(8, 1.01, jnp.bfloat16)}
    params |= {"bias": jnp.full(8, 0.1, jnp.bfloat16)} if norm is layer_norm else {}
    y = norm(X, **params)
    assert y.dtype == jnp.bfloat16
    exact = norm(X, **{name: leaf.astype(jnp.float32) for name, leaf in params.items()})
    np.testing.assert_array_equal(y, exact.astype(jnp.bfloat16))


def test_a_linear_layer_computes_in_the_dtype_of_its_weight():
    weight, bias = jnp.ones((8, 3), jnp.bfloat16), jnp.full(3, 0.1, jnp.bfloat16)
    y = linear(X, weight=weight, bias=bias)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, linear(X.astype(jnp.bfloat16), weight=weight, bias=bias))


def test_the_policy_keeps_a_linear_layers_result_with_its_bias():
    params = {"weight": jnp.ones((8, 3)), "bias": jnp.ones(3)}

    def layer(x, policy):
        return jax.checkpoint(lambda x: linear(x, **params) ** 3, policy=policy)(x).sum()

    def added_again(policy):
        backward = str(jax.make_jaxpr(jax.grad(partial(layer, policy=policy)))(X))
        return "add " in backward[backward.index("differentiated=True") :]

    assert not added_again(keep_products_and_kernels)
    assert added_again(jax.checkpoint_policies.dots_with_no_batch_dims_saveable)


def test_dropout_without_a_key_or_a_rate_returns_x():
    assert dropout(X, 0.5) is X
    assert dropout(X, 0.0, RNG) is X


def test_dropout_zeroes_its_share_and_keeps_the_mean():
    n, rate = 100_000, 0.3
    y = np.asarray(dropout(jnp.ones(n), rate, RNG))
    kept = y != 0
    np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
    # Five standard deviations of a binomial share.
    assert abs(kept.mean() - (1 - rate)) < 5 * math.sqrt(rate * (1 - rate) / n)
    assert abs(y.mean() - 1) < 5 * math.sqrt(rate / (1 - rate) / n)


def test_the_key_decides_the_mask():
    ones = jnp.ones((50, 8))
    np.testing.assert_array_equal(dropout(ones, 0.5, RNG), dropout(ones, 0.5, RNG))
    assert (dropout(ones, 0.5, RNG) != dropout(ones, 0.5, jax.random.key(1))).any()


def test_gelu_against_its_formulas():
    x = np.linspace(-6, 6, 49)
    exact = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x]
    tanh = 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    # The bracket cancels at the left end, to a few roundings of 1, times x.
    np.testing.assert_allclose(gelu(jnp.float32(x), "erf"), exact, rtol=1e-6, atol=2e-6)
    np.testing.assert_allclose(gelu(jnp.float32(x), "tanh"), tanh, rtol=1e-6, atol=2e-6)
    assert np.abs(exact - tanh).max() > 1e-4


def test_init_linear():
    params = init_linear(RNG, 300, 400, std=0.05)
    assert params["weight"].shape == (300, 400)
    # The standard deviation of n numbers is known to 1 / sqrt(2 n); five times that.
    n = params["weight"].size
    assert abs(params["weight"].std() / 0.05 - 1) < 5 / math.sqrt(2 * n)
    assert abs(params["weight"].mean()) < 5 * 0.05 / math.sqrt(n)
    np.testing.assert_array_equal(params["bias"], np.zeros(400))
    assert init_linear(RNG, 3, 4, bias=False).keys() == {"weight"}


@pytest.mark.slow
def test_gelu_in_bfloat16_is_that_of_float32_rounded_and_so_is_its_derivative():
    x = jnp.linspace(-9, 9, 2001).astype(jnp.bfloat16)
    for form in ("tanh", "erf"):
        value, slope = jax.jvp(lambda x, form=form: gelu(x, form), (x,), (jnp.ones_like(x),))
        wide = x.astype(jnp.float32)
        true = gelu(wide, form)
        np.testing.assert_array_equal(value, true.astype(jnp.bfloat16))
        true = jax.vmap(jax.grad(lambda x, form=form: gelu(x, form)))(wide)
        error = np.abs(slope.astype(np.float32) - true)
        # 1 - tanh^2, which is off by a rounding, times |x| of up to 9 and the inner slope there.
        assert (error <= 2.0**-8 * np.abs(true) + 9 * 19 * 2.0**-23).all()
