"""Every known cause, planted, is found where it stands and called by its name; no other is."""

import dataclasses
import io
import json
import math
import os
import zipfile
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from families import FAMILIES
from torch import nn
from torch.nn import functional

from jaxgpt.config import ModelConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import CheckpointError, ConfigError, DataError
from jaxgpt.model.gpt import GPT
from jaxgpt.model.schema import dimensions
from jaxgpt.model.transformer import STANDARD, with_block
from jaxgpt.parity import torch_reference
from jaxgpt.parity.compare import compare, to_text
from jaxgpt.parity.diagnosis import leaf_differences
from jaxgpt.parity.diagnosis.causes import OPERATIONS, operation_of
from jaxgpt.parity.diagnosis.diagnose import Attempt
from jaxgpt.parity.diagnosis.differences import rounding as bound_of
from jaxgpt.parity.diagnosis.table import OVERRIDES
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.recordings.recording import Recording, record_model, record_variant
from jaxgpt.parity.recordings.recording_file import load_recording, save_recording
from jaxgpt.parity.recordings.torch_module import record_module
from jaxgpt.parity.torch_reference import from_params
from jaxgpt.parity.trace import activation_names, loss_and_gradients, trace

CONFIG = ModelConfig(vocab_size=40, context_length=16, num_layers=2, num_heads=4, embed_dim=32)
TOKENS = np.random.default_rng(0).integers(40, size=(1, 12), dtype=np.int32)


@pytest.fixture(scope="module")
def params(random_params):
    return random_params(CONFIG)


@pytest.fixture(scope="module")
def ours(params):
    return record_model(CONFIG, params, TOKENS, "ours")


@pytest.fixture
def planted(params):
    """`planted(edit, **settings)`: the recording of the PyTorch reference, edited."""

    def record(edit=None, leaves=None, **settings):
        model = from_params(dataclasses.replace(CONFIG, **settings), leaves or params)
        wrapped = edit(model) if edit else None
        return record_module(wrapped or model, TOKENS, "theirs")

    return record


def alone(recording):
    """As if from another program, which saved nothing but activations."""
    return Recording("alone", recording.tokens, recording.activations)


# ---------------------------------------------------------------------------- equal


def test_equal_models_are_equal_with_the_figures_that_say_so(ours, planted):
    theirs = planted()
    comparison = compare(ours, theirs)
    assert comparison.equal
    names = [row.name for row in comparison.rows]
    assert names[: len(ours.activations)] == activation_names(CONFIG.num_layers)
    assert names[len(ours.activations)] == "loss"
    assert set(names[len(ours.activations) + 1 :]) == set(ours.gradients)
    assert max(row.relative for row in comparison.rows) > 0
    text = to_text(comparison, ours, theirs).splitlines()[-1]
    assert text.startswith("equal: the largest relative difference is ")
    assert "rounding explains up to" in text


def test_notes_leave_the_table_as_it_is(ours):
    text = to_text(compare(ours, ours), dataclasses.replace(ours, notes=("is odd",)), ours)
    assert "   A is odd\n" in text
    assert "\n\n\n" not in text
    assert text.count("\n\n") == 4


def test_bounds_are_those_of_the_parity_tests(ours, planted, rounding):
    rows = {row.name: row for row in compare(ours, planted()).rows}
    D, F, K = (dimensions(CONFIG)[letter] for letter in "DFK")
    T = TOKENS.size
    forward = CONFIG.num_layers * (5 * D + K + 2 * T + F) + 2 * D
    assert rows["logits"].bound == pytest.approx(rounding(forward), rel=0.05)
    backward = 2 * forward + CONFIG.vocab_size + T
    assert rows["embed.tokens"].bound == pytest.approx(rounding(backward), rel=0.05)
    assert bound_of(100, 2.0**-24) == rounding(100)


def test_a_gradient_that_is_zero_but_for_rounding_is_measured_by_its_siblings(ours):
    leaves = dict(ours.gradients)
    leaves["blocks.attn.qkv.bias"] = leaves["blocks.attn.qkv.bias"] * 0 + 1e-9
    zeros = dict(ours.gradients) | {"blocks.attn.qkv.bias": 0 * leaves["blocks.attn.qkv.bias"]}
    a, b = (dataclasses.replace(ours, gradients=x, params=None) for x in (leaves, zeros))
    assert compare(a, b).equal


# ---------------------------------------------------------------------------- planted causes


class Attention(torch_reference.MultiHeadAttention):
    """The reference's, with places to plant in."""

    order, ahead, factor = (0, 1, 2), 0, 1.0

    def split(self, qkv):
        parts = qkv.chunk(3, dim=-1)
        return [parts[i].unflatten(-1, (self.num_heads, -1)) for i in self.order]

    def forward(self, x):
        queries, keys, values = (part.transpose(1, 2) for part in self.split(self.qkv(x)))
        scores = queries @ keys.mT / math.sqrt(keys.shape[-1]) * self.factor
        length = x.shape[1]
        if self.ahead is not None:
            future = torch.ones(length, length, dtype=torch.bool).triu(diagonal=1 + self.ahead)
            scores = scores.masked_fill(future, torch.finfo(torch.float32).min)
        context = torch.softmax(scores, dim=-1) @ values
        return self.out(context.transpose(1, 2).flatten(-2))


class Interleaved(Attention):
    def split(self, qkv):
        return qkv.unflatten(-1, (self.num_heads, 3, -1)).unbind(-2)


def attention(kind=Attention, **settings):
    def edit(model):
        for block in model.blocks:
            block.attn.__class__ = kind
            for name, value in settings.items():
                setattr(block.attn, name, value)

    return edit


class UnbiasedNorm(nn.LayerNorm):
    def forward(self, x):
        root = torch.sqrt(x.var(-1, keepdim=True, unbiased=True) + self.eps)
        return (x - x.mean(-1, keepdim=True)) / root * self.weight + self.bias


def epsilon_of(norm):
    def edit(model):
        for name, module in model.named_modules():
            if name.split(".")[-1] == norm:
                module.eps = 1e-3

    return edit


def unbiased(model):
    for module in model.modules():
        if type(module) is nn.LayerNorm:
            module.__class__ = UnbiasedNorm


def gelu(kind, layers=(0, 1)):
    def edit(model):
        for layer in layers:
            model.blocks[layer].mlp.gelu = kind()

    return edit


class OneOn(nn.Embedding):
    def forward(self, positions):
        return super().forward(positions + 1)


def one_on(model):
    model.embed.positions.__class__ = OneOn


def rounded_products(change):
    class Rounded(nn.Linear):
        def forward(self, x):
            return functional.linear(change(x), change(self.weight), self.bias)

    def edit(model):
        for module in model.modules():
            if type(module) is nn.Linear:
                module.__class__ = Rounded

    return edit


def to_bfloat16(x):
    return x.bfloat16().float()


def to_tf32(x):
    """By arithmetic: to 11 bits, ties to even."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 2**11) / 2**11, exponent)


class Autocast(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, tokens):
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(tokens)


def in_dtype(dtype):
    return lambda model: model.to(dtype)


COMPUTING = {
    "gelu erf": (
        {"gelu": "erf"},
        "blocks.0.mlp.gelu",
        ["computes GELU by erf, not by tanh"],
    ),
    "gelu erf in a layer": (
        {"edit": gelu(nn.GELU, [1])},
        "blocks.1.mlp.gelu",
        ["computes GELU by erf, not by tanh, in layer 1 alone"],
    ),
    "relu": ({"edit": gelu(nn.ReLU)}, "blocks.0.mlp.gelu", ["has ReLU in GELU's place"]),
    **{
        f"epsilon {epsilon:g}": (
            {"norm_epsilon": epsilon},
            "blocks.0.norm1",
            [f"adds {epsilon:g} to the variance in a layer norm, not 1e-05"],
        )
        for epsilon in (1e-12, 1e-8, 1e-6, 1e-4, 1e-3)
    },
    **{
        f"epsilon of {name}": ({"edit": epsilon_of(name)}, first, [f"adds 0.001 to {words}"])
        for name, first, words in (
            (
                "norm1",
                "blocks.0.norm1",
                "the variance in the first norm of a block alone, not 1e-05",
            ),
            (
                "norm2",
                "blocks.0.norm2",
                "the variance in the second norm of a block alone, not 1e-05",
            ),
            ("norm", "norm", "the variance in the last norm alone, not 1e-05"),
        )
    },
    "unbiased variance": (
        {"edit": unbiased},
        "blocks.0.norm1",
        ["divides a layer norm's variance by D - 1 (unbiased), not by D"],
    ),
    "mask shifted": (
        {"edit": attention(ahead=1)},
        "blocks.0.attn.context",
        ["lets each token see the next one: its mask is shifted by one"],
    ),
    "mask shifted back": (
        {"edit": attention(ahead=-1)},
        "blocks.0.attn.context",
        ["does not let a token see itself: its mask is shifted by one"],
    ),
    "no mask": ({"edit": attention(ahead=None)}, "blocks.0.attn.context", ["has no causal mask"]),
    "no scale": (
        {"edit": attention(factor=math.sqrt(dimensions(CONFIG)["K"]))},
        "blocks.0.attn.context",
        ["does not divide the scores by the root of a head's width"],
    ),
    "order of reading": (
        {"edit": attention(order=(1, 2, 0))},
        "blocks.0.attn.context",
        ["takes the columns of attn.qkv in another order: keys, values, queries"],
    ),
    "interleaved reading": (
        {"edit": attention(Interleaved)},
        "blocks.0.attn.context",
        [
            "takes the columns of attn.qkv in another order: "
            "all heads' queries, keys, values, of what stood head after head"
        ],
    ),
    "heads": ({"num_heads": 2}, "blocks.0.attn.context", ["has 2 heads, not 4"]),
    "positions": ({"edit": one_on}, "embed", ["starts its positions at 1, not at 0"]),
    "two causes": (
        {"num_heads": 8, "edit": gelu(nn.ReLU)},
        "blocks.0.attn.context",
        ["has 8 heads, not 4", "has ReLU in GELU's place"],
    ),
}


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", COMPUTING)
def test_a_planted_way_of_computing_is_named(name, ours, planted):
    settings, first, causes = COMPUTING[name]
    comparison = compare(ours, planted(**settings))
    assert comparison.first is not None
    assert comparison.first.name == first
    assert comparison.causes == tuple(f"B {cause}" for cause in causes)
    assert comparison.outcome.startswith(f"with th{'is' if len(causes) == 1 else 'ese'}, every")


def test_the_other_way_round_it_is_said_of_the_other(ours, planted):
    """Causes are tried on the jaxgpt side, wherever it stands."""
    comparison = compare(alone(planted(gelu="erf")), ours)
    assert comparison.causes == ("A computes GELU by erf, not by tanh",)


@pytest.mark.slow
def test_a_variant_without_overrides_is_recorded_as_the_model(params, ours):
    same = record_variant(Variant(CONFIG, params), TOKENS)
    assert compare(ours, same).equal
    assert ours.gradients.keys() == same.gradients.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["positions", "epsilon", "mask", "scale", "activation"])
def test_a_variant_is_recorded_with_its_overrides(name, params, ours):
    words, changes = list(OVERRIDES[name].items())[1]
    theirs = record_variant(Variant(CONFIG, params).changed(**changes), TOKENS, "theirs")
    comparison = compare(ours, theirs)
    assert comparison.causes == (f"B {words.format(Variant(CONFIG, params))}",)
    assert all(row.differs for row in comparison.rows if row.kind == "loss")


@pytest.mark.slow
@pytest.mark.parametrize("change", [{"position_offset": 1}, {"order": (1, 0)}], ids=str)
def test_a_variant_leaves_the_parameters_as_they_are(change, random_params):
    config = dataclasses.replace(CONFIG, tie_head=False)
    params = random_params(config)
    before = record_model(config, params, TOKENS)
    assert not compare(before, record_variant(Variant(config, params, **change), TOKENS)).equal
    assert compare(before, record_model(config, params, TOKENS)).equal


@pytest.mark.slow
def test_causes_that_cannot_be_told_apart_are_both_named(params, planted):
    """On vectors a hundred times as long, neither number matters beside the variance."""
    long = params | {"embed": jax.tree.map(lambda x: 100 * x, params["embed"])}
    a = record_model(dataclasses.replace(CONFIG, norm_epsilon=1e-2), long, TOKENS)
    comparison = compare(a, planted(leaves=long, norm_epsilon=1e-12))
    assert "1e-12" in comparison.causes[0]
    assert " or " in comparison.causes[0]


@pytest.mark.whole_run
def test_another_number_of_heads_is_named_where_their_width_is_given(random_params):
    config = dataclasses.replace(CONFIG, num_layers=1, num_kv_heads=2, head_dim=6)
    other = dataclasses.replace(config, num_heads=2, num_kv_heads=1, head_dim=12)
    params = random_params(config)
    a, b = (record_model(config, params, TOKENS) for config in (config, other))
    assert compare(a, alone(b)).causes == ("B has 2 heads, not 4",)


@pytest.mark.slow_but_first
@pytest.mark.parametrize("shape", [{"num_kv_heads": 2}, {"head_dim": 6}], ids=str)
def test_what_is_tried_is_a_model(shape, random_params):
    config = dataclasses.replace(CONFIG, num_layers=1, **shape)
    variant = Variant(config, random_params(config))
    for kind in OPERATIONS["attn.qkv"].causes + OPERATIONS["attn.context"].causes:
        for cause in kind(variant):
            cause.variant.model()


# In bfloat16 another order of sums decides which way a number is rounded, so that what is left
# after the cause is applied is no longer a float32 rounding.
PRECISION = {
    "bfloat16": (in_dtype(torch.bfloat16), "embed", "computes in bfloat16 throughout"),
    "float16": (in_dtype(torch.float16), "embed", "computes in float16 throughout"),
    "autocast": (
        Autocast,
        "blocks.0.attn.qkv",
        "computes matrix products in bfloat16, as autocast does",
    ),
    "bfloat16 products": (
        rounded_products(to_bfloat16),
        "blocks.0.attn.qkv",
        "rounds what enters matrix products to bfloat16; set their precision to highest",
    ),
    "TF32": (
        rounded_products(to_tf32),
        "blocks.0.attn.qkv",
        "rounds what enters matrix products to TF32; set their precision to highest",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PRECISION)
def test_a_planted_precision_is_named(name, ours, planted):
    edit, first, cause = PRECISION[name]
    comparison = compare(ours, planted(edit))
    assert comparison.first is not None
    assert comparison.first.name == first
    assert comparison.causes[-1] == f"B {cause}"
    assert "is left at most, which rounding to" in comparison.outcome


@pytest.mark.slow
def test_weights_kept_in_bfloat16_are_named(ours, planted, params):
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    theirs = planted(leaves=rounded)
    for b in (theirs, alone(theirs)):
        comparison = compare(ours, b)
        assert comparison.causes == ("B has its weights rounded to bfloat16",)
        assert "every activation agrees" in comparison.outcome


@pytest.mark.slow
def test_jaxgpt_in_bfloat16_is_told_from_float32(ours, params):
    rounded = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), params)
    a = record_model(CONFIG, jax.tree.map(lambda x: x.astype(jnp.bfloat16), rounded), TOKENS)
    comparison = compare(a, record_model(CONFIG, rounded, TOKENS))
    assert comparison.causes == ("B computes in float32, not in bfloat16",)
    assert "every activation agrees" in comparison.outcome


def no_bias(*names):
    def edit(model):
        for block in model.blocks:
            for name in names:
                block.get_submodule(name).bias = None

    return edit


LINEAR = ("attn.qkv", "attn.out", "mlp.up", "mlp.down")


@pytest.mark.slow_but_first
@pytest.mark.parametrize("names", [(name,) for name in LINEAR] + [LINEAR], ids=".".join)
def test_a_missing_bias_is_named(names, ours, planted):
    theirs = planted(no_bias(*names))
    known, unknown = compare(ours, theirs), compare(ours, alone(theirs))
    assert known.first is not None
    assert known.first.name == f"blocks.0.{names[0]}"
    leaves = ", ".join(f"blocks.{name}.bias" for name in names)
    assert known.causes == (f"B has no {leaves}",)
    assert unknown.causes == (f"B has no bias in {', '.join(names)}",)


def change_blocks(params, path, change):
    blocks = jax.tree.map(lambda leaf: leaf, params["blocks"])
    node = blocks[path[0]][path[1]]
    node[path[2]] = change(node[path[2]])
    return params | {"blocks": blocks}


def test_a_transposed_square_weight_is_named(ours, planted, params):
    leaves = change_blocks(params, ("attn", "out", "weight"), lambda x: x.at[1].set(x[1].T))
    theirs = planted(leaves=leaves)
    known, unknown = compare(ours, theirs), compare(ours, alone(theirs))
    assert known.causes == ("B has blocks.attn.out.weight of layer 1 transposed",)
    assert unknown.causes == ("B has attn.out.weight transposed, in layer 1 alone",)


def keys_first(x):
    queries, keys, values = jnp.split(x, 3, axis=-1)
    return jnp.concatenate([keys, queries, values], axis=-1)


def head_after_head(x):
    return x.reshape(*x.shape[:-1], 3, 4, 8).swapaxes(-3, -2).reshape(x.shape)


def turned(x):
    return jnp.concatenate([part.mT for part in jnp.split(x, 3, axis=-1)], axis=-1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (keys_first, "keys, queries, values"),
        (head_after_head, "queries, keys and values of one head after another"),
    ],
)
def test_another_order_of_queries_keys_and_values_is_named(change, words, ours, planted, params):
    leaves = change_blocks(params, ("attn", "qkv", "weight"), change)
    leaves = change_blocks(leaves, ("attn", "qkv", "bias"), change)
    theirs = planted(leaves=leaves)
    known, unknown = compare(ours, theirs), compare(ours, alone(theirs))
    assert known.causes == (
        "B has the columns of blocks.attn.qkv.weight, blocks.attn.qkv.bias in another order: "
        + words,
    )
    assert unknown.causes == (f"B has the columns of attn.qkv in another order: {words}",)


def test_transposed_queries_keys_and_values_are_named(ours, planted, params):
    theirs = planted(leaves=change_blocks(params, ("attn", "qkv", "weight"), turned))
    known, unknown = compare(ours, theirs), compare(ours, alone(theirs))
    assert known.causes == ("B has the three matrices of blocks.attn.qkv.weight transposed",)
    assert unknown.causes == ("B has the three matrices of attn.qkv.weight transposed",)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("order", "words"),
    [([0, 2, 1], "has layers 1 and 2 exchanged"), ([2, 1, 0], "has its layers in reverse")],
)
def test_another_order_of_layers_is_named(order, words, random_params):
    config = dataclasses.replace(CONFIG, num_layers=3)
    params = random_params(config)
    blocks = jax.tree.map(lambda leaf: leaf[jnp.array(order)], params["blocks"])
    a, b = (
        record_module(from_params(config, leaves), TOKENS)
        for leaves in (params, params | {"blocks": blocks})
    )
    numbers = ", ".join(map(str, order))
    assert compare(a, b).causes == (f"B has its layers in the order {numbers} of the other's",)
    assert compare(a, alone(b)).causes == (f"B {words}",)


@pytest.mark.whole_run
def test_two_layers_exchanged_are_sought_from_the_first_difference(random_params, monkeypatch):
    config = dataclasses.replace(CONFIG, num_layers=5)
    params = random_params(config)
    order = jnp.array([0, 3, 2, 1, 4])
    blocks = jax.tree.map(lambda leaf: leaf[order], params["blocks"])
    a, b = (
        record_model(config, leaves, TOKENS) for leaves in (params, params | {"blocks": blocks})
    )
    known, run_one = [], Attempt.run

    def noted(self, variant, *args, **kwargs):
        if variant.order or any(own.order for own in variant.layers.values()):
            known.append(variant.order)
        return run_one(self, variant, *args, **kwargs)

    monkeypatch.setattr(Attempt, "run", noted)
    assert compare(a, alone(b)).causes == ("B has layers 1 and 3 exchanged",)
    # The reverse, and layer 1 with each behind it; where it stands first, and never alone.
    assert known == [(4, 3, 2, 1, 0), (0, 2, 1, 3, 4), (0, 3, 2, 1, 4), (0, 4, 2, 3, 1)]
    logits = dataclasses.replace(alone(b), activations={"logits": b.activations["logits"]})
    assert compare(a, logits).causes == ("B has layers 1 and 3 exchanged",)


@pytest.mark.slow
def test_layers_are_held_against_each_other_by_a_part_of_them(random_params, monkeypatch):
    config = dataclasses.replace(CONFIG, num_layers=12, embed_dim=64)
    params = random_params(config)
    leaves = change_blocks(params, ("attn", "out", "weight"), lambda x: x.mT)
    a, b = (record_model(config, x, TOKENS) for x in (params, leaves))
    numbers, distance = 0, leaf_differences.distance

    def counted(x, y):
        nonlocal numbers
        numbers += x.size
        return distance(x, y)

    monkeypatch.setattr(leaf_differences, "distance", counted)
    assert leaf_differences.compare_leaves(a, b) == ["has blocks.attn.out.weight transposed"]
    assert numbers < 4 * sum(x.size for x in jax.tree.leaves(params))


@pytest.mark.slow
def test_an_untied_head_of_the_same_numbers_shows_in_the_gradient(ours, planted, params):
    leaves = params | {"head": {"weight": params["embed"]["tokens"].T}}
    comparison = compare(ours, planted(leaves=leaves, tie_head=False))
    assert comparison.first is not None
    assert (comparison.first.kind, comparison.first.name) == ("gradient", "embed.tokens")
    assert comparison.causes == (
        "B has a head of its own, not the token table, with the same numbers",
    )
    assert comparison.outcome.startswith("with this, every gradient agrees to")


def test_a_head_that_is_tied_on_one_side_is_named(ours, planted, params):
    head = {"weight": params["embed"]["tokens"].T[::-1]}
    untied = planted(leaves=params | {"head": head}, tie_head=False)
    comparison = compare(ours, untied)
    assert comparison.first is not None
    assert comparison.first.name == "logits"
    assert comparison.causes == (
        "B has a head of its own, not the token table, with other numbers",
    )
    assert compare(untied, ours).causes == (
        "B has the token table as its head (tied), not a matrix of its own",
    )
    assert compare(untied, alone(ours)).causes == (
        "B has the token table as its head, not a matrix of its own",
    )


def test_dropout_left_on_is_named_and_what_is_behind_it(ours, planted):
    comparison = compare(ours, planted(dropout=0.2, gelu="erf"))
    assert comparison.first is not None
    assert comparison.first.name == "embed"
    dropout, erf = comparison.causes
    assert "dropout is left on; call its eval() first" in dropout
    assert erf == "B computes GELU by erf, not by tanh"


def test_other_weights_are_named_with_the_first_leaf(ours, planted, random_params):
    theirs = planted(leaves=random_params(CONFIG, seed=1))
    (cause,) = compare(ours, theirs).causes
    assert "has other weights: embed.tokens is the first of 16 parameters" in cause


# ---------------------------------------------------------------------------- no known cause


def scaled(role, factor):
    def edit(model):
        module = model.blocks[1].get_submodule(role)
        module.register_forward_hook(lambda _, args, output: output * factor)

    return edit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("role", "first", "words"),
    [
        ("norm1", "blocks.1.norm1", "the first layer norm"),
        ("mlp.up", "blocks.1.mlp.up", "one product and its bias"),
        ("mlp.gelu", "blocks.1.mlp.gelu", "the activation function"),
        ("attn", "blocks.1.middle", "the sum with the stream that enters the block"),
    ],
)
def test_what_is_no_known_cause_has_no_name(role, first, words, ours, planted):
    for b in (theirs := planted(scaled(role, 1.001)), alone(theirs)):
        comparison = compare(ours, b)
        assert comparison.first is not None
        assert comparison.first.name == first
        assert comparison.causes == ()
        assert "no known cause fits" in comparison.outcome
        assert words in comparison.outcome


@pytest.mark.slow
def test_a_cause_that_explains_the_first_alone_is_said_to(ours, planted):
    def edit(model):
        gelu(nn.GELU)(model)
        scaled("mlp.up", 1.001)(model)

    comparison = compare(ours, planted(edit))
    assert comparison.causes == ("B computes GELU by erf, not by tanh",)
    assert "this explains the difference at blocks.0.mlp.gelu, but one of" in comparison.outcome
    assert "remains from blocks.1.mlp.up on" in comparison.outcome


def test_a_difference_in_the_way_back_alone_has_no_name(ours):
    other = {path: 1.001 * x for path, x in ours.gradients.items()}
    comparison = compare(ours, dataclasses.replace(ours, gradients=other))
    assert comparison.causes == ()
    assert "the way back differs" in comparison.outcome


@pytest.mark.slow
def test_numbers_that_are_not_finite_differ(ours):
    broken = dict(ours.activations)
    broken["blocks.1.attn.out"] = np.full_like(broken["blocks.1.attn.out"], np.nan)
    comparison = compare(ours, dataclasses.replace(ours, activations=broken))
    assert comparison.first is not None
    assert comparison.first.name == "blocks.1.attn.out"
    assert comparison.causes == ()


@pytest.mark.slow
def test_numbers_that_are_finite_in_neither_are_refused(ours, planted):
    def edit(model):
        model.blocks[1].register_forward_hook(lambda *_: torch.tensor(torch.nan).expand(1, 12, 32))

    broken = planted(edit)
    with pytest.raises(CheckpointError, match=r"activation blocks\.1 has .* not finite; nothing"):
        compare(broken, broken)
    logits = dataclasses.replace(
        alone(broken), activations={"logits": broken.activations["logits"]}
    )
    with pytest.raises(CheckpointError, match="activation logits has numbers that are not finite"):
        compare(logits, logits)
    comparison = compare(ours, broken)
    assert comparison.first is not None
    assert (comparison.first.name, comparison.first.absolute) == ("blocks.1", math.inf)


def test_without_parameters_no_cause_is_tried(ours, planted):
    comparison = compare(alone(ours), alone(planted(gelu="erf")))
    assert comparison.causes == ()
    assert "causes can be tried only where" in comparison.outcome


@pytest.mark.slow
def test_two_pytorch_models_are_explained_from_the_one_that_can_be_traced(planted):
    """A reads queries, keys and values in an order that no attribute shows; it is found out."""
    odd = attention(order=(2, 1, 0))
    comparison = compare(planted(odd), planted(odd, gelu="erf"))
    assert comparison.causes == ("B computes GELU by erf, not by tanh",)


def test_every_activation_has_an_operation():
    names = activation_names(2) + activation_names(2, FAMILIES["gemma3"])
    found = {operation_of(name).words for name in names}
    assert found == {operation.words for operation in OPERATIONS.values()}


# ---------------------------------------------------------------------------- recordings


def test_a_recording_survives_its_file(ours, tmp_path):
    save_recording(ours, tmp_path / "a.npz")
    back = load_recording(tmp_path / "a.npz")
    assert back.config == ours.config
    assert compare(ours, back).equal
    assert {row.relative for row in compare(ours, back).rows} == {0.0}
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_a_recording_explains_another(ours, planted, tmp_path):
    save_recording(ours, tmp_path / "a.npz")
    comparison = compare(load_recording(tmp_path / "a.npz"), planted(gelu="erf"))
    assert comparison.causes == ("B computes GELU by erf, not by tanh",)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["autocast", "bfloat16"])
def test_a_file_keeps_the_dtype_of_parameters_apart_from_that_of_activations(
    name, ours, planted, tmp_path
):
    edit, _, cause = PRECISION[name]
    save_recording(planted(edit), tmp_path / "a.npz")
    back = load_recording(tmp_path / "a.npz")
    assert (back.dtype, back.params["embed"]["tokens"].dtype) == ("bfloat16", "float32")
    assert compare(ours, back).causes[-1] == f"B {cause}"


@pytest.mark.slow
def test_a_file_keeps_parameters_in_bfloat16(params, tmp_path):
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    save_recording(record_model(CONFIG, half, TOKENS), tmp_path / "a.npz")
    back = load_recording(tmp_path / "a.npz")
    assert jax.tree.map(np.array_equal, back.params, half) == jax.tree.map(lambda _: True, half)
    assert back.params["embed"]["tokens"].dtype == jnp.bfloat16


def write(path, **arrays):
    np.savez(path, **arrays)


def test_files_that_are_no_recordings_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    logits = {"activations/logits": np.zeros((1, 2, 40))}
    whole = {"tokens": np.zeros((1, 2), int)} | logits
    config = {"config": json.dumps(to_dict(CONFIG))}
    cases = [
        ({"tokens": np.zeros((1, 2), int)}, "lacks activations/logits"),
        (logits, "lacks tokens"),
        ({"tokens": np.zeros((1, 3), int)} | logits, "must begin with"),
        ({"tokens": np.zeros((1, 2))} | logits, "not whole numbers"),
        ({"tokens": np.array([[{}]], object)} | logits, "pickled objects are refused"),
        (whole | {"config": "{"}, "no recording"),
        (whole | {"config": "3"}, "its config is a int"),
        (whole | {"config": 10**5 * "["}, "no recording"),
        (whole | {"dtype": "float7"}, "dtype is float7; it must be one of float32"),
        (whole | {"dtype": "int32"}, "dtype is int32; it must be one of float32"),
        (whole | {"parameters/embed.tokens": np.zeros((40, 32))}, "parameters, but no config"),
        (whole | config | {"parameters/embed.tokens": np.zeros((40, 32))}, "do not fit its config"),
        (whole | config | {"tokens": np.array([[0, 40]])}, "token id 40 is outside"),
        (whole | {"gradients/norm.bias": np.float32(1)}, "it must be an array of floats"),
        (whole | {"activations/embed": np.zeros((1, 2, 3), complex)}, "must be an array of floats"),
        (whole | {"loss": np.zeros(2)}, "no recording"),
    ]
    for arrays, message in cases:
        write(path, **arrays)
        with pytest.raises(CheckpointError, match=message):
            load_recording(path)
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(CheckpointError, match="no recording"):
        load_recording(path)
    with pytest.raises(CheckpointError, match="it is no regular file"):
        load_recording(tmp_path / "none.npz")
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(CheckpointError, match="it is no regular file"):
        load_recording(tmp_path / "pipe.npz")


def npy(array, **changes):
    """An array's .npy, with a header that may say something else."""
    file = io.BytesIO()
    header = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | changes
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + array.tobytes()


def header(text):
    """An .npy of no numbers whose header is the text."""
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode("latin-1")


@pytest.mark.parametrize(
    ("member", "content", "message"),
    [
        ("notes.txt", b"by hand", "notes.txt in it is no .npy"),
        ("loss.npy", b"by hand", "magic string"),
        ("loss.npy", npy(np.zeros(1), shape=(10**13 // 8,)), r"loss.npy has 8 bytes for float64"),
        ("loss.npy", npy(np.zeros(2), shape=()), r"loss.npy has 16 bytes for float64"),
        ("loss.npy", npy(np.zeros(0), shape=(0, 10**30)), "no recording"),
        ("loss.npy", npy(np.zeros(1), more=5000 * "-"), "no recording"),
        ("loss.npy", header("((((("), "no recording"),
        ("loss.npy", header("  {\n {"), "no recording"),
        ("loss.npy", header("'\\d'\n"), "no recording"),
        ("loss.npy", header("\0"), "no recording"),
        ("loss.npy", header("-" * 900 + "1"), "no recording"),
        ("loss.npy", header("{'descr': [[]], 'fortran_order': 0, 'shape': 1}"), "no recording"),
        ("loss.npy", b"\x93NUMPY\x09\x00\xff\xff\xff\xff", "no recording"),
        ("parameters/a.b.c.npy", npy(np.zeros(1)), "parameters, but no config"),
    ],
)
def test_members_that_are_not_what_they_say_are_refused(member, content, message, tmp_path):
    path = tmp_path / "a.npz"
    write(path, tokens=np.zeros((1, 2), int), **{"activations/logits": np.zeros((1, 2, 40))})
    load_recording(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(member, content)
    with pytest.raises(CheckpointError, match=message):
        load_recording(path)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_damaged_files_are_refused_or_read(save, tmp_path):
    path, random = tmp_path / "a.npz", np.random.default_rng(0)
    logits = {"activations/logits": np.asfortranarray(random.normal(size=(1, 2, 4)))}
    save(path, tokens=np.zeros((1, 2), int), name="", **logits)
    whole = path.read_bytes()
    np.testing.assert_array_equal(
        load_recording(path).activations["logits"], np.float32(logits["activations/logits"])
    )
    complaints = []
    for place in random.integers(len(whole), size=300):
        path.write_bytes(whole[:place] + bytes([random.integers(256)]) + whole[place + 1 :])
        try:
            load_recording(path)
        except CheckpointError as error:
            complaints.append(str(error))
    assert 100 < len(complaints) < 300
    assert not any("\n" in complaint for complaint in complaints)


@pytest.mark.slow
def test_a_trace_refuses_tokens_that_do_not_fit(params):
    assert trace(Variant(CONFIG, params), jnp.asarray(TOKENS[:, :1]))["logits"].shape == (1, 1, 40)
    with pytest.raises(ConfigError, match="the model takes 1 to 16 tokens, not 17"):
        trace(Variant(CONFIG, params), jnp.zeros((1, 17), int))
    for bad in (-1, 40):
        with pytest.raises(DataError, match=rf"token id {bad} is outside \[0, 40\)"):
            trace(Variant(CONFIG, params), jnp.array([[0, bad]]))
    # Under jit the ids are not known.
    loss, _ = jax.jit(
        partial(loss_and_gradients, lambda params, x: trace(Variant(CONFIG, params), x)["logits"])
    )(params, jnp.asarray(TOKENS))
    assert np.isfinite(loss)


def test_a_model_with_a_block_of_its_own_is_traced_by_it(params):
    def halved(x, **arguments):
        out, cache = STANDARD(x, **arguments)
        return (x + out) / 2, cache

    config = with_block(CONFIG, halved)
    logits = trace(Variant(config, params), jnp.asarray(TOKENS))["logits"]
    np.testing.assert_allclose(
        logits, GPT(config, params)(jnp.asarray(TOKENS)), rtol=1e-4, atol=1e-4
    )


def test_other_tokens_and_other_shapes_are_refused(ours, random_params):
    other = dataclasses.replace(ours, tokens=TOKENS + 1)
    with pytest.raises(DataError, match="other tokens"):
        compare(ours, other)
    for changed in ({"vocab_size": 41}, {"num_layers": 3}, {"embed_dim": 16}):
        config = dataclasses.replace(CONFIG, **changed)
        with pytest.raises(CheckpointError, match=next(iter(changed))):
            compare(ours, dataclasses.replace(ours, config=config))
    fewer = {name: x[..., :-1] for name, x in ours.activations.items()}
    with pytest.raises(CheckpointError, match="activation embed has shape"):
        compare(ours, dataclasses.replace(ours, activations=fewer, config=None))
