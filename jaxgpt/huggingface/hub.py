"""A model by its name on the Hugging Face hub: fetched once, into a folder as they lie there."""

import os
import re
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

from jaxgpt.data.downloads import NotThereError, Progress, cache_subfolder, fetch_file
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.huggingface.config import read_huggingface_config
from jaxgpt.huggingface.files import INDEX, WEIGHTS, read_index
from jaxgpt.tokenization.huggingface_folder import TOKENIZER_FILES

SITE = "https://huggingface.co"
_NAME = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*", re.ASCII)


def is_hub_name(name: str) -> bool:
    """Whether `name` is formed like OWNER/NAME on the hub."""
    return _NAME.fullmatch(name) is not None


def fetch_model(
    name: str, cache_folder: str | Path | None = None, *, progress: Progress | None = None
) -> Path:
    """The folder of the model OWNER/NAME, downloaded from the hub unless the cache has it.

    It gets `config.json`, what there is of a tokenizer's files, and the weights in safetensors,
    whole or in shards. `HF_ENDPOINT` names another server.

    Raises:
        ConfigError: the name is not formed like one, HF_ENDPOINT is no address of a server, or the
            cache folder cannot be made.
        DataError: a download that failed, with what to do without a network.
        CheckpointError: of no family that jaxgpt has, or not in safetensors.
    """
    if not is_hub_name(name):
        raise ConfigError(f"{name!r} is no OWNER/NAME of the hub, such as openai-community/gpt2")
    site = _site()
    folder = cache_subfolder(f"models/{name}", cache_folder)

    def get(file: str) -> None:
        fetch_file(
            f"{site}/{name}/resolve/main/{quote(file)}",
            folder / file,
            progress=progress,
            instead="name a folder that has the model",
        )

    get("config.json")
    read_huggingface_config(folder)
    if not (folder / WEIGHTS).is_file() and not (folder / INDEX).is_file():
        for file in TOKENIZER_FILES:  # before the weights, so never left out
            with suppress(NotThereError):
                get(file)
    try:
        if not (folder / INDEX).is_file():
            get(WEIGHTS)
            return folder
    except NotThereError:
        pass
    try:
        get(INDEX)
    except NotThereError:
        raise CheckpointError(
            f"{site}/{name} has neither {WEIGHTS} nor {INDEX}; jaxgpt reads no pickle, so name "
            "a model that has safetensors"
        ) from None
    for shard in read_index(folder / INDEX):
        get(shard)
    return folder


def _site() -> str:
    """The server to ask; never a file, which urllib would read as readily."""
    site = (os.environ.get("HF_ENDPOINT") or SITE).rstrip("/")
    try:
        parts = urlsplit(site)
        known = parts.scheme in ("http", "https") and bool(parts.hostname)
        known = known and parts.port != 0 and site.isascii() and site.isprintable()
    except ValueError:  # brackets that do not match, a port that is no number
        known = False
    if not known or " " in site or parts.query or parts.fragment:
        raise ConfigError(f"HF_ENDPOINT is {site!r}; it must be a server's, such as {SITE}")
    return site
