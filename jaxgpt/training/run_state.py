"""What a run steps from, whatever it is that the run trains."""

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import differences
from jaxgpt.errors import CheckpointError
from jaxgpt.hosts.group import this_group
from jaxgpt.model.attention_kernels import choose_attention
from jaxgpt.model.schema import SCHEMA, Rows, dimensions, rows_of
from jaxgpt.run_config import FolderOptions
from jaxgpt.terminal import note
from jaxgpt.training.checkpoint import Restored, restore_latest, restore_until
from jaxgpt.training.mesh import on_mesh, state_shardings
from jaxgpt.training.optimizer import learning_rate, make_optimizer
from jaxgpt.training.placing import place
from jaxgpt.training.step import TrainState, init_state

_ROUNDING = ("attention", "mesh", "fsdp", "data_parallel")


@dataclass(frozen=True)
class Start:
    """What a run steps from: a state, its step, and the rows of data that it has had."""

    state: TrainState
    step: int = 0
    rows: int = 0

    def rows_at(self, step: int, batch_size: int) -> int:
        """The rows that were had before step `step`, where batches are of that size from here."""
        return self.rows + (step - self.step) * batch_size


def check_attention(config: TrainConfig, mesh: Mesh) -> None:
    """Raise ConfigError if the attention of `config` cannot work here."""
    model, rows = config.model, config.batch_size // config.gradient_accumulation
    shape = rows, model.num_heads, model.context_length, dimensions(model)["K"]
    choose = partial(choose_attention, dropout_rate=model.dropout)
    on_mesh(choose, mesh)(config.attention, shape, config.compute_dtype)


def state_template(params: Any, config: TrainConfig, mesh: Mesh) -> TrainState:
    """Shapes, dtypes and shardings of the state that trains `params`, which may be shapes alone."""
    rows = rows_of(config.model)
    optimizer = make_optimizer(config.optimizer, config.steps, rows)
    shapes = jax.eval_shape(partial(init_state, optimizer=optimizer), params)
    return with_shardings(shapes, mesh, rows)


def with_shardings(shapes: Any, mesh: Mesh, rows: Rows = SCHEMA) -> Any:
    """The shapes of a tree, each with where on the mesh it lies."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        state_shardings(shapes, mesh, rows),
    )


def begin(params: Any, config: TrainConfig, template: TrainState) -> TrainState:
    """The state before the first step that trains `params`, laid out as `template` says."""
    shardings = jax.tree.map(lambda leaf: leaf.sharding, template)
    optimizer = make_optimizer(config.optimizer, config.steps, rows_of(config.model))
    start = partial(init_state, optimizer=optimizer)
    return jax.jit(start, out_shardings=shardings)(place(params, shardings.params))


def resume(
    run: Path,
    template: TrainState,
    config: TrainConfig,
    data: str,
    options: FolderOptions,
    *,
    subject: str = "the data is",
    first: TrainState | None = None,
    until: int | None = None,
) -> Start | None:
    """The newest whole checkpoint, or None if the run begins; of at most `until` steps, if given.

    Says on stderr where it goes on, and what becomes of settings that `config` has otherwise.
    `subject` names what `data` is the fingerprint of; `first` is as in `restore_latest`. Raises
    CheckpointError as `restore_latest` does, and if `data` is not the fingerprint of what
    the checkpoint was trained on, unless that is allowed.
    """
    this_group().check_alike({"fingerprint of the data": data})
    if until is None:
        restored = restore_latest(run, template, first=first)
    else:
        restored = restore_until(run, template, until)
    if restored is None:
        return None
    if restored.data != data and not options.allow_data_change:
        raise CheckpointError(
            f"{subject} not what {run} was trained on until step {restored.step}; bring it "
            "back, name another --out, or set --allow-data-change"
        )
    doing = "resuming" if until is None else "replaying"
    for line in (f"{doing} {run} at step {restored.step}", *changes(restored, config)):
        note(line)
    return Start(restored.state, restored.step, restored.rows)


def changes(restored: Restored, config: TrainConfig) -> list[str]:
    """What becomes of the settings in which `config` differs from those of a checkpoint."""
    old, lines = restored.config, []
    if old.batch_size != config.batch_size:
        lines.append(
            f"batch_size {old.batch_size} -> {config.batch_size}: the data goes on behind the "
            f"{restored.rows:,} rows that were trained on"
        )
    found = differences(old, config)
    if order := [line for line in found if line.split(":")[0] in ("seed", "data.stride")]:
        lines.append(f"{'; '.join(order)}: from here on the data comes in another order")
    if data := [line for line in found if line.startswith("data.data:")]:
        lines.append(f"{data[0]}: from here on the batches are of other data, or in other shares")
    if layout := [line for line in found if line.split(":")[0] in _ROUNDING]:
        lines.append(f"{'; '.join(layout)}: sums are rounded otherwise, in their last bits")
    step, rate = restored.step, _rate(config, restored.step)
    if not math.isclose(_rate(old, step), rate, rel_tol=1e-6):
        why = [line for line in found if line.startswith(("optimizer.", "steps:"))]
        lines.append(
            f"the learning rate goes from {_rate(old, max(step - 1, 0)):.3g} to {rate:.3g} at this "
            f"step because of {'; '.join(why)}"
        )
    return lines


def _rate(config: TrainConfig, step: int) -> float:
    return np.asarray(learning_rate(config.optimizer, config.steps)(step)).item()
