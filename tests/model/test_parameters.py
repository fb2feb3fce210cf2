"""The schema, and the parameters that it makes."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model import schema
from jaxgpt.model.parameters import count_parameters, init_block, init_params, parameter_shapes
from jaxgpt.presets import PRESETS

RNG = jax.random.key(0)
CONFIG = ModelConfig(vocab_size=11, context_length=6, num_layers=2, num_heads=2, embed_dim=8)
UNTIED = dataclasses.replace(CONFIG, tie_head=False)


def normal(std, shape, *splits):
    key = RNG
    for parts, which in splits:
        key = jax.random.split(key, parts)[which]
    return std * jax.random.normal(key, shape, jnp.float32)


def drawn_by_hand():
    """Each matrix of UNTIED, by its path."""
    blocks, written = (4, 2), 0.02 / math.sqrt(2 * 2)
    wanted = {
        "embed.tokens": normal(0.02, (11, 8), (4, 0)),
        "embed.positions": normal(0.02, (6, 8), (4, 1)),
        "head.weight": normal(0.02, (8, 11), (4, 3)),
    }
    for layer in range(2):
        way = blocks, (2, layer)
        wanted |= {
            f"blocks.{layer}.attn.qkv.weight": normal(0.02, (8, 24), *way, (2, 0), (2, 0)),
            f"blocks.{layer}.attn.out.weight": normal(written, (8, 8), *way, (2, 0), (2, 1)),
            f"blocks.{layer}.mlp.up.weight": normal(0.02, (8, 32), *way, (2, 1), (2, 0)),
            f"blocks.{layer}.mlp.down.weight": normal(written, (32, 8), *way, (2, 1), (2, 1)),
        }
    return wanted


@pytest.mark.slow
def test_each_matrix_is_drawn_from_its_own_part_of_the_key():
    params = jax.jit(lambda key: init_params(UNTIED, key))(RNG)
    for path, leaf in jax.jit(drawn_by_hand)().items():
        part, *names = path.split(".")
        found = params[part]
        for name in names:
            found = (
                {i: jax.tree.map(lambda x, i=i: x[i], found) for i in range(2)}[int(name)]
                if name.isdecimal()
                else found[name]
            )
        np.testing.assert_array_equal(found, leaf, err_msg=path)


def test_initial_parameters():
    wide = ModelConfig(vocab_size=999, num_layers=1, num_heads=1, embed_dim=64, tie_head=False)
    init = jax.jit(lambda rng: init_params(wide, rng))
    params = init(RNG)
    for table in (*params["embed"].values(), params["head"]["weight"]):
        # Five standard deviations of the estimate.
        assert table.std() == pytest.approx(0.02, rel=5 / np.sqrt(2 * table.size))
    assert (params["norm"]["scale"] == 1).all()
    assert (params["norm"]["bias"] == 0).all()
    jax.tree.map(np.testing.assert_array_equal, init(RNG), params)
    assert (params["embed"]["tokens"] != init(jax.random.key(1))["embed"]["tokens"]).any()


def test_the_start_of_the_blocks():
    config = ModelConfig(vocab_size=11, num_layers=8, num_heads=2, embed_dim=64)
    blocks = jax.jit(lambda rng: init_params(config, rng)["blocks"])(RNG)
    into_the_stream = {"['attn']['out']['weight']", "['mlp']['down']['weight']"}
    for path, leaf in jax.tree.leaves_with_path(blocks):
        name = jax.tree_util.keystr(path)
        if name.endswith("['bias']"):
            assert (leaf == 0).all(), name
        elif name.endswith("['scale']"):
            assert (leaf == 1).all(), name
        else:
            # Five standard deviations of the estimate in each layer.
            std = 0.02 / math.sqrt(2 * 8) if name in into_the_stream else 0.02
            spread = np.asarray(leaf).std(axis=(1, 2)) / std
            assert (np.abs(spread - 1) < 5 / math.sqrt(2 * leaf[0].size)).all(), name
            assert len(np.unique(leaf[:, 0, 0])) == 8, f"{name}: layers start alike"


def test_an_unsettled_vocabulary_is_refused():
    with pytest.raises(ConfigError, match="vocab_size is 0"):
        init_params(dataclasses.replace(CONFIG, vocab_size=0), RNG)


# Untied without the bias of queries, keys and values; tied without; tied with, as GPT-2 is.
COUNTS = {
    "gpt2": (163_009_536, 124_412_160, 124_439_808),
    "gpt2-medium": (406_212_608, 354_749_440, 354_823_168),
    "gpt2-large": (838_220_800, 773_891_840, 774_030_080),
    "gpt2-xl": (1_637_792_000, 1_557_380_800, 1_557_611_200),
}


@pytest.mark.parametrize("preset", COUNTS)
def test_counts_of_gpt2s_sizes(preset):
    plain = dataclasses.replace(PRESETS[preset].model, qkv_bias=False)
    configs = (dataclasses.replace(plain, tie_head=False), plain, PRESETS[preset].model)
    assert tuple(map(count_parameters, configs)) == COUNTS[preset]


def test_counting_allocates_nothing():
    before = {id(array) for array in jax.live_arrays()}
    vast = ModelConfig(vocab_size=10**9, num_layers=1, num_heads=1, embed_dim=2**14)
    assert count_parameters(vast) > 10**13
    assert not [array for array in jax.live_arrays() if id(array) not in before and array.size > 2]
    leaves = jax.tree.leaves(parameter_shapes(CONFIG))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in leaves)


def test_a_block_alone_has_the_schemas_shapes():
    block, shapes = init_block(CONFIG, RNG), parameter_shapes(CONFIG)["blocks"]
    assert jax.tree.map(lambda leaf: (2, *leaf.shape), block) == jax.tree.map(
        lambda leaf: leaf.shape, shapes
    )


def test_heads_and_hidden_width_may_be_set():
    config = dataclasses.replace(CONFIG, num_heads=6, num_kv_heads=2, head_dim=4, hidden_dim=10)
    blocks = parameter_shapes(config)["blocks"]
    assert blocks["attn"]["qkv"]["weight"].shape == (2, 8, (6 + 2 * 2) * 4)
    assert blocks["attn"]["out"]["weight"].shape == (2, 6 * 4, 8)
    assert blocks["mlp"]["up"]["weight"].shape == (2, 8, 10)
    sections = schema.qkv_sections(40, 24)
    assert sections == {"query": slice(0, 24), "key": slice(24, 32), "value": slice(32, 40)}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"num_kv_heads": 3}, "num_kv_heads is 3; it must divide num_heads 2, or be 0"),
        ({"head_dim": -1}, "head_dim is -1"),
        ({"hidden_dim": -1}, "hidden_dim is -1"),
        ({"num_heads": 3}, "nearby divisors are .*; or give a head_dim"),
    ],
)
def test_heads_that_cannot_be_are_refused(changes, complaint):
    with pytest.raises(ConfigError, match=complaint):
        dataclasses.replace(CONFIG, **changes)


def test_a_leaf_is_found_below_whatever_holds_the_parameters():
    leaf = schema.find(["mu", "blocks", "attn", "qkv", "weight"])
    assert leaf is not None
    assert leaf.path == "blocks.attn.qkv.weight"
    assert schema.sharded_axis(["blocks", "attn", "qkv", "weight"]) == -2
    assert schema.sharded_axis(["embed", "tokens"]) == -1
    assert schema.sharded_axis(["norm", "scale"]) is None
    assert not schema.decays(["blocks", "attn", "qkv", "bias"])


def test_a_weight_of_ones_own_decays_and_is_shared():
    assert schema.find(["blocks", "experts", "weight"]) is None
    assert schema.decays(["blocks", "experts", "weight"])
    assert schema.sharded_axis(["blocks", "experts", "weight"]) == -2
    assert not schema.decays(["blocks", "experts", "slope"])
    assert schema.sharded_axis(["blocks", "experts", "slope"]) is None


def test_paths_stand_once():
    paths = [leaf.path for leaf in schema.SCHEMA]
    assert len(set(paths)) == len(paths)
