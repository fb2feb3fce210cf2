"""The mistakes that implementations make of today's families: each is seen at the tests' tolerance.

Planted in jaxgpt's model, one at a time, so that a test which let one pass would be too lenient.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import V, make_theirs

from jaxgpt.huggingface.weights import load_huggingface
from jaxgpt.model import attention
from jaxgpt.model.gpt import GPT

LOGITS = 2e-5  # as in test_families
TOKENS = np.random.default_rng(0).integers(V, size=(2, 40))
PREPARE, TURN = attention.prepare_heads, attention.turn


def rope(config, **changes):
    return replace(config, rope=replace(config.rope, **changes))


CONFIGS = {
    "window off by one": (
        ("gemma3", "olmo3", "gpt-oss"),
        lambda c: replace(c, window=c.window + 1),
    ),
    "window ignored": (
        ("gemma3", "olmo3", "gpt-oss"),
        lambda c: replace(c, window=0, window_period=0),
    ),
    "rope scaling ignored": (
        ("llama", "gemma3", "olmo3", "gpt-oss"),
        lambda c: rope(c, rope_scaling="none"),
    ),
    "yarn attention factor ignored": (
        ("olmo3", "gpt-oss"),
        lambda c: rope(c, rope_attention_factor=1.0),
    ),
    "yarn truncate flipped": (
        ("olmo3", "gpt-oss"),
        lambda c: rope(c, rope_truncate=not c.rope.rope_truncate),
    ),
    "no clamp": (("gpt-oss",), lambda c: replace(c, gate_limit=1e6)),
    "softmax before the top experts, or shares of these that do not add up to 1": (
        ("gpt-oss", "qwen3 experts"),
        lambda c: replace(c, experts=replace(c.experts, router_softmax="all")),
    ),
    "norm offset missing": (("gemma3",), lambda c: replace(c, norm_offset=False)),
    "embedding not scaled": (("gemma3",), lambda c: replace(c, scale_embedding=False)),
    "scale by the head's width": (("gemma3",), lambda c: replace(c, attention_scale=0.0)),
    "exact gelu for tanh": (("gemma3",), lambda c: replace(c, gelu="erf")),
    "epsilon 1e-5 for 1e-6": (("qwen3", "olmo2"), lambda c: replace(c, norm_epsilon=1e-5)),
}


def interleaved(x, by):
    """Rotary positions of pairs of neighbours."""
    apart = jnp.concatenate([x[..., ::2], x[..., 1::2]], axis=-1)
    first, second = jnp.split(TURN(apart, by), 2, axis=-1)
    return jnp.stack([first, second], axis=-1).reshape(x.shape)


def normed_after(qkv, heads, groups, *, turns, norm, query_norm, key_norm, **rest):
    queries, keys, values, bounds = PREPARE(qkv, heads, groups, turns=turns, **rest)
    return norm(queries, **query_norm), norm(keys, **key_norm), values, bounds


def tiled(qkv, heads, groups, **rest):
    queries, keys, values, bounds = PREPARE(qkv, heads, groups, **rest)
    keys, values = (jnp.tile(x, (1, heads // groups, 1, 1)) for x in (keys, values))
    return queries, keys, values, bounds


FUNCTIONS = {
    "rope pairs interleaved": (
        ("llama", "qwen3", "gemma3", "olmo2", "olmo3", "gpt-oss"),
        {"turn": interleaved},
    ),
    "qk norm after rope": (("qwen3",), {"prepare_heads": normed_after}),
    "sinks ignored": (("gpt-oss",), {"_sunk": lambda *_: {}}),
    "kv heads tiled": (("llama", "qwen3"), {"prepare_heads": tiled}),
}


def logits(config, params):
    return np.asarray(jax.jit(lambda params: GPT(config, params)(jnp.asarray(TOKENS)))(params))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Family -> config, parameters and logits; made when it is first asked for."""
    made = {}

    def get(family):
        if family not in made:
            folder = tmp_path_factory.mktemp("hf")
            make_theirs(family).save_pretrained(folder)
            config, params = load_huggingface(folder)
            made[family] = config, params, logits(config, params)
        return made[family]

    return get


def assert_seen(changed, right):
    assert np.abs(changed - right).max() > 2 * LOGITS * np.abs(right).max()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "change"),
    [
        pytest.param(f, change, id=f"{name}-{f}")
        for name, (fs, change) in CONFIGS.items()
        for f in fs
    ],
)
def test_a_setting_that_is_wrong_is_seen(models, family, change):
    config, params, right = models(family)
    assert_seen(logits(change(config), params), right)


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    ("family", "functions"),
    [pytest.param(f, own, id=f"{name}-{f}") for name, (fs, own) in FUNCTIONS.items() for f in fs],
)
def test_a_function_that_is_wrong_is_seen(models, family, functions, monkeypatch):
    config, params, right = models(family)
    for name, function in functions.items():
        monkeypatch.setattr(attention, name, function)
    assert_seen(logits(config, params), right)


def test_gate_and_up_swapped_are_seen(models):
    config, params, right = models("llama")
    mlp = params["blocks"]["mlp"]
    swapped = params["blocks"] | {"mlp": mlp | {"gate": mlp["up"], "up": mlp["gate"]}}
    assert_seen(logits(config, params | {"blocks": swapped}), right)


@pytest.mark.slow
def test_gate_and_up_as_halves_are_seen(models):
    config, params, right = models("gpt-oss")
    mlp = params["blocks"]["mlp"]
    pairs = jnp.stack([mlp["gate"]["weight"], mlp["up"]["weight"]], axis=-1)
    gate, up = jnp.split(pairs.reshape(*pairs.shape[:-2], -1), 2, axis=-1)
    halves = mlp | {"gate": mlp["gate"] | {"weight": gate}, "up": mlp["up"] | {"weight": up}}
    blocks = params["blocks"] | {"mlp": halves}
    assert_seen(logits(config, params | {"blocks": blocks}), right)
