"""The `config.json` of a Hugging Face folder, to and from a ModelConfig."""

import os
from pathlib import Path
from typing import Any

from jaxgpt.config import ModelConfig
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.families.family import Family
from jaxgpt.families.known import read_family
from jaxgpt.files import read_object
from jaxgpt.shell import command
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.tokenization.tokenizer_json import roles

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".ckpt", ".h5")
"""Endings of weight files that are not opened: to unpickle is to run what they contain."""


def read_huggingface_config(folder: str | Path) -> tuple[Family, ModelConfig]:
    """The family and the shape of the model in a Hugging Face folder.

    What `config.json` leaves out is the family's. Raises CheckpointError if there is no such
    folder, if its `config.json` is of no family that jaxgpt has, or if it has a setting that jaxgpt
    has no counterpart for.
    """
    folder = Path(folder)
    check_folder(folder)
    path = folder / "config.json"
    values = read_object(path, error=CheckpointError)
    try:
        return read_family(values)
    except ConfigError as error:
        raise CheckpointError(f"{path}: {error}") from None


def refuse_pickle(path: Path) -> CheckpointError:
    """What to raise at weights that are not safetensors, with the way to convert them."""
    return CheckpointError(
        f"{path}: pickle refused; convert to safetensors, where you trust the file: "
        f"AutoModelForCausalLM.from_pretrained({str(path.parent)!r}).save_pretrained('NEW_FOLDER') "
        "of the library transformers"
    )


def check_folder(folder: Path) -> None:
    """Raise CheckpointError unless `folder` is one with a `config.json`; weights are no folder."""
    # os.path says False to a name that is too long, where pathlib raises.
    if os.path.isfile(folder):
        if folder.suffix in PICKLES:
            raise refuse_pickle(folder)
        raise CheckpointError(
            f"{folder} is a file; name the folder with config.json and model.safetensors"
        )
    if not os.path.isdir(folder):
        raise CheckpointError(
            f"{folder}: no such folder; name one with config.json and model.safetensors, or fetch "
            f"a model of the hub by `{command('convert')} --from huggingface`"
        )
    if not os.path.isfile(folder / "config.json"):
        raise CheckpointError(
            f"{folder} has no config.json; name a folder with config.json and model.safetensors"
        )


def to_config(
    family: Family, config: ModelConfig, dtype: str, ids: dict[str, Any]
) -> dict[str, Any]:
    """The `config.json` of a model as transformers reads it; `ids` as of `token_ids`."""
    return family.write(config) | ids | {"dtype": dtype, "torch_dtype": dtype}


def token_ids(tokenizer: Tokenizer | None) -> dict[str, Any]:
    """The ids at which a text begins, ends and is filled up, by Hugging Face's names."""
    found = {} if tokenizer is None else roles(tokenizer)
    ends = found.get("ends", ())
    return {
        "bos_token_id": found.get("begin_of_text"),
        "eos_token_id": list(ends) if len(ends) > 1 else next(iter(ends), None),
        "pad_token_id": found.get("padding"),
    }
