"""A run in its folder, whatever it trains: stepped, measured, kept and published to its end."""

import os
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import jax
from jax.sharding import Mesh

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.hosts.group import this_group
from jaxgpt.hosts.join import this_watch
from jaxgpt.hosts.version import versions
from jaxgpt.run_config import FolderOptions
from jaxgpt.terminal import note
from jaxgpt.training.background import Background
from jaxgpt.training.compiled_step import compile_step
from jaxgpt.training.loop import Hooks, fit, visit
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.overfitting import validation_loss
from jaxgpt.training.profile import profiling
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_card import CARD, last_value
from jaxgpt.training.run_folder import claim
from jaxgpt.training.run_state import Start, check_attention
from jaxgpt.training.step import TrainState

PICTURE = "loss.png"
PROFILE = "profile"
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopSignal:
    """While entered, notes Ctrl-C, SIGTERM and SIGUSR1 instead of dying of them.

    The loop asks `stopped` after each step, saves, and leaves. A second signal ends the process at
    once, with exit code 128 + n. SIGHUP is ignored, so that a closed terminal does not end a run.
    Of several processes, all stop at one step, whichever got the signal.
    """

    number: int | None = None

    def __init__(self, step: int) -> None:
        self._step, self._watch = step, this_watch()
        self._noted = False  # a signal of this process's own, not another's

    def stopped(self) -> bool:
        """Whether to stop here; to be asked once after each step."""
        if self._watch is None:
            return self.number is not None
        self._step += 1
        if not self._watch.stopped(self._step):
            return False
        self.number = self._watch.signal
        return True

    def __enter__(self) -> "StopSignal":
        handlers = dict.fromkeys(_SIGNALS, self._note) | {signal.SIGHUP: signal.SIG_IGN}
        self._before = {number: signal.signal(number, of) for number, of in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._noted:
            os._exit(128 + number)
        self.number, self._noted = number, True
        if self._watch is not None:
            self._watch.ask_to_stop(number)
        note(f"\n{signal.Signals(number).name}: finishing this step, then saving")


@dataclass(frozen=True)
class Job:
    """What one kind of training brings to `run_job`."""

    config: TrainConfig
    """The training, with all that its data settles."""
    start: Start
    """What to step from: the beginning, or the newest checkpoint."""
    template: TrainState
    """Shapes, dtypes and shardings of the state."""
    make_loss: Callable[..., LossFunction]
    """The loss, by `config`, whose dropout rate may be traced, and by what is `frozen`."""
    batch: Callable[[int], Any]
    """The batch on the mesh that comes after so many rows of data."""
    evaluate: Callable[[TrainState], dict[str, float]]
    """What is measured on held-out data."""
    save: Callable[[TrainState, int, float | None], object]
    """Writes the checkpoint of a state that has had so many rows, and has that validation loss."""
    publish: Callable[[Reporter, int], None]
    """Writes picture and card of what a reporter has recorded, of so many rows."""
    headline: Callable[[int], Iterable[str]]
    """What is said before the first step of a run that ends after so many rows."""
    sample: Callable[[TrainState], str] | None = None
    """Something that the model writes, to be shown."""
    frozen: tuple[Any, ...] = ()
    """What a step takes beside the state, and leaves as it is."""
    unit: str = "tokens"
    """What the targets of a step are."""
    saves_behind: bool = True
    """Whether `save` may run beside steps, as it may if devices of other processes take no part."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended: the state, the records of metrics.jsonl, and the signal that stopped it."""

    state: TrainState = field(repr=False)
    config: TrainConfig
    records: list[dict[str, Any]]
    signal: int | None = None


def run_job(
    folder: Path,
    settings: Any,
    options: FolderOptions,
    config: TrainConfig,
    open_job: Callable[[Mesh], Job],
) -> tuple[Job, RunResult]:
    """Train what `open_job` gives in `folder`, as `config` says, and leave all that came of it.

    `settings` are what the folder is claimed with, by which it is known when the run goes on; of
    `config`, what depends on data may be open until `open_job` settles it, within the claim.
    Raises a JaxgptError, and leaves the folder as it was, if the settings, the folder or the job
    will not do.
    """
    group = this_group()
    if jax.process_count() != group.count:
        raise ConfigError(
            "JAX has joined several processes by itself; join them by jaxgpt.join_processes instead"
        )
    if group.count > 1:
        group.check_alike(
            {"out": str(folder), **to_dict(settings), "options": to_dict(options), **versions()}
        )
    mesh = make_mesh(config)
    check_attention(config, mesh)
    with claim(folder, settings, options):
        job = open_job(mesh)
        return job, _carry_out(job, folder, mesh, options.profile)


def _carry_out(job: Job, folder: Path, mesh: Mesh, profile: int) -> RunResult:
    config, start = job.config, job.start
    rows_at = partial(start.rows_at, batch_size=config.batch_size)

    background = Background(job.saves_behind and start.step < config.steps)

    def keep(state: TrainState, reporter: Reporter) -> object:
        step = int(state.step)
        loss = validation_loss(reporter.records, step)
        return background(lambda state: job.save(state, rows_at(step), loss), state)

    def hooks(reporter: Reporter) -> Hooks:
        return Hooks(
            evaluate=job.evaluate,
            save=partial(keep, reporter=reporter),
            publish=lambda: job.publish(reporter, rows_at(last_value(reporter.records, "step", 0))),
            sample=job.sample,
        )

    if start.step >= config.steps:
        return RunResult(start.state, config, _complete(job, folder, hooks))
    reporter = Reporter(folder, config.steps, start.step, unit=job.unit)
    for line in job.headline(rows_at(config.steps)):
        reporter.say(line)
    step_fn = compile_step(config, mesh, job.template, job.make_loss)
    traced = profile if this_group().is_first else 0
    with (
        background,
        StopSignal(start.step) as stop,
        profiling(step_fn, traced, folder / PROFILE, reporter) as step_fn,
    ):
        if start.step + min(config.checkpoint_every, config.evaluate_every) < config.steps:
            background.prepare(start.state)
        state = fit(
            start.state,
            config,
            step_fn=lambda *given: step_fn(*given, *job.frozen),
            batch_at=lambda step: job.batch(rows_at(step)),
            hooks=replace(hooks(reporter), stopped=stop.stopped),
            reporter=reporter,
        )
    reporter.close()
    return RunResult(state, config, reporter.records, stop.number)


def _complete(
    job: Job, folder: Path, make_hooks: Callable[[Reporter], Hooks]
) -> list[dict[str, Any]]:
    """The records of a run at or beyond its last step, once what is missing has been made.

    That may be the last measurement, the last sample, and the pages that `Hooks.publish` writes,
    such as after a kill at the run's very end.
    """
    state, step, records = job.start.state, job.start.step, read_metrics(folder)
    names = [name for item in records if item["step"] == step for name in item]
    measure = not any(name.startswith("validation_") for name in names)
    sample = job.sample is not None and "sample" not in names
    paths = {name: folder / name for name in (PICTURE, CARD)}
    lost = [name for name, at in paths.items() if not (at.is_file() and at.stat().st_size > 0)]
    measure, sample, lost = this_group().from_first("lacks", [measure, sample, lost])
    if step == job.config.steps and (measure or sample or lost):
        what = ["a measurement"] * measure + ["a sample"] * sample + lost
        note(f"{folder} has taken all its steps, but lacks {', '.join(what)}; it is made now")
        reporter = Reporter(folder, job.config.steps, step, unit=job.unit)
        hooks = make_hooks(reporter)
        visit(state, job.config, (measure, sample, False), hooks, reporter)
        hooks.publish()
        reporter.close()
        records = reporter.records
    note(f"{folder} is already finished at step {step}")
    return records
