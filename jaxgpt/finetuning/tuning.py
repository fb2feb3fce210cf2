"""A fine-tuning run from a pretrained model to its last checkpoint, over the one training loop."""

import math
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.config import FolderOptions, TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ConfigError
from jaxgpt.files import sha256
from jaxgpt.finetuning.bases import ADAPTERS_FOLDER
from jaxgpt.finetuning.checks import refuse_idle_settings
from jaxgpt.finetuning.lora_file import are_whole, save_adapters
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.finetuning.trainable import Trainable, restore, trainable
from jaxgpt.finetuning.tuning_card import CURVES, TuningCard
from jaxgpt.model.layers import Params
from jaxgpt.training.checkpoint import LoadedModel, save
from jaxgpt.training.compiled_step import compile_step
from jaxgpt.training.completion import complete
from jaxgpt.training.fits import check_tuning_step
from jaxgpt.training.loop import Hooks, Step, fit
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.memory import check_memory
from jaxgpt.training.mesh import batch_sharding, make_mesh, state_shardings
from jaxgpt.training.overfitting import passes_line, validation_loss
from jaxgpt.training.plots import Panel
from jaxgpt.training.report import Reporter
from jaxgpt.training.run_card import CARD
from jaxgpt.training.run_contents import SETTINGS
from jaxgpt.training.run_folder import check_folder, claim
from jaxgpt.training.run_state import (
    Start,
    begin,
    check_attention,
    resume,
    state_template,
    with_shardings,
)
from jaxgpt.training.step import TrainState
from jaxgpt.training.stop import StopSignal


@dataclass(frozen=True)
class Job:
    """What one kind of fine-tuning brings to the loop."""

    make_loss: Callable[[TrainConfig], LossFunction]
    """The loss of the whole model's parameters, by a config whose dropout rate may be traced."""
    batch: Callable[[int], Any]
    """The batch that begins at a row of the order."""
    num_rows: int
    """How many rows there are to train on."""
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
    new: Sequence[str] = ()
    """Parts of the model that the base does not have."""
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
    card: TuningCard
    """Of the run so far, to be written again with what is measured at the end."""
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
    ended = (chain(map(repr, part), "\n") for part in parts)
    return sha256(text.encode() for text in chain.from_iterable(ended))


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
    parts = trainable(base.params, config, key, job.new)
    # The base stays in memory, whatever is trained of it.
    check_memory(
        *(train.model, train.fsdp),
        trained=_count(parts.trained),
        frozen=_count(base.params),
        optimizer=train.optimizer,
    )
    template = state_template(jax.eval_shape(lambda: parts.trained), train, mesh)
    check_tuning_step(train, mesh.size, template, parts.frozen, lambda: job.batch(0))
    frozen = jax.device_put(parts.frozen, state_shardings(parts.frozen, mesh))
    join = jax.jit(parts.join)
    task = dict(job.task) | ({"base": origin} if parts.adapters else {})
    kept = task | {SETTINGS: to_dict(config)}
    data = data_fingerprint([job.data, origin])
    card = TuningCard(
        run, config, job.task["kind"], _count(parts.trained), job.panels, command, job.facts
    )
    with claim(run, config, options):
        start, frozen = _begin_or_resume(
            run, config, options, parts, frozen, train, data, template, mesh
        )
        state, rows_at = start.state, partial(start.rows_at, batch_size=config.batch_size)
        if not config.steps:  # the epochs that are left, also where batches were of another size
            left = max(0, config.epochs * job.num_rows - start.rows)
            train = replace(train, steps=start.step + math.ceil(left / config.batch_size))

        def keep_adapters(state: TrainState, folder: Path) -> None:
            if parts.adapters:
                save_adapters(
                    folder / ADAPTERS_FOLDER,
                    state.params,
                    config.lora,
                    origin,
                    new=parts.drawn(frozen),
                    init_from=config.init_from,
                    tokenizer=config.tokenizer,
                    task=job.task,
                    overwrite=True,
                )

        def keep(state: TrainState, reporter: Reporter) -> None:
            keep_adapters(state, run)  # first: a run whose checkpoint is there is not run again
            save(
                run,
                replace(state, params=parts.stored(state.params, frozen)),
                train,
                base.tokenizer,
                data,
                kept,
                rows=rows_at(int(state.step)),
                validation_loss=validation_loss(reporter.records, int(state.step)),
                write_more=partial(keep_adapters, state),
            )

        sample = job.sample
        write = sample and (lambda state: sample(join(state.params, frozen)))

        def hooks(reporter: Reporter) -> Hooks:
            return Hooks(
                evaluate=lambda state: job.measure(join(state.params, frozen)),
                save=partial(keep, reporter=reporter),
                publish=lambda: card.publish(reporter.records, reporter.say),
                sample=write,
            )

        if start.step >= train.steps:
            if not are_whole(run / ADAPTERS_FOLDER):
                keep_adapters(state, run)
            pages, samples = (CURVES, CARD), sample is not None
            records = complete(run, state, train, hooks, pages, samples=samples, unit=job.unit)
            signal = None
        else:
            reporter = Reporter(run, train.steps, int(state.step), unit=job.unit)
            reporter.say(_headline(parts, job))
            passes = rows_at(train.steps) / job.num_rows
            reporter.say(passes_line(train.steps, passes, "records to train on"))
            step_fn = compile_step(train, mesh, template, _loss_of(parts, job))
            state, signal = _fit(
                start,
                train,
                job,
                hooks(reporter),
                reporter,
                mesh,
                lambda *given: step_fn(*given, frozen),
            )
            records = reporter.records
    params = join(state.params, frozen)
    model = LoadedModel(train.model, params, base.tokenizer, int(state.step), train, dict(job.task))
    return TuningResult(model, records, mesh, card, signal)


def _loss_of(parts: Trainable, job: Job) -> Callable[..., LossFunction]:
    return lambda train, frozen: parts.loss(job.make_loss(train), frozen)


def _begin_or_resume(
    run: Path,
    config: TuningConfig,
    options: FolderOptions,
    parts: Trainable,
    frozen: Any,
    train: TrainConfig,
    data: str,
    template: TrainState,
    mesh: Mesh,
) -> tuple[Start, Any]:
    """What to step from, and the frozen parameters beside it."""
    stored = with_shardings(jax.eval_shape(parts.stored, parts.trained, parts.frozen), mesh)
    start = resume(
        run,
        replace(template, params=stored),
        train,
        data,
        options,
        subject="the data or the model to begin with is",
        first=template if parts.new else None,
    )
    if start is not None:
        trained, frozen = restore(start.state.params, config, frozen)
        return replace(start, state=replace(start.state, params=trained)), frozen
    # A copy: each step gives up the state that it is given.
    return Start(begin(jax.tree.map(jnp.copy, parts.trained), train, template)), frozen


def _fit(
    start: Start,
    train: TrainConfig,
    job: Job,
    hooks: Hooks,
    reporter: Reporter,
    mesh: Mesh,
    step_fn: Step,
) -> tuple[TrainState, int | None]:
    """The state at the end, and the signal that stopped the run before, if one did."""
    sharding, batch_size = batch_sharding(mesh), train.batch_size

    def batch_at(step: int) -> Any:
        return jax.device_put(tuple(job.batch(start.rows_at(step, batch_size))), sharding)

    with StopSignal() as stop:
        state = fit(
            start.state,
            train,
            step_fn=step_fn,
            batch_at=batch_at,
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
