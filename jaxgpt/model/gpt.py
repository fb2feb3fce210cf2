"""Tokens -> logits: the whole architecture, as a Flax module over plain functions."""

from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.config import ModelConfig
from jaxgpt.model.agreement import Shapes, check_params, check_rank, leaf_shapes
from jaxgpt.model.attention import KeyValueCache
from jaxgpt.model.embedding import (
    embed,
    positions_within,
    sinusoidal_positions,
    unembed,
)
from jaxgpt.model.layers import Params, dropout, layer_norm
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.record import Record, unrecorded, within
from jaxgpt.model.schema import dimensions
from jaxgpt.model.transformer import block, block_settings, stack, unstack


class GPT(nnx.Module):
    """A GPT (Radford et al. 2019): a config and its parameters, called on tokens.

    Building one is free, so it is built where it is used: `GPT(config, params)(tokens)` inside a
    jitted loss. `params` is the nested dict that `init_params` makes; a gradient with respect to
    it is a dict of the same form. Raises ConfigError for parameters that the config does not have.
    """

    def __init__(self, config: ModelConfig, params: Params):
        check_agreement(config, params)
        self.config = config
        self.params = nnx.Param(params)

    def __call__(
        self,
        tokens: Int[Array, "*B T"],
        *,
        rng: PRNGKeyArray | None = None,
        record: Record = unrecorded,
    ) -> Float[Array, "*B T V"]:
        """Logits of the token that follows each token; with `rng`, in training, with dropout.

        `record` sees each activation (`activations.recorded_names`) and gives what to go on with.
        Raises ConfigError if T exceeds the context length, and DataError for an id outside the
        vocabulary, unless it is traced.
        """
        return record("logits", self._logits(self.hidden(tokens, rng=rng, record=record)))

    def hidden(
        self,
        tokens: Int[Array, "*B T"],
        *,
        segments: Int[Array, "*B T"] | None = None,
        rng: PRNGKeyArray | None = None,
        record: Record = unrecorded,
        **options: Any,
    ) -> Float[Array, "*B T D"]:
        """Hidden vectors, which the head turns into logits; `options` go to `stack`.

        Where several texts lie in one row, `segments` numbers them; each is computed as if it had a
        row of its own. Raises as a call does.
        """
        config, params = self.config, self.params.get_value()
        embed_rng, stack_rng = (None, None) if rng is None else jax.random.split(rng)
        with jax.named_scope("embedding"):
            positions = None if segments is None else positions_within(segments)
            x = embed(tokens, **self._tables(), positions=positions)
            x = record("embed", _share_rows(dropout(x, config.dropout, embed_rng)))
        options |= {"segments": segments, "rng": stack_rng, "record": record}
        x = stack(x, params["blocks"], config, **options)
        with jax.named_scope("norm"):
            return record("norm", layer_norm(x, **params["norm"], epsilon=config.norm_epsilon))

    def decode(
        self,
        tokens: Int[Array, "B T"],
        cache: list[KeyValueCache],
        start: Int[Array, " B"],
        last: Int[Array, " B"],
        record: Record = unrecorded,
    ) -> tuple[Float[Array, "B V"], list[KeyValueCache]]:
        """Logits after token `last[b]` of each row's T new ones, and the cache with them in it.

        Row b's new tokens begin at position `start[b]`. `params["blocks"]` must be the list that
        `decoding_params` makes.
        """
        check_rank("tokens", tokens, "B T")
        config, params = self.config, self.params.get_value()
        positions = start[:, None] + jnp.arange(tokens.shape[1])
        x = record("embed", embed(tokens, **self._tables(), positions=positions))
        new_cache = []
        for i, (layer, layer_cache) in enumerate(zip(params["blocks"], cache, strict=True)):
            layer = jax.tree.map(jnp.transpose, layer)
            settings = block_settings(config) | {"cache": layer_cache, "start": start}
            x, layer_cache = block(x, **layer, **settings, record=within(record, f"blocks.{i}"))
            new_cache.append(layer_cache)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        x = record("norm", layer_norm(x, **params["norm"], epsilon=config.norm_epsilon))
        return record("logits", self._logits(x)), new_cache

    def _tables(self) -> Params:
        config, tables = self.config, self.params.get_value()["embed"]
        if config.positions == "learned":
            positions = tables["positions"]
        else:
            positions = sinusoidal_positions(config.context_length, config.embed_dim)
            positions = positions.astype(tables["tokens"].dtype)
        return {"tokens_table": tables["tokens"], "positions_table": positions}

    def _logits(self, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        params = self.params.get_value()
        head = None if self.config.tie_head else params["head"]
        with jax.named_scope("head"):
            return unembed(x, tokens_table=params["embed"]["tokens"], head=head)


def _share_rows(x: Float[Array, "*B T D"]) -> Float[Array, "*B T D"]:
    """Keep the rows with their devices, where there is a mesh (`training.mesh.on_mesh`).

    XLA would else follow a table that is cut along D, and give every device all rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    rows = jax.sharding.PartitionSpec(mesh.axis_names)
    return x if mesh.empty else jax.lax.with_sharding_constraint(x, rows)


def check_agreement(config: ModelConfig, params: Params) -> None:
    """Raise ConfigError, as building a GPT does, for parameters that `config` does not have."""
    # Without the numbers that may be traced, which no shape depends on.
    check_params(config, params, _due_shapes(replace(config, dropout=0.0, norm_epsilon=1.0)))


@lru_cache(maxsize=64)
def _due_shapes(config: ModelConfig) -> Shapes:
    return leaf_shapes(parameter_shapes(config))


def decoding_params(params: Params) -> Params:
    """The parameters as `GPT.decode` reads them: a list of blocks, whose weights are `(out, in)`.

    A product of a few rows reads a weight faster along the axis that it contracts, as the tied head
    does (on CPU by a quarter).
    """
    blocks = [jax.tree.map(jnp.transpose, layer) for layer in unstack(params["blocks"])]
    return params | {"blocks": blocks}


def init_cache(config: ModelConfig, rows: int, cache_length: int, dtype=jnp.float32) -> list:
    """Key-value cache, empty, of `rows` sequences of up to `cache_length` tokens.

    A pair (keys, values) for each layer, each (rows, G, S, K).
    """
    sizes = dimensions(config)
    shape = (rows, sizes["G"], cache_length, sizes["K"])
    return [(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) for _ in range(config.num_layers)]
