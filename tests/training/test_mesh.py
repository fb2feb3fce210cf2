"""Eight simulated devices give what one gives."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxgpt.errors import ConfigError
from jaxgpt.model.parameters import init_params
from jaxgpt.presets import get_preset
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.loss import next_token_loss
from jaxgpt.training.mesh import (
    batch_sharding,
    make_mesh,
    on_mesh,
    select_platform,
    state_shardings,
)
from jaxgpt.training.optimizer import make_optimizer
from jaxgpt.training.step import init_state, train_step

TINY = get_preset("tiny")
CONFIG = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, vocab_size=17, context_length=8, dropout=0.1),
)


def _train(config, mesh, steps=5):
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = init_state(init_params(config.model, jax.random.key(0)), optimizer)
    step = partial(
        train_step,
        key=jax.random.key(1),
        loss_fn=next_token_loss(config.model, config.compute),
        optimizer=optimizer,
        micro_batches=config.gradient_accumulation,
    )
    options = {}
    if mesh is not None:
        shardings = state_shardings(state, mesh)
        state, options = jax.device_put(state, shardings), {"out_shardings": (shardings, None)}
        step = on_mesh(step, mesh)
    step = jax.jit(step, **options)
    for number in range(steps):
        tokens = np.random.default_rng(number).integers(0, 17, (16, 9)).astype(np.int32)
        batch = (tokens[:, :-1], tokens[:, 1:])
        if mesh is not None:
            batch = jax.device_put(batch, batch_sharding(mesh))
        state, _ = step(state, batch, np.int32(number))
    return state


def _temporaries(config):
    """Bytes that a compiled step takes on each device beside the state and the batch."""
    mesh = make_mesh(config)
    optimizer = make_optimizer(config.optimizer, config.steps)
    state = jax.eval_shape(
        lambda key: init_state(init_params(config.model, key), optimizer), jax.random.key(0)
    )
    state = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(state, mesh),
    )
    shape = config.batch_size, config.model.context_length
    tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=batch_sharding(mesh))
    number = jax.ShapeDtypeStruct((), np.int32)
    compiled = make_step(config, mesh).lower(state, (tokens, tokens), number).compile()
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize(("data", "fsdp"), [(1, 8), (2, 4)])
def test_devices_that_share_parameters_share_the_batch_too(data, fsdp):
    # Logits and activations outweigh the parameters here, and must not be on every device.
    model = dataclasses.replace(CONFIG.model, vocab_size=5000, context_length=64, dropout=0.0)
    config = dataclasses.replace(CONFIG, model=model, batch_size=16)
    by_data = _temporaries(dataclasses.replace(config, data_parallel=8))
    shared = _temporaries(dataclasses.replace(config, data_parallel=data, fsdp=fsdp))
    assert shared < 1.3 * by_data


@pytest.mark.parametrize(
    ("data", "fsdp", "micro_batches"),
    [
        pytest.param(8, 1, 1, marks=pytest.mark.whole_run),
        (2, 4, 1),
        pytest.param(8, 1, 2, marks=pytest.mark.whole_run),
    ],
)
def test_devices_do_not_change_the_result(data, fsdp, micro_batches):
    config = dataclasses.replace(
        CONFIG, data_parallel=data, fsdp=fsdp, gradient_accumulation=micro_batches
    )
    alone = _train(config, None)
    together = _train(config, make_mesh(config))
    for ours, theirs in zip(
        jax.tree.leaves(together.params), jax.tree.leaves(alone.params), strict=True
    ):
        # Sums over the batch run in another order; Adam divides by the root of tiny second
        # moments, which turns one rounding of 6e-8 into at most 1e-3 of a 3e-3 update a step.
        np.testing.assert_allclose(ours, theirs, atol=5 * 3e-6, rtol=0)


def test_fsdp_shards_matrices_and_copies_the_rest():
    config = dataclasses.replace(CONFIG, fsdp=4)
    params = init_params(config.model, jax.random.key(0))
    shardings = state_shardings(params, make_mesh(config))
    assert shardings["blocks"]["attn"]["qkv"]["weight"].spec == PartitionSpec(None, "fsdp", None)
    assert shardings["embed"]["tokens"].spec == PartitionSpec(None, "fsdp")
    assert shardings["norm"]["scale"].spec == PartitionSpec(None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_parallel": 3}, "3 times fsdp 1 is 3, but there are 8 devices"),
        ({"fsdp": 3}, "there are 8 devices"),
        ({"batch_size": 12}, "must be a multiple of 8 .* such as 16"),
        ({"gradient_accumulation": 4, "batch_size": 20}, "multiple of 32 .* such as 32"),
        ({"model": dataclasses.replace(TINY.model, embed_dim=6), "fsdp": 4}, "fsdp 4 must divide"),
    ],
)
def test_grids_that_cannot_be_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        make_mesh(dataclasses.replace(CONFIG, **changes))


def test_an_absent_platform_is_refused_and_the_present_one_stays():
    with pytest.raises(ConfigError, match="no such device here; available: cpu"):
        select_platform("tpu")
    assert jax.device_count() == 8
