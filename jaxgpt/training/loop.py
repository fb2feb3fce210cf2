"""The only training loop."""

import math
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError, JaxgptError, NonFiniteError, ResourceError
from jaxgpt.terminal import one_line
from jaxgpt.training.overfitting import improved, newly_overfit
from jaxgpt.training.report import Reporter
from jaxgpt.training.step import TrainState, all_finite

_MOST_FAILURES = 3
_NOT_SHOWN = ("share/", "passes/")  # which the run's first lines have
_WINDOW, _DEVIATIONS = 128, 6  # by which a loss is far above those before it
_ADVICE = (
    "Lower --learning-rate, set --gradient-clip or raise --epsilon, and go on from the last "
    "checkpoint with --allow-config-change"
)

Step = Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Any]]]
"""A jitted step: state, batch, step number -> state, and metrics that may not be there yet.

The metrics are `loss` (nats per target), `grad_norm`, `targets`, and `learning_rate` if it is
to be shown, as of `train_step` with all but these three given. With `skipped` true, a step
that is not finite is no error.
"""


@dataclass(frozen=True)
class Hooks:
    """What a run does beside stepping: measure, save, write, and then publish how it stands."""

    evaluate: Callable[[TrainState], dict[str, float]] | None = None
    save: Callable[[TrainState], object] = lambda state: None
    """May give a Future: it is waited for at the next turn, and what it raises is raised then."""
    publish: Callable[[], object] = lambda: None
    sample: Callable[[TrainState], str] | None = None
    stopped: Callable[[], bool] = lambda: False


def fit(
    state: TrainState,
    config: TrainConfig,
    *,
    step_fn: Step,
    batch_at: Callable[[int], Any],
    hooks: Hooks | None = None,
    reporter: Reporter | None = None,
) -> TrainState:
    """Step from `state.step` to `config.steps`, or until `hooks.stopped()`, and return the state.

    `batch_at(step)` gives the batch of a step, counted from 0, so a resumed run sees what it would
    have seen. A run that begins is measured before its first step, and recorded at step 0.
    Metrics are fetched one step late: the device never waits for them. Without a `reporter`,
    progress is shown and nothing is written. Raises NonFiniteError when
    a loss or gradient is not finite, the parameters being those before that step, and when what is
    measured or would be saved is not; ResourceError if the last checkpoint, or three in a row,
    could not be written; ConfigError if a step has not the metrics of `Step`.
    """
    first, watch, hooks = int(state.step), SpikeWatch(), hooks or Hooks()
    if reporter is None:
        with closing(Reporter(None, config.steps, first)) as reporter:
            return fit(
                state, config, step_fn=step_fn, batch_at=batch_at, hooks=hooks, reporter=reporter
            )
    saves = _Saves(hooks.save, reporter)
    pending: tuple[int, dict[str, Any]] | None = None
    reporter.compiling()
    if not first and not reporter.records:
        _evaluate(state, config, hooks, reporter)
    for step in range(first, config.steps):
        state, metrics = step_fn(state, batch_at(step), np.int32(step))
        if pending is not None:
            _report(*pending, config, reporter, watch)
        pending = (step + 1, metrics)
        last, stopped = step + 1 == config.steps, hooks.stopped()
        intervals = config.evaluate_every, config.sample_every, config.checkpoint_every
        evaluate, sample, save = (last or (step + 1) % interval == 0 for interval in intervals)
        due = (evaluate, sample, save or stopped)
        if any(due):
            _report(*pending, config, reporter, watch)
            pending = None
            keep = partial(saves, last=last or stopped)
            with reporter.pause():
                visit(state, config, due, replace(hooks, save=keep), reporter)
        if stopped:
            break
    return state


def visit(
    state: TrainState,
    config: TrainConfig,
    due: tuple[bool, bool, bool],
    hooks: Hooks,
    reporter: Reporter,
) -> None:
    """Do of measuring, sampling and saving what is due between two steps.

    The best validation loss so far is saved in any case. Saving comes last: a run that goes on
    from a checkpoint does not do again what is before it.
    """
    evaluate, sample, save = due
    best = evaluate and _evaluate(state, config, hooks, reporter)
    if sample and hooks.sample is not None:
        _sample(hooks.sample, state, reporter)
    if save:
        hooks.publish()
    if save or best:
        hooks.save(state)


def _evaluate(state: TrainState, config: TrainConfig, hooks: Hooks, reporter: Reporter) -> bool:
    """Measure a state that is finite; whether it is the best so far."""
    if hooks.evaluate is None:
        return False
    step, measured = int(state.step), hooks.evaluate(state)
    odd = next((name for name, value in measured.items() if not math.isfinite(value)), None)
    if odd is not None:
        raise NonFiniteError(
            f"step {step} has {odd.replace('_', ' ')} {measured[odd]}; no checkpoint was made of "
            f"it. {_ADVICE}"
        )
    reporter.record({"step": step, **measured})
    shown = {name: x for name, x in measured.items() if not name.startswith(_NOT_SHOWN)}
    figures = "  ".join(f"{_words(name)} {x:.4f}" for name, x in shown.items())
    reporter.say(f"step {step:>{len(str(config.steps))}}/{config.steps}  {figures}")
    if found := newly_overfit(reporter.records):
        reporter.say(f"warning: {found}")
    return improved(reporter.records)


def _words(name: str) -> str:
    """A figure's name to be read, and behind it the source of which it is, if there are several."""
    figure, slash, source = name.partition("/")
    return figure.replace("_", " ") + (f" of {source}" if slash else "")


class _Saves:
    """Checkpoints, of which one that cannot be written is tried again at the next turn."""

    def __init__(self, save: Callable[[TrainState], object], reporter: Reporter) -> None:
        self._save, self._reporter, self._failures = save, reporter, 0
        self._pending: Future[Any] | None = None  # being written behind the steps

    def __call__(self, state: TrainState, *, last: bool) -> None:
        """Save a state that is finite; see `fit` for what is raised."""
        if not bool(all_finite(state)):
            raise NonFiniteError(
                f"after step {int(state.step)} the parameters or the optimizer's means are not "
                f"finite; no checkpoint was made of them. {_ADVICE}"
            )
        if self._pending is not None:
            self._attempt(self._pending.result, last=False)
        self._pending = self._attempt(partial(self._save, state), last)
        if last and self._pending is not None:
            self._attempt(self._pending.result, last)

    def _attempt(self, write: Callable[[], object], last: bool) -> Future[Any] | None:
        """What `write` began and has not ended; a failure is counted, told or raised."""
        try:
            found = write()
            if isinstance(found, Future):
                return found
            self._failures = 0
        except (ResourceError, OSError) as error:
            self._failures += 1
            if last or self._failures == _MOST_FAILURES:
                raise
            self._reporter.say(
                f"warning: {one_line(str(error))}; the checkpoint before is kept, and training "
                "goes on until the next"
            )


class SpikeWatch:
    """Tells of each loss whether it exceeds the mean of the last 128 by 6 standard deviations."""

    def __init__(self) -> None:
        self._losses: deque[float] = deque(maxlen=_WINDOW)

    def __call__(self, loss: float) -> bool:
        """Take the next step's loss; False before there are 128 to compare it with."""
        mean, deviation = np.mean(self._losses or 0), np.std(self._losses or 0)
        full = len(self._losses) == _WINDOW
        self._losses.append(loss)
        # A sum is rounded: losses that are all alike must not vary by it.
        return bool(full and loss > mean + _DEVIATIONS * max(deviation, 1e-6 * abs(mean)))


def _sample(write: Callable[[TrainState], str], state: TrainState, reporter: Reporter) -> None:
    try:
        text = write(state)
    except JaxgptError as error:  # such as an id that the tokenizer has no text for
        reporter.say(f"warning: no sample: {error}")
        return
    reporter.record({"step": int(state.step), "sample": text})
    reporter.say("\n".join("    | " + line for line in text.strip().splitlines()))


def _report(
    step: int, metrics: dict[str, Any], config: TrainConfig, reporter: Reporter, watch: SpikeWatch
) -> None:
    """Fetch a step's metrics, refuse what is not finite, and show the rest."""
    if missing := [name for name in ("loss", "grad_norm", "targets") if name not in metrics]:
        raise ConfigError(
            f"step_fn gives no {' and no '.join(missing)}; it must, as train_step does"
        )
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    skipped = values.pop("skipped", False)
    if not np.isfinite([values["loss"], values["grad_norm"]]).all():
        what = f"step {step} has loss {values['loss']} and gradient norm {values['grad_norm']}"
        batch = f"its batch is number {step - 1} of seed {config.seed}"
        if skipped:
            reporter.skipped_step(step, f"{what}; {batch}")
            return
        before = f", and {config.skip_bad_steps} were skipped before"
        raise NonFiniteError(
            f"{what}{before * bool(config.skip_bad_steps)}; its update was not made. "
            f"I{batch[1:]}. {_ADVICE}; --skip-bad-steps 1 leaves out a single such batch",
            step,
        )
    targets = int(values.pop("targets"))
    if not targets:
        reporter.empty_step(step)
        return
    if watch(values["loss"]):
        reporter.spike(step, values["loss"])
    record = step % config.log_every == 0 or step in (1, config.steps)
    reporter.train(step, values, targets, record=record)
