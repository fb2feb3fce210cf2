"""The parameters of a GPT: their random start, their shapes and their number, by the schema."""

import math
import zlib

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from jaxgpt.config import ModelConfig
from jaxgpt.errors import ConfigError
from jaxgpt.model import schema
from jaxgpt.model.layers import STD, Params
from jaxgpt.model.nested import nest
from jaxgpt.model.schema import Leaf

_BLOCKS_SPLIT = ((4, 2),)
"""The way from the key of the model to that of its blocks, which the layers' are split from."""


def init_params(config: ModelConfig, key: PRNGKeyArray) -> Params:
    """Random parameters as GPT-2 starts: `embed`, `blocks` (stacked on L), `norm`, and `head`.

    `embed` has no `positions` where they are sinusoidal, and there is no `head` where it is tied.
    Raises ConfigError if the vocabulary's size is not settled.
    """
    if config.vocab_size < 1:
        raise ConfigError(f"vocab_size is {config.vocab_size}; set it to the tokenizer's number")
    layer_keys = jax.random.split(_follow(key, _BLOCKS_SPLIT), config.num_layers)

    def initial(leaf: Leaf) -> Array:
        if leaf.stacked:
            return jax.vmap(lambda key: _initial(leaf, config, key))(layer_keys)
        return _initial(leaf, config, key)

    return nest({leaf.path: initial(leaf) for leaf in schema.leaves(config)})


def init_block(config: ModelConfig, key: PRNGKeyArray) -> Params:
    """One block's random parameters: `norm1`, `attn`, `norm2` and `mlp`, without an axis of layers.

    Normal of standard deviation 0.02, norms at identity, biases at zero; the two projections that
    write into the residual stream get `0.02 / sqrt(2 L)`, so that the stream's variance does not
    grow with depth (GPT-2).
    """
    rows = [leaf for leaf in schema.leaves(config) if leaf.stacked]
    return nest({leaf.path: _initial(leaf, config, key) for leaf in rows})[schema.BLOCKS]


def parameter_shapes(config: ModelConfig) -> Params:
    """The parameters' shapes and dtypes, with no memory spent on them."""
    return jax.eval_shape(lambda key: init_params(config, key), jax.random.key(0))


def count_parameters(config: ModelConfig) -> int:
    """The number of parameters; a tied head counts once."""
    return sum(
        math.prod(leaf.shape(config)) * (config.num_layers if leaf.stacked else 1)
        for leaf in schema.leaves(config)
    )


def _initial(leaf: Leaf, config: ModelConfig, key: PRNGKeyArray) -> Array:
    shape = leaf.shape(config)
    if leaf.init in ("zeros", "ones", "identity"):
        one = leaf.init == "ones" or (leaf.init == "identity" and not config.norm_offset)
        return jnp.full(shape, one, jnp.float32)
    std = STD / math.sqrt(2 * config.num_layers) if leaf.init == "residual" else STD
    if leaf.split:
        key = _follow(key, leaf.split)
    else:
        key = jax.random.fold_in(key, zlib.crc32(leaf.path.encode()))
    return std * jax.random.normal(key, shape, jnp.float32)


def _follow(key: PRNGKeyArray, split: tuple[tuple[int, int], ...]) -> PRNGKeyArray:
    for parts, which in split:
        key = jax.random.split(key, parts)[which]
    return key
