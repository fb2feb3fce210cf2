"""What fine-tuning left in a folder -> the whole model, be it adapters or a classifier.

The base of adapters may itself be of any kind that can be begun with, so whoever loads it is passed
in as `load_base`: a function of a path, and of a tokenizer's name or "", that gives a LoadedModel
with float32 parameters.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.finetuning.classification import classifier_params
from jaxgpt.finetuning.lora import merge
from jaxgpt.finetuning.lora_file import RECORD, load_adapters, read_adapters_record
from jaxgpt.model.gpt import parameter_shapes
from jaxgpt.model.layers import Params
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


def load_adapted(folder: Path, load_base: LoadBase, base: str = "") -> LoadedModel:
    """The model of which `folder` holds the adapters, merged with its base.

    `base` says where that lies now, if it is no longer where it was.

    Raises:
        CheckpointError: see `load_adapters`; adapters of a classifier, which is no language model.
    """
    record = read_adapters_record(folder)
    if record["task"].get("kind") == "classification":
        raise CheckpointError("these adapters are of a classifier, which writes no text")
    model = load_base(base or record["init_from"], record["tokenizer"])
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
    model = load_base(base or record["init_from"], record["tokenizer"])
    with_head = with_class_head(model, len(task["classes"]), task["seed"])
    return _merged(folder, with_head, model, task)


def with_class_head(model: LoadedModel, num_classes: int, seed: int) -> LoadedModel:
    """The model with a new head for so many classes, drawn by the seed."""
    _, key = jax.random.split(jax.random.key(seed))
    return replace(model, params=classifier_params(model.params, num_classes, key))


def _merged(
    folder: Path, base: LoadedModel, origin: LoadedModel, task: Mapping[str, Any]
) -> LoadedModel:
    adapters, lora = load_adapters(folder, base.params, origin.params)
    return replace(base, params=merge(base.params, adapters, lora), task=task)


def _classifier_shapes(config: ModelConfig, task: Mapping[str, Any]) -> Params:
    task = _check_classifier(task)
    if "base" in task:
        raise CheckpointError("these are adapters alone; name the run's folder, or its adapters/")
    shapes, key = parameter_shapes(config), jax.random.key(0)
    return jax.eval_shape(lambda: classifier_params(shapes, len(task["classes"]), key))


def _check_classifier(task: Mapping[str, Any]) -> Mapping[str, Any]:
    if task.get("kind") != "classification":
        raise CheckpointError("this model is no classifier; make one with finetune_classifier.py")
    return task
