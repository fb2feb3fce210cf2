"""Parameters in the form that decoding reads fastest, made from the model's own."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.model.layers import Params
from jaxgpt.model.transformer import unstack


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class DecodingParams:
    """Parameters for decoding: those of each layer by themselves, with every weight transposed.

    A loop over layers that slices the stacked leaves would copy every weight for every token; and a
    product of a few rows reads a weight faster along the axis that it contracts, as the tied head
    does (on CPU by a quarter).
    """

    layers: list[Params]
    rest: Params
    """All but the blocks."""

    @property
    def dtype(self) -> Any:
        """Of the numbers, and so of the cache."""
        return self.rest["embed"]["tokens"].dtype

    def as_params(self) -> Params:
        """The model's parameters, with the blocks in L parts; under jit it moves nothing."""
        blocks = tuple(jax.tree.map(lambda leaf: leaf.T[None], layer) for layer in self.layers)
        return self.rest | {"blocks": blocks}


def prepare_params(params: Params | DecodingParams) -> DecodingParams:
    """The parameters as decoding reads them, and float32 on a CPU; a copy, unless they are so.

    A CPU multiplies one row in bfloat16 many times slower than in float32.
    """
    if isinstance(params, DecodingParams):
        return params
    rest: Params = dict(params)
    if jax.default_backend() == "cpu":
        rest = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), rest)
    layers = [jax.tree.map(jnp.transpose, layer) for layer in unstack(rest.pop("blocks"))]
    return DecodingParams(layers, rest)
