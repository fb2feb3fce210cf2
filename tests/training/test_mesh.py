"""Eight simulated devices give what one gives."""

import dataclasses
import functools
from functools import partial

import jax
import numpy as np
import pytest
from jax.sharding import AxisType, PartitionSpec

from jaxgpt.errors import ConfigError
from jaxgpt.model.parameters import init_params
from jaxgpt.presets import get_preset
from jaxgpt.training.arrays import read_arrays, write_arrays
from jaxgpt.training.collectives import traffic
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
from jaxgpt.training.run_state import begin, state_template
from jaxgpt.training.step import init_state, train_step

TINY = get_preset("tiny")
CONFIG = dataclasses.replace(
    TINY,
    model=dataclasses.replace(TINY.model, vocab_size=17, context_length=8, dropout=0.1),
)
SHARED = dataclasses.replace(TINY.model, num_kv_heads=1)


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


@pytest.mark.slow
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
        pytest.param(2, 4, 1, marks=pytest.mark.whole_run),
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


# A vocabulary that no axis divides, and keys that queries share.
GPT2 = dataclasses.replace(TINY.model, vocab_size=33, context_length=8, num_heads=4, embed_dim=16)
LLAMA = dataclasses.replace(
    get_preset("llama-tiny").model,
    **{"vocab_size": 32, "context_length": 8, "num_heads": 8, "num_kv_heads": 4},
    **{"embed_dim": 32, "hidden_dim": 48, "head_dim": 0},
)
LAYOUTS = ("data=8", "fsdp=8", "data=4,tensor=2", "fsdp=2,tensor=4", "data=2,fsdp=2,tensor=2")


@pytest.fixture(scope="module")
def trained():
    """`trained(model, layout, steps)`: losses and last state; without a layout on one device."""

    @functools.cache
    def run(model, layout, steps):
        config = dataclasses.replace(TINY, model=model, batch_size=8, mesh=layout)
        if layout:
            mesh = make_mesh(config)
        else:
            one = dataclasses.replace(config, mesh="data=1")
            axes = ("data", "fsdp", "tensor"), (AxisType.Auto,) * 3
            config, mesh = one, jax.make_mesh((1, 1, 1), *axes, devices=jax.devices()[:1])
        params = init_params(model, jax.random.key(0))
        template = state_template(params, config, mesh)
        state, step, losses = begin(params, config, template), make_step(config, mesh), []
        for number in range(steps):
            tokens = np.random.default_rng(number % 4).integers(0, model.vocab_size, (8, 9), "i4")
            batch = jax.device_put((tokens[:, :-1], tokens[:, 1:]), batch_sharding(mesh))
            state, metrics = step(state, batch, np.int32(number))
            losses.append(float(metrics["loss"]))
        return losses, state, template

    return run


@pytest.mark.slow
@pytest.mark.parametrize("model", [GPT2, LLAMA], ids=["gpt2", "llama"])
@pytest.mark.parametrize(
    ("layout", "steps"),
    [
        ("data=2,fsdp=2,tensor=2", 2),
        *(pytest.param(layout, 50, marks=pytest.mark.whole_run) for layout in LAYOUTS),
    ],
)
def test_every_layout_learns_what_one_device_learns(model, layout, steps, trained):
    # Sums run in another order, 6e-8 of each; Adam's root then moves parameters by some 1e-6 a
    # step, which 50 steps on the same few batches turn into less than 1e-5 of a loss.
    losses = trained(model, layout, steps)[0]
    np.testing.assert_allclose(losses, trained(model, "", steps)[0], rtol=1e-5)
    assert losses[-1] < losses[0] or steps < 50


@pytest.mark.whole_run
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_repeats_bit_for_bit(layout, trained):
    first = trained(LLAMA, layout, 50)
    again = trained.__wrapped__(LLAMA, layout, 50)
    assert first[0] == again[0]
    jax.tree.map(np.testing.assert_array_equal, first[1], again[1])


@pytest.mark.slow
def test_a_checkpoint_of_one_layout_goes_on_on_another(trained, tmp_path):
    _, state, _ = trained(LLAMA, "data=2,fsdp=2,tensor=2", 2)
    write_arrays(tmp_path / "a", state)
    for layout in ("", "fsdp=8"):
        config = dataclasses.replace(TINY, model=LLAMA, batch_size=8, mesh=layout)
        shapes = jax.eval_shape(lambda: init_params(LLAMA, jax.random.key(0)))
        template = state_template(shapes, config, make_mesh(config))
        found = read_arrays(tmp_path / "a", template)
        jax.tree.map(np.testing.assert_array_equal, found, state)
        placed = jax.tree.map(lambda x, due: x.sharding == due.sharding, found, template)
        assert all(jax.tree.leaves(placed))


def _device_bytes(tree):
    """Bytes on the first device, of the leaves that are matrices and of all others."""
    matrices, others = 0, 0
    for path, leaf in jax.tree.leaves_with_path(tree):
        size = leaf.addressable_shards[0].data.nbytes
        cut = jax.tree_util.keystr(path).endswith(("['weight']", "['tokens']", "['positions']"))
        matrices, others = matrices + size * cut, others + size * (not cut)
    return matrices, others


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["fsdp=8", "fsdp=4,tensor=2", "data=4,tensor=2"])
def test_parameters_and_optimizer_are_shared_by_the_devices(layout):
    for model in (GPT2, LLAMA):
        config = dataclasses.replace(TINY, model=model, batch_size=8, mesh=layout)
        params = init_params(model, jax.random.key(0))
        state = begin(params, config, state_template(params, config, make_mesh(config)))
        sharing = config.axes.sharing
        for part, copies in ((state.params, 1), (state.opt_state, 2)):
            matrices, others = _device_bytes(part)
            whole = copies * sum(leaf.nbytes for leaf in jax.tree.leaves(params) if leaf.ndim > 1)
            # Positions and the norms' scales are not shared by tensor devices.
            assert matrices < 1.1 * whole / sharing
            assert others < 0.1 * whole


@pytest.mark.slow
def test_a_step_sends_what_its_layout_needs_and_no_more():
    config = dataclasses.replace(TINY, model=LLAMA, batch_size=8, mesh="data=2,fsdp=2,tensor=2")
    mesh = make_mesh(config)
    shapes = jax.eval_shape(lambda: init_params(LLAMA, jax.random.key(0)))
    template = state_template(shapes, config, mesh)
    tokens = jax.ShapeDtypeStruct((8, 8), np.int32, sharding=batch_sharding(mesh))
    lowered = make_step(config, mesh).lower(template, (tokens, tokens), np.int32(0))
    found = traffic(lowered.compile().as_text(), mesh.shape)
    layers, width, rows = 2, 32, 2 * 8
    block = {name: leaf.size // layers for name, leaf in _matrices(shapes["blocks"])}
    # Weights, of the tensor device's half: before they are used, in both passes.
    gathered = 2 * layers * sum(block.values()) // 2
    tables = 2 * 32 * width // 2
    sent = found["all-gather", "fsdp"].bytes / 4
    assert gathered <= sent <= gathered + 2 * tables
    # qkv, from how it is kept to whole heads, and its gradient back: of an fsdp device's half.
    assert found["all-to-all", "tensor"].bytes == 4 * 3 * layers * block["qkv"] // 4
    # What heads and hidden width bring together, forward and backward, twice a layer.
    least = 4 * layers * rows * width
    assert least <= found["all-reduce", "tensor"].bytes / 4 <= 1.5 * least
    # Little goes along several axes at once, such as the gradients of norms.
    joined = sum(each.bytes for (_, axes), each in found.items() if "+" in axes)
    assert joined < 0.05 * sum(each.bytes for each in found.values())


def _matrices(blocks):
    pairs = jax.tree.leaves_with_path(blocks)
    return [(path[-2].key, leaf) for path, leaf in pairs if path[-1].key == "weight"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data_parallel": 3},
            "mesh data=3,fsdp=1,tensor=1 takes 3, but there are 8 devices",
        ),
        ({"fsdp": 3}, "there are 8 devices"),
        ({"mesh": "data=2,tensor=2"}, "mesh data=2,fsdp=1,tensor=2 takes 4, but"),
        ({"mesh": "tensor=4"}, "num_heads is 2; tensor 4 must divide it"),
        ({"mesh": "tensor=2", "model": SHARED}, "num_kv_heads is 1; tensor 2 must divide it"),
        ({"mesh": "tensor=2", "batch_size": 6}, "multiple of 4 \\(4 devices times .* such as 8"),
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
