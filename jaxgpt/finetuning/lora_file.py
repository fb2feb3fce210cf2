"""Adapters on disk: a folder of kilobytes that knows which base it belongs to."""

import hashlib
import json
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from jaxgpt.config_file import from_dict, read_mapping
from jaxgpt.data.atomic import new_folder
from jaxgpt.data.ownership import ADAPTERS as ADAPTER_NAMES
from jaxgpt.data.ownership import unlisted_names
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.finetuning.lora import Adapters, fingerprint, init_adapters
from jaxgpt.finetuning.settings import LoraConfig
from jaxgpt.model.layers import Params
from jaxgpt.training.task import check_task

FORMAT = 1
ADAPTERS = "adapters.safetensors"
RECORD = "adapters.json"
_KINDS = {
    "format": int,
    "base": str,
    "sha256": str,
    "init_from": str,
    "tokenizer": str,
    "task": dict,
}


def save_adapters(
    folder: str | Path,
    adapters: Adapters,
    config: LoraConfig,
    base: str,
    *,
    init_from: str = "",
    tokenizer: str = "",
    task: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write adapters, their config and the fingerprint `base`, whole or not at all.

    `init_from` is where the base lies, `tokenizer` the one named where it has none, and `task` what
    the adapters make of it.

    Raises ConfigError if the folder cannot be written, or holds something and `overwrite` is false;
    ResourceError if the disk is full.
    """
    arrays = {
        f"{target}.{name}": np.asarray(array)
        for target, adapter in adapters.items()
        for name, array in adapter.items()
    }
    # Not by the listing: what is damaged in a run must not stand in the way of the run.
    foreign = partial(unlisted_names, known=re.compile(ADAPTER_NAMES).fullmatch)
    with new_folder(folder, overwrite=overwrite, foreign=foreign) as draft:
        try:
            (draft / ADAPTERS).write_bytes(to_safetensors(arrays))
        except OSError as error:
            raise ResourceError(f"{folder} could not be written: {error}") from None
        record = {
            "format": FORMAT,
            "rank": config.rank,
            "alpha": config.alpha,
            "targets": config.targets,
            "init_from": init_from,
            "task": dict(task or {}),
            "tokenizer": tokenizer,
            "base": base,
            "sha256": _sha256(draft / ADAPTERS),
        }
        (draft / RECORD).write_text(json.dumps(record, indent=2) + "\n")


def load_adapters(
    folder: str | Path, base: Params, origin: Params | None = None
) -> tuple[Adapters, LoraConfig]:
    """The adapters in a folder, and their config.

    `origin` is what the fingerprint is of, where that is not `base`: a classifier's base has a new
    head, of which another machine may draw the last bits otherwise.

    Raises CheckpointError if there are none, if they are damaged or do not fit their config, or if
    they were trained beside other parameters than `base`.
    """
    folder = Path(folder)
    record = read_adapters_record(folder)
    made_for, sha256 = record["base"], record["sha256"]
    try:
        config = from_dict(LoraConfig(), {k: v for k, v in record.items() if k not in _KINDS})
        if _sha256(folder / ADAPTERS) != sha256:
            raise CheckpointError(f"{folder / ADAPTERS} has changed since it was written (sha256)")
        arrays = load_file(folder / ADAPTERS)
        shapes = jax.eval_shape(lambda: init_adapters(base, config, jax.random.key(0)))
    except (ConfigError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no adapters that fit: {error}") from None
    if fingerprint(base if origin is None else origin) != made_for:
        raise CheckpointError(
            f"{folder} holds adapters of another base model (sha256 of its parameters); give the "
            "model that they were trained on, in the same dtype"
        )
    return _nested(folder, arrays, shapes), config


def read_adapters_record(folder: Path) -> dict[str, Any]:
    """What stands beside the adapters: their settings, `init_from`, `task`, and sums.

    Raises CheckpointError if there is none, or if a newer version wrote it.
    """
    path = folder / RECORD
    try:
        record = read_mapping(path)
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    for name, kind in _KINDS.items():
        if type(record.get(name)) is not kind:
            raise CheckpointError(f"{path} has no {name}; name a folder that holds adapters")
    if record["format"] > FORMAT:
        raise CheckpointError(f"{folder} was written by a newer jaxgpt; upgrade")
    if record["format"] < 1:
        raise CheckpointError(f"{path} has the format {record['format']}; it begins with 1")
    check_task(record["task"], f"the task in {path}")
    return record


def _nested(folder: Path, arrays: dict[str, np.ndarray], shapes: Adapters) -> Adapters:
    wanted = {f"{target}.{name}" for target, adapter in shapes.items() for name in adapter}
    if odd := sorted(wanted ^ arrays.keys()):
        raise CheckpointError(f"{folder}: {RECORD} and {ADAPTERS} do not both have {odd[0]}")

    def array(target: str, name: str) -> jax.Array:
        found, shape = arrays[f"{target}.{name}"], shapes[target][name].shape
        if found.dtype != np.float32 or found.shape != shape or not np.isfinite(found).all():
            raise CheckpointError(
                f"{folder}: {target}.{name} is {found.dtype} {found.shape}; it must be float32 "
                f"{shape} and finite"
            )
        return jnp.asarray(found)

    return {target: {name: array(target, name) for name in shapes[target]} for target in shapes}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
