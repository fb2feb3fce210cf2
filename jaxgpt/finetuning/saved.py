"""What fine-tuning left in a folder -> the whole model, be it adapters or a classifier.

The base of adapters may itself be of any kind that can be begun with, so whoever loads it is passed
in as `load_base`: a function of a path, and of a tokenizer's name or "", that gives a LoadedModel
with float32 parameters.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import jax

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.finetuning.classification import classifier_params
from jaxgpt.finetuning.lora import merge
from jaxgpt.finetuning.lora_file import RECORD, load_adapters, read_adapters_record
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.shell import script
from jaxgpt.training.checkpoint import LoadedModel, read_checkpoint

ADAPTERS_FOLDER = "adapters"

LoadBase = Callable[[str, str], LoadedModel]


def find_adapters(path: str | Path) -> Path | None:
    """The folder of adapters that `path` is, or that the run in it has; None if there is none."""
    path = Path(path)
    for folder in (path, path / ADAPTERS_FOLDER):
        if os.path.isfile(folder / RECORD):
            return folder
    return None


def check_base(path: str | Path, base: str) -> None:
    """Raise ConfigError if a base is named for a model that has no adapters."""
    if base and not find_adapters(path):
        raise ConfigError("--base goes with adapters, and the model named has none")


def find_base(folder: Path, record: Mapping[str, Any], base: str = "") -> str:
    """Where the model that adapters were trained beside lies: `base`, or where it was then.

    A relative path is looked up from here, and then from each folder above the adapters'.

    Raises:
        CheckpointError: it is at none of these.
    """
    return base or _nearby(folder, record["init_from"]) or _no_base(folder, record["init_from"])


def _no_base(folder: Path, name: str) -> NoReturn:
    raise CheckpointError(
        f"{folder} holds adapters of the model in {name or 'another folder'}, but here is no such "
        "folder; say where it lies now by --base"
    )


def _nearby(folder: Path, name: str) -> str:
    """The path `name` seen from here or from a folder above `folder`; empty where nothing is."""
    places = ["", *map(str, Path(os.path.realpath(folder)).parents)] if name else []
    return next((found for at in places if os.path.exists(found := os.path.join(at, name))), "")


def _load_base(folder: Path, record: Mapping[str, Any], load_base: LoadBase, base: str) -> Any:
    tokenizer = record["tokenizer"]
    if os.path.isfile(found := os.path.join(_nearby(folder, tokenizer), "tokenizer.json")):
        tokenizer = os.path.dirname(found)
    return load_base(find_base(folder, record, base), tokenizer)


def load_adapted(folder: Path, load_base: LoadBase, base: str = "") -> LoadedModel:
    """The model of which `folder` holds the adapters, merged with its base.

    `base` says where that lies now, if it is no longer where it was.

    Raises:
        CheckpointError: see `load_adapters`; adapters of a classifier, which is no language model.
    """
    record = read_adapters_record(folder)
    if record["task"].get("kind") == "classification":
        raise CheckpointError("these adapters are of a classifier, which writes no text")
    model = _load_base(folder, record, load_base, base)
    return _merged(folder, model, model, record["task"])


def load_classifier(path: str | Path, load_base: LoadBase, base: str = "") -> LoadedModel:
    """The classifier in a run's, a checkpoint's or an adapters' folder; `task` has its classes.

    Raises:
        CheckpointError: see `load_model` and `load_adapters`; a model that is no classifier.
    """
    if (folder := find_adapters(path)) is None:
        return read_checkpoint(path, _classifier_shapes)
    record = read_adapters_record(folder)
    task = _check_classifier(record["task"])
    model = _load_base(folder, record, load_base, base)
    # What is drawn here gives the head its shape; only the first format has none of its own.
    with_head = with_class_head(model, len(task["classes"]), task.get("seed", 0))
    return _merged(folder, with_head, model, task, new=("head",))


def with_class_head(model: LoadedModel, num_classes: int, seed: int) -> LoadedModel:
    """The model with a new head for so many classes, drawn by the seed."""
    _, key = jax.random.split(jax.random.key(seed))
    return replace(model, params=classifier_params(model.params, num_classes, key))


def _merged(
    folder: Path,
    base: LoadedModel,
    origin: LoadedModel,
    task: Mapping[str, Any],
    new: Sequence[str] = (),
) -> LoadedModel:
    adapters, lora, params = load_adapters(folder, base.params, origin.params, new)
    return replace(base, params=merge(params, adapters, lora), task=task)


def _classifier_shapes(config: ModelConfig, task: Mapping[str, Any]) -> Params:
    task = _check_classifier(task)
    if "base" in task:
        raise CheckpointError("these are adapters alone; name the run's folder, or its adapters/")
    shapes, key = parameter_shapes(config), jax.random.key(0)
    return jax.eval_shape(lambda: classifier_params(shapes, len(task["classes"]), key))


def _check_classifier(task: Mapping[str, Any]) -> Mapping[str, Any]:
    if task.get("kind") != "classification":
        raise CheckpointError(
            f"this model is no classifier; make one with `{script('finetune_classifier.py')}`"
        )
    return task
