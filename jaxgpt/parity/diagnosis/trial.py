"""A trace from some variant beside a recording: how far it agrees."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgpt.parity.diagnosis.differences import Row, activation_row, rounding, roundings
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.recordings.recording import Recording
from jaxgpt.parity.trace import run

GiveUp = Callable[[int, Row], bool]
"""Of a row and its number: whether to go no further."""


@dataclass(frozen=True)
class Trial:
    """What a trace from a variant gives, beside the activations that were to be met."""

    variant: Variant
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


class _GivenUp(Exception):
    """Ends a forward pass that has shown enough."""


class Attempt:
    """Traces on the target's tokens, measured against the target's activations."""

    def __init__(self, target: Recording, unit: float):
        self.target, self.unit = target, unit

    def run(
        self, variant: Variant, unit: float | None = None, give_up: GiveUp = lambda *_: False
    ) -> Trial | None:
        """The trial of `variant`, with `unit` for what one rounding may be off, if it is another.

        None if `give_up` says so of a row, or the positions are too few for the overrides.
        """
        target, rows, seen = self.target, [], {}
        length = target.tokens.shape[1]
        if variant.position_offset + length > variant.config.context_length:
            return None
        counts = roundings(variant.config, length)

        def note(name: str, x: Array) -> None:
            if name not in target.activations:
                return
            seen[name] = np.asarray(x, np.float32)
            bound = rounding(counts[name], unit or self.unit)
            row = activation_row(name, seen[name], target.activations[name], bound)
            if give_up(len(rows), row):
                raise _GivenUp
            rows.append(row)

        tokens = jnp.asarray(target.tokens)
        try:
            with jax.default_matmul_precision("highest"):
                run(variant, tokens, note)
        except _GivenUp:
            return None
        return Trial(variant, rows, seen)
