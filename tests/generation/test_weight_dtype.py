"""Narrow weights write what the whole ones that they stand for write, alone and beside others."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import Experts, ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.prepared_params import DecodingParams, prepare_params
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.model.gpt import GPT
from jaxgpt.model.narrow import is_narrow, widen
from jaxgpt.model.transformer import block, with_block

GREEDY = SamplingConfig(temperature=0.0)
GPT2 = ModelConfig(vocab_size=61, context_length=24, num_layers=2, num_heads=2, embed_dim=16)
MODERN = ModelConfig(
    61, 24, 2, 4, 16, num_kv_heads=2, positions="rope", norm="rms", gate="silu", tie_head=False
)
MIXED = ModelConfig(61, 24, 2, 2, 16, experts=Experts(num_experts=4, experts_per_token=2))
CONFIGS = {"gpt2": GPT2, "modern": MODERN, "experts": MIXED}
PROMPTS = [[5, 6, 7], [1, 2, 3, 4, 5], [60]]

pytestmark = pytest.mark.skipif(
    jax.default_backend() != "cpu", reason="elsewhere, bfloat16 is computed in"
)


def whole(params: DecodingParams) -> DecodingParams:
    """With arrays in place of narrow weights, as a model of such numbers would be prepared."""
    blocks = [jax.tree.map(lambda x: x[0], layer) for layer in params.as_params()["blocks"]]
    layers = [jax.tree.map(jnp.transpose, widen(layer)) for layer in blocks]
    return DecodingParams(layers, widen(params.rest))


def narrow_shapes(params: DecodingParams) -> list[tuple[int, ...]]:
    """The shapes of the narrow ones."""
    leaves = jax.tree.leaves(params, is_leaf=is_narrow)
    return [leaf.shape for leaf in leaves if is_narrow(leaf)]


@pytest.mark.slow
@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("weight_dtype", ["bfloat16", "int8"])
def test_the_text_is_that_of_the_rounded_weights(random_params, name, weight_dtype):
    config = CONFIGS[name]
    params = jax.tree.map(lambda leaf: 2 * leaf, random_params(config))
    ready = prepare_params(params, weight_dtype)
    assert narrow_shapes(ready)
    options = {"max_new_tokens": 30, "sampling": GREEDY}  # past the context
    alone = [generate(config, ready, [prompt], **options)[0] for prompt in PROMPTS]
    assert generate(config, ready, PROMPTS, **options) == alone
    assert alone == generate(config, whole(ready), PROMPTS, **options)
    tokens = jnp.arange(40).reshape(2, 20)
    logits = [GPT(config, each.as_params())(tokens) for each in (ready, whole(ready))]
    np.testing.assert_allclose(*logits, rtol=1e-5, atol=1e-5 * np.abs(logits[1]).max())


def test_what_is_stored_in_bfloat16_stays_so(random_params):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), random_params(MODERN))
    ready = prepare_params(params)
    kept = {str(leaf.dtype) for leaf in jax.tree.leaves(ready)}
    assert kept == {"bfloat16", "float32"}
    linears = {(16, 16), (16, 32), (16, 64), (64, 16)}
    assert set(narrow_shapes(ready)) == linears | {(61, 16), (16, 61)}
    assert ready.dtype == jnp.float32
    assert prepare_params(ready, "int8") is ready
    # For many rows, and a block of one's own, which may do anything with them, there are arrays.
    own = with_block(MODERN, lambda x, **given: block(x, **given))
    for config, rows in ((MODERN, 2), (own, 1)):
        wide = ready.for_rows(config, rows)
        assert not narrow_shapes(wide)
        assert {str(leaf.dtype) for leaf in jax.tree.leaves(wide)} == {"float32"}
        jax.tree.map(np.testing.assert_array_equal, wide, whole(ready))
    assert ready.for_rows(MODERN, 1) is ready
    scale = [each.layers[0]["norm1"]["scale"] for each in (ready, ready.for_rows(MODERN, 2))]
    assert scale[0] is scale[1]  # what is whole is not copied
    jax.eval_shape(prepare_params, params)


@pytest.mark.slow
def test_experts_stay_whole(random_params):
    ready = prepare_params(random_params(MIXED), "int8")
    experts = ready.layers[0]["mlp"]
    assert is_narrow(experts["router"]["weight"])
    assert experts["up"]["weight"].dtype == jnp.float32
    assert ready.rest["embed"]["positions"].dtype == jnp.float32


def test_what_cannot_be_kept_so_is_refused(random_params):
    params = random_params(GPT2)
    everywhere = jax.NamedSharding(jax.make_mesh((8,), ("data",)), jax.P())
    with pytest.raises(ConfigError, match=r"int8 .* one device, .* leave out --mesh or"):
        prepare_params(jax.device_put(params, everywhere), "int8")
    shared = prepare_params(jax.device_put(params, everywhere))
    assert not narrow_shapes(shared)
