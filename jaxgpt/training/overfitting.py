"""Overfitting in a run's records: which measurement is the best, and when to say that it was."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Records = Sequence[Mapping[str, Any]]
"""Those of metrics.jsonl."""

_LOSS = "validation_loss"
_RISE = 0.01  # of the best loss, and nats
_GAP = 2.0  # nats
_BATCHES = 5  # training losses of single batches, of which the mean is taken
MOST_PASSES = 16
"""Passes over a text beyond which more teach next to nothing (Muennighoff et al. 2023)."""


def validation_loss(records: Records, step: int) -> float | None:
    """The validation loss of a step, if it was measured."""
    return next((loss for at, loss in reversed(_measured(records)) if at == step), None)


def best(records: Records) -> tuple[int, float] | None:
    """The step of the lowest validation loss, and that loss, of all that can have a checkpoint."""
    return min(_measured(records)[::-1], key=lambda item: item[1], default=None)


def best_line(records: Records, unit: str = "") -> str:
    """The lowest validation loss and its step; empty where it is the last."""
    found = best(records)
    if found is None or improved(records):
        return ""
    return f"{found[1]:.4f} {unit}".rstrip() + f" at step {found[0]:,}"


def improved(records: Records) -> bool:
    """Whether the last measurement is the best; that before the first step has no checkpoint."""
    measured, found = _measured(records), best(records)
    return found is not None and measured[-1] == found


def newly_overfit(records: Records) -> str | None:
    """What the last measurement shows of overfitting, if none before it showed any.

    It does if the validation loss was above its lowest by more than a hundredth (of it, and of a
    nat) twice in a row, or if it is more than two nats above the mean of the last training losses.
    """
    found, lowest = None, (math.inf, 0)
    measured: list[tuple[float, int]] = []
    trained: deque[float] = deque(maxlen=_BATCHES)
    for item in records:
        if "loss" in item:
            trained.append(item["loss"])
        if _LOSS not in item:
            continue
        if found:
            return None
        measured.append((item[_LOSS], item["step"]))
        if len(measured) > 2:
            lowest = min(lowest, measured[-3])
        found = _overfit(lowest, measured[-2:], list(trained))
    return found


def _overfit(
    lowest: tuple[float, int], last_two: list[tuple[float, int]], trained: list[float]
) -> str | None:
    (least, step), last = lowest, last_two[-1][0]
    training = float(np.mean(trained or [last]))
    if min(last_two)[0] > least + _RISE * max(1, abs(least)):
        found = f"the validation loss is above that of step {step}, {least:.4f}, twice in a row;"
    elif last - training > _GAP:
        found = (
            f"the validation loss {last:.4f} is far above the training loss {training:.4f}; "
            "unless the held-out text is of another kind,"
        )
    else:
        return None
    return (
        f"{found} the model learns its training text by heart. The best checkpoint is kept "
        "(--best takes it); train for fewer steps, set --dropout 0.2, or take a smaller model or "
        "more text"
    )


def passes_line(steps: int, passes: float, what: str) -> str:
    """How often a run of so many steps takes what it is trained on."""
    digits = 0 if passes >= 10 else 1 if passes >= 0.1 else 4
    return f"{steps:,} steps make {passes:,.{digits}f} passes over the {what}"


def _measured(records: Records) -> list[tuple[int, float]]:
    return [(item["step"], item[_LOSS]) for item in records if _LOSS in item and item["step"]]
