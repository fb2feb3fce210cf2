import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.fields import unchecked
from jaxgpt.generation.prepared_params import prepare_params
from jaxgpt.model.agreement import check_params
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.schema import dimensions

CONFIG = ModelConfig(vocab_size=11, context_length=8, num_layers=2, num_heads=2, embed_dim=8)
UNTIED = dataclasses.replace(CONFIG, tie_head=False, qkv_bias=False, positions="sinusoidal")
SHARED = dataclasses.replace(CONFIG, num_heads=6, num_kv_heads=3, head_dim=4, hidden_dim=20)
RNG = jax.random.key(0)
B, T, V = 3, CONFIG.context_length, CONFIG.vocab_size
TOKENS = jnp.asarray(np.random.default_rng(0).integers(V, size=(B, T)))


@pytest.fixture(scope="module", params=[CONFIG, UNTIED, SHARED], ids=["tied", "untied", "shared"])
def config(request):
    return request.param


@pytest.fixture(scope="module")
def params(config, random_params):
    return random_params(config)


@pytest.fixture(scope="module")
def forward(config, params):
    return jax.jit(lambda tokens: GPT(config, params)(tokens))


@pytest.fixture(scope="module")
def logits(forward):
    return forward(TOKENS)


@pytest.mark.slow_but_first
def test_logits_are_finite_float32_for_each_token_of_the_vocabulary(logits):
    assert logits.shape == (B, T, V)
    assert logits.dtype == jnp.float32
    assert jnp.isfinite(logits).all()


def test_a_later_token_changes_no_earlier_logit(forward, logits):
    changed = TOKENS.at[:, 5].set((TOKENS[:, 5] + 1) % V)
    after = forward(changed)
    np.testing.assert_array_equal(after[:, :5], logits[:, :5])
    assert (after[:, 5:] != logits[:, 5:]).any(axis=(0, 2)).all()


def test_more_tokens_than_the_context_are_refused(config, params):
    with pytest.raises(ConfigError, match="9 tokens are longer than context_length 8"):
        GPT(config, params)(jnp.zeros((1, 9), int))


@pytest.mark.parametrize("leaf", ["scale", "bias"])
def test_a_missing_weight_is_named(config, params, leaf):
    norm = {name: value for name, value in params["norm"].items() if name != leaf}
    with pytest.raises(ConfigError, match=f"do not fit the config: norm.{leaf} is missing"):
        GPT(config, params | {"norm": norm})


def test_a_misspelt_weight_is_named(config, params):
    blocks = dict(params["blocks"])
    blocks["nrom1"] = blocks.pop("norm1")
    with pytest.raises(ConfigError, match=r"norm1.bias is missing.*nrom1.bias has no place"):
        GPT(config, params | {"blocks": blocks})


@pytest.mark.parametrize("form", ["stacked", "in parts", "for decoding"])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_layers": 5}, "num_layers is 5, but the parameters have 2 blocks"),
        ({"vocab_size": 12}, "vocab_size is 12, but the parameters have 11 rows"),
        ({"context_length": 16}, "context_length is 16, but the parameters have 8 rows"),
        ({"embed_dim": 16}, "embed_dim is 16, but the parameters have 8 columns"),
        ({"positions": "sinusoidal"}, "positions is sinusoidal, .* it must be learned"),
        ({"positions": "none"}, "positions is none, but the parameters have .* it must be learned"),
        ({"qkv_bias": False}, "qkv_bias is False, but the parameters have .* it must be True"),
        ({"tie_head": False}, "tie_head is False, but the parameters have no .* it must be True"),
    ],
)
def test_a_config_that_the_parameters_were_not_made_with_is_refused(
    random_params, change, message, form
):
    params = random_params(CONFIG)
    if form == "in parts":
        first, last = (jax.tree.map(lambda x, i=i: x[i:][:1], params["blocks"]) for i in (0, 1))
        params |= {"blocks": (first, last)}
    elif form == "for decoding":
        params = prepare_params(params).as_params()
    GPT(CONFIG, params)
    other = dataclasses.replace(CONFIG, **change)
    for build in (lambda: GPT(other, params), lambda: jax.eval_shape(lambda: GPT(other, params))):
        with pytest.raises(ConfigError, match=message):
            build()


def test_a_weight_of_another_shape_is_refused(random_params):
    params = random_params(CONFIG)
    params["blocks"]["mlp"]["up"]["weight"] = jnp.zeros((2, 8, 31))
    with pytest.raises(ConfigError, match=r"mlp.up.weight is \(2, 8, 31\), not \(2, 8, 32\)"):
        GPT(CONFIG, params)
    for other in ({}, {"blocks": 3}, [params]):
        with pytest.raises(ConfigError, match=r"init_params"):
            check_params(CONFIG, other, {"embed.tokens": (11, 8)})


@pytest.mark.parametrize("id_", [V, -1])
def test_an_id_outside_the_vocabulary_is_refused_where_it_can_be_seen(config, params, id_):
    model = GPT(config, params)
    with pytest.raises(DataError, match=rf"token id {id_} is outside \[0, 11\)"):
        model(TOKENS.at[0, 3].set(id_))
    with pytest.raises(DataError, match=f"token id {id_} is outside"):
        jax.grad(lambda params: GPT(config, params)(TOKENS.at[0, 3].set(id_)).sum())(params)


def test_a_number_that_no_shape_depends_on_may_be_traced(random_params):
    params = random_params(CONFIG)

    def build(epsilon, rate):
        return jax.tree.leaves(
            GPT(unchecked(CONFIG, norm_epsilon=epsilon, dropout=rate), params).params.get_value()
        )

    assert len(jax.eval_shape(build, 1e-3, 0.5)) == len(jax.tree.leaves(params))


@pytest.mark.slow_but_first
def test_one_text_needs_no_axis_of_rows(config, params, logits):
    single = GPT(config, params)(TOKENS[1])
    np.testing.assert_allclose(single, logits[1], rtol=1e-5, atol=1e-5)


def test_without_a_key_dropout_leaves_no_trace(random_params):
    params, dropping = random_params(CONFIG), dataclasses.replace(CONFIG, dropout=0.5)

    def program(config, rng=None):
        return str(jax.make_jaxpr(lambda tokens: GPT(config, params)(tokens, rng=rng))(TOKENS))

    assert program(dropping) == program(CONFIG)
    assert program(dropping, RNG) != program(CONFIG)


@pytest.mark.slow
def test_a_tied_tables_gradient_is_the_sum_of_both_uses(random_params):
    tied = random_params(CONFIG)
    untied = tied | {"head": {"weight": tied["embed"]["tokens"].T}}

    def gradient(config, params):
        return jax.jit(jax.grad(lambda params: jnp.sin(GPT(config, params)(TOKENS)).sum()))(params)

    grads, parts = (
        gradient(CONFIG, tied),
        gradient(dataclasses.replace(CONFIG, tie_head=False), untied),
    )
    assert jax.tree.map(jnp.shape, grads) == jax.tree.map(jnp.shape, tied)
    total = parts["embed"]["tokens"] + parts.pop("head")["weight"].T
    assert (np.abs(total - parts["embed"]["tokens"]) > 0.01).any()
    parts["embed"]["tokens"] = total
    for path, leaf in jax.tree.leaves_with_path(grads):
        assert (leaf != 0).any(), jax.tree_util.keystr(path)
    # Sums of some hundred terms, in another order.
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), grads, parts)


@pytest.fixture(scope="module")
def decode(config, params):
    return jax.jit(lambda *arguments: GPT(config, params).decode(*arguments))


@pytest.mark.slow_but_first
def test_decoding_token_by_token_gives_the_logits_of_the_whole(config, decode, logits):
    cache = init_cache(config, B, T)
    for t in range(T):
        step, cache = decode(TOKENS[:, t : t + 1], cache, jnp.full(B, t), jnp.zeros(B, int))
        np.testing.assert_allclose(step, logits[:, t], rtol=1e-5, atol=1e-5)


@pytest.mark.slow_but_first
def test_prompts_of_different_lengths_decode_as_each_would_alone(config, decode, logits):
    """Prompts padded on the right, then each row from its own position."""
    lengths = jnp.array([2, 5, 3])
    prompts = jnp.where(jnp.arange(5) < lengths[:, None], TOKENS[:, :5], 7)
    step, cache = decode(prompts, init_cache(config, B, T), jnp.zeros(B, int), lengths - 1)
    for ahead in range(4):
        at = lengths + ahead - 1
        np.testing.assert_allclose(step, logits[jnp.arange(B), at], rtol=1e-5, atol=1e-5)
        new = TOKENS[jnp.arange(B), jnp.minimum(at + 1, T - 1)]
        start = jnp.minimum(lengths + ahead, T - 1)
        step, cache = decode(new[:, None], cache, start, jnp.zeros(B, int))


def test_the_cache_holds_a_pair_for_each_layer(config):
    cache = init_cache(config, 3, 5, jnp.bfloat16)
    assert len(cache) == config.num_layers
    for keys, values in cache:
        sizes = dimensions(config)
        assert keys.shape == values.shape == (3, sizes["G"], 5, sizes["K"])
        assert keys.dtype == values.dtype == jnp.bfloat16


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_which_parameters_there_are(config):
    shapes = parameter_shapes(config)
    assert ("positions" in shapes["embed"]) == (config.positions == "learned")
    assert ("head" in shapes) == (not config.tie_head)
    assert ("bias" in shapes["blocks"]["attn"]["qkv"]) == config.qkv_bias
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(shapes))
