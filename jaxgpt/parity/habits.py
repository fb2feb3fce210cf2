"""How a GPT may be computed otherwise with the same weights, as a value that `walk` takes."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from jaxtyping import Array

from jaxgpt.config import ModelConfig


def _unchanged(x: Array) -> Array:
    return x


@dataclass(frozen=True)
class Habits:
    """How an implementation computes, apart from its config and weights; by default as jaxgpt."""

    operand: Callable[[Array], Array] = _unchanged
    """Applied to both factors of every matrix product, such as a rounding to bfloat16."""
    product: Callable[[Array], Array] = _unchanged
    """Applied to what comes out of every linear map but the head."""
    dropout: Callable[[Array], Array] = _unchanged
    """Applied wherever a model in training drops: to the embedding, each layer's attention weights,
    its attention's output and its feed-forward's, in this order."""
    looks_ahead: int | None = 0
    """Tokens after its own that a query may look at; None is no mask."""
    scale: Callable[[int], float] = lambda head_dim: 1 / math.sqrt(head_dim)
    """The factor of the scores, of the head's width."""
    unbiased_variance: bool = False
    """Whether a layer norm's variance divides by D - 1."""
    epsilons: Mapping[str, float] = field(default_factory=dict)
    """What is added to the variance in `norm1`, `norm2` or `norm`, where it is not the config's."""
    norms: Mapping[str, Literal["rms", "none"]] = field(default_factory=dict)
    """What stands for layer norm at `norm1`, `norm2` or `norm`: RMSNorm without a bias, or none."""
    norm_place: Literal["before", "sum", "after"] = "before"
    """Whether a block norms what enters attention and feed-forward, the sums, or what they give."""
    shortcuts: Mapping[str, Literal["normed", "none"]] = field(default_factory=dict)
    """What is added to what `attn` or `mlp` gives, if not the stream that enters the norm."""
    position_offset: int = 0
    """The position of the first token."""
    qkv: Callable[[Array], Array] = _unchanged
    """Applied to the joint queries, keys and values before they are told apart, such as to put
    their columns into another order."""
    activation: Callable[[Array], Array] | None = None
    """What stands in GELU's place."""
    order: tuple[int, ...] | None = None
    """The layers in the order in which they stand, if it is another."""
    layers: Mapping[int, tuple[ModelConfig, "Habits"]] = field(default_factory=dict)
    """Config and habits of the layers that have their own."""

    @property
    def attends_as_jaxgpt(self) -> bool:
        """Whether queries, keys and values become contexts as in the model itself."""
        names = ("operand", "dropout", "looks_ahead", "scale")
        return all(getattr(self, name) == getattr(Habits, name) for name in names)


AS_JAXGPT = Habits()
