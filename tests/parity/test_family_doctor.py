"""Mistakes in today's families, planted in the modules of transformers, are called by name."""

import sys
from pathlib import Path
from types import MethodType

import numpy as np
import pytest
import torch
from torch import nn

from jaxgpt.errors import CheckpointError
from jaxgpt.parity.compare import compare
from jaxgpt.parity.recordings.recording import Recording, record_model
from jaxgpt.parity.recordings.torch_module import record_module
from jaxgpt.parity.torch_reference import from_params
from jaxgpt.parity.trace import activation_names

sys.path.append(str(Path(__file__).parents[1] / "families"))
from tiny_models import _FULL, _LOCAL, _YARN, MODELS, V, make_theirs

pytestmark = pytest.mark.whole_run  # each compares two models whole

LOCAL, LINEAR = (
    {"rope_type": "default", "rope_theta": 100.0},
    {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
)


def rope(full, local=LOCAL):
    return {"rope_parameters": {_LOCAL: local, _FULL: full}}


TOKENS = np.random.default_rng(0).integers(V, size=(1, 40), dtype=np.int32)


@pytest.fixture(scope="module")
def healthy():
    """`healthy(name)`: what jaxgpt computes with the parameters of the module without a fault."""
    found = {}

    def record(name):
        if name not in found:
            theirs = record_module(make_theirs(name), TOKENS, "theirs")
            found[name] = record_model(theirs.config, theirs.params, TOKENS, "ours"), theirs
        return found[name]

    return record


@pytest.mark.parametrize("name", MODELS)
def test_a_module_of_transformers_is_recorded_whole_and_equal(name, healthy):
    ours, theirs = healthy(name)
    assert set(theirs.activations) == set(activation_names(5, theirs.config))
    assert theirs.notes == ()
    comparison = compare(ours, theirs)
    assert comparison.equal, comparison
    gradients = [row for row in comparison.rows if row.kind == "gradient"]
    assert len(gradients) == len(theirs.gradients) == len(ours.gradients)


def attend(self, hidden_states, position_embeddings, attention_mask=None, **_):
    """The attention of a module of transformers, with places to plant in."""
    shape = (*hidden_states.shape[:2], -1, self.head_dim)
    queries, keys, values = (
        project(hidden_states).view(shape).transpose(1, 2)
        for project in (self.q_proj, self.k_proj, self.v_proj)
    )
    normed = hasattr(self, "q_norm")
    if normed and "late" not in self.faults:
        queries, keys = self.q_norm(queries), self.k_norm(keys)
    cosines, sines = position_embeddings

    def turn(x):
        if "neighbours" in self.faults:
            half = torch.arange(x.shape[-1] // 2).repeat_interleave(2)
            turned = torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)
            return x * cosines[..., half] + turned * sines[..., half]
        return x * cosines + torch.cat((-x.chunk(2, -1)[1], x.chunk(2, -1)[0]), -1) * sines

    if "unturned" not in self.faults:
        queries, keys = turn(queries), turn(keys)
    if normed and "late" in self.faults:
        queries, keys = self.q_norm(queries), self.k_norm(keys)
    groups = self.num_key_value_groups
    if "tiled" in self.faults:
        keys, values = keys.repeat(1, groups, 1, 1), values.repeat(1, groups, 1, 1)
    else:
        keys, values = (x.repeat_interleave(groups, dim=1) for x in (keys, values))
    scores = queries @ keys.mT * self.scaling + attention_mask
    context = scores.softmax(-1) @ values
    return self.o_proj(context.transpose(1, 2).flatten(-2)), None


def attention(*faults):
    def edit(model):
        for layer in model.model.layers:
            layer.self_attn.faults = faults
            layer.self_attn.forward = MethodType(attend, layer.self_attn)

    return edit


def exchanged(model):
    for layer in model.model.layers:
        mlp = layer.mlp
        mlp.forward = lambda x, mlp=mlp: mlp.down_proj(
            mlp.act_fn(mlp.up_proj(x)) * mlp.gate_proj(x)
        )


def activated(function):
    def edit(model):
        for layer in model.model.layers:
            layer.mlp.act_fn = function

    return edit


def scaled(factor):
    def edit(model):
        model.model.embed_tokens.register_forward_hook(lambda _, args, output: output * factor)

    return edit


def shifted(offset):
    """Norms whose scale is the weight and `offset`."""

    def edit(model):
        for module in model.modules():
            if type(module).__name__.endswith("RMSNorm"):
                eps = getattr(module, "eps", None) or getattr(module, "variance_epsilon", None)
                module.forward = lambda x, w=module.weight, eps=eps: (
                    x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps) * (w + offset)
                )

    return edit


def window(size):
    def edit(model):
        model.config.sliding_window = size

    return edit


EPSILON = "adds 1e-05 to the mean square in an RMS norm, not 1e-06"
NEIGHBOURS = "turns neighbours as pairs (rotary positions), not halves"
# The model, its other settings, an edit of the module, where it shows first, and the words.
MISTAKES = {
    **{
        f"window off by one, {name}, {size}": (
            *(name, {}, window(size), f"blocks.{layer}.attn.context"),
            f"has a window of {size} tokens, not 7: it is off by one",
        )
        for name, layer in (("gemma3", 0), ("olmo3", 0), ("mistral", 0))
        for size in (6, 8)
    },
    **{
        f"window ignored, {name}": (
            *(name, {}, window(1000), "blocks.0.attn.context", "ignores the window"),
        )
        for name in ("gemma3", "olmo3")
    },
    **{
        f"pairs interleaved, {name}": (
            *(name, {}, attention("neighbours"), "blocks.0.attn.context", NEIGHBOURS),
        )
        for name in ("llama", "qwen3", "gemma3")
    },
    "no positions": (
        *("llama", {}, attention("unturned"), "blocks.0.attn.context"),
        "does not turn queries and keys by their positions",
    ),
    "scaling ignored, llama": (
        *("llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}, None),
        *("blocks.0.attn.context", "does not scale rotary positions (llama3)"),
    ),
    "scaling ignored, gemma3": (
        "gemma3",
        rope(LINEAR | {"rope_type": "default"}),
        *(None, "blocks.1.attn.context", "does not scale rotary positions (linear)"),
    ),
    "scaling ignored, olmo3": (
        *("olmo3", rope(LOCAL), None),
        *("blocks.2.attn.context", "does not scale rotary positions (yarn)"),
    ),
    "scaling in windows too": (
        *(
            "gemma3",
            rope(LINEAR, LINEAR | {"rope_theta": 100.0}),
            None,
        ),
        *("blocks.0.attn.context", "scales rotary positions in all layers"),
    ),
    "one base": (
        "gemma3",
        rope(LINEAR, LOCAL | {"rope_theta": 1000.0}),
        *(None, "blocks.0.attn.context", "turns layers with a window as those without"),
    ),
    "attention factor ignored": (
        *("olmo3", rope({**_YARN, "attention_factor": 1.0}), None, "blocks.2.attn.context"),
        "does not multiply queries and keys by YaRN's attention factor",
    ),
    "truncate flipped": (
        *("llama yarn", {"rope_parameters": {**_YARN, "truncate": True}}, None),
        *("blocks.0.attn.context", "rounds the pairs at which YaRN begins and ends (truncate)"),
    ),
    "offset missing": (
        *("gemma3", {}, shifted(0), "blocks.0.norm1"),
        "multiplies by a norm's scale, not by 1 more than a norm's scale",
    ),
    "offset added": (
        *("llama", {}, shifted(1), "blocks.0.norm1"),
        "multiplies by 1 more than a norm's scale, not by a norm's scale",
    ),
    "embedding not scaled": (
        *("gemma3", {}, scaled(32**-0.5), "embed"),
        "does not multiply token vectors by the root of the width",
    ),
    "embedding scaled": (
        *("qwen3", {}, scaled(32**0.5), "embed"),
        "multiplies token vectors by the root of the width",
    ),
    "scale by the head's width": (
        *("gemma3", {"query_pre_attn_scalar": 16}, None, "blocks.0.attn.context"),
        "divides the scores by the root of a head's width",
    ),
    "late norms": (
        *("qwen3", {}, attention("late"), "blocks.0.attn.query_norm"),
        "norms queries and keys after they are turned (rotary positions), not before",
    ),
    **{
        f"tiled, {name}": (
            *(name, {}, attention("tiled"), "blocks.0.attn.context"),
            "shares keys and values among the heads in turn (tile), not neighbours (repeat)",
        )
        for name in ("llama", "qwen3")
    },
    "gate and up": (
        *("llama", {}, exchanged, "blocks.0.mlp.gelu"),
        "exchanges gate and up: the activation function is of the latter",
    ),
    "gelu for silu": (
        *("olmo2", {}, activated(nn.GELU()), "blocks.0.mlp.gelu"),
        "has GELU by erf in SiLU's place",
    ),
    "exact gelu": (
        *("gemma3", {"hidden_activation": "gelu"}, None, "blocks.0.mlp.gelu"),
        "computes GELU by erf, not by tanh",
    ),
    "epsilon, qwen3": ("qwen3", {"rms_norm_eps": 1e-5}, None, "blocks.0.norm1", EPSILON),
    "epsilon, olmo2": ("olmo2", {"rms_norm_eps": 1e-5}, None, "blocks.0.attn.query_norm", EPSILON),
}


def plant(name):
    kind, settings, edit, *_ = MISTAKES[name]
    model = make_theirs(kind, **settings)
    if edit is not None:
        edit(model)
    return record_module(model, TOKENS, "theirs")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_is_named_and_nothing_else(name, healthy):
    kind, _, _, first, words = MISTAKES[name]
    comparison = compare(healthy(kind)[0], plant(name))
    assert comparison.first is not None
    assert comparison.first.name == first
    assert comparison.causes == (f"B {words}",)
    assert comparison.outcome.startswith("with this, every activation agrees")


@pytest.mark.parametrize("name", ["gate and up", "tiled, llama", "epsilon, olmo2", "late norms"])
def test_a_planted_mistake_is_named_by_the_activations_alone(name, healthy):
    kind, *_, words = MISTAKES[name]
    theirs = plant(name)
    alone = Recording("alone", TOKENS, theirs.activations)
    assert compare(healthy(kind)[0], alone).causes == (f"B {words}",)


@pytest.mark.parametrize("name", ["late norms", "window off by one, olmo3, 8"])
def test_two_modules_of_pytorch_are_explained(name, healthy):
    kind, *_, words = MISTAKES[name]
    assert compare(healthy(kind)[1], plant(name)).causes == (f"B {words}",)


class Nameless(nn.Module):
    """A module that is named as one of transformers, and has no config."""

    def __init__(self, model):
        super().__init__()
        self.model, self.lm_head = nn.Module(), model.lm_head
        for name, part in model.model.named_children():
            self.model.add_module(name, part)
        self.whole = [model]

    def forward(self, tokens):
        return self.whole[0](tokens).logits


@pytest.mark.parametrize("name", ["llama", "olmo3", "gemma3"])
def test_without_a_config_the_shapes_tell_the_form(name, healthy):
    ours, _ = healthy(name)
    theirs = record_module(Nameless(make_theirs(name)), TOKENS)
    assert compare(ours, theirs).equal
    for field in (
        "num_kv_heads",
        "head_dim",
        "hidden_dim",
        "norm",
        "norm_place",
        "qk_norm",
        "gate",
    ):
        assert getattr(theirs.config, field) == getattr(ours.config, field), field
    assert theirs.config.norm_epsilon == ours.config.norm_epsilon


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma3", "olmo3"])
def test_the_twin_is_recorded_whole(name, healthy):
    ours, _ = healthy(name)
    twin = record_module(from_params(ours.config, ours.params), TOKENS)
    assert set(ours.activations) <= set(twin.activations)
    assert compare(ours, twin).equal


def test_models_of_two_forms_are_not_compared(healthy):
    with pytest.raises(CheckpointError, match="has norm_place before, theirs both"):
        compare(healthy("llama")[0], healthy("gemma3")[1])
