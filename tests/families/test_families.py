"""Today's families against transformers: the same numbers from its folders, and back."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from tiny_models import MODELS, V, make_theirs
from transformers import AutoModelForCausalLM
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.families.known import family_of, read_family, sizes
from jaxgpt.generation.decoding import generate
from jaxgpt.generation.sampling import SamplingConfig
from jaxgpt.huggingface.weights import load_huggingface, save_huggingface
from jaxgpt.model.gpt import GPT, init_cache
from jaxgpt.model.parameters import count_parameters
from jaxgpt.training.loss import cross_entropy

TOKENS = np.random.default_rng(0).integers(V, size=(2, 101))
LOGITS, GRADIENTS, LOSS = 2e-5, 1e-5, 1e-6  # of the largest; what finds each of the mistakes
PUBLISHED = {
    "llama-3.2-1b": 1_235_814_400,
    "llama-3.2-3b": 3_212_749_824,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "qwen3-30b-a3b": 30_532_122_624,
    "gpt-oss-20b": 20_914_757_184,
    "gpt-oss-120b": 116_829_156_672,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
}


# All are held to transformers by each test; of this one, in each run of the tests.
QUICK = ("gemma3",)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(name, marks=() if name in QUICK else pytest.mark.whole_run) for name in MODELS
    ],
)
def pair(request, tmp_path_factory):
    """One model in both frameworks."""
    folder = tmp_path_factory.mktemp("hf")
    model = make_theirs(request.param)
    model.save_pretrained(folder)
    config, params = load_huggingface(folder)
    return SimpleNamespace(model=model, config=config, params=params, folder=folder)


def far(ours, theirs):
    """The largest difference, of the largest number."""
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


def their_logits(model, tokens):
    with torch.no_grad():
        return model(torch.tensor(tokens)).logits.numpy()


def our_logits(config, params, tokens):
    return jax.jit(lambda params: GPT(config, params)(jnp.asarray(tokens)))(params)


def test_logits(pair):
    theirs = their_logits(pair.model, TOKENS)
    assert far(our_logits(pair.config, pair.params, TOKENS), theirs) <= LOGITS


@pytest.mark.slow
def test_loss_and_every_gradient(pair, tmp_path):
    """Their gradients come over as their weights do."""
    tokens = torch.tensor(TOKENS)
    pair.model.zero_grad()
    theirs = pair.model(tokens, labels=tokens).loss
    theirs.backward()

    def loss_fn(params):
        logits = GPT(pair.config, params)(jnp.asarray(TOKENS[:, :-1]))
        nats, count = cross_entropy(logits, jnp.asarray(TOKENS[:, 1:]))
        return nats / count

    loss, grads = jax.jit(jax.value_and_grad(loss_fn))(pair.params)
    np.testing.assert_allclose(loss, theirs.item(), rtol=LOSS)
    gradients = copy.deepcopy(pair.model)
    for leaf, own in zip(gradients.parameters(), pair.model.parameters(), strict=True):
        leaf.data = own.grad
    gradients.save_pretrained(tmp_path)
    _, expected = load_huggingface(tmp_path)
    for (path, ours), leaf in zip(
        jax.tree.leaves_with_path(grads), jax.tree.leaves(expected), strict=True
    ):
        assert far(ours, leaf) <= GRADIENTS, jax.tree_util.keystr(path)


@pytest.mark.slow
def test_greedy_continuation_of_ragged_prompts(pair):
    """Each row as transformers continues it by itself, across several windows."""
    prompts = [TOKENS[0, :11].tolist(), TOKENS[1, :4].tolist()]
    with torch.no_grad():
        theirs = [
            pair.model.generate(
                torch.tensor([prompt]), max_new_tokens=64, do_sample=False, pad_token_id=0
            )[0, len(prompt) :].tolist()
            for prompt in prompts
        ]
    greedy = SamplingConfig(temperature=0.0)
    ours = generate(pair.config, pair.params, prompts, max_new_tokens=64, sampling=greedy)
    assert ours == theirs


@pytest.mark.slow
def test_cached_logits_are_those_of_the_whole_text(pair):
    config, params = pair.config, pair.params
    whole = our_logits(config, params, TOKENS[:, :40])
    step = jax.jit(
        lambda tokens, cache, start: GPT(config, params).decode(
            tokens, cache, start, jnp.full(2, tokens.shape[1] - 1)
        )
    )
    cache, start = init_cache(config, 2, 40), 0
    for count in (11, 1, 1, 9, 1, 17):
        tokens = jnp.asarray(TOKENS[:, start : start + count])
        logits, cache = step(tokens, cache, jnp.full(2, start))
        start += count
        assert far(logits, whole[:, start - 1]) <= LOGITS


def test_there_and_back_keeps_every_bit_and_setting(pair, tmp_path):
    save_huggingface(tmp_path / "out", pair.config, pair.params)
    one, two = (
        load_file(folder / "model.safetensors") for folder in (pair.folder, tmp_path / "out")
    )
    assert one.keys() == two.keys()
    assert all(one[name].tobytes() == two[name].tobytes() for name in one)
    again = AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", attn_implementation="eager", experts_implementation="eager"
    )
    assert type(again) is type(pair.model)
    ours, theirs = again.config.to_dict(), pair.model.config.to_dict()
    for name in ("_name_or_path", "dtype", "transformers_version", "architectures"):
        ours.pop(name, None), theirs.pop(name, None)
    assert ours == theirs
    np.testing.assert_array_equal(their_logits(again, TOKENS), their_logits(pair.model, TOKENS))
    # Who knows no rope_parameters reads the same.
    values = json.loads((tmp_path / "out" / "config.json").read_text())
    del values["rope_parameters"]
    assert read_family(values)[1] == pair.config


def test_a_config_of_before_version_5_is_the_same(pair, tmp_path):
    """With `rope_theta` and `rope_scaling`, as nearly all published files have them."""
    values = json.loads((pair.folder / "config.json").read_text())
    rope = values.pop("rope_parameters")
    full, local = rope.get("full_attention", rope), rope.get("sliding_attention")
    values["rope_theta"] = full.pop("rope_theta")
    if local and values["model_type"] == "gemma3_text":
        values["rope_local_base_freq"] = local["rope_theta"]
    values["rope_scaling"] = None
    if full["rope_type"] != "default":
        full["type"] = full.pop("rope_type")
        values["rope_scaling"] = full
    if values["model_type"] == "gemma3_text":
        del values["layer_types"]
        values["sliding_window_pattern"] = 2
    values["torch_dtype"] = values.pop("dtype")
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "model.safetensors").symlink_to(pair.folder / "model.safetensors")
    config, params = load_huggingface(tmp_path)
    assert config == pair.config
    assert jax.tree.all(jax.tree.map(np.array_equal, params, pair.params))


def test_a_model_is_of_the_family_that_it_came_from(pair):
    assert family_of(pair.config).model_type == pair.model.config.model_type


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_models_have_their_number_of_parameters(name):
    assert count_parameters(sizes()[name]) == PUBLISHED[name]


REFUSED = {
    "no model_type": ({"model_type": ""}, "model_type is ''; only gpt2, llama"),
    "model_type": ({"model_type": "bamba"}, "model_type is 'bamba'; only gpt2, llama"),
    "rope_type": (
        {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}},
        "rope_type is 'longrope'; jaxgpt has default, linear, llama3, yarn",
    ),
    "factor": ({"rope_scaling": {"rope_type": "linear"}}, "linear, and factor is missing"),
    "partial": (
        {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
        "partial_rotary_factor is 0.5; jaxgpt has only 1.0",
    ),
    "quantization": (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config is of 'gptq'; take weights that are not quantized",
    ),
    "activation": ({"hidden_act": "relu2"}, "hidden_act is 'relu2'; jaxgpt has silu"),
    "width": ({"hidden_size": "wide"}, "hidden_size is 'wide'; it must be a int"),
    "layers": ({"num_hidden_layers": 6}, "missing: layers.5.input_layernorm.weight"),
    "fewer layers": ({"num_hidden_layers": 4}, "unexpected: layers.4.input_layernorm.weight"),
    "bias": ({"mlp_bias": True}, "missing: layers.0.mlp.gate_proj.bias"),
}


@pytest.mark.parametrize(("changes", "message"), REFUSED.values(), ids=REFUSED)
def test_what_jaxgpt_does_not_have_is_refused_by_name(changes, message, tmp_path):
    make_theirs("llama").save_pretrained(tmp_path)
    refused(tmp_path, changes, message)


GEMMA_REFUSED = {
    "attention cap": ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; jaxgpt"),
    "cap": ({"final_logit_softcapping": 30.0}, "final_logit_softcapping is 30.0; jaxgpt has only"),
    "activation": ({"hidden_activation": "silu"}, "hidden_activation is 'silu'; jaxgpt has gelu"),
    "layer type": ({"layer_types": ["chunked_attention"] * 5}, "it must be full_attention or"),
    "order": (
        {"layer_types": ["sliding_attention"] + ["full_attention"] * 4},
        "layers with a window do not alternate",
    ),
    "window": ({"sliding_window": 0}, "sliding_window is 0; it must be 1 or more"),
}


@pytest.mark.parametrize(("changes", "message"), GEMMA_REFUSED.values(), ids=GEMMA_REFUSED)
def test_what_gemma_has_otherwise_is_refused_by_name(changes, message, tmp_path):
    make_theirs("gemma3").save_pretrained(tmp_path)
    refused(tmp_path, changes, message)


def refused(folder, changes, message):
    values = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError) as error:
        load_huggingface(folder)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_the_language_model_of_one_that_sees(tmp_path):
    """Under another name and prefix, beside tensors of the eye."""
    make_theirs("gemma3").save_pretrained(tmp_path / "text")
    expected = load_huggingface(tmp_path / "text")
    values = json.loads((tmp_path / "text/config.json").read_text())
    tensors = load_file(tmp_path / "text/model.safetensors")
    eye = {"vision_tower.x.weight": np.zeros(3, np.float32)}
    (tmp_path / "sees").mkdir()
    whole = {"model_type": "gemma3", "text_config": values, "vision_config": {}}
    (tmp_path / "sees/config.json").write_text(json.dumps(whole))
    renamed = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    save_file(renamed | eye, tmp_path / "sees/model.safetensors")
    config, params = load_huggingface(tmp_path / "sees")
    assert config == expected[0]
    assert jax.tree.all(jax.tree.map(np.array_equal, params, expected[1]))


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """A gpt-oss whose experts are MXFP4, and the same in float32 by transformers' own reader."""
    folders = [tmp_path_factory.mktemp("mxfp4") for _ in range(2)]
    model, noise = make_theirs("gpt-oss"), np.random.default_rng(0)
    model.save_pretrained(folders[0])
    tensors = load_file(folders[0] / "model.safetensors")
    whole = dict(tensors)
    for name in tensors:
        if name.endswith(("gate_up_proj", "down_proj")):
            experts, inputs, outputs = whole.pop(name).shape
            blocks = noise.integers(256, size=(experts, outputs, inputs // 32, 16), dtype=np.uint8)
            scales = noise.integers(122, 126, size=blocks.shape[:-1], dtype=np.uint8)
            whole |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            pair = torch.tensor(blocks), torch.tensor(scales)
            tensors[name] = convert_moe_packed_tensors(*pair).float().numpy()
    values = json.loads((folders[0] / "config.json").read_text())
    values["quantization_config"] = {"quant_method": "mxfp4"}
    (folders[1] / "config.json").write_text(json.dumps(values))
    save_file(tensors, folders[0] / "model.safetensors")
    save_file(whole, folders[1] / "model.safetensors")
    return folders


def test_mxfp4_is_read_as_what_it_stands_for(packed):
    (config, wanted), (same, ours) = (load_huggingface(folder, "float32") for folder in packed)
    assert config == same
    assert jax.tree.all(jax.tree.map(np.array_equal, ours, wanted))


def test_mxfp4_without_its_scales_is_refused_by_name(packed, tmp_path):
    tensors = load_file(packed[1] / "model.safetensors")
    del tensors["model.layers.1.mlp.experts.down_proj_scales"]
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((packed[1] / "config.json").read_text())
    refused(tmp_path, {}, "missing: layers.1.mlp.experts.down_proj; 1 unexpected: layers.1")


def test_mxfp4_without_its_axes_is_refused_by_name(packed, tmp_path):
    tensors = load_file(packed[1] / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    tensors[f"{name}_scales"] = np.zeros(3, np.uint8)
    tensors[f"{name}_blocks"] = np.zeros((3, 16), np.uint8)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((packed[1] / "config.json").read_text())
    refused(tmp_path, {}, "missing: layers.1.mlp.experts.down_proj; 2 unexpected: layers.1")


EXPERTS_REFUSED = {
    "dense layers": ({"mlp_only_layers": [1]}, "mlp_only_layers is [1]; jaxgpt has only []"),
    "every other": ({"decoder_sparse_step": 2}, "decoder_sparse_step is 2; jaxgpt has only 1"),
    "windows": ({"use_sliding_window": True}, "use_sliding_window is True; jaxgpt has only False"),
    "too many": ({"num_experts_per_tok": 9}, "experts_per_token is 9; it must be from 1 to 8"),
    "fewer": ({"num_experts": 7}, "unexpected: layers.0.mlp.experts.7.down_proj.weight"),
    "more than any file": (
        {"num_experts": 2 * 10**9},
        "num_hidden_layers 5 and 2000000000 experts in each, but there are only",
    ),
    "quantization": ({"quantization_config": {"quant_method": "mxfp4"}}, "is of 'mxfp4'; take"),
}


@pytest.mark.parametrize(("changes", "message"), EXPERTS_REFUSED.values(), ids=EXPERTS_REFUSED)
def test_experts_that_jaxgpt_does_not_have_are_refused_by_name(changes, message, tmp_path):
    make_theirs("qwen3 experts").save_pretrained(tmp_path)
    refused(tmp_path, changes, message)


def test_a_model_of_no_family_stays(random_params, tmp_path):
    config = ModelConfig(vocab_size=9, context_length=8, num_layers=1, num_heads=2, embed_dim=8)
    odd = replace(config, norm="rms")
    with pytest.raises(CheckpointError, match="nearest is gpt2: norm is rms, not layer; it stays"):
        save_huggingface(tmp_path / "out", odd, random_params(odd))
    assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="qk_norm and norm_offset go with norm rms"):
        replace(config, qk_norm="head")


def test_a_setting_that_is_null_is_as_left_out():
    values = make_theirs("qwen3 experts").config.to_dict()
    assert read_family(values | {"mlp_only_layers": None}) == read_family(values)
