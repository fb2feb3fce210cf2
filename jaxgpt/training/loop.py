"""The only training loop."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from jaxgpt.config import TrainConfig
from jaxgpt.errors import JaxgptError, NonFiniteError
from jaxgpt.training.report import Reporter
from jaxgpt.training.step import TrainState

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]
"""A jitted step: state, batch, step number -> state, and metrics that may not be there yet.

The metrics are `loss` (nats per target), `grad_norm`, `targets` and `learning_rate`.
"""


@dataclass(frozen=True)
class Hooks:
    """What a run does beside stepping: measure, save, write, and then publish how it stands."""

    evaluate: Callable[[TrainState], dict[str, float]]
    save: Callable[[TrainState], object]
    publish: Callable[[], None] = lambda: None
    sample: Callable[[TrainState], str] | None = None
    stopped: Callable[[], bool] = lambda: False


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    step_fn: Step,
    batch_at: Callable[[int], Any],
    hooks: Hooks,
    reporter: Reporter,
) -> TrainState:
    """Step from `state.step` to `config.steps`, or until `hooks.stopped()`, and return the state.

    `batch_at(step)` gives the batch of a step, counted from 0, so a resumed run sees what it would
    have seen. A run that begins is measured before its first step, and recorded at step 0.
    Metrics are fetched one step late: the device never waits for them. Raises NonFiniteError when
    a loss or gradient is not finite; the parameters are then those before that step.
    """
    first = int(state.step)
    pending: tuple[int, dict[str, Any]] | None = None
    if not first and not reporter.records:
        _evaluate(state, config, hooks, reporter)
    for step in range(first, config.steps):
        state, metrics = step_fn(state, batch_at(step), np.int32(step))
        if pending is not None:
            _report(*pending, config, reporter)
        pending = (step + 1, metrics)
        last, stopped = step + 1 == config.steps, hooks.stopped()
        due = [last or (step + 1) % every == 0 for every in _intervals(config)]
        if stopped or any(due):
            _report(*pending, config, reporter)
            pending = None
            with reporter.pause():
                _visit(state, config, due, stopped, hooks, reporter)
        if stopped:
            break
    return state


def _intervals(config: TrainConfig) -> tuple[int, int, int]:
    return config.evaluate_every, config.sample_every, config.checkpoint_every


def _visit(
    state: TrainState,
    config: TrainConfig,
    due: list[bool],
    stopped: bool,
    hooks: Hooks,
    reporter: Reporter,
) -> None:
    evaluate, sample, save = due
    if evaluate:
        _evaluate(state, config, hooks, reporter)
    if save or stopped:
        hooks.save(state)
    if sample and hooks.sample is not None:
        _sample(hooks.sample, state, reporter)
    if save or stopped:
        hooks.publish()


def _evaluate(state: TrainState, config: TrainConfig, hooks: Hooks, reporter: Reporter) -> None:
    step, measured = int(state.step), hooks.evaluate(state)
    reporter.record({"step": step, **measured})
    figures = "  ".join(f"{name.replace('_', ' ')} {x:.4f}" for name, x in measured.items())
    reporter.say(f"step {step:>{len(str(config.steps))}}/{config.steps}  {figures}")


def _sample(write: Callable[[TrainState], str], state: TrainState, reporter: Reporter) -> None:
    try:
        text = write(state)
    except JaxgptError as error:  # such as an id that the tokenizer has no text for
        reporter.say(f"warning: no sample: {error}")
        return
    reporter.record({"step": int(state.step), "sample": text})
    reporter.say("\n".join("    | " + line for line in text.strip().splitlines()))


def _report(
    step: int,
    metrics: dict[str, Any],
    config: TrainConfig,
    reporter: Reporter,
) -> None:
    """Fetch a step's metrics, refuse what is not finite, and show the rest."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    if not np.isfinite([values["loss"], values["grad_norm"]]).all():
        raise NonFiniteError(
            f"step {step} has loss {values['loss']} and gradient norm {values['grad_norm']}; its "
            f"update was not made. Its batch is number {step - 1} of seed {config.seed}. Lower "
            "--learning-rate or set --gradient-clip, and go on from the last checkpoint with "
            "--allow-config-change"
        )
    targets = int(values.pop("targets"))
    if not targets:
        reporter.empty_step(step)
        return
    record = step % config.log_every == 0 or step in (1, config.steps)
    reporter.train(step, values, targets, record=record)
