"""A walk from some state beside a recording: how far it agrees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.parity.diagnosis.cause import State
from jaxgpt.parity.diagnosis.differences import Row, activation_row, rounding, roundings
from jaxgpt.parity.recordings.recording import Recording
from jaxgpt.parity.walk import steps

GiveUp = Callable[[int, Row], bool]
"""Of a row and its number: whether to walk no further."""


@dataclass(frozen=True)
class Trial:
    """What walking from a state gives, beside the activations that were to be met."""

    state: State
    rows: list[Row]
    activations: Mapping[str, np.ndarray]

    @property
    def first(self) -> Row | None:
        """The first activation that still differs."""
        return next((row for row in self.rows if row.differs), None)

    @property
    def reach(self) -> int:
        """The number of activations that agree before the first that does not."""
        return next((i for i, row in enumerate(self.rows) if row.differs), len(self.rows))

    @property
    def worst(self) -> float:
        """The largest difference, in units of what rounding explains."""
        return max(row.relative / row.bound for row in self.rows)


class Attempt:
    """Walks on the target's tokens, measured against the target's activations."""

    def __init__(self, target: Recording, unit: float):
        self.target, self.unit = target, unit

    def walk(
        self, state: State, unit: float | None = None, give_up: GiveUp = lambda *_: False
    ) -> Trial | None:
        """The trial of `state`, with `unit` for what one rounding may be off, if it is another.

        None if `give_up` says so of a row, or the positions are too few for the habits.
        """
        target, rows, seen = self.target, [], {}
        if state.habits.position_offset + target.tokens.shape[1] > state.config.context_length:
            return None
        counts = roundings(state.config, target.tokens.shape[1])
        with jax.default_matmul_precision("highest"):
            for name, x in steps(
                state.config, state.params, jnp.asarray(target.tokens), state.habits
            ):
                if name not in target.activations:
                    continue
                seen[name] = np.asarray(x, np.float32)
                bound = rounding(counts[name], unit or self.unit)
                row = activation_row(name, seen[name], target.activations[name], bound)
                if give_up(len(rows), row):
                    return None
                rows.append(row)
        return Trial(state, rows, seen)
