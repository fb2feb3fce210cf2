"""Checkpoints: arrays beside the config, the tokenizer and a manifest of sha256 sums.

What is broken is renamed, never deleted.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.config_file import from_dict, read_mapping, to_dict
from jaxgpt.data.atomic import new_folder
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.hosts.group import this_group
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.shell import command
from jaxgpt.terminal import note, one_line
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.training.arrays import read_arrays, why, write_arrays
from jaxgpt.training.kept import (
    FOLDER,
    all_checkpoints,
    first_whole,
    named_checkpoints,
    prune,
    write_validation,
)
from jaxgpt.training.manifest import DamagedError, verify, write_manifest
from jaxgpt.training.own_parts import OwnBlock, restored_block
from jaxgpt.training.step import TrainState
from jaxgpt.training.task import check_task

TASK = "task.json"
_PARAMS = "params"


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with all that it takes to use it."""

    config: ModelConfig
    params: Params = field(repr=False)
    tokenizer: Tokenizer
    step: int
    train_config: TrainConfig
    task: Mapping[str, Any] = field(default_factory=dict)
    """What fine-tuning made of it, such as `kind` and `template`; nothing after pretraining."""


def save(
    run: Path,
    state: TrainState,
    config: TrainConfig,
    tokenizer: Tokenizer,
    data: str,
    task: Mapping[str, Any] | None = None,
    *,
    rows: int | None = None,
    validation_loss: float | None = None,
    write_more: Callable[[Path], object] = lambda draft: None,
) -> Path:
    """Write the state as `run/checkpoints/<step>` and return that folder.

    `data` is the fingerprint of what the run was trained on, `task` what `LoadedModel.task` will
    be, `rows` how many rows of data it has had, if not the batches of `config`, `validation_loss`
    the state's where it was measured, and `write_more` adds to the folder. That appears whole or
    not at all; then older ones are removed, but for those that `config` keeps and the best. A whole
    one of that step is kept. All processes of a run are to call it; process 0 writes all but the
    arrays. Raises ResourceError, on all of them, if it cannot be written.
    """
    step = int(state.step)
    rows = step * config.batch_size if rows is None else rows
    folder, group = run / FOLDER / f"{step:08d}", this_group()
    is_there = group.is_first and os.path.lexists(folder) and _whole(folder) is not None
    there, number = group.from_first("draft", [is_there, os.getpid()])
    if there:
        return folder
    draft = run / FOLDER / f".{folder.name}.{number}.tmp"
    try:
        with group.together("draft"):
            if group.is_first:
                shutil.rmtree(draft, ignore_errors=True)
                draft.mkdir(parents=True)
        with group.together("arrays"):
            write_arrays(draft / "optimizer", {"opt_state": state.opt_state, "step": state.step})
            write_arrays(draft / _PARAMS, state.params)
            write_more(draft)
        with group.together("checkpoint"):
            if group.is_first:
                if validation_loss is not None:
                    measured_on = f"{data} {config.evaluation_stride} {config.evaluation_batches}"
                    write_validation(draft, validation_loss, measured_on)
                model = LoadedModel(config.model, state.params, tokenizer, step, config, task or {})
                _complete(draft, model, data, rows)
                draft.rename(folder)
    except BaseException as error:
        if group.is_first:
            shutil.rmtree(draft, ignore_errors=True)
        if isinstance(error, OSError | ResourceError):
            needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
            reason = why(error, run, needed)
            raise ResourceError(f"checkpoint {folder} could not be written: {reason}") from None
        raise
    if group.is_first:
        prune(run, config.keep_checkpoints, config.keep_every)
    return folder


def save_model(folder: str | Path, model: LoadedModel, *, overwrite: bool = False) -> None:
    """Write a model alone as one checkpoint's folder, which `load_model` reads in the same dtype.

    There is no optimizer's state in it, so no run goes on from it. Raises ConfigError if the folder
    cannot be written, or holds something and `overwrite` is false; ResourceError if the disk is
    full.
    """
    with new_folder(folder, overwrite=overwrite) as draft:
        write_arrays(draft / _PARAMS, model.params)
        _complete(draft, model, data="", rows=0)


def _complete(draft: Path, model: LoadedModel, data: str, rows: int) -> None:
    """Write what goes with parameters and then, as all other files are there, the manifest."""
    (draft / "config.json").write_text(json.dumps(to_dict(model.train_config), indent=2) + "\n")
    model.tokenizer.save(draft / "tokenizer")
    if model.task:
        (draft / TASK).write_text(json.dumps(dict(model.task), indent=2) + "\n")
    dtype = str(jax.tree.leaves(model.params)[0].dtype)
    write_manifest(draft, step=model.step, rows=rows, data=data, dtype=dtype)


class Restored(NamedTuple):
    """A run as its newest whole checkpoint has it: the state, the rows it had, and its settings."""

    state: TrainState
    step: int
    rows: int
    data: str
    config: TrainConfig


def restore_latest(
    run: Path, template: TrainState, *, first: TrainState | None = None
) -> Restored | None:
    """The newest checkpoint that is whole, or None if there never was one.

    `template` gives shapes, dtypes and shardings; `first` does for a checkpoint of format 1, where
    that held other arrays. A broken one is renamed to `*.corrupt-<time>` with a line on stderr, and
    the one before it is tried. Raises CheckpointError if none is whole, for a run is never started
    anew over checkpoints that it cannot read, or if a whole one does not fit the template.
    """
    found = named_checkpoints(run)
    group, newest = this_group(), None
    if group.is_first:  # which alone may set aside what is damaged
        newest = next(((x.name, it) for x in reversed(found) if (it := _whole(x))), None)
        newest = newest and (newest[0], newest[1] | {"files": {}, "sizes": {}})
    if newest := group.from_first("newest", newest):
        name, manifest = newest
        like = (manifest["format"] == 1 and first) or template
        return _restored(run / FOLDER / name, manifest, like)
    if found or any((run / FOLDER).glob("*.corrupt-*")):
        raise CheckpointError(
            f"no checkpoint of {run} can be read; restore one from a backup, or choose another "
            "--out, or start again with --overwrite"
        )
    return None


def restore_until(run: Path, template: TrainState, step: int) -> Restored | None:
    """The newest whole checkpoint of at most `step` steps, or None; nothing is set aside."""
    found = [folder for folder in named_checkpoints(run) if int(folder.name) <= step]
    for folder in reversed(found):
        try:
            return _restored(folder, verify(folder, int(folder.name)), template)
        except DamagedError as error:
            note(f"warning: {one_line(str(error))}; one before it is taken")
    return None


def _restored(folder: Path, manifest: Mapping[str, Any], template: TrainState) -> Restored:
    config = read_config(folder / "config.json")
    rows = manifest.get("rows", manifest["step"] * config.batch_size)
    state = _restore(folder, template)
    return Restored(state, manifest["step"], rows, manifest["data"], config)


def _whole(folder: Path) -> dict[str, Any] | None:
    """The manifest of a checkpoint that is as it was written; one that is not is set aside."""
    try:
        return verify(folder, int(folder.name))
    except DamagedError as error:
        note(f"warning: {one_line(str(error))}; set aside as {_set_aside(folder).name}")
        return None


def _set_aside(folder: Path) -> Path:
    now = time.strftime("%Y%m%dT%H%M%S")
    names = (f"{folder.name}.corrupt-{now}{more}" for more in ("", *(f"-{n}" for n in range(99))))
    aside = next(path for path in map(folder.with_name, names) if not os.path.lexists(path))
    try:
        folder.rename(aside)
    except OSError as error:
        raise CheckpointError(
            f"{folder} is damaged and cannot be renamed ({error.strerror}); move it away"
        ) from None
    return aside


def _restore(folder: Path, template: TrainState) -> TrainState:
    params = read_arrays(folder / _PARAMS, template.params)
    rest = {"opt_state": template.opt_state, "step": template.step}
    return TrainState(params=params, **read_arrays(folder / "optimizer", rest))


def load_model(path: str | Path, *, block: OwnBlock = None) -> LoadedModel:
    """The model in a run's folder (its newest checkpoint) or in one checkpoint's folder.

    What was trained with a block of its own is loaded with the same. Raises CheckpointError if
    there is none, if its files are not the ones that were written, if it was trained with another
    block, or if what was trained is no language model by itself: a classifier, or adapters.
    """
    return read_checkpoint(path, _language_model, block)


def read_checkpoint(
    path: str | Path,
    shapes_of: Callable[[ModelConfig, Mapping[str, Any]], Params],
    block: OwnBlock = None,
) -> LoadedModel:
    """The newest checkpoint in `path`, with the parameters that `shapes_of` tells of its task."""
    folder, manifest = newest_whole(Path(path))
    # The kernel is a choice of the machine that trained, and no part of the model.
    config = replace(read_config(folder / "config.json"), attention="auto")
    config, task = restored_block(config, block, folder), read_task(folder)
    shapes, dtype = shapes_of(config.model, task), jnp.dtype(manifest["dtype"])
    if "base" in task:
        raise CheckpointError("these are adapters alone; name the run's folder, or its adapters/")
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), shapes)
    params = read_arrays(folder / _PARAMS, shapes)
    tokenizer = load_tokenizer(folder / "tokenizer")
    return LoadedModel(config.model, params, tokenizer, manifest["step"], config, task)


def read_task(folder: Path) -> dict[str, Any]:
    """What the fine-tuning of a checkpoint says about it; nothing after pretraining."""
    try:
        task = read_mapping(folder / TASK) if (folder / TASK).exists() else {}
        task.pop("settings", None)  # of the run, see run_contents
    except ConfigError as error:
        raise DamagedError(str(error)) from None
    return check_task(task, folder / TASK)


def _language_model(config: ModelConfig, task: Mapping[str, Any]) -> Params:
    if task.get("kind") == "classification":
        raise CheckpointError(
            f"this model is a classifier, which writes no text; use `{command('classify')}`"
        )
    return parameter_shapes(config)


def find_checkpoint(path: str | Path) -> Path:
    """The folder of `newest_whole`."""
    return newest_whole(Path(path))[0]


def newest_whole(path: Path) -> tuple[Path, dict[str, Any]]:
    """The folder itself if it is one checkpoint's, or a run's newest whole one; and its manifest.

    A newer one that is damaged is named on stderr, and left where it is. Raises CheckpointError if
    there is none, DamagedError if none is whole.
    """
    if (found := all_checkpoints(path)) == [path]:
        return path, verify(path)
    try:
        folder, manifest, damaged = first_whole(found[::-1])
    except DamagedError:
        if any(map(os.path.isdir, found)):
            raise
        return newest_whole(path)  # a run that is being trained has pruned them meanwhile
    if damaged is not None:
        note(f"warning: {damaged}; the checkpoint of step {manifest['step']} is read instead")
    return folder, manifest


def read_config(path: Path) -> TrainConfig:
    """The config that a run or a checkpoint was made with; raises CheckpointError if unreadable."""
    try:
        return from_dict(TrainConfig(), read_mapping(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
