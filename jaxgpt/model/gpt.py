"""Tokens -> logits: the whole architecture, as a Flax module over plain functions."""

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, PRNGKeyArray

from jaxgpt.config import ModelConfig
from jaxgpt.model.agreement import Shapes, check_params, check_rank, leaf_shapes
from jaxgpt.model.embedding import (
    check_length,
    embed,
    positions_within,
    sinusoidal_positions,
    unembed,
)
from jaxgpt.model.layers import Params, dropout
from jaxgpt.model.layout import by_rows, from_table
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.model.record import Record, unrecorded, within
from jaxgpt.model.transformer import (
    Block,
    block_of,
    block_settings,
    is_local,
    norm_of,
    stack,
    unstack,
    with_block,
)


class GPT(nnx.Module):
    """A GPT (Radford et al. 2019): a config and its parameters, called on tokens.

    Building one is free, so it is built where it is used: `GPT(config, params)(tokens)` inside a
    jitted loss. `params` is the nested dict that `init_params` makes; a gradient with respect to
    it is a dict of the same form. `block`, or that of `with_block`, stands in place of the standard
    one. Raises ConfigError for parameters that the config does not have.
    """

    def __init__(
        self,
        config: ModelConfig,
        params: Params,
        *,
        block: Block | Callable[..., Any] | None = None,
    ):
        config = config if block is None else with_block(config, block)
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
            x = self._embed(tokens, None if segments is None else positions_within(segments))
            x = record("embed", by_rows(dropout(from_table(x), config.dropout, embed_rng)))
        options |= {"segments": segments, "rng": stack_rng, "record": record}
        x = stack(x, params["blocks"], config, **options)
        with jax.named_scope("norm"):
            return record("norm", self._norm(x))

    def decode(
        self,
        tokens: Int[Array, "B T"],
        cache: list[Any],
        start: Int[Array, " B"],
        last: Int[Array, " B"],
        record: Record = unrecorded,
    ) -> tuple[Float[Array, "B V"], list[Any]]:
        """Logits after token `last[b]` of each row's T new ones, and the cache with them in it.

        Row b's new tokens begin at position `start[b]`; what follows `last[b]` is padding. `cache`
        is what `init_cache` makes, or a call before this.
        """
        check_rank("tokens", tokens, "B T")
        config, params = self.config, self.params.get_value()
        places = jnp.arange(tokens.shape[1])
        positions = start[:, None] + places
        x = record("embed", self._embed(tokens, positions))
        given = {"start": start, "segments": (places > last[:, None]).astype(jnp.int32)}
        layers = [is_local(config, i) for i in range(config.num_layers)]
        settings = {
            local: block_settings(config, positions, local=local) | given for local in set(layers)
        }
        apply, new_cache = block_of(config), []
        for i, (layer, before) in enumerate(zip(unstack(params["blocks"]), cache, strict=True)):
            inner = within(record, f"blocks.{i}")
            own = settings[layers[i]]
            x, after = apply(x, **layer, **own, cache=before, record=inner)
            new_cache.append(after)
        x = jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]
        x = record("norm", self._norm(x))
        return record("logits", self._logits(x)), new_cache

    def _norm(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        config, params = self.config, self.params.get_value()
        return norm_of(config)(x, **params["norm"], epsilon=config.norm_epsilon)

    def _embed(
        self, tokens: Int[Array, "*B T"], positions: Int[Array, "*B T"] | None
    ) -> Float[Array, "*B T D"]:
        config, tables = self.config, self.params.get_value()["embed"]
        table = tables.get("positions")
        if config.positions == "sinusoidal":
            table = sinusoidal_positions(config.context_length, config.embed_dim)
            table = table.astype(tables["tokens"].dtype)
        elif table is None:
            check_length(tokens, config.context_length)
        x = embed(tokens, tokens_table=tables["tokens"], positions_table=table, positions=positions)
        # The factor is rounded as the table is, as where it comes from.
        return x * jnp.asarray(config.embed_dim**0.5, x.dtype) if config.scale_embedding else x

    def _logits(self, x: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        params = self.params.get_value()
        head = None if self.config.tie_head else params["head"]
        with jax.named_scope("head"):
            return unembed(x, tokens_table=params["embed"]["tokens"], head=head)


def check_agreement(config: ModelConfig, params: Params) -> None:
    """Raise ConfigError, as building a GPT does, for parameters that `config` does not have."""
    # Without the numbers that may be traced, which no shape depends on.
    check_params(config, params, _due_shapes(replace(config, dropout=0.0, norm_epsilon=1.0)))


@lru_cache(maxsize=64)
def _due_shapes(config: ModelConfig) -> Shapes:
    return leaf_shapes(parameter_shapes(config))


def init_cache(config: ModelConfig, rows: int, cache_length: int, dtype=jnp.float32) -> list[Any]:
    """Cache, empty, of `rows` sequences of up to `cache_length` tokens: one entry a layer.

    Of the standard block it is a pair (keys, values), each (rows, G, S, K); S is no more than the
    window in a layer that has one.
    """
    own, local = block_of(config).init_cache, min(cache_length, config.window)
    slots = (local if is_local(config, i) else cache_length for i in range(config.num_layers))
    return [own(config, rows, count, dtype) for count in slots]
