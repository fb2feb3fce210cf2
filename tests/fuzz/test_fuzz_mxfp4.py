"""A gpt-oss folder whose experts are MXFP4, damaged or hostile: finite numbers, or a refusal."""

import json
import struct

import jax
import numpy as np
import pytest
from harness import HOSTILE, Put, Whole, attempt, cuts, json_mutations, replaced, wholes
from hypothesis import example, given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from jaxgpt.errors import CheckpointError
from jaxgpt.families.known import FAMILIES, read_family
from jaxgpt.huggingface.files import WEIGHTS
from jaxgpt.huggingface.weights import load_huggingface, save_huggingface

SMALL = {
    **{"vocab_size": 40, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16},
    **{"num_local_experts": 2, "num_experts_per_tok": 1, "layer_types": ["full_attention"]},
}


@pytest.fixture(scope="module")
def folder(random_params, tmp_path_factory):
    folder, noise = tmp_path_factory.mktemp("mxfp4") / "gpt-oss", np.random.default_rng(0)
    (family,) = (each for each in FAMILIES if each.quantized)
    sizes = next(iter(family.sizes.values()))
    values = {"model_type": family.model_type, **sizes, **SMALL}
    _, config = read_family(values)
    save_huggingface(folder, config, random_params(config))
    tensors = load_file(folder / WEIGHTS)
    for name in list(tensors):
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = tensors.pop(name).shape
            blocks = noise.integers(256, size=(experts, outputs, inputs // 32, 16), dtype=np.uint8)
            scales = noise.integers(122, 126, size=blocks.shape[:-1], dtype=np.uint8)
            tensors |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
    save_file(tensors, folder / WEIGHTS)
    values = json.loads((folder / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "mxfp4"}
    (folder / "config.json").write_text(json.dumps(values))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(load(folder)))
    return folder


def load(folder):
    return load_huggingface(folder, "float32")[1]


def check(folder, content):
    with replaced(folder / WEIGHTS, content):
        params = attempt(lambda: load(folder), CheckpointError)
    if isinstance(params, dict):
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


@given(mutation=cuts | wholes)
def test_damaged_mxfp4_is_read_or_refused(folder, mutation):
    check(folder, mutation((folder / WEIGHTS).read_bytes()))


experts = "model.layers.0.mlp.experts."
puts = st.builds(
    lambda name, key, value: Put((experts + name, key), value),
    st.sampled_from(["down_proj_blocks", "down_proj_scales", "gate_up_proj_blocks"]),
    st.sampled_from(["dtype", "shape", "data_offsets"]),
    st.sampled_from([*HOSTILE, [2, 32, 1], [2, 32, 16], [2, 32, 1, 16], [64, 16], [0, 2048]])
    | st.sampled_from(["U8", "I8", "F8_E8M0", "BF16", "F4"]),
)


@given(mutation=json_mutations | puts)
@example(Put((experts + "down_proj_scales",), ...))
@example(Put((experts + "down_proj_blocks",), ...))
@example(Put((experts + "other_blocks",), {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}))
@example(Put((experts + "_blocks",), {"dtype": "U8", "shape": [16], "data_offsets": [0, 16]}))
@example(Whole(b"{}"))
def test_a_hostile_header_of_mxfp4_is_read_or_refused(folder, mutation):
    sound = (folder / WEIGHTS).read_bytes()
    (length,) = struct.unpack("<Q", sound[:8])
    header = mutation(sound[8 : 8 + length])
    check(folder, struct.pack("<Q", len(header)) + header + sound[8 + length :])


@given(place=st.integers(0, 10**6), scale=st.integers(0, 255), name=st.sampled_from(["down_proj"]))
@example(0, 255, "down_proj")
@example(0, 0, "down_proj")
def test_every_scale_is_a_number_or_refused(folder, place, scale, name):
    tensors = load_file(folder / WEIGHTS)
    scales = tensors[f"{experts}{name}_scales"]
    scales.flat[place % scales.size] = scale
    sound = (folder / WEIGHTS).read_bytes()
    save_file(tensors, folder / "changed")
    content = (folder / "changed").read_bytes()
    (folder / "changed").unlink()
    assert len(content) == len(sound)
    check(folder, content)
