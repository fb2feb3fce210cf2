"""What the formula says is sent is what XLA compiles."""

from collections import defaultdict
from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxgpt.axes import Axes
from jaxgpt.cluster.communication import communication, messages
from jaxgpt.config import ModelConfig
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.presets import get_preset
from jaxgpt.training.collectives import Traffic, axes_between, collectives
from jaxgpt.training.compiled_step import make_step
from jaxgpt.training.mesh import batch_sharding, make_mesh
from jaxgpt.training.run_state import state_template

GPT2 = ModelConfig(vocab_size=512, context_length=16, num_layers=3, num_heads=4, embed_dim=32)
LLAMA = replace(
    GPT2,
    **{"num_heads": 8, "num_kv_heads": 4, "hidden_dim": 96, "tie_head": False},
    **{"qkv_bias": False, "out_bias": False, "mlp_bias": False},
    **{"norm": "rms", "positions": "rope", "gate": "silu"},
)
ODD = replace(GPT2, vocab_size=513)
# Below it are scalars, the ids of tokens, and a softmax's sums and maxima, alone or together.
LEAST = 1100


def _config(model, layout, **settings):
    return replace(get_preset("tiny"), model=model, batch_size=16, mesh=layout, **settings)


def _sums(found):
    sums = defaultdict(Traffic)
    for kind, axes, size, times in found:
        if axes and size >= LEAST:
            before = sums[kind, "+".join(axes)]
            sums[kind, "+".join(axes)] = Traffic(before.times + times, before.bytes + times * size)
    return sums


def _compiled(config):
    mesh = make_mesh(config)
    template = state_template(parameter_shapes(config.model), config, mesh)
    shape = config.batch_size, config.model.context_length
    tokens = jax.ShapeDtypeStruct(shape, np.int32, sharding=batch_sharding(mesh))
    lowered = make_step(config, mesh).lower(template, (tokens, tokens), np.int32(0))
    # What is sent is settled before a processor's instructions are, which take most of the time.
    text = lowered.compile({"xla_backend_optimization_level": 0}).as_text()
    return [
        (each.kind, axes_between(each.group, mesh.shape), each.bytes, each.times)
        for each in collectives(text)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "layout", "settings"),
    [
        (GPT2, "data=2,fsdp=2,tensor=2", {}),
        *(
            pytest.param(*row, marks=pytest.mark.whole_run)
            for row in (
                (GPT2, "data=8", {}),
                (GPT2, "fsdp=8", {}),
                (GPT2, "data=4,tensor=2", {}),
                (ODD, "data=4,tensor=2", {}),
                (GPT2, "data=2,fsdp=4", {"gradient_accumulation": 2}),
                (LLAMA, "fsdp=8", {}),
                (LLAMA, "data=4,tensor=2", {}),
                (LLAMA, "data=2,fsdp=2,tensor=2", {"remat": True}),
            )
        ),
    ],
)
def test_the_formula_is_what_xla_compiles(model, layout, settings):
    config = _config(model, layout, **settings)
    axes = config.axes._replace(data=config.axes.data or 1)
    found = _sums(_compiled(config))
    planned = _sums(
        (each.kind, each.axes, each.bytes, each.times)
        for each in messages(config, axes, scatters=False)
    )
    assert found.keys() == planned.keys()
    for key, each in planned.items():
        assert found[key].bytes == pytest.approx(each.bytes, rel=0.005), key
        # Gradients of two tables may go together or one by one.
        assert 0 <= found[key].times - each.times <= 1, key


def test_gradients_are_scattered_where_parameters_are_shared():
    config = _config(LLAMA, "fsdp=8")
    sent = communication(config, Axes(1, 8, 1))
    matrices = sum(
        leaf.size for leaf in jax.tree.leaves(parameter_shapes(LLAMA)["blocks"]) if leaf.ndim > 2
    )
    assert sent["reduce-scatter", "fsdp"] == Traffic(4, 4 * (matrices + 512 * 32))
    assert sent["all-reduce", "fsdp"] == Traffic(4, 4 * (3 * 2 + 1) * 32)


def test_one_device_sends_nothing():
    assert communication(_config(GPT2, "data=1"), Axes(1, 1, 1)) == {}


def test_narrow_numbers_halve_all_but_the_gradient_of_the_head():
    wide = communication(_config(GPT2, "data=8"), Axes(8, 1, 1))["all-reduce", "data"]
    narrow = _config(GPT2, "data=8", compute_dtype="bfloat16")
    head = 4 * 512 * 32
    assert communication(narrow, Axes(8, 1, 1))["all-reduce", "data"] == Traffic(
        wide.times, (wide.bytes - head) // 2 + head
    )
