"""The way of parameters between jaxgpt's dict and PyTorch's modules, and AdamW's groups."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.parity import torch_reference
from jaxgpt.run_config import OptimizerConfig

CONFIG = ModelConfig(vocab_size=7, context_length=5, num_layers=2, num_heads=2, embed_dim=4)
UNTIED = dataclasses.replace(CONFIG, tie_head=False, qkv_bias=False, positions="sinusoidal")


@pytest.mark.parametrize("config", [CONFIG, UNTIED], ids=["tied", "untied"])
def test_there_and_back_is_the_same(config, random_params):
    params = random_params(config)
    back = torch_reference.to_params(torch_reference.from_params(config, params))
    assert jax.tree.structure(back) == jax.tree.structure(params)
    jax.tree.map(np.testing.assert_array_equal, back, params)


def test_a_linear_map_is_transposed_and_layers_are_apart(random_params):
    params = random_params(CONFIG)
    model = torch_reference.from_params(CONFIG, params)
    np.testing.assert_array_equal(
        model.blocks[1].mlp.up.weight.detach().numpy(), params["blocks"]["mlp"]["up"]["weight"][1].T
    )


def test_no_parameter_is_left_out(random_params):
    params = random_params(UNTIED)
    model = torch_reference.from_params(UNTIED, params)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert trainable == sum(leaf.size for leaf in jax.tree.leaves(params))


def test_gradients_come_in_the_same_form(random_params):
    params = random_params(CONFIG)
    model = torch_reference.from_params(CONFIG, params)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(leaf, 0), gradients(model))
    model(torch.tensor([[1, 2, 3]])).sum().backward()
    assert jax.tree.map(np.shape, gradients(model)) == jax.tree.map(np.shape, params)
    # Positions beyond the three tokens have no part in the sum.
    assert (gradients(model)["embed"]["positions"].any(axis=1) == [True] * 3 + [False] * 2).all()


def gradients(model):
    return torch_reference.to_params(model, grads=True)


def test_parameters_of_another_shape_are_refused_and_nothing_is_copied(random_params):
    model = torch_reference.from_params(CONFIG, random_params(CONFIG))
    before = torch_reference.to_params(model)
    wide = random_params(dataclasses.replace(CONFIG, vocab_size=8), seed=1)
    with pytest.raises(CheckpointError, match=r"embed.tokens has shape \(8, 4\); it must be"):
        torch_reference.load_params(model, wide)
    deep = random_params(dataclasses.replace(CONFIG, num_layers=3), seed=1)
    with pytest.raises(CheckpointError, match=r"has shape \(3, "):
        torch_reference.load_params(model, deep)
    jax.tree.map(np.testing.assert_array_equal, torch_reference.to_params(model), before)


def test_missing_and_unknown_parameters_are_named(random_params):
    params = random_params(CONFIG)
    params["norm"]["gain"] = params["norm"].pop("scale")
    with pytest.raises(CheckpointError, match=r"norm\.gain, norm\.scale"):
        torch_reference.from_params(CONFIG, params)


@pytest.mark.parametrize(("decays", "spared"), [("matrices", 2 * 8 + 2), ("all", 0)])
def test_adamw_decays_by_name(decays, spared):
    model = torch_reference.GPT(CONFIG)
    config = OptimizerConfig(weight_decay=0.3, weight_decay_on=decays, epsilon=1e-7)
    optimizer = torch_reference.configure_adamw(model, config)
    decayed, undecayed = optimizer.param_groups
    # A block has two norms of two leaves, and the biases of four linear maps.
    assert len(undecayed["params"]) == spared
    assert len(decayed["params"]) == len(list(model.parameters())) - spared
    assert (decayed["weight_decay"], undecayed["weight_decay"]) == (0.3, 0.0)
    assert (decayed["lr"], decayed["betas"], decayed["eps"]) == (6e-4, (0.9, 0.95), 1e-7)
    assert all(parameter.ndim == 1 for parameter in undecayed["params"])
