import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.generation.decoding import generate
from jaxgpt.model import attention
from jaxgpt.model.attention import (
    attend_causally,
    attention_weights,
    cached_attention,
    causal_attention,
    causal_mask,
    multi_head_attention,
    multi_head_attention_by_heads,
    self_attention,
    simplified_attention,
)
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.trace import trace

B, T, D, H = 2, 6, 8, 2
K = D // H
RNG = jax.random.key(0)


def normal(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape, dtype=np.float32))


X = normal(B, T, D)
ONE = {
    name: {"weight": normal(D, K, seed=seed), "bias": normal(K, seed=seed + 10)}
    for seed, name in enumerate(("query", "key", "value"))
}
ALL = {
    "qkv": {"weight": normal(D, 3 * D, seed=1), "bias": normal(3 * D, seed=2)},
    "out": {"weight": normal(D, D, seed=3), "bias": normal(D, seed=4)},
}


@pytest.fixture(scope="module")
def whole():
    """`multi_head_attention` of X."""
    return jax.jit(lambda x: multi_head_attention(x, **ALL, num_heads=H))


@pytest.mark.parametrize("mask", [None, causal_mask(T)], ids=["all", "causal"])
@pytest.mark.parametrize("size", [1, 1e4])
def test_rows_of_weights_sum_to_1(mask, size):
    weights = attention_weights(size * X, size * X, mask=mask)
    assert weights.shape == (B, T, T)
    assert (weights >= 0).all()
    # T + 1 roundings of numbers up to 1.
    np.testing.assert_allclose(weights.sum(-1), 1, atol=(T + 1) * 2.0**-24)


def test_masked_weights_are_exactly_0():
    weights = attention_weights(X, X, mask=causal_mask(T))
    future = np.triu(np.ones((T, T), bool), 1)
    assert (weights[:, future] == 0).all()
    assert (weights[:, ~future] > 0).all()
    assert (attention_weights(100 * X, -100 * X, mask=causal_mask(T))[:, future] == 0).all()


def test_weights_are_the_softmax_of_scaled_dot_products():
    scores = np.asarray(X) @ np.asarray(X).swapaxes(1, 2) * 0.3
    expected = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(attention_weights(X, X, scale=0.3), expected, rtol=1e-5)


def test_the_softmax_of_bfloat16_scores_is_in_float32():
    x = X.astype(jnp.bfloat16)
    weights = attention_weights(x, x)
    scores = (x @ x.mT).astype(jnp.float32)
    assert weights.dtype == jnp.bfloat16
    np.testing.assert_array_equal(weights, jax.nn.softmax(scores).astype(jnp.bfloat16))


def test_simplified_attention_leaves_equal_vectors_as_they_are():
    x = jnp.broadcast_to(X[:, :1], X.shape)
    np.testing.assert_allclose(simplified_attention(x), x, rtol=1e-6)


def test_self_attention_with_equal_scores_is_the_mean_of_the_values():
    silent = {"weight": jnp.zeros((D, K))}
    y = self_attention(X, query=silent, key=ONE["key"], value=ONE["value"])
    values = X @ ONE["value"]["weight"] + ONE["value"]["bias"]
    assert y.shape == (B, T, K)
    np.testing.assert_allclose(
        y, jnp.broadcast_to(values.mean(1, keepdims=True), y.shape), atol=1e-6
    )


def test_causal_attentions_first_token_passes_its_value_on():
    values = X @ ONE["value"]["weight"] + ONE["value"]["bias"]
    np.testing.assert_allclose(causal_attention(X, **ONE)[:, 0], values[:, 0], rtol=1e-5, atol=1e-6)


def test_causal_attentions_last_token_sees_all():
    np.testing.assert_allclose(
        causal_attention(X, **ONE)[:, -1], self_attention(X, **ONE)[:, -1], rtol=1e-5, atol=1e-6
    )


def looks(function, x=X):
    """(T, T): whether the output at a row depends on the input at a column, by the gradient."""
    jacobian = jax.jit(jax.jacrev(lambda x: function(x[None])[0]))(x[0])
    return np.abs(jacobian).max(axis=(1, 3)) > 0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: causal_attention(x, **ONE),
        lambda x: multi_head_attention_by_heads(x, heads=[ONE, ONE]),
        lambda x: multi_head_attention(x, **ALL, num_heads=H),
        lambda x: multi_head_attention(x, **ALL, num_heads=H, dropout_rate=1e-6, rng=RNG),
    ],
    ids=["causal", "by heads", "multi-head", "with dropout"],
)
def test_no_gradient_comes_from_the_future_and_some_from_all_the_past(function):
    np.testing.assert_array_equal(looks(function), np.tri(T, dtype=bool))


def test_no_gradient_comes_from_the_future_over_several_runs():
    x = normal(1, 70, D)
    sees = looks(lambda x: multi_head_attention(x, **ALL, num_heads=H), x)
    # In so long a row some weights are too small for a gradient.
    assert not sees[~np.tri(70, dtype=bool)].any()
    assert sees.diagonal().all()
    assert sees[69].sum() > 35


def test_without_a_mask_all_look_at_all():
    assert looks(lambda x: self_attention(x, **ONE)).all()


# One run of queries; two, the second of a single query; as many runs as there may be.
@pytest.mark.parametrize("length", [T, 65, 600])
def test_heads_side_by_side_are_the_heads_in_one_product(length):
    x = normal(1, length, D)
    # Columns of qkv: queries, keys, values, each with the heads in order.
    weight = ALL["qkv"]["weight"].reshape(D, 3, H, K)
    bias = ALL["qkv"]["bias"].reshape(3, H, K)
    heads = [
        {
            name: {"weight": weight[:, part, head], "bias": bias[part, head]}
            for part, name in enumerate(("query", "key", "value"))
        }
        for head in range(H)
    ]
    by_heads = jax.jit(lambda x: multi_head_attention_by_heads(x, heads=heads, out=ALL["out"]))(x)
    at_once = jax.jit(lambda x: multi_head_attention(x, **ALL, num_heads=H))(x)
    # Two sums over D and two over at most T, of numbers up to 10.
    near = 10 * 4 * np.sqrt(2 * D + 2 * length) * 2.0**-24
    np.testing.assert_allclose(by_heads, at_once, rtol=0, atol=near)


def test_without_a_projection_the_heads_stay_side_by_side():
    y = multi_head_attention_by_heads(X, heads=[ONE, ONE])
    np.testing.assert_array_equal(y[..., :K], causal_attention(X, **ONE))
    np.testing.assert_array_equal(y[..., :K], y[..., K:])


def test_runs_of_queries_have_dropout_masks_of_their_own():
    length = 128
    flat = jnp.zeros((1, 1, length, length))
    # With equal scores and one-hot values, what is heard is the weights themselves.
    weights = attend_causally(flat, flat, jnp.eye(length)[None, None], dropout_rate=0.5, rng=RNG)
    kept = np.asarray(weights[0, 0] > 0)
    past = np.tri(length, dtype=bool)
    assert not kept[~past].any()
    assert abs(kept[past].mean() - 0.5) < 5 * 0.5 / np.sqrt(past.sum())
    again = (kept[:64, :64] == kept[64:, :64])[past[:64, :64]].mean()
    assert abs(again - 0.5) < 5 * 0.5 / np.sqrt(past[:64, :64].sum())


def test_dropout_is_on_the_weights_and_decided_by_the_key():
    x, rows = normal(128, 2, D), 128

    @jax.jit
    def attend(rng):
        return multi_head_attention(x, **ALL, num_heads=H, dropout_rate=0.5, rng=rng)

    np.testing.assert_array_equal(attend(RNG), attend(RNG))
    assert (attend(RNG) != attend(jax.random.key(1))).any()
    # The first token has one weight for each of the two heads: with both dropped, as in a quarter
    # of the rows, nothing but the bias is left.
    silent = (attend(RNG)[:, 0] == ALL["out"]["bias"]).all(-1).mean()
    assert abs(silent - 0.25) < 5 * np.sqrt(0.25 * 0.75 / rows)


def test_causal_attentions_dropout_is_on_the_weights():
    """Where all values are the same, a dropped weight shortens the context but does not turn it."""
    value = {"weight": jnp.zeros((D, K)), "bias": jnp.arange(1.0, K + 1)}
    y = causal_attention(X, **ONE | {"value": value}, dropout_rate=0.5, rng=RNG)
    lengths = y / value["bias"]
    np.testing.assert_allclose(lengths, jnp.broadcast_to(lengths[..., :1], y.shape), rtol=1e-5)
    assert (jnp.abs(lengths - 1) > 0.1).any()


def test_heads_have_masks_of_their_own():
    heads = [ONE, ONE]
    y = multi_head_attention_by_heads(X, heads=heads, dropout_rate=0.5, rng=RNG)
    assert (y[..., :K] != y[..., K:]).any()


@pytest.fixture(scope="module")
def cached():
    return jax.jit(lambda x, cache, start: cached_attention(x, cache, start, **ALL, num_heads=H))


def empty(rows, slots=T, fill=0.0):
    return (jnp.full((rows, H, slots, K), fill), jnp.full((rows, H, slots, K), fill))


def test_a_cache_filled_token_by_token_gives_the_whole(cached, whole):
    cache, outputs = empty(B), []
    for t in range(T):
        y, cache = cached(X[:, t : t + 1], cache, jnp.full(B, t))
        outputs.append(y)
    np.testing.assert_allclose(jnp.concatenate(outputs, 1), whole(X), rtol=1e-5, atol=1e-5)


def test_what_lies_in_later_slots_does_not_matter(cached, whole):
    y, _ = cached(X[:, :3], empty(B, fill=1e6), jnp.zeros(B, int))
    np.testing.assert_allclose(y, whole(X)[:, :3], rtol=1e-5, atol=1e-5)


def test_rows_may_begin_at_different_positions(cached, whole):
    _, cache = cached(X[:, :4], empty(B), jnp.zeros(B, int))
    later = jnp.stack([X[0, 2:4], X[1, 4:6]])
    y, _ = cached(later, cache, jnp.array([2, 4]))
    np.testing.assert_allclose(y[0], whole(X)[0, 2:4], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(y[1], whole(X)[1, 4:6], rtol=1e-5, atol=1e-5)


def test_a_missing_or_misspelt_weight_is_a_type_error():
    with pytest.raises(TypeError, match="out"):
        multi_head_attention(X, qkv=ALL["qkv"], num_heads=H)
    with pytest.raises(TypeError, match="ouput"):
        multi_head_attention(X, **ALL, ouput=ALL["out"], num_heads=H)


def test_a_text_alone_is_attended_to_as_in_a_batch(whole):
    alone = multi_head_attention(X[0], **ALL, num_heads=H)
    np.testing.assert_allclose(alone, whole(X)[0], rtol=1e-5, atol=1e-5)
    segments = jnp.array([0, 0, 1, 1, 1, 2])
    alone = multi_head_attention(X[0], **ALL, num_heads=H, segments=segments)
    batch = multi_head_attention(X[:1], **ALL, num_heads=H, segments=segments[None])
    np.testing.assert_allclose(alone, batch[0], rtol=1e-5, atol=1e-5)


def test_the_shape_that_is_wanted_is_said():
    with pytest.raises(
        ConfigError,
        match=r"it must be \(T, E\) or \(B, T, E\), where E is a multiple of 9: 3 heads",
    ):
        multi_head_attention(X, **ALL, num_heads=3)


MODEL = ModelConfig(vocab_size=17, context_length=8, num_layers=1, num_heads=2, embed_dim=8)


@pytest.fixture
def replace(monkeypatch):
    """`replace(name)` puts a function that does the same in place, and lists its calls."""

    def put(name):
        seen, own = [], getattr(attention, name)

        def other(*arguments, **options):
            seen.append(name)
            return own(*arguments, **options)

        monkeypatch.setattr(attention, name, other)
        return seen

    return put


def _decode(params, tokens):
    rows, model = len(tokens), GPT(MODEL, params)
    return model.decode(tokens, init_cache(MODEL, rows, 8), *jnp.zeros((2, rows), int))


def _trace(params, tokens):
    return trace(Variant(MODEL, params), tokens)


@pytest.mark.parametrize(
    "compute",
    [lambda params, tokens: GPT(MODEL, params)(tokens), _decode, _trace],
    ids=["forward", "decoding", "trace"],
)
@pytest.mark.parametrize("name", ["attend_causally", "attention_weights"])
def test_attention_that_is_replaced_is_replaced_everywhere(replace, compute, name):
    calls, tokens = replace(name), jax.ShapeDtypeStruct((2, 5), jnp.int32)
    jax.eval_shape(lambda *given: compute(*given), parameter_shapes(MODEL), tokens)
    assert calls


def test_a_program_compiled_before_is_not_decoded_with(random_params, replace):
    params = random_params(MODEL)
    generate(MODEL, params, [[1]], max_new_tokens=1)
    calls = replace("attention_weights")
    generate(MODEL, params, [[1]], max_new_tokens=1)
    assert calls


def test_attention_for_training_alone_is_not_decoded_with(random_params, monkeypatch):
    def training_only(queries, keys, values, *, segments=None, dropout_rate=0.0, rng=None):
        return values

    monkeypatch.setattr(attention, "attend_causally", training_only)
    with pytest.raises(TypeError, match="start"):
        generate(MODEL, random_params(MODEL), [[1]], max_new_tokens=1)


def test_no_kernel_stands_in_for_attention_that_is_replaced(monkeypatch):
    asked = []
    monkeypatch.setattr(
        attention, "choose_attention", lambda *a, **k: asked.append(a[0]) or "chunked"
    )
    multi_head_attention(X, **ALL, num_heads=H)
    monkeypatch.setattr(attention, "attention_weights", lambda *a, **k: attention_weights(*a, **k))
    multi_head_attention(X, **ALL, num_heads=H)
    assert asked == ["auto", "chunked"]
