"""Mistakes in mixtures of experts, planted in the modules of transformers, are called by name."""

from dataclasses import replace
from types import MethodType

import numpy as np
import pytest
import torch
from test_experts_parity import OURS, THEIRS

from jaxgpt.parity.compare import compare
from jaxgpt.parity.recordings.recording import Recording, record_model
from jaxgpt.parity.recordings.torch_module import record_module
from jaxgpt.parity.trace import activation_names

pytestmark = pytest.mark.whole_run  # each compares two models whole

TOKENS = np.random.default_rng(0).integers(61, size=(1, 40), dtype=np.int32)


def make(name):
    torch.manual_seed(0)
    model = THEIRS[name]().eval()
    with torch.no_grad():
        for leaf, parameter in model.named_parameters():
            parameter.normal_(float("norm" in leaf), 0.2)
    return model


@pytest.fixture(scope="module")
def healthy():
    """`healthy(name)`: what jaxgpt and the module without a fault compute."""
    found = {}

    def record(name):
        if name not in found:
            theirs = record_module(make(name), TOKENS, "theirs")
            found[name] = record_model(OURS[name], theirs.params, TOKENS, "ours"), theirs
        return found[name]

    return record


@pytest.mark.parametrize("name", THEIRS)
def test_a_module_with_experts_is_recorded_whole_and_equal(name, healthy):
    ours, theirs = healthy(name)
    assert set(theirs.activations) == set(activation_names(4, OURS[name]))
    comparison = compare(ours, theirs)
    assert comparison.equal, comparison
    assert len(theirs.gradients) == len(ours.gradients)
    for field in ("sinks", "gate", "qk_norm", "hidden_dim"):
        assert getattr(theirs.config, field) == getattr(OURS[name], field), field
    of = replace(OURS[name].experts, router_balance=theirs.config.experts.router_balance)
    assert replace(theirs.config.experts, router_softmax=of.router_softmax) == of


def each(model):
    return [layer.mlp for layer in model.model.layers]


def unsunk(model):
    for layer in model.model.layers:
        attn = layer.self_attn
        attn.sinks = torch.nn.Parameter(torch.full_like(attn.sinks, -1e9))


def unclamped(model):
    for mlp in each(model):
        mlp.experts.limit = 1e9


def halved(model):
    def apply(self, both):
        gate, up = both.chunk(2, dim=-1)
        gate, up = gate.clamp(max=self.limit), up.clamp(min=-self.limit, max=self.limit)
        return (up + 1) * gate * torch.sigmoid(gate * self.alpha)

    for mlp in each(model):
        mlp.experts._apply_gate = MethodType(apply, mlp.experts)


def over_all(model):
    def forward(self, x):
        scores = torch.nn.functional.linear(x, self.weight, self.bias)
        best, chosen = torch.topk(scores.softmax(-1), self.top_k, dim=-1)
        return scores, best, chosen

    for mlp in each(model):
        mlp.router.forward = MethodType(forward, mlp.router)


def unnormed(model):
    for mlp in each(model):
        mlp.gate.norm_topk_prob = False


def window(model):
    model.config.sliding_window = 8


MISTAKES = {
    "clamp": ("gpt-oss", unclamped, "mlp.down", "does not clamp gate and up"),
    "halves": (
        *("gpt-oss", halved, "mlp.down"),
        "takes gate and up as halves of their product, not in turn",
    ),
    "softmax before top-k": (
        *("gpt-oss", over_all, "mlp.down"),
        "takes the softmax over all experts, not over the chosen ones",
    ),
    "not renormalised": (
        *("qwen3", unnormed, "mlp.down"),
        "takes the softmax over all experts, not over the chosen ones",
    ),
    "window": (
        *("gpt-oss", window, "attn.context"),
        "has a window of 8 tokens, not 7: it is off by one",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named_and_nothing_else(name, healthy):
    kind, edit, first, words = MISTAKES[name]
    model = make(kind)
    edit(model)
    comparison = compare(healthy(kind)[0], record_module(model, TOKENS, "theirs"))
    assert comparison.first is not None
    assert comparison.first.name == f"blocks.0.{first}"
    assert comparison.causes == (f"B {words}",)
    assert comparison.outcome.startswith("with this, every activation agrees")


def test_sinks_that_are_ignored_are_named(healthy):
    """Of the activations alone, for the planted module has other parameters."""
    model = make("gpt-oss")
    unsunk(model)
    alone = Recording("alone", TOKENS, record_module(model, TOKENS).activations)
    assert compare(healthy("gpt-oss")[0], alone).causes == ("B ignores the sinks",)
