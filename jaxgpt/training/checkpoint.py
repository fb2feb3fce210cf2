"""Checkpoints: arrays by Orbax, beside the config, the tokenizer and a manifest of sha256 sums.

Orbax commits atomically but restores a flipped bit without noticing, so every file's sum is
written after the commit and checked before a restore. What is broken is renamed, never deleted.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from jaxgpt import __version__
from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.config_file import from_dict, read_mapping, to_dict
from jaxgpt.data.atomic import new_folder
from jaxgpt.data.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.model.gpt import parameter_shapes
from jaxgpt.model.layers import Params
from jaxgpt.terminal import note, one_line
from jaxgpt.training.step import TrainState
from jaxgpt.training.task import check_task

FORMAT = 1
FOLDER = "checkpoints"
MANIFEST = "manifest.json"
TASK = "task.json"
_DTYPES = ("float32", "float16", "bfloat16")


class DamagedError(CheckpointError):
    """A checkpoint that is not as it was written."""


@dataclass(frozen=True)
class LoadedModel:
    """A trained model with all that it takes to use it."""

    config: ModelConfig
    params: Params
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
) -> Path:
    """Write the state as `run/checkpoints/<step>` and return that folder.

    `data` is the fingerprint of what the run was trained on, `task` what `LoadedModel.task` will
    be. The folder appears whole or not at
    all; older ones beyond `config.keep_checkpoints` are removed after it. A step that is there
    already is kept. Raises ResourceError if it cannot be written.
    """
    step = int(state.step)
    folder = run / FOLDER / f"{step:08d}"
    if folder.exists():
        return folder
    draft = run / FOLDER / f".{folder.name}.{os.getpid()}.tmp"
    try:
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(parents=True)
        _write_arrays(draft / "optimizer", {"opt_state": state.opt_state, "step": state.step})
        model = LoadedModel(config.model, state.params, tokenizer, step, config, task or {})
        _write_model(draft, model, data)
        draft.rename(folder)
    except (OSError, ValueError) as error:
        shutil.rmtree(draft, ignore_errors=True)
        raise ResourceError(f"checkpoint {folder} could not be written: {error}") from error
    _prune(run, config.keep_checkpoints)
    return folder


def save_model(folder: str | Path, model: LoadedModel, *, overwrite: bool = False) -> None:
    """Write a model alone as one checkpoint's folder, which `load_model` reads in the same dtype.

    There is no optimizer's state in it, so no run goes on from it. Raises ConfigError if the folder
    cannot be written, or holds something and `overwrite` is false; ResourceError if the disk is
    full.
    """
    with new_folder(folder, overwrite=overwrite) as draft:
        try:
            _write_model(draft, model, data="")
        except ValueError as error:  # how Orbax says that the disk is full
            raise ResourceError(f"{folder} could not be written: {error}") from None


def _write_model(draft: Path, model: LoadedModel, data: str) -> None:
    """The model into the folder, and then, as all other files are there, the manifest."""
    _write_arrays(draft / "params", model.params)
    (draft / "config.json").write_text(json.dumps(to_dict(model.train_config), indent=2) + "\n")
    model.tokenizer.save(draft / "tokenizer")
    if model.task:
        (draft / TASK).write_text(json.dumps(dict(model.task), indent=2) + "\n")
    _write_manifest(draft, model.step, data, str(jax.tree.leaves(model.params)[0].dtype))


def _write_arrays(folder: Path, tree: Any) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(folder.absolute(), tree)


def _write_manifest(folder: Path, step: int, data: str, dtype: str) -> None:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "format": FORMAT,
        "written_by": f"jaxgpt {__version__}",
        "step": step,
        "data": data,
        "dtype": dtype,
        "files": {str(path.relative_to(folder)): _sha256(path) for path in paths},
    }
    with open(folder / MANIFEST, "w") as file:
        file.write(json.dumps(manifest, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _prune(run: Path, keep: int) -> None:
    for folder in checkpoints(run)[:-keep]:
        shutil.rmtree(folder)
    for draft in (run / FOLDER).glob(".*.tmp"):
        shutil.rmtree(draft, ignore_errors=True)


def checkpoints(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    return sorted(path for path in (run / FOLDER).glob("[0-9]" * 8) if path.is_dir())


def verify(folder: Path) -> dict[str, Any]:
    """The manifest of a checkpoint whose every file has the sum it was written with.

    Raises DamagedError naming what is missing or changed, CheckpointError if a newer version wrote
    it or if it names files outside.
    """
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        written_by, _, _ = (manifest[key] for key in ("written_by", "step", "data"))
        files, newer = dict(manifest["files"]), int(manifest["format"]) > FORMAT
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DamagedError(f"{folder} has no readable {MANIFEST}: {error!r}") from None
    if newer:
        raise CheckpointError(f"{folder} was written by {written_by}, which is newer; upgrade")
    for name, sha256 in files.items():
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()) or path.is_symlink():
            raise CheckpointError(f"{folder}/{MANIFEST} names {name}, which lies outside it")
        if not path.is_file():
            raise DamagedError(f"{path} is missing")
        if _sha256(path) != sha256:
            raise DamagedError(f"{path} has changed since it was written (sha256)")
    return manifest


def restore_latest(run: Path, template: TrainState) -> tuple[TrainState, dict[str, Any]] | None:
    """The newest checkpoint that is whole, with its manifest, or None if there never was one.

    `template` gives shapes, dtypes and shardings. A broken one is renamed to `*.corrupt-<time>`
    with a line on stderr, and the one before it is tried. Raises CheckpointError if none is whole,
    for a run is never started anew over checkpoints that it cannot read, or if a whole one does not
    fit the template.
    """
    found = checkpoints(run)
    for folder in reversed(found):
        try:
            manifest = verify(folder)
        except DamagedError as error:
            aside = folder.with_name(f"{folder.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}")
            folder.rename(aside)
            note(f"warning: {one_line(str(error))}; set aside as {aside.name}")
        else:
            return _restore(folder, template), manifest
    if found or any((run / FOLDER).glob("*.corrupt-*")):
        raise CheckpointError(
            f"no checkpoint of {run} can be read; restore one from a backup, or choose another "
            "--out, or start again with --overwrite"
        )
    return None


def _restore(folder: Path, template: TrainState) -> TrainState:
    params = _read_arrays(folder / "params", template.params)
    rest = {"opt_state": template.opt_state, "step": template.step}
    rest = _read_arrays(folder / "optimizer", rest)
    return TrainState(rest["step"], params, rest["opt_state"])


def _read_arrays(folder: Path, template: Any) -> Any:
    abstract = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=_sharding(leaf)),
        template,
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.metadata(folder.absolute()).item_metadata.tree
            _check_leaves(stored, abstract, folder)
            return checkpointer.restore(folder.absolute(), abstract)
    except (ValueError, KeyError, TypeError, OSError, AttributeError) as error:
        raise CheckpointError(f"{folder} cannot be restored: {error}") from None


def _sharding(leaf: Any) -> jax.sharding.Sharding:
    # Without one, Orbax restores onto the devices that the checkpoint was written from.
    given = getattr(leaf, "sharding", None)
    return given or jax.sharding.SingleDeviceSharding(jax.devices()[0])


def _check_leaves(stored: Any, wanted: Any, folder: Path) -> None:
    """Refuse another shape or dtype, which Orbax would cast without a word."""
    have = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in jax.tree.leaves(stored)]
    want = [(tuple(leaf.shape), str(leaf.dtype)) for leaf in jax.tree.leaves(wanted)]
    if have != want:
        odd = next((pair for pair in zip(have, want, strict=False) if pair[0] != pair[1]), None)
        detail = f"{odd[0]} where {odd[1]} is wanted" if odd else f"{len(have)} arrays"
        raise CheckpointError(
            f"{folder} holds other arrays than the model has: {detail}; set the model as it was, "
            "or name another --out"
        )


def load_model(path: str | Path) -> LoadedModel:
    """The model in a run's folder (its newest checkpoint) or in one checkpoint's folder.

    Raises CheckpointError if there is none, if its files are not the ones that were written, or if
    what was trained is no language model by itself: a classifier, or adapters.
    """
    return read_checkpoint(path, _language_model)


def read_checkpoint(
    path: str | Path, shapes_of: Callable[[ModelConfig, Mapping[str, Any]], Params]
) -> LoadedModel:
    """The newest checkpoint in `path`, with the parameters that `shapes_of` tells of its task.

    Raises CheckpointError as `load_model` does.
    """
    folder = find_checkpoint(path)
    manifest = verify(folder)
    config = read_config(folder / "config.json")
    dtype = manifest.get("dtype", "float32")  # the first checkpoints did not name it
    if dtype not in _DTYPES:
        raise DamagedError(f"{folder}/{MANIFEST} has dtype {dtype!r}, none of {', '.join(_DTYPES)}")
    task = read_task(folder)
    shapes = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)),
        shapes_of(config.model, task),
    )
    params = _read_arrays(folder / "params", shapes)
    tokenizer = load_tokenizer(folder / "tokenizer")
    return LoadedModel(config.model, params, tokenizer, manifest["step"], config, task)


def read_task(folder: Path) -> dict[str, Any]:
    """What the fine-tuning of a checkpoint says about it; nothing after pretraining."""
    try:
        task = read_mapping(folder / TASK) if (folder / TASK).exists() else {}
    except ConfigError as error:
        raise DamagedError(str(error)) from None
    return check_task(task, folder / TASK)


def _language_model(config: ModelConfig, task: Mapping[str, Any]) -> Params:
    if task.get("kind") == "classification":
        raise CheckpointError("this model is a classifier, which writes no text; use classify.py")
    if "base" in task:
        raise CheckpointError("these are adapters alone; name the run's folder, or its adapters/")
    return parameter_shapes(config)


def find_checkpoint(path: str | Path) -> Path:
    """The folder itself if it is one checkpoint's, or the newest checkpoint of a run's folder.

    Raises CheckpointError if there is none.
    """
    path = Path(path)
    if os.path.isfile(path / MANIFEST):  # pathlib's would raise on a name that is too long
        return path
    if os.path.isdir(path) and checkpoints(path):
        return checkpoints(path)[-1]
    raise CheckpointError(f"{path} holds no checkpoint; name a run's folder or a checkpoint's")


def read_config(path: Path) -> TrainConfig:
    """The config that a run or a checkpoint was made with; raises CheckpointError if unreadable."""
    try:
        return from_dict(TrainConfig(), read_mapping(path))
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
