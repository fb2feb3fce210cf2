"""GPT-2 through a Hugging Face folder, against the library transformers: there and back."""

import json
import os
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from transformers import GPT2Config, GPT2LMHeadModel

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.generation.decoding import generate
from jaxgpt.huggingface import weights as hf_weights
from jaxgpt.huggingface.weights import load_gpt2, save_gpt2
from jaxgpt.model.gpt import GPT
from jaxgpt.tokenization.tokenizer import ByteTokenizer, load_tokenizer
from jaxgpt.training.loss import cross_entropy

# Transformers leaves a file open where it reads a config.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")

SIZES = {768: 12, 1024: 16, 1280: 20, 1600: 25}  # width and heads of the four published models
B, T, V = 2, 24, 1000
SHAPES = {"vocab_size": V, "n_positions": 96, "n_layer": 2, "bos_token_id": 0, "eos_token_id": None}
TOKENS = np.random.default_rng(0).integers(1, V, (B, T + 1), dtype=np.int32)
LOGITS, LOSS, GRADIENTS = 2e-5, 1e-6, 1e-5
SMALL = ModelConfig(vocab_size=37, context_length=12, num_layers=2, num_heads=2, embed_dim=8)


def make_theirs(width, heads, **changes):
    """A model of transformers, in which no leaf is 0 or 1 throughout."""
    torch.manual_seed(0)
    config = GPT2Config(**SHAPES | {"n_embd": width, "n_head": heads} | changes)
    model = GPT2LMHeadModel._from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def their_logits(model, tokens, **options):
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.int64), **options).logits.float().numpy()


def our_logits(config, params, tokens):
    params = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    forward = jax.jit(lambda params, tokens: GPT(config, params)(tokens))
    return np.asarray(forward(params, jnp.asarray(tokens)))


def assert_close(ours, theirs, tolerance, name=""):
    ours, theirs = np.asarray(ours), np.asarray(theirs)
    assert ours.shape == theirs.shape
    assert np.abs(theirs).max() > 0
    error = np.abs(ours - theirs).max() / np.abs(theirs).max()
    assert error <= tolerance, f"{name} is {error:.1e} of the largest off"


def our_loss(config, params, inputs, targets):
    nats, count = cross_entropy(GPT(config, params)(jnp.asarray(inputs)), jnp.asarray(targets))
    return nats / count


@pytest.fixture(
    scope="module",
    params=[pytest.param(x, marks=() if x == 768 else pytest.mark.whole_run) for x in SIZES],
)
def pair(request, tmp_path_factory):
    """One size in both frameworks."""
    folder = tmp_path_factory.mktemp("hf")
    model = make_theirs(request.param, SIZES[request.param])
    model.save_pretrained(folder)
    config, params = load_gpt2(folder)
    return SimpleNamespace(model=model, config=config, params=params, folder=folder)


def test_logits(pair):
    assert (pair.config.embed_dim, pair.config.dropout) == (pair.model.config.n_embd, 0.1)
    ours = our_logits(pair.config, pair.params, TOKENS)
    assert_close(ours, their_logits(pair.model, TOKENS), LOGITS)


def test_loss_and_every_gradient(pair, tmp_path):
    """With targets that do not count. Their gradients come over as their weights do."""
    tokens, targets = torch.tensor(TOKENS, dtype=torch.int64), TOKENS[:, 1:].copy()
    targets[0, 5:9] = -100
    labels = tokens.clone()
    labels[0, 6:10] = -100
    pair.model.zero_grad()
    theirs = pair.model(tokens, labels=labels).loss
    theirs.backward()
    inputs = TOKENS[:, :-1]
    loss, grads = jax.jit(
        jax.value_and_grad(lambda params: our_loss(pair.config, params, inputs, targets))
    )(pair.params)
    np.testing.assert_allclose(loss, theirs.item(), rtol=LOSS)

    (tmp_path / "config.json").write_text((pair.folder / "config.json").read_text())
    named = {name: leaf.grad.numpy() for name, leaf in pair.model.named_parameters()}
    save_file(named, tmp_path / "model.safetensors")
    _, wanted = load_gpt2(tmp_path)
    assert jax.tree.structure(wanted) == jax.tree.structure(grads)
    for (path, leaf), ours in zip(
        jax.tree.leaves_with_path(wanted), jax.tree.leaves(grads), strict=True
    ):
        assert_close(ours, leaf, GRADIENTS, jax.tree_util.keystr(path))


@pytest.mark.whole_run
def test_greedy_continuation_of_ragged_prompts(pair):
    """Ours padded on the right in buckets, theirs on the left with positions from the mask."""
    prompts = [TOKENS[0, :11].tolist(), TOKENS[1, :4].tolist()]
    width = max(map(len, prompts))
    padded = [[0] * (width - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    with torch.no_grad():
        theirs = pair.model.generate(
            torch.tensor(padded),
            attention_mask=torch.tensor(mask),
            max_new_tokens=64,
            do_sample=False,
            pad_token_id=0,
        )
    ours = generate(
        pair.config, pair.params, prompts, max_new_tokens=64, sampling=greedy(), end_of_text=None
    )
    assert ours == theirs[:, width:].tolist()


def greedy():
    from jaxgpt.generation.sampling import SamplingConfig

    return SamplingConfig(temperature=0.0)


@pytest.mark.slow
def test_padding_on_the_right(tmp_path):
    model = make_theirs(64, 4)
    model.save_pretrained(tmp_path)
    config, params = load_gpt2(tmp_path)
    mask = np.ones((B, T), int)
    mask[1, 15:] = 0
    inputs = np.where(mask, TOKENS[:, :T], 0)
    attention_mask = torch.tensor(mask)
    theirs = their_logits(model, inputs, attention_mask=attention_mask)
    ours = our_logits(config, params, inputs)
    assert_close(ours[mask > 0], theirs[mask > 0], LOGITS)
    labels = np.where(mask, inputs, -100)
    loss = model(
        torch.tensor(inputs, dtype=torch.int64),
        attention_mask=attention_mask,
        labels=torch.tensor(labels, dtype=torch.int64),
    ).loss.item()
    targets = np.concatenate([labels[:, 1:], np.full((B, 1), -100)], axis=1).astype(np.int32)
    np.testing.assert_allclose(our_loss(config, params, inputs, targets), loss, rtol=LOSS)


@pytest.mark.parametrize(
    "changes",
    [
        {"activation_function": "gelu"},
        {"activation_function": "gelu_pytorch_tanh", "layer_norm_epsilon": 1e-3},
        {"tie_word_embeddings": False},
        {"reorder_and_upcast_attn": True, "n_inner": 256},
        {"n_inner": 40},
    ],
    ids=str,
)
def test_settings(changes, tmp_path):
    model = make_theirs(64, 4, **changes)
    model.save_pretrained(tmp_path)
    config, params = load_gpt2(tmp_path)
    assert_close(our_logits(config, params, TOKENS), their_logits(model, TOKENS), LOGITS)


# The other way: jaxgpt's parameters, read by transformers.


@pytest.mark.slow_but_first
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_head": False},
        {"positions": "sinusoidal"},
        {"qkv_bias": False},
        {"gelu": "erf", "norm_epsilon": 1e-3},
    ],
    ids=str,
)
def test_what_is_saved_is_the_same_model_to_transformers(changes, tmp_path, random_params):
    config = replace(SMALL, **changes)
    params = random_params(config)
    save_gpt2(tmp_path / "out", config, params, tokenizer=ByteTokenizer())
    assert sorted(os.listdir(tmp_path / "out")) == [
        *("config.json", "generation_config.json", "jaxgpt.json", "model.safetensors"),
        *("tokenizer", "tokenizer.json", "tokenizer_config.json"),
    ]
    assert load_tokenizer(tmp_path / "out/tokenizer").name == "bytes"
    modes = {
        os.stat(tmp_path / "out" / name).st_mode for name in ("config.json", "model.safetensors")
    }
    assert len(modes) == 1  # safetensors alone would keep it from other users
    model = GPT2LMHeadModel.from_pretrained(tmp_path / "out", attn_implementation="eager").eval()
    tokens = TOKENS[:, :12] % config.vocab_size
    ours = our_logits(config, params, tokens)
    assert_close(their_logits(model, tokens), ours, LOGITS)
    back, again = load_gpt2(tmp_path / "out")
    assert back == replace(config, qkv_bias=True, positions="learned")
    assert_close(our_logits(back, again, tokens), ours, LOGITS)


def test_nothing_is_overwritten_unless_asked(tmp_path, random_params):
    params = random_params(SMALL)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        save_gpt2(tmp_path / "out", SMALL, params)
    assert contents(tmp_path) == {Path("out"): None, Path("out/mine"): b""}
    with pytest.raises(ConfigError, match="it holds mine, and nothing proves that jaxgpt wrote"):
        save_gpt2(tmp_path / "out", SMALL, params, overwrite=True)
    (tmp_path / "out/mine").unlink()
    for _ in range(2):
        save_gpt2(tmp_path / "out", SMALL, params, overwrite=True)
        files = sorted(os.listdir(tmp_path / "out"))
        weights = ["config.json", "generation_config.json", "jaxgpt.json", "model.safetensors"]
        assert files == weights


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path, random_params, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(hf_weights, "save_file", full)
    with pytest.raises(ResourceError, match=r"out could not be written: .*No space left"):
        save_gpt2(tmp_path / "out", SMALL, random_params(SMALL))
    assert os.listdir(tmp_path) == []


def test_a_model_beyond_the_memory_is_refused(tmp_path, random_params, monkeypatch):
    save_gpt2(tmp_path / "out", SMALL, random_params(SMALL))
    monkeypatch.setattr(hf_weights, "device_memory", lambda: 1000)
    with pytest.raises(ResourceError, match=r"GB in float32, but a device has 0.0 GB"):
        load_gpt2(tmp_path / "out")


def test_parameters_of_another_shape_are_not_saved(tmp_path, random_params):
    params = random_params(SMALL)
    with pytest.raises(CheckpointError, match=r"embed.positions is float32 \(12, 8\); .*\(13, 8\)"):
        save_gpt2(tmp_path / "out", replace(SMALL, context_length=13), params)
    with pytest.raises(CheckpointError, match=r"parameters have no head.weight"):
        save_gpt2(tmp_path / "out", replace(SMALL, tie_head=False), params)
    assert os.listdir(tmp_path) == []


# Bit for bit.


def tensors_in(folder):
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as weights:
            found |= {name: weights.get_tensor(name) for name in weights.keys()}  # noqa: SIM118
    return found


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert ours.dtype == theirs.dtype
        assert np.asarray(ours).tobytes() == np.asarray(theirs).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("tied", [True, False])
def test_there_and_back_keeps_every_bit(dtype, tied, tmp_path):
    model = make_theirs(32, 2, tie_word_embeddings=tied).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path / "one")
    config, params = load_gpt2(tmp_path / "one")
    assert {str(leaf.dtype) for leaf in jax.tree.leaves(params)} == {dtype}
    save_gpt2(tmp_path / "two", config, params)
    assert_same_bits(tensors_in(tmp_path / "one"), tensors_in(tmp_path / "two"))
    assert_same_bits(load_gpt2(tmp_path / "two")[1], params)
    again = GPT2LMHeadModel.from_pretrained(tmp_path / "two")
    assert again.dtype == model.dtype


def test_the_dtype_is_cast_where_asked(tmp_path):
    make_theirs(32, 2).save_pretrained(tmp_path)
    _, exact = load_gpt2(tmp_path)
    _, cast = load_gpt2(tmp_path, "bfloat16")
    assert_same_bits(cast, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), exact))


def test_shards_and_names_without_the_prefix_are_the_same_model(tmp_path):
    model = make_theirs(32, 2)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "shards", max_shard_size="60KB")
    model.transformer.save_pretrained(tmp_path / "bare")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert all(name[0] in "hwl" for name in tensors_in(tmp_path / "bare"))
    config, params = load_gpt2(tmp_path / "whole")
    for name in ("shards", "bare"):
        other, leaves = load_gpt2(str(tmp_path / name))
        assert other == config
        assert_same_bits(leaves, params)


# Folders written by hand, whole ones and bad ones.


@pytest.fixture
def folder(tmp_path, random_params):
    save_gpt2(tmp_path / "gpt", SMALL, random_params(SMALL))
    return tmp_path / "gpt"


def rewrite(folder, change):
    """Save the folder's tensors after `change(tensors)`; a value of None removes."""
    tensors = tensors_in(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def configure(folder, **changes):
    path = folder / "config.json"
    values = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in values.items() if value != "none"}))


def contents(folder):
    return {
        path.relative_to(folder): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }


def refused(folder):
    """The one line that the folder is refused with; nothing in it changes."""
    before = contents(folder) if os.path.isdir(folder) else None
    with pytest.raises(CheckpointError) as caught:
        load_gpt2(folder)
    assert before is None or contents(folder) == before
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_buffers_and_a_head_that_is_the_table_are_no_matter(folder):
    _, params = load_gpt2(folder)

    def change(tensors):
        for layer in range(SMALL.num_layers):
            tensors[f"transformer.h.{layer}.attn.bias"] = np.ones((1, 1, 12, 12), bool)
            tensors[f"transformer.h.{layer}.attn.masked_bias"] = np.array(-1e4, np.float32)
        tensors["lm_head.weight"] = tensors["transformer.wte.weight"]

    rewrite(folder, change)
    assert_same_bits(load_gpt2(folder)[1], params)


def test_a_head_that_differs_is_refused_unless_the_config_says_so(folder):
    other = np.ones((SMALL.vocab_size, SMALL.embed_dim), np.float32)
    rewrite(folder, lambda tensors: tensors.update({"lm_head.weight": other}))
    assert "tie_word_embeddings is true, but lm_head.weight differs" in refused(folder)
    configure(folder, tie_word_embeddings=False)
    config, params = load_gpt2(folder)
    assert (config.tie_head, params["head"]["weight"].shape) == (False, (8, 37))


def test_all_that_does_not_fit_is_said_at_once(folder):
    def change(tensors):
        for layer in range(2):
            for name in ("ln_1.weight", "ln_1.bias", "ln_2.weight"):
                del tensors[f"transformer.h.{layer}.{name}"]
        tensors["transformer.h.2.ln_1.weight"] = np.ones(8, np.float32)
        tensors["transformer.wpe.weight"] = np.ones((8, 12), np.float32)

    rewrite(folder, change)
    line = refused(folder)
    assert "6 missing: h.0.ln_1.weight, h.1.ln_1.weight, h.0.ln_1.bias" in line
    assert "h.0.ln_2.weight and 1 more; 1 unexpected: h.2.ln_1.weight; 1 of another shape" in line
    assert "wpe.weight (8, 12) instead of (12, 8)" in line


def test_shards_that_are_links_as_in_the_cache_of_the_hub(tmp_path):
    """`snapshots/<revision>/NAME` leads to `../../blobs/<sum>`."""
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(**SHAPES | {"n_embd": 32, "n_head": 2})).save_pretrained(
        tmp_path / "plain", max_shard_size="60KB"
    )
    blobs, snapshot = tmp_path / "models--x" / "blobs", tmp_path / "models--x" / "snapshots" / "1"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, file in enumerate(sorted((tmp_path / "plain").iterdir())):
        file.rename(blobs / str(number))
        (snapshot / file.name).symlink_to(f"../../blobs/{number}")
    linked = {file.name: file.resolve() for file in snapshot.iterdir()}
    config, params = load_gpt2(snapshot)
    for name, file in linked.items():
        file.rename(tmp_path / "plain" / name)
    assert config == load_gpt2(tmp_path / "plain")[0]
    assert_same_bits(params, load_gpt2(tmp_path / "plain")[1])


def test_names_that_are_there_twice(folder):
    rewrite(folder, lambda t: t.update({"wpe.weight": t["transformer.wpe.weight"]}))
    assert "has wpe.weight twice" in refused(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"n_layer": 3}, "12 missing: h.2.ln_1.weight"),
        ({"n_layer": 1}, "12 unexpected: h.1.attn.c_attn.bias"),
        ({"n_layer": 10**9}, "n_layer 1000000000, but there are only 28 tensors"),
        ({"n_embd": 16}, "28 of another shape"),
        ({"vocab_size": 38}, "wte.weight (37, 8) instead of (38, 8)"),
        ({"n_positions": 10**9}, "wpe.weight (12, 8) instead of (1000000000, 8)"),
        ({"n_head": 3}, "config.json: num_heads is 3, which does not divide embed_dim 8"),
        ({"n_inner": 31}, "h.0.mlp.c_fc.weight (8, 32) instead of (8, 31)"),
        ({"n_inner": 0}, "n_inner is 0; it must be 1 or more"),
        ({"n_head": 0}, "n_head is 0; it must be 1 or more"),
        ({"n_layer": "two"}, "n_layer is 'two'; it must be a int"),
        ({"vocab_size": True}, "vocab_size is True"),
        ({"model_type": "bert"}, "model_type is 'bert'; only gpt2"),
        ({"model_type": "none"}, "model_type is None; only gpt2"),
        ({"activation_function": "relu"}, "activation_function is 'relu'; jaxgpt has gelu_new"),
        ({"activation_function": []}, "activation_function is []"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False; jaxgpt has only True"),
        ({"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx is True"),
        ({"add_cross_attention": True}, "add_cross_attention is True; jaxgpt has only False"),
        ({"tie_word_embeddings": False}, "1 missing: lm_head.weight"),
        ({"resid_pdrop": 2}, "dropout is 2.0; it must be in [0, 1)"),
        ({"layer_norm_epsilon": 0}, "norm_epsilon is 0.0; it must be above 0"),
        ({"layer_norm_epsilon": 10**400}, "the number 10000000000000000000... (401 digits) is"),
        ({"embd_pdrop": 10**400}, "is beyond 64 bits"),
        ({"n_embd": 10**400}, "is beyond 64 bits"),
        ({"n_layer": 2**64}, "the number 18446744073709551616 is beyond 64 bits"),
    ],
    ids=lambda value: str(value)[:40],
)
@pytest.mark.filterwarnings("ignore:resid_pdrop")
def test_configs_that_do_not_fit(folder, changes, message):
    configure(folder, **changes)
    line = refused(folder)
    assert message in line
    assert str(folder) in line


def test_older_configs(folder):
    config, _ = load_gpt2(folder)
    configure(folder, n_positions="none", n_ctx=12, n_inner="none", tie_word_embeddings="none")
    assert load_gpt2(folder)[0] == config
    configure(folder, attn_pdrop=0.5)
    with pytest.warns(UserWarning, match=r"attn_pdrop 0\.5: jaxgpt has one rate.*resid_pdrop"):
        assert load_gpt2(folder)[0] == config


@pytest.mark.parametrize("text", ["{", "[]", "", "[" * 100_000, '{"n_layer": 1, "n_layer": 2}'])
def test_a_config_that_is_no_json_object(folder, text):
    (folder / "config.json").write_text(text)
    assert f"{folder}/config.json" in refused(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
def test_numbers_that_are_not_finite(folder, value, dtype):
    def change(tensors):
        tensors.update({name: tensor.astype(dtype) for name, tensor in tensors.items()})
        tensors["transformer.h.1.mlp.c_fc.weight"][3, 4] = value

    rewrite(folder, change)
    assert "model.safetensors: h.1.mlp.c_fc.weight has numbers that are not finite" in refused(
        folder
    )


def test_numbers_too_large_for_the_dtype_asked(folder):
    rewrite(folder, lambda tensors: tensors["transformer.ln_f.bias"].__setitem__(0, 1e6))
    load_gpt2(folder)
    with pytest.raises(CheckpointError, match=r"ln_f.bias .* not finite in float16; keep F32"):
        load_gpt2(folder, "float16")


@pytest.mark.parametrize("dtype", [np.int32, np.float64, np.uint8])
def test_types_that_no_weights_have(folder, dtype):
    name = "transformer.ln_f.bias"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].astype(dtype)}))
    assert "1 of a type that is none of F32, F16, BF16: ln_f.bias" in refused(folder)


def test_types_that_differ(folder):
    name = "transformer.ln_f.bias"
    rewrite(folder, lambda tensors: tensors.update({name: tensors[name].astype(np.float16)}))
    with pytest.warns(UserWarning, match="different types, F16 and F32; all become float32"):
        _, params = load_gpt2(folder)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
    _, params = load_gpt2(folder, "bfloat16")
    assert params["norm"]["bias"].dtype == jnp.bfloat16


def header_of(content):
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def with_header(header, data):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def ten_terabytes(content):
    header, data = header_of(content)
    header["transformer.wte.weight"]["shape"] = [10**6, 2_500_000]
    return with_header(header, data)


def overlapping(content):
    header, data = header_of(content)
    header["transformer.ln_f.bias"]["data_offsets"] = header["transformer.ln_f.weight"][
        "data_offsets"
    ]
    return with_header(header, data)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:-1],
        lambda content: content[: len(content) // 2],
        lambda content: content[:7],
        lambda content: b"",
        lambda content: content + b"\0",
        lambda content: content[:20] + bytes([content[20] ^ 0x80]) + content[21:],
        lambda content: content[:8] + b"[" + content[9:],
        lambda content: struct.pack("<Q", 2**63) + content[8:],
        lambda content: struct.pack("<Q", 2**27) + content[8:],
        ten_terabytes,
        overlapping,
        lambda content: b"PK\3\4" + content,
    ],
)
def test_damaged_files(folder, damage):
    path = folder / "model.safetensors"
    path.write_bytes(damage(path.read_bytes()))
    assert f"{path} is damaged or no safetensors file" in refused(folder)


@pytest.mark.parametrize("suffix", ["bin", "pt", "pth", "pkl", "ckpt", "h5"])
def test_pickle_is_refused(folder, suffix):
    (folder / "model.safetensors").rename(folder / f"model.{suffix}")
    for line in (refused(folder), refused(folder / f"model.{suffix}")):
        assert f"model.{suffix}: pickle refused; convert to safetensors" in line
        assert "save_pretrained" in line


def test_places_without_a_model(folder, tmp_path):
    assert "none: no such folder" in refused(tmp_path / "none")
    assert "no such folder" in refused(tmp_path / ("a" * 300))
    assert "is a file; name the folder" in refused(folder / "model.safetensors")
    os.mkfifo(tmp_path / "fifo")
    assert "no such folder" in refused(tmp_path / "fifo")
    (folder / "model.safetensors").unlink()
    assert "has neither model.safetensors nor model.safetensors.index.json" in refused(folder)
    (folder / "config.json").unlink()
    assert "has no config.json" in refused(folder)


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({"a": "../x.safetensors"}, "lists '../x.safetensors', which is no name of a file inside"),
        ({"a": "/etc/passwd"}, "lists '/etc/passwd', which is no name of a file inside"),
        ({"a": "a/x.safetensors"}, "names 'a/x.safetensors', which lies in another folder"),
        ({"a": "dangling.safetensors"}, "dangling.safetensors is missing, though"),
        ({"a": "pipe.safetensors"}, "pipe.safetensors is missing, though"),
        ({"a": "shard.safetensors"}, "shard.safetensors is missing, though"),
        ({"a": "a" * 300 + ".safetensors"}, "which is no name of a file inside"),
        ({"a": "\0.safetensors"}, "which is no name of a file inside"),
        ({"a": "\ud800.safetensors"}, "half of a surrogate pair"),
        ({"a": "model.bin"}, "pickle refused"),
        ({"a": "config.json"}, "names 'config.json', which is no .safetensors file"),
        ({"a": ["x"]}, "lists ['x'] as a file"),
        ({"a": None}, "lists None as a file"),
        ({}, "lists no files under weight_map"),
        (None, "lists no files under weight_map"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_index_that_leads_elsewhere(folder, weight_map, message):
    (folder / "model.safetensors").rename(folder.parent / "x.safetensors")
    (folder / "dangling.safetensors").symlink_to(folder.parent / "none.safetensors")
    os.mkfifo(folder / "pipe.safetensors")
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    assert message in refused(folder)


def test_files_that_cannot_be_read(folder, monkeypatch):
    (folder / "model.safetensors").rename(folder / "aside.safetensors")
    (folder / "model.safetensors.index.json").write_text("{")
    assert f"{folder}/model.safetensors.index.json is not JSON: Expecting" in refused(folder)
    (folder / "aside.safetensors").rename(folder / "model.safetensors")

    def denied(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("jaxgpt.huggingface.files.safe_open", denied)
    assert "model.safetensors cannot be read: [Errno 13] Permission denied" in refused(folder)


LLAMA = {
    "vocab_size": 20_000,
    "norm": "rms",
    "positions": "rope",
    "gate": "silu",
    "qkv_bias": False,
    "out_bias": False,
    "mlp_bias": False,
}
MEASURE = """
import sys
import jax
from jaxgpt.huggingface.weights import load_gpt2

def memory(name):
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(name))

jax.numpy.zeros(1).block_until_ready()
before = memory("VmRSS")
_, params = load_gpt2(sys.argv[1])
print((memory("VmHWM") - before) / sum(leaf.nbytes for leaf in jax.tree.leaves(params)))
"""


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="memory is read from /proc")
@pytest.mark.parametrize(
    "changes",
    [{}, *(pytest.param(x, marks=pytest.mark.whole_run) for x in ({"tie_head": False}, LLAMA))],
    ids=["tied", "own", "llama"],
)
def test_loading_takes_little_more_than_the_weights(changes, tmp_path, random_params):
    """85 MB in 12 layers; resident memory, which counts the mapped pages of the file too."""
    config = ModelConfig(
        vocab_size=2000, context_length=64, num_layers=12, num_heads=6, embed_dim=384
    )  # fmt: skip
    config = replace(config, **changes)
    save_gpt2(tmp_path / "gpt", config, random_params(config))
    ran = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path / "gpt"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "XLA_FLAGS": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert 0.9 < float(ran.stdout) <= 1.3
