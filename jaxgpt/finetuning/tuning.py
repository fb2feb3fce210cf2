"""A fine-tuning run from a pretrained model to its last checkpoint, over the one training loop."""

import hashlib
import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.config import FolderOptions, TrainConfig
from jaxgpt.errors import ConfigError, ResourceError
from jaxgpt.finetuning.checks import refuse_idle_settings
from jaxgpt.finetuning.lora_file import save_adapters
from jaxgpt.finetuning.saved import ADAPTERS_FOLDER
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.finetuning.trainable import Trainable, restore_trained, trainable
from jaxgpt.model.layers import Params
from jaxgpt.terminal import note
from jaxgpt.training.checkpoint import LoadedModel, save
from jaxgpt.training.loop import Hooks, Step, fit
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.memory import check_memory
from jaxgpt.training.mesh import batch_sharding, make_mesh, state_shardings
from jaxgpt.training.metrics import read_metrics
from jaxgpt.training.plots import Panel, plot_curves
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_card import last_value, write_card
from jaxgpt.training.run_folder import check_folder, claim
from jaxgpt.training.run_state import (
    begin,
    check_attention,
    compile_step,
    resume,
    state_template,
    with_shardings,
)
from jaxgpt.training.step import TrainState
from jaxgpt.training.stop import StopSignal

CURVES = "loss.png"


@dataclass(frozen=True)
class Job:
    """What one kind of fine-tuning brings to the loop."""

    loss_fn: LossFunction
    """Of the whole model's parameters."""
    batch: Callable[[int], Any]
    """The batch of a step, counted from 0."""
    measure: Callable[[Params], dict[str, float]]
    """What is watched on held-out records, of the whole model's parameters."""
    task: Mapping[str, Any]
    """What the checkpoints say of themselves: `LoadedModel.task`."""
    data: str
    """The fingerprint of the records."""
    panels: Sequence[Panel]
    """The curves that are drawn."""
    unit: str = "tokens"
    """What the targets of a step are."""
    sample: Callable[[Params], str] | None = None
    """An answer to show."""
    facts: Mapping[str, str] = field(default_factory=dict)
    """Rows of the run's README.md."""


@dataclass(frozen=True)
class TuningResult:
    """How a run ended: the whole model, the records of metrics.jsonl, the signal that stopped it.

    Compiled functions of the model's parameters find them on the run's `mesh`.
    """

    model: LoadedModel
    records: list[dict[str, Any]]
    mesh: Mesh
    signal: int | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps were taken."""
        return self.model.step >= self.model.train_config.steps


def train_config(config: TuningConfig, base: LoadedModel, num_rows: int) -> TrainConfig:
    """The training that `config` asks for, on `num_rows` rows; fewer than a batch are warned of.

    Raises:
        ConfigError: settings that no run can be stepped by.
    """
    train = TrainConfig(
        model=replace(base.config, dropout=config.dropout),
        data=base.train_config.data,
        optimizer=config.optimizer,
        init_from=config.init_from,
        seed=config.seed,
        steps=config.steps or math.ceil(config.epochs * num_rows / config.batch_size),
        batch_size=config.batch_size,
        gradient_accumulation=config.gradient_accumulation,
        compute_dtype=config.compute_dtype,
        remat=config.remat,
        fsdp=config.fsdp,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        log_every=config.log_every,
        sample_every=config.sample_every,
    )
    if config.batch_size > num_rows:
        warnings.warn(
            f"batch_size {config.batch_size:,} is more than the {num_rows:,} rows to train on, so "
            f"that a step takes each about {config.batch_size / num_rows:.1f} times; lower "
            "--batch-size",
            stacklevel=3,
        )
    return train


def data_fingerprint(*parts: Iterable[Any]) -> str:
    """The sha256, in hex, of all that is trained and measured on."""
    digest = hashlib.sha256()
    for part in parts:
        for item in part:
            digest.update(repr(item).encode())
        digest.update(b"\n")
    return digest.hexdigest()


def check_run(run: str | Path, config: TuningConfig, options: FolderOptions) -> None:
    """Raise before anything is read what `tune` would raise of the folder.

    Raises:
        ConfigError: a folder that cannot be written, belongs to something else, or holds the model
            to begin with; a setting that changes nothing.
        CheckpointError: a folder that holds a run with other settings.
    """
    refuse_idle_settings(config)
    run, base = Path(run), os.path.realpath(config.init_from)
    if os.path.commonpath([os.path.realpath(run), base]) == os.path.realpath(run):
        raise ConfigError(
            f"--out {run} holds the model to begin with, {config.init_from}; name another --out"
        )
    check_folder(run, config, options)


def tune(
    run: str | Path,
    config: TuningConfig,
    options: FolderOptions,
    base: LoadedModel,
    train: TrainConfig,
    job: Job,
    origin: str,
    *,
    command: str = "",
) -> TuningResult:
    """Train what `config` says of `base` on `job`, and leave all that came of it in folder `run`.

    The same call on the same folder goes on from the newest checkpoint. `base` holds float32
    parameters, which are left as they are; `origin` is the fingerprint of those in
    `config.init_from`, to which `base` may have added new ones. Raises a JaxgptError before
    anything is written if the settings or the folder will not do.
    """
    run, mesh = Path(run), make_mesh(train)
    check_attention(train, mesh)
    key, _ = jax.random.split(jax.random.key(config.seed))
    parts = trainable(base.params, config, key)
    # The base stays in memory, whatever is trained of it.
    check_memory(train.model, train.fsdp, trained=_count(parts.trained), frozen=_count(base.params))
    frozen = jax.device_put(parts.frozen, state_shardings(parts.frozen, mesh))
    join = jax.jit(parts.join)
    task = dict(job.task) | ({"base": origin} if parts.adapters else {})
    data = data_fingerprint([job.data, origin])
    with claim(run, config, options):
        template = state_template(jax.eval_shape(lambda: parts.trained), train, mesh)
        state = _begin_or_resume(run, config, options, parts, train, data, template, mesh)
        if int(state.step) >= train.steps:
            note(f"{run} is already finished at step {int(state.step)}")
            records, signal = read_metrics(run), None
        else:
            reporter = Reporter(run, train.steps, int(state.step), unit=job.unit)
            reporter.say(_headline(parts, job))

            def keep(state: TrainState) -> None:
                if parts.adapters:  # first: a run whose checkpoint is there is not run again
                    save_adapters(
                        run / ADAPTERS_FOLDER,
                        state.params,
                        config.lora,
                        origin,
                        init_from=config.init_from,
                        tokenizer=config.tokenizer,
                        task=job.task,
                        overwrite=True,
                    )
                stored = replace(state, params=parts.stored(state.params, frozen))
                save(run, stored, train, base.tokenizer, data, task)

            sample = job.sample
            hooks = Hooks(
                evaluate=lambda state: job.measure(join(state.params, frozen)),
                save=keep,
                publish=lambda: _publish(run, config, parts, job, reporter, command),
                sample=sample and (lambda state: sample(join(state.params, frozen))),
            )
            step_fn = compile_step(train, mesh, template, partial(parts.loss, job.loss_fn))
            state, signal = _fit(
                state, train, job, hooks, reporter, mesh, lambda *given: step_fn(*given, frozen)
            )
            records = reporter.records
    params = join(state.params, frozen)
    model = LoadedModel(train.model, params, base.tokenizer, int(state.step), train, dict(job.task))
    return TuningResult(model, records, mesh, signal)


def _begin_or_resume(
    run: Path,
    config: TuningConfig,
    options: FolderOptions,
    parts: Trainable,
    train: TrainConfig,
    data: str,
    template: TrainState,
    mesh: Mesh,
) -> TrainState:
    stored = jax.eval_shape(parts.stored, parts.trained, parts.frozen)
    template_stored = replace(template, params=with_shardings(stored, mesh))
    subject = "the data or the model to begin with is"
    state = resume(run, template_stored, data, options, subject=subject)
    if state is not None:
        return replace(state, params=restore_trained(state.params, config))
    # A copy: each step gives up the state that it is given.
    return begin(jax.tree.map(jnp.copy, parts.trained), train, template)


def _fit(
    state: TrainState,
    train: TrainConfig,
    job: Job,
    hooks: Hooks,
    reporter: Reporter,
    mesh: Mesh,
    step_fn: Step,
) -> tuple[TrainState, int | None]:
    """The state at the end, and the signal that stopped the run before, if one did."""
    sharding = batch_sharding(mesh)
    with StopSignal() as stop:
        state = fit(
            state,
            train,
            step_fn=step_fn,
            batch_at=lambda step: jax.device_put(tuple(job.batch(step)), sharding),
            hooks=replace(hooks, stopped=lambda: stop.number is not None),
            reporter=reporter,
        )
    reporter.close()
    return state, stop.number


def _headline(parts: Trainable, job: Job) -> str:
    trained, frozen = _count(parts.trained), _count(parts.frozen)
    facts = ", ".join(f"{name} {value}" for name, value in job.facts.items())
    return f"{trained:,} parameters are trained, {frozen:,} frozen; {facts}"


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _publish(
    run: Path,
    config: TuningConfig,
    parts: Trainable,
    job: Job,
    reporter: Reporter,
    command: str,
) -> None:
    """The curves and the card of the run so far; neither is worth the end of a run."""
    records = reporter.records
    names = {name for item in records for name in item if name.startswith("validation_")}
    rows = {
        "begun with": config.init_from,
        "parameters trained": f"{_count(parts.trained):,}",
        **job.facts,
        "steps": f"{last_value(records, 'step', 0):,}",
        **{name.replace("_", " "): f"{last_value(records, name):.4f}" for name in sorted(names)},
    }
    title = (
        f"{run.absolute().name}: {job.task['kind']}, begun with {config.init_from}, "
        f"{_count(parts.trained):,} parameters trained"
    )
    try:
        plot_curves(records, job.panels, run / CURVES, title)
        write_card(run, config, rows, records, command, [CURVES])
    except (OSError, ResourceError) as error:
        reporter.say(f"warning: {CURVES} and README.md of {run} could not be written: {error}")
