"""Activations by name, read and changed, against forward hooks of the PyTorch twin."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model import attention
from jaxgpt.model.activations import activations, intervene, keep_heads, recorded_names
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.schema import dimensions
from jaxgpt.parity import torch_reference

CONFIG = ModelConfig(vocab_size=37, context_length=80, num_layers=2, num_heads=4, embed_dim=32)
SHARED = dataclasses.replace(CONFIG, num_kv_heads=2, head_dim=6, hidden_dim=40)
B, T = 2, 70  # more than one chunk of queries
TOKENS, OTHER = jnp.asarray(np.random.default_rng(0).integers(37, size=(2, B, T), dtype=np.int32))
D, K, F = (dimensions(CONFIG)[letter] for letter in "DKF")
FORWARD = CONFIG.num_layers * (5 * D + K + 2 * T + F) + 2 * D  # see test_gpt_parity
MODULES = {
    "embed": "embed",
    "norm": "norm",
    **{
        f"blocks.{i}.{ours}": f"blocks.{i}.{theirs}"
        for i in range(CONFIG.num_layers)
        for ours, theirs in {
            **{"norm1": "norm1", "attn.out": "attn", "norm2": "norm2", "mlp.up": "mlp.up"},
            **{"mlp.hidden": "mlp.gelu", "mlp.out": "mlp", "out": ""},
        }.items()
    },
}


@pytest.fixture(scope="module", params=[CONFIG, SHARED], ids=["gpt2", "shared heads"])
def model(request, random_params):
    return GPT(request.param, random_params(request.param))


@pytest.fixture(scope="module")
def twin(model):
    return torch_reference.from_params(model.config, model.params.get_value())


def run_twin(twin, tokens, hook):
    """The twin's logits, with `hook(our name, output)` at each module, whose result replaces it."""
    handles = [
        twin.get_submodule(theirs.rstrip(".")).register_forward_hook(
            lambda module, inputs, output, name=ours: hook(name, output)
        )
        for ours, theirs in MODULES.items()
    ]
    try:
        with torch.no_grad():
            return twin(torch.tensor(np.asarray(tokens), dtype=torch.int64)).numpy()
    finally:
        for handle in handles:
            handle.remove()


@pytest.mark.slow_but_first
def test_activations_are_those_of_the_twins_forward_hooks(model, twin, agree, rounding):
    theirs = {}
    theirs["logits"] = run_twin(twin, TOKENS, lambda name, x: theirs.update({name: x.numpy()}))
    ours = activations(model, TOKENS, theirs)
    assert ours.keys() == theirs.keys()
    for name in theirs:
        agree(ours[name], theirs[name], rounding(FORWARD))


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", ["blocks.0.attn.out", "blocks.1.mlp.hidden", "embed"])
def test_a_patch_from_another_prompt_does_the_same_in_the_twin(model, twin, name, agree, rounding):
    kept = {}
    run_twin(twin, OTHER, lambda at, x: kept.update({at: x}))
    patched = run_twin(twin, TOKENS, lambda at, x: kept[name] if at == name else None)
    before = model(TOKENS)
    after = intervene(model, TOKENS, {name: lambda x: activations(model, OTHER, [name])[name]})
    agree(after, patched, rounding(FORWARD))
    assert np.abs(after - before).max() > 0.01 * np.abs(before).max()


def test_all_names_are_recorded_in_their_shapes(model):
    found, sizes = activations(model, TOKENS), dimensions(model.config)
    assert list(found) == recorded_names(model.config)
    shapes = {name.removeprefix("blocks.0."): x.shape for name, x in found.items()}
    assert shapes["attn.q"] == shapes["attn.context"] == (B, sizes["H"], T, sizes["K"])
    assert shapes["attn.k"] == shapes["attn.v"] == (B, sizes["G"], T, sizes["K"])
    assert shapes["attn.scores"] == shapes["attn.weights"] == (B, sizes["H"], T, T)
    assert shapes["mlp.hidden"] == (B, T, sizes["F"])
    np.testing.assert_allclose(found["blocks.1.attn.weights"].sum(-1), 1, rtol=1e-5)


def test_recording_changes_no_logit_beyond_rounding(model, agree, rounding):
    agree(activations(model, TOKENS, ["logits"])["logits"], model(TOKENS), rounding(FORWARD))
    agree(intervene(model, TOKENS, {"*": lambda x: x}), model(TOKENS), rounding(FORWARD))


def test_a_head_that_is_knocked_out_writes_nothing(model):
    none = {"blocks.0.attn.context": lambda x: x.at[:, :].set(0)}
    params = model.params.get_value()
    bias = params["blocks"]["attn"]["out"]["bias"][0]
    name = "blocks.0.attn.out"
    seen = {}

    def record(at, x):
        x = none[at](x) if at in none else x
        return seen.setdefault(at, x)

    model(TOKENS, record=record)
    np.testing.assert_array_equal(seen[name], np.broadcast_to(bias, seen[name].shape))


def test_heads_not_kept_are_as_if_their_rows_of_the_output_were_zero(model, agree, rounding):
    kept = np.array([[1, 0, 1, 1], [0, 0, 0, 1]], bool)
    params = model.params.get_value()
    rows = np.repeat(kept, dimensions(model.config)["K"], axis=1)  # heads are slices of the context
    weight = params["blocks"]["attn"]["out"]["weight"] * rows[:, :, None]
    out = params["blocks"]["attn"]["out"] | {"weight": weight}
    blocks = params["blocks"] | {"attn": params["blocks"]["attn"] | {"out": out}}
    zeroed = GPT(model.config, params | {"blocks": blocks})(TOKENS)
    agree(intervene(model, TOKENS, keep_heads(model.config, kept)), zeroed, rounding(FORWARD))
    assert np.abs(zeroed - model(TOKENS)).max() > 0.01 * np.abs(zeroed).max()


@pytest.mark.slow_but_first
def test_many_choices_of_heads_in_one_program(model):
    def without(kept):
        return intervene(model, TOKENS, keep_heads(model.config, kept))

    subsets = np.array([[[1] * 4] * 2, [[0] * 4] * 2, [[1, 1, 0, 1], [1] * 4]], bool)
    at_once, mapped = jax.jit(jax.vmap(without))(subsets), jax.lax.map(without, subsets)
    for row, kept in enumerate(subsets):
        np.testing.assert_allclose(at_once[row], without(kept), rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(mapped[row], without(kept), rtol=1e-4, atol=1e-4)


def test_heads_to_keep_have_a_row_for_each_layer(model):
    with pytest.raises(ConfigError, match=r"shape \(1, 4\); \(L, H\) is \(2, 4\) here"):
        keep_heads(model.config, np.ones((1, 4), bool))


@pytest.mark.slow
def test_under_jit_grad_and_vmap(model):
    name = "blocks.1.attn.context"

    def knocked(factor, tokens):
        return intervene(model, tokens, {name: lambda x: factor * x}).sum()

    def moved(change):
        return intervene(model, TOKENS, {name: lambda x: x + change}).sum()

    gradient = jax.jit(jax.grad(knocked))(1.0, TOKENS)
    contexts = activations(model, TOKENS, name)[name]
    shares = jax.grad(moved)(jnp.zeros_like(contexts)) * contexts
    assert abs(gradient - shares.sum()) < 1e-5 * jnp.abs(shares).sum()
    assert abs(gradient) > 1e-3 * jnp.abs(shares).sum()
    factors = jnp.array([0.0, 0.5, 1.0])
    lanes = jax.vmap(knocked, (0, None))(factors, TOKENS)
    np.testing.assert_allclose(lanes[0], knocked(0.0, TOKENS), rtol=1e-3, atol=1e-2)
    weights = jax.jit(lambda tokens: activations(model, tokens, ["*.weights"]))(TOKENS)
    assert list(weights) == ["blocks.0.attn.weights", "blocks.1.attn.weights"]


@pytest.mark.slow
def test_decoding_records_too(model):
    seen = []

    def record(name, x):
        seen.append((name, x.shape))
        return x

    cache = init_cache(model.config, B, 8)
    zeros = jnp.zeros(B, int)
    model.decode(TOKENS[:, :3], cache, zeros, zeros + 2, record=record)
    assert ("blocks.1.attn.weights", (B, model.config.num_heads, 3, 8)) in seen


def test_an_unknown_name_and_another_shape_are_refused(model):
    with pytest.raises(
        ConfigError, match=r"no activation 'blocks.0.attn.wieghts'; near it are blo"
    ):
        activations(model, TOKENS, ["blocks.0.attn.wieghts"])
    with pytest.raises(ConfigError, match=r"embed has shape \(2, 70, 32\), but was changed to"):
        intervene(model, TOKENS, {"embed": lambda x: x[:1]})


def test_without_a_record_the_program_is_the_same(model, monkeypatch):
    def replaced(queries, keys, values, *, start=None, segments=None, dropout_rate=0.0, rng=None):
        return values

    monkeypatch.setattr(attention, "attend_causally", replaced)
    assert np.isfinite(model(TOKENS)).all()
    with pytest.raises(TypeError, match="record"):
        activations(model, TOKENS)
