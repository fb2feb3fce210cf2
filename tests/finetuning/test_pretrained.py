"""What a run, a text or an evaluation begins with, from either kind of folder."""

import importlib
import json
import os
import shutil
import signal
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.files import seal
from jaxgpt.finetuning import pretrained
from jaxgpt.finetuning.pretrained import (
    begin_from,
    check_fits,
    initial_params,
    load_pretrained,
)
from jaxgpt.huggingface.weights import load_gpt2, save_gpt2
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.tokenizer import ByteTokenizer
from jaxgpt.training.checkpoint import LoadedModel, load_model, save_model
from jaxgpt.training.pretrain import pretrain

MODEL = ModelConfig(
    vocab_size=300, context_length=32, num_layers=2, num_heads=2, embed_dim=16, dropout=0.1
)


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for ours, theirs in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_array_equal(ours, theirs, strict=True)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(MODEL)


@pytest.fixture
def folder(tmp_path, params):
    """A Hugging Face folder that has its tokenizer."""
    save_gpt2(tmp_path / "gpt", MODEL, params, tokenizer=ByteTokenizer())
    return tmp_path / "gpt"


@pytest.fixture
def own(tmp_path, params):
    """The same model as a checkpoint, in bfloat16."""
    half = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
    config = TrainConfig(model=MODEL)
    save_model(tmp_path / "own", LoadedModel(MODEL, half, ByteTokenizer(), 7, config))
    return tmp_path / "own"


def test_either_folder_gives_the_model(folder, own, params):
    model = load_pretrained(folder)
    assert (model.config, model.tokenizer.name, model.step) == (MODEL, "bytes", 0)
    assert model.train_config.model == MODEL
    assert_same_bits(model.params, params)
    for same in (load_pretrained(str(own)), load_model(own)):
        assert (same.config, same.tokenizer.name, same.step) == (MODEL, "bytes", 7)
        assert_same_bits(same.params, jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params))
    wide = load_pretrained(own, dtype="float32")
    assert {leaf.dtype.name for leaf in jax.tree.leaves(wide.params)} == {"float32"}


def test_a_checkpoint_is_never_overwritten_unless_asked(own, params):
    model = load_model(own)
    with pytest.raises(ConfigError, match="not empty"):
        save_model(own, model)
    save_model(own, replace(model, params=params), overwrite=True)
    assert_same_bits(load_model(own).params, params)


def test_a_checkpoint_of_an_unknown_dtype_is_damaged(own):
    manifest = json.loads((own / "manifest.json").read_text())
    (own / "manifest.json").write_bytes(seal(manifest | {"dtype": "int7"}))
    with pytest.raises(CheckpointError, match="has no right dtype"):
        load_model(own)


def test_numbers_too_large_for_the_dtype(tmp_path, params):
    params = params | {"norm": {"scale": jnp.full(16, 1e6), "bias": jnp.zeros(16)}}
    config = TrainConfig(model=MODEL)
    save_model(tmp_path / "own", LoadedModel(MODEL, params, ByteTokenizer(), 0, config))
    with pytest.raises(CheckpointError, match="not finite in float16"):
        load_pretrained(tmp_path / "own", dtype="float16")


def test_a_tokenizer_must_fit_the_model(tmp_path, random_params):
    config = replace(MODEL, vocab_size=200)
    save_gpt2(tmp_path / "gpt", config, random_params(config))
    with pytest.raises(ConfigError, match=r"tokenizer bytes has 256 ids, but .* only 200; name"):
        load_pretrained(tmp_path / "gpt", "bytes")


def test_training_begins_with_the_shape_and_may_change_dropout_and_shorten(folder, own):
    for path in (folder, own):
        config = begin_from(TrainConfig(), str(path))
        assert (config.model, config.init_from) == (MODEL, str(path))
        assert config.data.tokenizer == str(path / "tokenizer")
        check_fits(config)
        check_fits(replace(config, model=replace(MODEL, dropout=0.3, context_length=8)))
        for change in (
            {"context_length": 33},
            {"num_layers": 3},
            {"vocab_size": 0},
            {"gelu": "erf"},
            {"tie_head": False},
        ):
            with pytest.raises(ConfigError, match=rf"decides the model.*{next(iter(change))}: "):
                check_fits(replace(config, model=replace(MODEL, **change)))
    assert begin_from(TrainConfig(), str(folder), "bytes").data.tokenizer == "bytes"


def test_a_context_that_takes_no_parameters_is_that_of_a_run(folder, own, monkeypatch):
    """Windows of all that a model has room for would be far longer than most texts."""
    long = replace(MODEL, context_length=131_072, positions="rope")
    monkeypatch.setattr(pretrained, "_read_shape", lambda *_: (long, "bytes"))
    config = begin_from(TrainConfig(), str(folder))
    assert config.model == replace(long, context_length=1024)
    check_fits(config)
    check_fits(replace(config, model=replace(long, context_length=4096)))
    assert begin_from(TrainConfig(), str(own)).model == long


def test_parameters_to_train_are_float32_and_have_the_positions_in_context(own):
    short = replace(MODEL, context_length=8)
    params = initial_params(str(own), short)
    whole = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), load_model(own).params)
    whole["embed"]["positions"] = whole["embed"]["positions"][:8]
    assert_same_bits(params, whole)


@pytest.fixture
def config(folder):
    """A run from the folder, with half of its context."""
    tiny = get_preset("tiny")
    config = replace(
        tiny,
        data=replace(tiny.data, stories_bytes=20_000),
        optimizer=replace(tiny.optimizer, warmup_steps=2),
        steps=6,
        batch_size=8,
        evaluation_batches=1,
        checkpoint_every=2,
        sample_every=2,
    )
    config = begin_from(config, str(folder))
    return replace(config, model=replace(config.model, context_length=16))


def run_from(config, folder, **options):
    def begin(model):
        return initial_params(config.init_from, model)

    return pretrain(config, folder, initial_params=begin, **options)


@pytest.mark.whole_run
def test_a_run_begins_with_the_weights(config, folder, tmp_path):
    # Steps too small to change a float32.
    still = {"learning_rate": 1e-20, "schedule": "constant", "weight_decay": 0.0}
    with pytest.warns(UserWarning, match="do not change by so little"):
        still = replace(config.optimizer, warmup_steps=0, **still)
    result = run_from(replace(config, steps=1, optimizer=still), tmp_path / "run")
    _, params = load_gpt2(folder)
    params["embed"]["positions"] = params["embed"]["positions"][:16]
    assert_same_bits(result.state.params, params)
    card = (tmp_path / "run/README.md").read_text()
    assert f'"init_from": "{folder}"' in card


@pytest.mark.whole_run
def test_a_run_goes_on_without_the_weights_and_ends_with_the_same_bits(config, folder, tmp_path):
    def stop(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return ""

    whole = run_from(config, tmp_path / "whole")
    first = run_from(config, tmp_path / "stopped", sampler=stop)
    assert first.signal == signal.SIGTERM
    assert int(first.state.step) < 6
    (folder / "model.safetensors").unlink()
    last = run_from(config, tmp_path / "stopped")
    assert int(last.state.step) == 6
    assert_same_bits(last.state.params, whole.state.params)
    with pytest.raises(CheckpointError, match=r"init_from: .* -> none"):
        run_from(replace(config, init_from="none"), tmp_path / "stopped")


@pytest.mark.whole_run
def test_the_same_command_does_without_the_folder_once_it_has_begun(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    script = importlib.import_module("jaxgpt.commands.train")
    command = (
        f"tiny --init-from {folder} --out run --stories-bytes 20000 --batch-size 8 --steps 2 "
        "--warmup-steps 1 --context-length 16 --evaluation-batches 1 --sample-tokens 4"
    )
    script.main(command.split())
    shutil.rmtree(folder)
    script.main(command.split())  # it is finished
    with pytest.raises(CheckpointError, match=r"no such folder"):
        script.main(command.replace("--out run", "--out other").split())


def test_a_run_that_cannot_begin_leaves_nothing(config, folder, tmp_path):
    with pytest.raises(ConfigError, match=r"init_from is .*gpt, but nothing reads it"):
        pretrain(config, tmp_path / "run")
    other = replace(config, model=replace(config.model, num_layers=1))
    with pytest.raises(CheckpointError, match="holds other arrays than the model has"):
        run_from(other, tmp_path / "run")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="damaged"):
        run_from(config, tmp_path / "run")
    assert sorted(os.listdir(tmp_path)) == ["gpt"]
