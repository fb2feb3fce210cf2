"""Muon: which leaves are its own, orthogonal updates, and a run that survives what runs survive."""

import os
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.model.parameters import init_params, parameter_shapes
from jaxgpt.presets import get_preset
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.muon import labels, orthogonalize
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.plan import make_plan
from jaxgpt.training.pretrain import pretrain
from jaxgpt.training.run_state import begin, state_template

SHAPE = ModelConfig(
    vocab_size=37, context_length=8, num_layers=2, num_heads=2, embed_dim=16, tie_head=False
)
MUON = OptimizerConfig(optimizer="muon", learning_rate=3e-3, warmup_steps=0)
MATRICES = {"attn.qkv.weight", "attn.out.weight", "mlp.up.weight", "mlp.down.weight"}


def paths(tree):
    return {
        ".".join(str(entry.key) for entry in path if hasattr(entry, "key")): leaf
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def test_the_matrices_of_the_blocks_are_muons_and_all_else_is_adamws():
    found = paths(labels(parameter_shapes(SHAPE)))
    muon = {f"blocks.{name}" for name in MATRICES}
    assert {name for name, label in found.items() if label == "muon"} == muon
    assert {name for name, label in found.items() if label == "adamw"} == {
        *("embed.tokens", "embed.positions", "norm.scale", "norm.bias", "head.weight"),
        *(f"blocks.{norm}.{leaf}" for norm in ("norm1", "norm2") for leaf in ("scale", "bias")),
        *(f"blocks.{name.replace('weight', 'bias')}" for name in MATRICES),
    }


def test_what_the_schema_does_not_name_is_adamws():
    adapters = {"query": {"A": jnp.ones((2, 4, 1)), "B": jnp.ones((2, 1, 4))}}
    assert set(jax.tree.leaves(labels(adapters))) == {"adamw"}
    assert labels({"classifier": {"weight": jnp.ones((4, 2))}})["classifier"]["weight"] == "adamw"


@pytest.mark.parametrize("shape", [(6, 24), (24, 6), (9, 9)])
def test_the_singular_values_of_each_layer_become_about_1(shape):
    stacked = np.random.default_rng(0).standard_normal((3, *shape)).astype(np.float32)
    stacked *= np.float32([1e-3, 1.0, 1e3])[:, None, None]
    result = orthogonalize(jnp.asarray(stacked))
    values = np.linalg.svd(result, compute_uv=False)
    assert values.min() > 0.3
    assert values.max() < 1.3
    for layer, alone in zip(result, stacked, strict=True):
        np.testing.assert_allclose(layer, orthogonalize(jnp.asarray(alone)), atol=1e-5)
        # U S V^T, with S near 1 in place of the singular values.
        left, _, right = np.linalg.svd(alone, full_matrices=False)
        rotated = left.T @ np.asarray(layer) @ right.T
        np.testing.assert_allclose(rotated, np.diag(np.diag(rotated)), atol=1e-4)


def test_a_matrix_of_zeros_stays_one():
    assert not orthogonalize(jnp.zeros((2, 3, 4))).any()


@pytest.mark.slow
def test_an_unhealthy_update_keeps_the_means():
    params = init_params(SHAPE, jax.random.key(0))
    optimizer = make_optimizer(MUON, 10)
    update = jax.jit(optimizer.update)
    _, state = update(params, optimizer.init(params), params, healthy=True)
    broken = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), params)
    _, after = update(broken, state, params, healthy=False)
    jax.tree.map(np.testing.assert_array_equal, after[1], state[1])


def config_of(**changes):
    return TrainConfig(model=SHAPE, optimizer=MUON, batch_size=8, steps=10, **changes)


@pytest.mark.slow
def test_a_gradient_that_is_not_finite_changes_nothing():
    config = config_of()
    mesh = make_mesh(config)
    params = init_params(SHAPE, jax.random.key(0))
    params["norm"]["scale"] = jnp.full(16, jnp.nan)
    template = state_template(params, config, mesh)
    before = jax.tree.map(np.asarray, begin(params, config, template))
    tokens = jnp.zeros((8, 8), jnp.int32)
    state, metrics = make_step(config, mesh)(
        begin(params, config, template), (tokens, tokens), np.int32(0)
    )
    assert not np.isfinite(metrics["loss"])
    jax.tree.map(np.testing.assert_array_equal, state, before)


def test_the_state_lies_where_its_parameter_lies():
    config = config_of(fsdp=4)
    template = state_template(parameter_shapes(SHAPE), config, make_mesh(config))
    specs = {name: leaf.sharding.spec for name, leaf in paths(template.opt_state).items()}
    means = [name for name in specs if name.startswith("muon.")]
    assert {name.removeprefix("muon.blocks.") for name in means} == MATRICES
    outputs = [name for name in means if ".out." in name or ".down." in name]
    inputs = [name for name in means if name not in outputs]
    assert all(specs[name] == jax.P(None, "fsdp", None) for name in inputs)
    assert all(specs[name] == jax.P(None, None, "fsdp") for name in outputs)


@pytest.mark.whole_run
def test_devices_that_share_the_parameters_give_what_one_gives():
    tokens = np.random.default_rng(0).integers(0, 37, (8, 9)).astype(np.int32)
    after = []
    for config in (config_of(), config_of(fsdp=4), config_of(mesh="fsdp=2,tensor=2")):
        mesh = make_mesh(config)
        params = init_params(SHAPE, jax.random.key(0))
        state = begin(params, config, state_template(params, config, mesh))
        step = make_step(config, mesh)
        after.append(step(state, (tokens[:, :-1], tokens[:, 1:]), np.int32(0))[0].params)
    for one, *others in zip(*map(jax.tree.leaves, after), strict=True):
        for other in others:
            # As in test_mesh.py: a rounding of the gradient is at most 1e-3 of an update.
            np.testing.assert_allclose(one, other, atol=3e-6, rtol=0)


def test_the_plan_counts_one_mean_of_a_matrix_and_two_of_the_rest():
    adamw, muon = config_of(), config_of()
    adamw = replace(adamw, optimizer=replace(MUON, optimizer="adamw"))
    matrices = 2 * 12 * 16**2 * 4  # bytes of both layers'
    assert make_plan(adamw).optimizer - make_plan(muon).optimizer == matrices


@pytest.mark.whole_run
def test_stopped_and_resumed_is_the_undisturbed_run_and_compiles_nothing_by_other_numbers(
    small_run, tmp_path, compiled_anew
):
    tiny = get_preset("tiny").optimizer
    optimizer = replace(tiny, optimizer="muon", warmup_steps=2)
    rare = {"evaluate_every": 5, "checkpoint_every": 5, "sample_every": 2}
    config = small_run(optimizer=optimizer, steps=5, **rare)
    whole = pretrain(config, tmp_path / "whole")

    def stop(config, params, tokenizer):
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    first = pretrain(config, tmp_path / "part", sampler=stop)
    assert int(first.state.step) < 5
    last = pretrain(config, tmp_path / "part")
    jax.tree.map(np.testing.assert_array_equal, last.state, whole.state)

    compiled_anew.clear()
    other = replace(config.optimizer, learning_rate=1e-3, momentum=0.9)
    pretrain(replace(config, optimizer=other), tmp_path / "other")
    assert compiled_anew == []
