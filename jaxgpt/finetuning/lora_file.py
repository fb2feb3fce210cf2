"""Adapters on disk: a folder of kilobytes that knows which base it belongs to."""

import os
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file
from safetensors.numpy import save as to_safetensors

from jaxgpt.config_file import from_dict
from jaxgpt.data.atomic import new_folder
from jaxgpt.data.ownership import ADAPTERS as ADAPTER_NAMES
from jaxgpt.data.ownership import unlisted_names
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.files import file_sha256, read_sealed, seal
from jaxgpt.finetuning.lora import Adapters, fingerprint, init_adapters
from jaxgpt.finetuning.settings import LoraConfig
from jaxgpt.model.layers import Params
from jaxgpt.model.nested import flatten
from jaxgpt.model.schema import SCHEMA, Rows
from jaxgpt.training.task import check_task

FORMAT = 2
"""Records of format 1 have no sum of their own, and no new parameters, such as a head."""
ADAPTERS = "adapters.safetensors"
RECORD = "adapters.json"
ADAPTERS_FOLDER = "adapters"
"""In a run's folder."""
_NEW = "new"
_TEXTS = ("base", "arrays", "sha256", "init_from", "tokenizer")
_KINDS = {"format": int, **dict.fromkeys(_TEXTS, str), "task": dict}


def save_adapters(
    folder: str | Path,
    adapters: Adapters,
    config: LoraConfig,
    base: str,
    *,
    new: Params | None = None,
    init_from: str = "",
    tokenizer: str = "",
    task: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write adapters, their config and the fingerprint `base`, whole or not at all.

    `new` are frozen parameters that the base does not have, such as a classifier's head;
    `init_from` is where the base lies, `tokenizer` the one named where it has none, and `task` what
    the adapters make of it. Raises ConfigError if the folder cannot be written, or holds something
    and `overwrite` is false; ResourceError if the disk is full.
    """
    arrays = flatten(adapters) | flatten({_NEW: new or {}})
    # Not by the listing: what is damaged in a run must not stand in the way of the run.
    foreign = partial(unlisted_names, known=re.compile(ADAPTER_NAMES).fullmatch)
    with new_folder(folder, overwrite=overwrite, foreign=foreign) as draft:
        try:
            (draft / ADAPTERS).write_bytes(to_safetensors(jax.device_get(arrays)))
        except OSError as error:
            raise ResourceError(f"{folder} could not be written: {error}") from None
        record = {
            "format": FORMAT,
            "rank": config.rank,
            "alpha": config.alpha,
            "targets": tuple(dict.fromkeys([*config.targets, *adapters])),
            "init_from": init_from,
            "task": dict(task or {}),
            "tokenizer": tokenizer,
            "base": base,
            "arrays": file_sha256(draft / ADAPTERS),
        }
        (draft / RECORD).write_bytes(seal(record))


def load_adapters(
    folder: str | Path,
    base: Params,
    origin: Params | None = None,
    new: Sequence[str] = (),
    rows: Rows = SCHEMA,
) -> tuple[Adapters, LoraConfig, Params]:
    """The adapters in a folder, their config, and the parameters that they lie beside.

    `origin` is what the fingerprint is of, where that is not `base`, of which the parts in `new`
    were drawn, such as a classifier's head: they are read too, but for a folder of format 1, which
    has none and was made beside those of `base`. Raises CheckpointError if there are none, if they
    are damaged or do not fit their config, or if they were trained beside other parameters than
    `base`.
    """
    folder = Path(folder)
    record = read_adapters_record(folder)
    made_for, sha256 = record["base"], record["arrays"]
    try:
        config = from_dict(LoraConfig(), {k: v for k, v in record.items() if k not in _KINDS})
        if file_sha256(folder / ADAPTERS, error=CheckpointError) != sha256:
            raise CheckpointError(f"{folder / ADAPTERS} has changed since it was written (sha256)")
        arrays = load_file(folder / ADAPTERS)
        wanted = jax.eval_shape(lambda: init_adapters(base, config, jax.random.key(0), rows))
    except (ConfigError, OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder} holds no adapters that fit: {error}") from None
    if fingerprint(base if origin is None else origin) != made_for:
        raise CheckpointError(
            f"{folder} holds adapters of another base model (sha256 of its parameters); give the "
            "model that they were trained on, in the same dtype"
        )
    drawn = {part: base[part] for part in new if record["format"] > 1}
    found = _checked(folder, arrays, flatten(wanted) | flatten({_NEW: drawn}))
    return _like(wanted, found), config, base | _like(drawn, found, f"{_NEW}.")


def are_whole(folder: Path) -> bool:
    """Whether there are adapters in a folder, with the sum that they were written with."""
    try:
        found = file_sha256(folder / ADAPTERS, error=CheckpointError)
        return read_adapters_record(folder)["arrays"] == found
    except CheckpointError:
        return False


def read_adapters_record(folder: Path) -> dict[str, Any]:
    """What stands beside the adapters: their settings, `init_from`, `task`, and sums.

    Raises CheckpointError if there is none, or if a newer version wrote it.
    """
    path = folder / RECORD
    record, whole = read_sealed(path, error=CheckpointError)
    if record.get("format") == 1 and "arrays" not in record:
        record["arrays"] = record.get("sha256")  # of format 1, it is the sum of these alone
    elif not whole:
        raise CheckpointError(f"{path} has changed since it was written (sha256)")
    for name, kind in _KINDS.items():
        if type(record.get(name)) is not kind:
            raise CheckpointError(f"{path} has no {name}; name a folder that holds adapters")
    if record["format"] > FORMAT:
        raise CheckpointError(f"{folder} was written by a newer jaxgpt; upgrade")
    if record["format"] < 1:
        raise CheckpointError(f"{path} has the format {record['format']}; it begins with 1")
    check_task(record["task"], f"the task in {path}")
    return record


def find_adapters(path: str | Path) -> Path | None:
    """The folder of adapters that `path` is, or that the run in it has; None if there is none."""
    folders = Path(path), Path(path, ADAPTERS_FOLDER)
    return next((folder for folder in folders if os.path.isfile(folder / RECORD)), None)


def check_base(path: str | Path, base: str) -> None:
    """Raise ConfigError if a base is named for a model that has no adapters."""
    if base and not find_adapters(path):
        raise ConfigError("--base goes with adapters, and the model named has none")


def find_base(folder: Path, record: Mapping[str, Any], base: str = "") -> str:
    """Where the model that adapters were trained beside lies: `base`, or where it was then.

    A relative path is looked up from here, and then from each folder above the adapters'. Raises
    CheckpointError if it is at none of these.
    """
    if found := base or _nearby(folder, record["init_from"]):
        return found
    raise CheckpointError(
        f"{folder} holds adapters of the model in {record['init_from'] or 'another folder'}, but "
        "here is no such folder; say where it lies now by --base"
    )


def find_base_tokenizer(folder: Path, record: Mapping[str, Any]) -> str:
    """The tokenizer of that model: a folder, where it is one and was found, or its name."""
    tokenizer = record["tokenizer"]
    if os.path.isfile(found := os.path.join(_nearby(folder, tokenizer), "tokenizer.json")):
        return os.path.dirname(found)
    return tokenizer


def _nearby(folder: Path, name: str) -> str:
    """The path `name` seen from here or from a folder above `folder`; empty where nothing is."""
    places = ["", *map(str, Path(os.path.realpath(folder)).parents)] if name else []
    return next((found for at in places if os.path.exists(found := os.path.join(at, name))), "")


def _like(tree: Any, found: Mapping[str, jax.Array], prefix: str = "") -> Any:
    return {part: {name: found[f"{prefix}{part}.{name}"] for name in tree[part]} for part in tree}


def _checked(
    folder: Path, arrays: dict[str, np.ndarray], shapes: Mapping[str, Any]
) -> dict[str, jax.Array]:
    if odd := sorted(shapes.keys() ^ arrays.keys()):
        raise CheckpointError(f"{folder}: {RECORD} and {ADAPTERS} do not both have {odd[0]}")
    for name, wanted in shapes.items():
        found = arrays[name]
        if found.dtype != np.float32 or found.shape != wanted.shape or not np.isfinite(found).all():
            raise CheckpointError(
                f"{folder}: {name} is {found.dtype} {found.shape}; it must be float32 "
                f"{wanted.shape} and finite"
            )
    return {name: jnp.asarray(array) for name, array in arrays.items()}
