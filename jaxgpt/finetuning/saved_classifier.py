"""A fine-tuned classifier in a folder -> the whole model, be it adapters or all parameters."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError
from jaxgpt.finetuning.bases import find_adapters
from jaxgpt.finetuning.classification import classifier_params
from jaxgpt.finetuning.lora_file import read_adapters_record
from jaxgpt.finetuning.pretrained import load_adapters_base, merge_adapters
from jaxgpt.model.layers import Params
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.shell import command
from jaxgpt.training.checkpoint import LoadedModel, read_checkpoint
from jaxgpt.training.own_block import OwnBlock


def load_classifier(path: str | Path, base: str = "", *, block: OwnBlock = None) -> LoadedModel:
    """The classifier in a run's, a checkpoint's or an adapters' folder; `task` has its classes.

    `base` says where the model of the adapters lies, if it is no longer where it was; `block` is
    that of `load_model`.

    Raises:
        CheckpointError: see `load_model` and `load_adapters`; a model that is no classifier.
    """
    if (folder := find_adapters(path)) is None:
        return read_checkpoint(path, _classifier_shapes, block)
    record = read_adapters_record(folder)
    task = _check_classifier(record["task"])
    model = load_adapters_base(folder, record, base, block)
    # What is drawn here gives the head its shape; only the first format has none of its own.
    with_head = with_class_head(model, len(task["classes"]), task.get("seed", 0))
    return merge_adapters(folder, with_head, model, task, new=("head",))


def with_class_head(model: LoadedModel, num_classes: int, seed: int) -> LoadedModel:
    """The model with a new head for so many classes, drawn by the seed."""
    _, key = jax.random.split(jax.random.key(seed))
    return replace(model, params=classifier_params(model.params, num_classes, key))


def _classifier_shapes(config: ModelConfig, task: Mapping[str, Any]) -> Params:
    task = _check_classifier(task)
    if "base" in task:
        raise CheckpointError("these are adapters alone; name the run's folder, or its adapters/")
    shapes, key = parameter_shapes(config), jax.random.key(0)
    return jax.eval_shape(lambda: classifier_params(shapes, len(task["classes"]), key))


def _check_classifier(task: Mapping[str, Any]) -> Mapping[str, Any]:
    if task.get("kind") != "classification":
        raise CheckpointError(
            f"this model is no classifier; make one with `{command('finetune classifier')}`"
        )
    return task
