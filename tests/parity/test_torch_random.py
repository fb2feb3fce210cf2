"""The numbers made in NumPy are PyTorch's own: bit for bit, wherever PyTorch uses AVX2."""

import dataclasses
import itertools
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from test_experts_parity import OURS, THEIRS, to_ours
from torch import nn
from torch.utils.data import DataLoader

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model.nested import flatten
from jaxgpt.parity import torch_reference
from jaxgpt.parity.torch_random import TorchGenerator, init_like_torch

SEEDS = [0, 1, 123, 2**32 + 5, -7, -(2**63), 2**64 - 1]
SIZES = [1, 5, 15, 16, 17, 20, 31, 32, 33, 1000, 2**15 + 5, 100_003]
VECTORS = torch.backends.cpu.get_cpu_capability() in ("AVX2", "AVX512")


def seeded(seed):
    torch.manual_seed(seed)
    return TorchGenerator(seed)


def check(actual, expected, tolerance=0.0):
    """Equal bits; within `tolerance` where PyTorch computes without AVX2."""
    expected = np.asarray(expected)
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype)
    if VECTORS or tolerance == 0:
        assert actual.tobytes() == expected.tobytes()
    else:
        np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def same_place(generator):
    """Both streams have come equally far."""
    check(generator.rand(3), torch.rand(3).numpy())


@pytest.mark.parametrize("seed", SEEDS)
def test_uniform_numbers_at_each_seed(seed):
    generator = seeded(seed)
    check(generator.rand(2, 3, 4), torch.rand(2, 3, 4).numpy())
    check(generator.uniform(-0.3, 0.8, 50), torch.empty(50).uniform_(-0.3, 0.8).numpy(), 1e-7)
    check(generator.rand(), torch.rand(()).numpy())


@pytest.mark.parametrize("seed", [-(2**63) - 1, 2**64])
def test_a_seed_that_torch_refuses_is_refused(seed):
    with pytest.raises(ConfigError, match=rf"seed is {seed}; it must be from -2\^63 to 2\^64 - 1"):
        TorchGenerator(seed)


def test_a_seed_may_be_a_numpy_integer():
    check(TorchGenerator(np.int32(3)).rand(5), seeded(3).rand(5))


@pytest.mark.parametrize("size", [0, *SIZES])
def test_normal_and_uniform_numbers_of_each_size(size):
    generator = seeded(123)
    check(generator.randn(size), torch.randn(size).numpy(), 4e-6)
    check(generator.uniform(-2.0, 3.0, size), torch.empty(size).uniform_(-2, 3).numpy(), 1e-6)
    same_place(generator)


@pytest.mark.parametrize("seed", SEEDS)
def test_normal_numbers_at_each_seed(seed):
    generator = seeded(seed)
    check(generator.randn(7, 11), torch.randn(7, 11).numpy(), 4e-6)
    check(generator.randn(3), torch.randn(3).numpy())


def test_no_normal_number_is_minus_zero():
    """A uniform 0 makes a radius of 0, and its product with a negative sine -0; PyTorch adds 0."""
    generator = seeded(12)  # The first uniform 0 of this seed that meets a negative sine.
    ours, theirs = generator.randn(25_707, 16), torch.randn(25_707, 16).numpy()
    assert theirs[-1, 14] == 0
    check(ours, theirs, 4e-6)


def test_a_kept_sine_waits_through_other_calls():
    generator = seeded(1)
    for size in (3, 20, 1, 1, 16, 5, 2, 33, 1):
        check(generator.randn(size), torch.randn(size).numpy(), 4e-6)
        check(generator.rand(2), torch.rand(2).numpy())
        check(generator.randperm(4), torch.randperm(4).numpy())
        check(generator.linear(size, 3)["bias"], nn.Linear(size, 3).bias.detach().numpy(), 1e-7)
    check(generator.randn(1), torch.randn(1).numpy())
    same_place(generator)


@pytest.mark.parametrize(("inputs", "outputs"), [(1, 1), (4, 5), (64, 700), (40_000, 2)])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(inputs, outputs, bias):
    generator = seeded(123)
    ours = generator.linear(inputs, outputs, bias=bias)
    module = nn.Linear(inputs, outputs, bias=bias)
    check(ours["weight"], module.weight.detach().numpy().T.copy(), 1e-7)
    assert ours.keys() == {name for name, _ in module.named_parameters()}
    if bias:
        check(ours["bias"], module.bias.detach().numpy(), 1e-7)
    same_place(generator)


def test_numbers_printed_elsewhere():
    """Known from public notebooks, so that test and library cannot err alike."""
    row = TorchGenerator(123).embedding(4, 5)[2, :3]
    np.testing.assert_allclose(row, [0.6957, -1.8061, -1.1589], atol=6e-5)
    column = TorchGenerator(123).linear(4, 5)["weight"][:, 0]
    np.testing.assert_allclose(column, [-0.2039, 0.0166, -0.2483, 0.1886], atol=6e-5)
    assert TorchGenerator(123).loader_order(5).tolist() == [3, 1, 0, 2, 4]
    kept = np.argwhere(TorchGenerator(123).dropout(np.tri(6, dtype=np.float32), 0.5))
    rows = [kept[kept[:, 0] == row, 1].tolist() for row in range(6)]
    assert rows == [[0], [], [0, 1, 2], [1, 2], [1, 3], [1, 2, 3, 4]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_draws_as_torch_without_mkl(seed, rate):
    """Given its probabilities as a tensor, `torch.bernoulli` does without MKL in every build."""
    generator = seeded(seed)
    x = generator.randn(20, 30)
    torch.randn(20, 30)
    ours = generator.dropout(x, rate)
    kept = torch.bernoulli(torch.full(x.shape, 1 - rate, dtype=torch.float64)).numpy() == 1
    np.testing.assert_array_equal(ours != 0, kept)
    theirs = nn.functional.dropout(torch.tensor(x), rate).numpy()
    # PyTorch's own mask may be another, but what it keeps it scales alike.
    both = kept & (theirs != 0)
    assert both.any()
    np.testing.assert_array_equal(ours[both], theirs[both])


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_certain_dropout_draws_nothing(rate):
    generator = seeded(5)
    x = np.arange(1, 7, dtype=np.float32)
    check(generator.dropout(x, rate), nn.functional.dropout(torch.tensor(x), rate).numpy())
    same_place(generator)


def test_dropout_keeps_jax_arrays_and_refuses_other_rates():
    x = jnp.ones((4, 5))
    dropped = TorchGenerator(0).dropout(x, 0.3)
    assert isinstance(dropped, jax.Array)
    np.testing.assert_array_equal(dropped, TorchGenerator(0).dropout(np.asarray(x), 0.3))
    with pytest.raises(ConfigError, match=r"rate is 1\.5; it must be from 0 to 1"):
        TorchGenerator(0).dropout(x, 1.5)


def probabilities(*shape, seed=0):
    noise = np.random.default_rng(seed)
    chances = np.exp(2 * noise.standard_normal(shape)).astype(np.float32)
    chances[noise.random(shape) < 0.2] = 0
    return chances


def test_multinomial_a_thousand_times():
    generator, chances = seeded(123), probabilities(65)
    ours = [generator.multinomial(chances) for _ in range(1000)]
    theirs = [torch.multinomial(torch.tensor(chances), 1).numpy() for _ in range(1000)]
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) > 10


@pytest.mark.parametrize("shape", [(7,), (50_257,), (3, 40), (1, 1)])
@pytest.mark.parametrize(("num_samples", "replacement"), [(1, False), (1, True), (200, True)])
def test_multinomial_shapes(shape, num_samples, replacement):
    generator, chances = seeded(1), probabilities(*shape) + np.float32(1e-6)
    for _ in range(3):
        ours = generator.multinomial(chances, num_samples, replacement=replacement)
        theirs = torch.multinomial(torch.tensor(chances), num_samples, replacement=replacement)
        check(ours, theirs.numpy())
    same_place(generator)


@pytest.mark.parametrize("shape", [(30,), (4, 30)])
def test_multinomial_without_replacement(shape):
    generator, chances = seeded(9), probabilities(*shape)
    for _ in range(100):
        ours = generator.multinomial(jnp.asarray(chances), 5)
        check(ours, torch.multinomial(torch.tensor(chances), 5).numpy())


def test_multinomial_races_in_float32():
    """Of this seed's 3000, two arrive so close together that float64 would order them otherwise."""
    generator, chances = seeded(92), (np.arange(1, 3001) / 7).astype(np.float32)
    check(generator.multinomial(chances, 3000), torch.multinomial(torch.tensor(chances), 3000))


@pytest.mark.parametrize(
    ("chances", "num_samples", "message"),
    [
        ([0.5, -0.5], 1, "finite numbers of 0 or more"),
        ([0.5, np.nan], 1, "finite numbers of 0 or more"),
        ([0.5, np.inf], 1, "finite numbers of 0 or more"),
        ([0.0, 0.0], 1, "num_samples is 1; .* above probability 0, which is 0"),
        ([0.5, 0.0], 2, "num_samples is 2; .* above probability 0, which is 1"),
        ([0.5, 0.5], 0, "num_samples is 0; it must be from 1"),
    ],
)
def test_what_cannot_be_drawn_from_is_refused(chances, num_samples, message):
    with pytest.raises(ConfigError, match=message):
        TorchGenerator(0).multinomial(np.array(chances, np.float32), num_samples)
    if num_samples == 1:
        with pytest.raises(ConfigError, match="num"):
            TorchGenerator(0).multinomial(np.array(chances, np.float32), 9, replacement=True)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 1000, 50_000])
@pytest.mark.parametrize("seed", SEEDS)
def test_randperm(n, seed):
    generator = seeded(seed)
    check(generator.randperm(n), torch.randperm(n).numpy())
    same_place(generator)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("length", "batch_size"), [(5, 2), (1, 1), (1000, 16)])
@pytest.mark.parametrize("shuffle", [True, False])
def test_loader_order_over_epochs(seed, length, batch_size, shuffle):
    generator = seeded(seed)
    loader = DataLoader(range(length), batch_size=batch_size, shuffle=shuffle, drop_last=True)
    for _ in range(3):
        order = generator.loader_order(length, shuffle=shuffle)
        whole = length - length % batch_size
        check(order[:whole], torch.cat(list(loader)).numpy())
        assert sorted(order) == list(range(length))
        check(generator.rand(1), torch.rand(1).numpy())


CONFIGS = [
    ModelConfig(
        vocab_size=11,
        context_length=6,
        num_layers=2,
        num_heads=2,
        embed_dim=8,
        tie_head=tie_head,
        qkv_bias=qkv_bias,
        positions=positions,
        dropout=0.1,
    )
    for tie_head, qkv_bias, positions in itertools.product(
        (True, False), (True, False), ("learned", "sinusoidal")
    )
]
# The tables have fewer than 16 numbers; and more than are made at once, with some left over.
SMALL = ModelConfig(vocab_size=5, context_length=3, num_layers=1, num_heads=1, embed_dim=1)
LARGE = ModelConfig(vocab_size=1201, context_length=7, num_layers=3, num_heads=3, embed_dim=87)


@pytest.mark.parametrize("config", [*CONFIGS, SMALL, LARGE])
@pytest.mark.parametrize("seed", [0, 123])
def test_init_like_torch(config, seed):
    torch.manual_seed(seed)
    theirs = torch_reference.to_params(torch_reference.GPT(config))
    ours = init_like_torch(config, seed)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: check(a, np.ascontiguousarray(b), 4e-6), ours, theirs)


def test_init_like_torch_refuses_an_unsettled_vocabulary():
    with pytest.raises(ConfigError, match="vocab_size is 0"):
        init_like_torch(ModelConfig(vocab_size=0), 0)


def test_torch_is_not_imported():
    code = "import sys, jaxgpt.parity.torch_random; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


TINY = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
SHAPE = ModelConfig(
    vocab_size=97,
    context_length=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    embed_dim=32,
    hidden_dim=48,
    qkv_bias=False,
    out_bias=False,
    mlp_bias=False,
    tie_head=False,
    norm="rms",
    positions="rope",
    gate="silu",
)
WIDE = {"head_dim": 16, "qk_norm": "head"}
# A class of transformers, its settings, and ours.
FAMILIES = {
    "Llama": ({}, {}),
    "Llama with biases": (
        {"attention_bias": True, "mlp_bias": True},
        {"qkv_bias": True, "out_bias": True, "mlp_bias": True},
    ),
    "Llama tied": ({"tie_word_embeddings": True}, {"tie_head": True}),
    "Mistral": ({"head_dim": 6}, {"head_dim": 6}),
    "Qwen2": ({}, {"qkv_bias": True}),
    "Qwen3": ({"head_dim": 16}, WIDE),
    "Gemma3": (
        {"head_dim": 16},
        WIDE | {"norm_offset": True, "norm_place": "both", "tie_head": True, "gate": "gelu"},
    ),
    "Olmo2": ({}, {"qk_norm": "width", "norm_place": "after"}),
    "Olmo3": ({}, {"qk_norm": "width", "norm_place": "after"}),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("seed", [0, 123])
def test_init_like_the_classes_of_transformers(name, seed):
    settings, own = FAMILIES[name]
    kind = name.split()[0]
    text = "Text" if kind == "Gemma3" else ""
    theirs = getattr(transformers, f"{kind}{text}Config")(**TINY, **settings)
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(theirs)
    ours = init_like_torch(dataclasses.replace(SHAPE, **own), seed, theirs.pad_token_id)
    blocks, state = ours["blocks"], model.state_dict()
    check(ours["embed"]["tokens"], state["model.embed_tokens.weight"], 1e-7)
    if "head" in ours:
        check(ours["head"]["weight"].T.copy(), state["lm_head.weight"], 1e-7)
    for i in range(3):
        rows = np.split(blocks["attn"]["qkv"]["weight"][i].T, 8)
        parts = [np.concatenate(part) for part in (rows[:4], rows[4:6], rows[6:])]
        found = dict(zip(("self_attn.q", "self_attn.k", "self_attn.v"), parts, strict=True))
        found["self_attn.o"] = blocks["attn"]["out"]["weight"][i].T.copy()
        for part in ("gate", "up", "down"):
            found[f"mlp.{part}"] = blocks["mlp"][part]["weight"][i].T.copy()
        for part, weight in found.items():
            check(weight, state[f"model.layers.{i}.{part}_proj.weight"], 1e-7)
    ends = {path.split(".")[-1]: leaf for path, leaf in flatten(ours).items() if leaf.ndim < 3}
    scale = next(x for path, x in state.items() if "norm" in path)
    assert (ends["scale"] == scale[0].item()).all()
    assert not ends.get("bias", np.zeros(1)).any()
    assert sum(leaf.size for leaf in flatten(ours).values()) == model.num_parameters()


@pytest.mark.slow_but_first
@pytest.mark.parametrize("name", THEIRS)
def test_init_like_the_classes_with_experts(name):
    torch.manual_seed(5)
    state = THEIRS[name]().state_dict()
    theirs = to_ours(lambda path: jnp.asarray(state[path].numpy()), OURS[name])
    ours = init_like_torch(OURS[name], 5)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    jax.tree.map(lambda a, b: check(a, np.ascontiguousarray(b), 1e-7), ours, theirs)
