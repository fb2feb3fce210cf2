"""A run in its folder, whatever it trains: stepped, measured, kept and published to its end."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from jaxgpt.config import TrainConfig
from jaxgpt.run_config import FolderOptions
from jaxgpt.training.compiled_step import compile_step
from jaxgpt.training.completion import complete
from jaxgpt.training.loop import Hooks, fit
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.mesh import make_mesh
from jaxgpt.training.overfitting import validation_loss
from jaxgpt.training.profile import profiling
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_card import CARD, last_value
from jaxgpt.training.run_folder import claim
from jaxgpt.training.run_state import Start, check_attention
from jaxgpt.training.step import TrainState
from jaxgpt.training.stop import StopSignal

PICTURE = "loss.png"
PROFILE = "profile"


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
    mesh = make_mesh(config)
    check_attention(config, mesh)
    with claim(folder, settings, options):
        job = open_job(mesh)
        return job, _carry_out(job, folder, mesh, options.profile)


def _carry_out(job: Job, folder: Path, mesh: Mesh, profile: int) -> RunResult:
    config, start = job.config, job.start
    rows_at = partial(start.rows_at, batch_size=config.batch_size)

    def keep(state: TrainState, reporter: Reporter) -> None:
        step = int(state.step)
        job.save(state, rows_at(step), validation_loss(reporter.records, step))

    def hooks(reporter: Reporter) -> Hooks:
        return Hooks(
            evaluate=job.evaluate,
            save=partial(keep, reporter=reporter),
            publish=lambda: job.publish(reporter, rows_at(last_value(reporter.records, "step", 0))),
            sample=job.sample,
        )

    if start.step >= config.steps:
        samples, pages = job.sample is not None, (PICTURE, CARD)
        records = complete(
            folder, start.state, config, hooks, pages, samples=samples, unit=job.unit
        )
        return RunResult(start.state, config, records)
    reporter = Reporter(folder, config.steps, start.step, unit=job.unit)
    for line in job.headline(rows_at(config.steps)):
        reporter.say(line)
    step_fn = compile_step(config, mesh, job.template, job.make_loss)
    with StopSignal() as stop, profiling(step_fn, profile, folder / PROFILE, reporter) as step_fn:
        state = fit(
            start.state,
            config,
            step_fn=lambda *given: step_fn(*given, *job.frozen),
            batch_at=lambda step: job.batch(rows_at(step)),
            hooks=replace(hooks(reporter), stopped=lambda: stop.number is not None),
            reporter=reporter,
        )
    reporter.close()
    return RunResult(state, config, reporter.records, stop.number)
