"""A GPT with overrides: what another implementation computes otherwise with the same weights.

An override is another config or parameter, or a function at one of the model's record points
(`activations.recorded_names`), named as inside a block: `mlp.hidden` is that of every block.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgpt.config import ModelConfig
from jaxgpt.model.embedding import sinusoidal_positions
from jaxgpt.model.gpt import GPT
from jaxgpt.model.layers import Params, layer_norm
from jaxgpt.model.schema import names_of
from jaxgpt.model.transformer import norm_of


class Norm(NamedTuple):
    """A norm in place of the model's."""

    compute: Callable[..., Array] = layer_norm
    """Of x, with `scale`, `bias` and `epsilon`; `layer_norm` stands for the model's own."""
    epsilon: float | None = None
    """What is added to the variance, where it is not the config's."""


Change = Callable[[Array], Array]

Changes = Mapping[str, Callable[["Points"], Array]]
"""Record points, and what stands there, of what was computed up to there."""


@dataclass(frozen=True)
class Variant:
    """A GPT and its overrides: all that decides what is computed on given tokens."""

    config: ModelConfig
    params: Params
    at: Changes = field(default_factory=dict)
    """What stands at a point; the model's own value there has been seen."""
    after: Mapping[str, Change] = field(default_factory=dict)
    """What the model goes on with from a point, without being seen there: such as a rounding of
    what enters a matrix product, or other columns for queries, keys and values."""
    norms: Mapping[str, Norm] = field(default_factory=dict)
    """What stands for the model's norm at `norm1`, `norm2`, `norm`, or after them."""
    position_offset: int = 0
    """The position of the first token."""
    order: tuple[int, ...] | None = None
    """The layers in the order in which they stand, if it is another."""
    layers: Mapping[int, "Variant"] = field(default_factory=dict)
    """Layers that have overrides of their own; their parameters stand with the others."""

    def changed(
        self,
        config: Mapping[str, Any] | None = None,
        leaves: Mapping[str, Change] | None = None,
        **others: Any,
    ) -> "Variant":
        """The variant with more overrides; `leaves` are those of parameters, by path."""
        merged = {
            name: {**getattr(self, name), **value} if isinstance(value, dict) else value
            for name, value in others.items()
        }

        def made(path: Any, leaf: Array) -> Array:
            change = (leaves or {}).get(".".join(names_of(path)))
            return change(leaf) if change else leaf

        params = jax.tree_util.tree_map_with_path(made, self.params) if leaves else self.params
        return replace(self, config=replace(self.config, **(config or {})), params=params, **merged)

    def in_layer(self, layer: int, other: "Variant") -> "Variant":
        """The variant with one layer as in `other`."""
        blocks = jax.tree.map(
            lambda own, new: own if new is own else own.at[layer].set(new[layer]),
            *(self.params["blocks"], other.params["blocks"]),
        )
        params, layers = self.params | {"blocks": blocks}, {**self.layers, layer: other}
        return replace(self, params=params, layers=layers)

    def norm(self, name: str) -> Norm:
        """The norm of that name, with its epsilon."""
        norm = self.norms.get(name, Norm())
        compute = norm_of(self.config) if norm.compute is layer_norm else norm.compute
        return Norm(compute, norm.epsilon or self.config.norm_epsilon)

    @property
    def spread(self) -> str:
        """What the epsilon is added to."""
        rms = self.config.norm == "rms"
        return "the mean square in an RMS norm" if rms else "the variance in a layer norm"

    def model(self) -> GPT:
        """The GPT without what is overridden at points."""
        config, params = self.config, self.params
        if config.tie_head:
            params = {name: part for name, part in params.items() if name != "head"}
        if self.position_offset and config.positions in ("learned", "sinusoidal"):
            tables = params["embed"]
            table = tables.get("positions")
            if table is None:
                table = sinusoidal_positions(config.context_length, config.embed_dim)
            table = table[self.position_offset :].astype(tables["tokens"].dtype)
            params = params | {"embed": tables | {"positions": table}}
            config = replace(config, positions="learned", context_length=len(table))
        if self.order:
            order = jnp.array(self.order)
            params = params | {"blocks": jax.tree.map(lambda leaf: leaf[order], params["blocks"])}
        return GPT(config, params)


class Points:
    """Record of one block, or of what stands outside all: applies overrides and keeps what it sees.

    `params` has those of the block, or of the last norm, and `form` what its attention is given
    beside them. `seen` has by point what stands there; `in` is the stream that enters the block or
    the last norm.
    """

    def __init__(self, variant: Variant, params: Params, form: Mapping[str, Any], **seen: Array):
        self.variant, self.params, self.form, self.seen = variant, params, form, seen
        self._at = {name: _NORMED[name] for name in variant.norms} | {**variant.at}

    def __call__(self, point: str, x: Array) -> Array:
        """What the model goes on with from `point`, where it computed `x`."""
        self.seen[point] = x
        if point in self._at:
            self.seen[point] = self._at[point](self)
        return self.variant.after.get(point, lambda x: x)(self.seen[point])

    def norm(self, name: str, x: Array) -> Array:
        """The norm of that name, of another input."""
        compute, epsilon = self.variant.norm(name)
        return compute(x, **self.params[name], epsilon=epsilon)


_NORMED: Changes = {
    "norm1": lambda points: points.norm("norm1", points.seen["in"]),
    "post_norm1": lambda points: points.norm("post_norm1", points.seen["attn.out"]),
    "norm2": lambda points: points.norm("norm2", points.seen["middle"]),
    "post_norm2": lambda points: points.norm("post_norm2", points.seen["mlp.out"]),
    "norm": lambda points: points.norm("norm", points.seen["in"]),
}


def rms_norm(x: Array, *, scale: Array, bias: Array, epsilon: float) -> Array:
    """Root mean square norm (Zhang and Sennrich, 2019), in float32; it has no bias."""
    wide = x.astype(jnp.float32)
    mean = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean + epsilon)).astype(x.dtype) * scale


def unbiased_norm(x: Array, *, scale: Array, bias: Array, epsilon: float) -> Array:
    """Layer norm whose variance divides by D - 1."""
    # The root of (D / (D - 1)) v + e is the factor's root times that of v + e (D - 1) / D.
    share = (x.shape[-1] - 1) / x.shape[-1]
    normed = layer_norm(x, scale=scale, bias=0 * bias, epsilon=epsilon * share)
    return normed * math.sqrt(share) + bias


def no_norm(x: Array, **_: Array | float) -> Array:
    """`x` itself."""
    return x
