"""A fine-tuning run from a pretrained model to its last checkpoint, over the one training loop."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.errors import ResourceError
from jaxgpt.files import sha256
from jaxgpt.finetuning.batching import Rows
from jaxgpt.finetuning.freezing import Trainable, restore, trainable
from jaxgpt.finetuning.lora_file import ADAPTERS_FOLDER, are_whole, save_adapters
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.hosts.group import this_group
from jaxgpt.model.layers import Params
from jaxgpt.model.schema import rows_of
from jaxgpt.run_config import FolderOptions, RunConfig
from jaxgpt.training.checkpoint import LoadedModel, save
from jaxgpt.training.fits import check_tuning_step
from jaxgpt.training.loss import LossFunction
from jaxgpt.training.memory import check_memory
from jaxgpt.training.mesh import batch_sharding, state_shardings
from jaxgpt.training.overfitting import best_line, passes_line
from jaxgpt.training.placing import place, to_host
from jaxgpt.training.plots import Panel, plot_curves
from jaxgpt.training.run import PICTURE, Job, run_job
from jaxgpt.training.run_card import CARD, last_value, write_card
from jaxgpt.training.run_contents import SETTINGS
from jaxgpt.training.run_state import Start, begin, resume, state_template, with_shardings
from jaxgpt.training.step import TrainState


@dataclass(frozen=True)
class TuningJob:
    """What one kind of fine-tuning brings to a run."""

    make_loss: Callable[[TrainConfig], LossFunction]
    """The loss of the whole model's parameters, by a config whose dropout rate may be traced."""
    rows: Rows[Any, Any]
    """What is trained on."""
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
class TuningCard:
    """README.md and the curves of a fine-tuning run."""

    run: Path
    config: TuningConfig
    job: TuningJob
    trained: int
    """How many parameters."""
    command: str = ""

    def publish(
        self,
        records: list[dict[str, Any]],
        complain: Callable[[str], None],
        rows: Mapping[str, str] | None = None,
        pictures: Sequence[str] = (),
    ) -> None:
        """Write both from the run's records; `rows` and `pictures` are of what came after them.

        A failure is told to `complain`: neither is worth the end of a run.
        """
        if not this_group().is_first:
            return
        names = {name for item in records for name in item if name.startswith("validation_")}
        last = {name.replace("_", " "): last_value(records, name) for name in sorted(names)}
        table = {
            "begun with": self.config.init_from,
            "parameters trained": f"{self.trained:,}",
            **self.job.facts,
            "steps": f"{last_value(records, 'step', 0):,}",
            **{name: f"{value:.4f}" for name, value in last.items()},
            "lowest validation loss": best_line(records),
            **(rows or {}),
        }
        title = (
            f"{self.run.absolute().name}: {self.job.task['kind']}, begun with "
            f"{self.config.init_from}, {self.trained:,} parameters trained"
        )
        try:
            plot_curves(records, self.job.panels, self.run / PICTURE, title)
            shown = [PICTURE, *pictures]
            write_card(self.run, self.config, table, records, self.command, shown)
        except (OSError, ResourceError) as error:
            complain(f"warning: {PICTURE} and {CARD} of {self.run} could not be written: {error}")


@dataclass(frozen=True)
class TuningResult:
    """How a run ended: the whole model, the records of metrics.jsonl, the signal if one came."""

    model: LoadedModel
    records: list[dict[str, Any]]
    card: TuningCard
    """Of the run so far, to be written again with what is measured at the end."""
    signal: int | None = None

    @property
    def finished(self) -> bool:
        """Whether all steps were taken."""
        return self.model.step >= self.model.train_config.steps


def train_config(config: TuningConfig, base: LoadedModel, num_rows: int) -> TrainConfig:
    """The training that `config` asks for, on `num_rows` rows; fewer than a batch are warned of.

    Raises ConfigError for settings that no run can be stepped by.
    """
    shared: dict[str, Any] = {item.name: getattr(config, item.name) for item in fields(RunConfig)}
    shared["steps"] = config.steps or math.ceil(config.epochs * num_rows / config.batch_size)
    train = TrainConfig(
        model=replace(base.config, dropout=config.dropout),
        data=base.train_config.data,
        optimizer=config.optimizer,
        init_from=config.init_from,
        **shared,
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


def tune(
    run: str | Path,
    config: TuningConfig,
    options: FolderOptions,
    base: LoadedModel,
    train: TrainConfig,
    job: TuningJob,
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
    key, _ = jax.random.split(jax.random.key(config.seed))
    parts = trainable(base.params, config, key, job.new, rows_of(train.model))
    card = TuningCard(Path(run), config, job, _count(parts.trained), command)
    tuning = _Tuning(config, options, base, train, job, origin, parts, card, jax.jit(parts.join))
    opened, result = run_job(card.run, config, options, train, tuning.open)
    params = tuning.join(result.state.params, *opened.frozen)
    step, task = int(result.state.step), dict(job.task)
    model = LoadedModel(train.model, params, base.tokenizer, step, result.config, task)
    return TuningResult(model, result.records, card, result.signal)


@dataclass(frozen=True)
class _Tuning:
    """A fine-tuning run, which becomes a job once its folder is claimed."""

    config: TuningConfig
    options: FolderOptions
    base: LoadedModel
    train: TrainConfig
    job: TuningJob
    origin: str
    parts: Trainable
    card: TuningCard
    join: Callable[[Any, Any], Params]

    def open(self, mesh: Mesh) -> Job:
        """The job from its first step, or from the newest checkpoint."""
        train, job = self.train, self.job
        template = state_template(jax.eval_shape(lambda: self.parts.trained), train, mesh)
        self._check_memory(template, mesh)
        start, frozen = self._start(template, mesh)
        if not self.config.steps:  # those of the epochs that are left, whatever batches were before
            left = max(0, self.config.epochs * len(job.rows) - start.rows)
            train = replace(train, steps=start.step + math.ceil(left / train.batch_size))
        if start.step >= train.steps and not are_whole(self.card.run / ADAPTERS_FOLDER):
            self._save_adapters(self.card.run, start.state, frozen)
        sharding, sample = batch_sharding(mesh), job.sample
        return Job(
            train,
            start,
            template,
            lambda train, frozen: self.parts.loss(job.make_loss(train), frozen),
            lambda row: place(self._batch(row), sharding),
            evaluate=lambda state: job.measure(self.join(state.params, frozen)),
            save=partial(self._save, train, frozen),
            publish=lambda reporter, _: self.card.publish(reporter.records, reporter.say),
            headline=partial(self._headline, train.steps),
            sample=sample and (lambda state: sample(self.join(state.params, frozen))),
            frozen=(frozen,),
            unit=job.unit,
            saves_behind=this_group().count == 1,  # what is saved is joined first, on all devices
        )

    def _batch(self, row: int) -> Any:
        return self.job.rows.batch(row, self.config.batch_size, seed=self.config.seed)

    def _check_memory(self, template: TrainState, mesh: Mesh) -> None:
        # The base stays in memory, whatever is trained of it.
        check_memory(
            *(self.train.model, self.train.axes.sharing),
            trained=_count(self.parts.trained),
            frozen=_count(self.base.params),
            optimizer=self.train.optimizer,
        )
        batch = partial(self._batch, 0)
        check_tuning_step(self.train, mesh.size, template, self.parts.frozen, batch)

    def _start(self, template: TrainState, mesh: Mesh) -> tuple[Start, Any]:
        """What to step from, and the frozen parameters beside it."""
        parts, rows = self.parts, rows_of(self.train.model)
        frozen = place(parts.frozen, state_shardings(parts.frozen, mesh, rows))
        shapes = jax.eval_shape(parts.stored, parts.trained, parts.frozen)
        stored = with_shardings(shapes, mesh, rows)
        start = resume(
            self.card.run,
            replace(template, params=stored),
            self.train,
            self._data,
            self.options,
            subject="the data or the model to begin with is",
            first=template if parts.new else None,
        )
        if start is not None:
            trained, frozen = restore(start.state.params, self.config, frozen)
            return replace(start, state=replace(start.state, params=trained)), frozen
        # A copy: each step gives up the state that it is given.
        return Start(begin(jax.tree.map(jnp.copy, parts.trained), self.train, template)), frozen

    @property
    def _data(self) -> str:
        return data_fingerprint([self.job.data, self.origin])

    def _save(
        self, train: TrainConfig, frozen: Any, state: TrainState, rows: int, loss: float | None
    ) -> None:
        # First: a run whose checkpoint is there is not run again.
        self._save_adapters(self.card.run, state, frozen)
        origin = {"base": self.origin} if self.parts.adapters else {}
        save(
            self.card.run,
            replace(state, params=self.parts.stored(state.params, frozen)),
            train,
            self.base.tokenizer,
            self._data,
            {**self.job.task, **origin, SETTINGS: to_dict(self.config)},
            rows=rows,
            validation_loss=loss,
            write_more=lambda draft: self._save_adapters(draft, state, frozen),
        )

    def _save_adapters(self, folder: Path, state: TrainState, frozen: Any) -> None:
        if not self.parts.adapters:
            return
        params, new = to_host((state.params, self.parts.drawn(frozen)))
        if this_group().is_first:
            save_adapters(
                folder / ADAPTERS_FOLDER,
                params,
                self.config.lora,
                self.origin,
                new=new,
                init_from=self.config.init_from,
                tokenizer=self.config.tokenizer,
                task=self.job.task,
                overwrite=True,
            )

    def _headline(self, steps: int, rows: int) -> Iterator[str]:
        trained, frozen = _count(self.parts.trained), _count(self.parts.frozen)
        facts = ", ".join(f"{name} {value}" for name, value in self.job.facts.items())
        yield f"{trained:,} parameters are trained, {frozen:,} frozen; {facts}"
        yield passes_line(steps, rows / len(self.job.rows), "records to train on")


def _count(params: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
