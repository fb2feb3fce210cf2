"""A model across devices writes and measures as on one."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from jaxgpt.data.encode import encode_documents
from jaxgpt.data.text import Document
from jaxgpt.errors import ConfigError
from jaxgpt.generation.decoding import generate
from jaxgpt.presets import get_preset
from jaxgpt.tokenization.tokenizer import load_tokenizer
from jaxgpt.training.checkpoint import LoadedModel
from jaxgpt.training.evaluation import evaluate_tokens
from jaxgpt.training.sharing import mesh_of, share

TEXT = "the queen had a key and the king had none, so she went first. " * 40


@pytest.fixture(scope="module")
def model(random_params):
    tiny = get_preset("tiny")
    config = replace(
        tiny,
        model=replace(tiny.model, vocab_size=256, num_layers=2, num_heads=2, embed_dim=16),
        batch_size=3,
    )
    tokenizer = load_tokenizer("bytes")
    return LoadedModel(config.model, random_params(config.model), tokenizer, 1, config)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["tensor=2", "fsdp=8", "data=2,fsdp=2,tensor=2"])
def test_a_model_on_a_mesh_is_the_model_on_one_device(model, mesh):
    shared = share(lambda: model, mesh)
    assert mesh_of(model.params) is None
    assert mesh_of(shared.params).devices.size == 8
    leaf = shared.params["blocks"]["mlp"]["up"]["weight"]
    held = leaf.addressable_shards[0].data.size
    assert held * {"tensor=2": 2, "fsdp=8": 8}.get(mesh, 4) == leaf.size
    prompts = [list(b"the queen"), list(b"so")]
    written = [
        generate(model.config, params, prompts, max_new_tokens=12, seed=3)
        for params in (model.params, shared.params)
    ]
    assert written[0] == written[1]
    split = encode_documents([Document(TEXT)], model.tokenizer, end_of_text=False)
    ours, theirs = (evaluate_tokens(one, split) for one in (shared, model))
    # A mean of 2,519 numbers in another order.
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=2e-6)
    assert ours.targets == theirs.targets


def test_what_does_not_fit_is_said(model):
    for mesh, why in ("tensor=4", "num_heads is 2"), ("tensor=3", "takes 6, but there are 8"):
        with pytest.raises(ConfigError, match=why):
            share(lambda: model, mesh)
    with pytest.raises(ConfigError, match="is no axis"):
        share(lambda: model, "heads=2")
    assert share(lambda: model, "") is model


def test_a_checkpoint_is_read_into_the_hosts_memory(model, monkeypatch):
    def load():
        assert jax.config.jax_default_device.platform == "cpu"
        return model

    assert mesh_of(share(load, "fsdp=2").params) is not None
