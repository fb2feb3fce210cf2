"""What it takes to try a cause: the state that a walk starts from, and ways to change it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import jax
from jaxtyping import Array

from jaxgpt.config import ModelConfig
from jaxgpt.model.layers import Params
from jaxgpt.parity.habits import Habits


@dataclass(frozen=True)
class State:
    """All that decides what `walk` computes on given tokens."""

    config: ModelConfig
    params: Params
    habits: Habits = field(default_factory=Habits)


@dataclass(frozen=True)
class Cause:
    """One difference: what the other implementation does, and the state that does it too."""

    words: str
    """Said of the other implementation: a verb, and what follows it."""
    state: State
    """Changed in all layers."""
    rounds_to: str = ""
    """Of a cause that is a coarser rounding, the dtype rounded to: what it explains cannot be met
    exactly, for a last bit decides which way a number is rounded."""


Causes = Callable[[State], Iterator[Cause]]
"""The causes of one kind, which are alternatives to each other."""


def with_habits(state: State, **changes: Any) -> State:
    """The state with other habits."""
    return replace(state, habits=replace(state.habits, **changes))


def with_config(state: State, **changes: Any) -> State:
    """The state with another config."""
    return replace(state, config=replace(state.config, **changes))


def with_leaf(state: State, path: str, change: Callable[[Array], Array]) -> State:
    """The state with the leaf at `path` of a block changed, in all layers, if there is one."""

    def at(params: Params, names: list[str]) -> Params:
        first, *rest = names
        if first not in params:
            return params
        return params | {first: at(params[first], rest) if rest else change(params[first])}

    return replace(state, params=at(state.params, ["blocks", *path.split(".")]))


def in_layer(layer: int, old: State, new: State) -> State:
    """`old`, with one layer as in `new`."""
    blocks = jax.tree.map(
        lambda before, after: before if after is before else before.at[layer].set(after[layer]),
        old.params["blocks"],
        new.params["blocks"],
    )
    layers = {**old.habits.layers, layer: (new.config, new.habits)}
    state = replace(old, params=old.params | {"blocks": blocks})
    return with_habits(state, layers=layers)
