"""Folders of adapters, and where the model lies that they were trained beside."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.finetuning.lora_file import RECORD

ADAPTERS_FOLDER = "adapters"


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


def find_base_tokenizer(folder: Path, record: Mapping[str, Any]) -> str:
    """The tokenizer of that model: a folder, where it is one and was found, or its name."""
    tokenizer = record["tokenizer"]
    if os.path.isfile(found := os.path.join(_nearby(folder, tokenizer), "tokenizer.json")):
        return os.path.dirname(found)
    return tokenizer


def _no_base(folder: Path, name: str) -> NoReturn:
    raise CheckpointError(
        f"{folder} holds adapters of the model in {name or 'another folder'}, but here is no such "
        "folder; say where it lies now by --base"
    )


def _nearby(folder: Path, name: str) -> str:
    """The path `name` seen from here or from a folder above `folder`; empty where nothing is."""
    places = ["", *map(str, Path(os.path.realpath(folder)).parents)] if name else []
    return next((found for at in places if os.path.exists(found := os.path.join(at, name))), "")
