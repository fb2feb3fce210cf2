"""Why two recordings differ: the known causes, tried one after another on the model that is known.

To try one is to run the known model with the change that the cause is, and to look whether the
other's activations are met.
"""

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from jaxgpt.parity.diagnosis.causes import (
    OPERATIONS,
    Cause,
    Causes,
    anywhere,
    epsilons,
    operation_of,
    precisions,
)
from jaxgpt.parity.diagnosis.differences import Row, distance, rounding, roundings, unit_of
from jaxgpt.parity.overrides import Variant
from jaxgpt.parity.recordings.recording import Recording
from jaxgpt.parity.trace import activation_names, run

_MOST = 6  # causes at once; a comparison that needs more is of two different models
_SHRINKS = 4  # how many times smaller a rounding that is the cause must make a mean difference
_INDISTINGUISHABLE = 2  # two causes whose worst remainders differ by less fit equally well


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
            row = Row("activation", name, *distance(seen[name], target.activations[name]), bound)
            if give_up(len(rows), row):
                raise _GivenUp
            rows.append(row)

        try:
            with jax.default_matmul_precision("highest"):
                run(variant, jnp.asarray(target.tokens), note)
        except _GivenUp:
            return None
        return Trial(variant, rows, seen)


@dataclass(frozen=True)
class Diagnosis:
    """The causes found, each said of the other model, and what they leave."""

    causes: tuple[str, ...]
    trial: Trial
    """With all causes applied."""
    rounds_to: str = ""
    """The dtype of a coarser rounding that is one of the causes."""


def diagnose(
    variant: Variant,
    target: Recording,
    unit: float,
    *,
    overrides_only: bool = False,
    most: int | None = None,
) -> Diagnosis:
    """Apply known causes to `variant` until it meets the activations of `target`, or none helps.

    One is accepted if with it the first activation that differed does no more, nor any before it;
    of several the one that reaches furthest. `unit` is what one rounding may be off. With
    `overrides_only` the parameters are held fixed; `most` is how many causes are looked for.
    """
    attempt = Attempt(target, unit)
    most = _MOST if most is None else most
    trial, causes = attempt.run(variant), []
    assert trial is not None  # the tokens fit where nothing is changed
    while (first := trial.first) is not None and len(causes) < most:
        here = (*operation_of(first.name).causes, *anywhere(_layers(trial, first)))
        found = _best(attempt, trial, here, first, overrides_only) or _best(
            attempt, trial, _earlier(trial, first, target), first, overrides_only, whole=True
        )
        if found is None:
            break
        words, trial = found
        causes.append(words)
    if trial.first is not None and not overrides_only:
        coarser = _coarser(attempt, trial, trial.first)
        if coarser is not None:
            cause, trial = coarser
            return Diagnosis((*causes, cause.words), trial, cause.rounds_to)
    return Diagnosis(tuple(causes), trial)


def _layers(trial: Trial, first: Row) -> range:
    """Where the first difference may stand: from the last activation that agrees to `first`."""

    def layer(name: str) -> int:
        parts = name.split(".")
        return int(parts[1]) if parts[0] == "blocks" else last * (name != "embed")

    last = trial.variant.config.num_layers - 1
    agreed = trial.rows[trial.reach - 1].name if trial.reach else "embed"
    through = int(agreed.count(".") == 1)  # blocks.i is what leaves the layer
    return range(layer(agreed) + through, layer(first.name) + 1)


def _earlier(trial: Trial, first: Row, target: Recording) -> tuple[Causes, ...]:
    """The causes that may stand before the first difference seen without having shown.

    Any, where the target does not tell all that comes before; else only what is so small that it
    comes out of what rounding explains over several layers.
    """
    names = activation_names(trial.variant.config.num_layers, trial.variant.config)
    if all(name in target.activations for name in names[: names.index(first.name)]):
        return (epsilons,)
    return tuple(kind for operation in OPERATIONS.values() for kind in operation.causes)


def _best(
    attempt: Attempt,
    trial: Trial,
    kinds: tuple[Causes, ...],
    first: Row,
    overrides_only: bool,
    *,
    whole: bool = False,
) -> tuple[str, Trial] | None:
    """The cause that reaches furthest, in words; of the first kind with which everything agrees.

    With `whole` only such a one counts.
    """
    accepted: list[tuple[Causes, str, Trial]] = []
    for kind in kinds:
        if any(tried.first is None for *_, tried in accepted):
            break
        for cause in kind(trial.variant):
            if overrides_only and cause.variant.params is not trial.variant.params:
                continue
            for words, variant in _places(cause, trial.variant, first):
                tried = attempt.run(variant, give_up=_no_help(trial, whole))
                if tried is not None:
                    accepted.append((kind, words, tried))
                    break
    if not accepted:
        return None
    best_kind, _, best = max(accepted, key=lambda item: (item[2].reach, -item[2].worst))
    # Numbers of one setting, such as a very small epsilon, may not be told apart.
    alike = [
        words
        for kind, words, tried in accepted
        if kind is best_kind
        and tried.reach == best.reach
        and tried.worst <= _INDISTINGUISHABLE * best.worst
        and (tried is best or _settings(tried.variant) != _settings(best.variant))
    ]
    return _either(alike), best


def _either(causes: list[str]) -> str:
    """The alternatives as one sentence, in which what they begin with is said once."""
    first, *others = (cause.split() for cause in causes)
    columns = zip(first, *others, strict=False)
    shared = sum(1 for _ in itertools.takewhile(lambda words: len(set(words)) == 1, columns))
    return " or ".join([causes[0], *(" ".join(words[shared:]) for words in others)])


def _settings(variant: Variant) -> list[Any]:
    """The numbers in a variant, of the model and of the layers that have their own."""
    return [
        (each.config, {name: norm.epsilon for name, norm in each.norms.items()})
        for each in (variant, *variant.layers.values())
    ]


def _places(cause: Cause, variant: Variant, first: Row) -> Iterator[tuple[str, Variant]]:
    """The cause in all layers, and in the one alone that shows the first difference."""
    yield cause.words, cause.variant
    parts = first.name.split(".")
    reordered = cause.variant.order != variant.order  # which no layer does alone
    if parts[0] == "blocks" and variant.config.num_layers > 1 and not reordered:
        layer = int(parts[1])
        yield f"{cause.words}, in layer {layer} alone", variant.in_layer(layer, cause.variant)


def _no_help(trial: Trial, whole: bool) -> GiveUp:
    """Whether a row of a cause's trial shows that it is not the one."""

    def no_help(place: int, row: Row) -> bool:
        if row.differs:
            return whole or place <= trial.reach
        # A difference just above what rounding explains may fall below it by chance.
        return place == trial.reach and 2 * row.relative > trial.rows[place].relative

    return no_help


def _coarser(attempt: Attempt, trial: Trial, first: Row) -> tuple[Cause, Trial] | None:
    """The coarser rounding that best explains the first difference, if it leaves what it may."""
    wanted = attempt.target.activations[first.name]

    def apart(tried: Trial) -> float:
        return float(np.abs(tried.activations[first.name] - wanted).mean())

    accepted = []
    for cause in precisions(trial.variant):
        unit = unit_of(cause.rounds_to)
        tried = attempt.run(cause.variant, unit, lambda _, row: row.differs)
        if tried is not None and _SHRINKS * apart(tried) <= apart(trial):
            accepted.append((apart(tried), cause, tried))
    return min(accepted, key=lambda item: item[0])[1:] if accepted else None
