"""A model to begin with: a model of Hugging Face, or what jaxgpt trained, from a folder."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jaxgpt.config import BlockConfig, DataConfig, ModelConfig, TrainConfig
from jaxgpt.config_file import differences
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.fields import typed
from jaxgpt.finetuning import lora_file
from jaxgpt.finetuning.lora import merge
from jaxgpt.huggingface.config import read_huggingface_config
from jaxgpt.huggingface.weights import Dtype, load_huggingface
from jaxgpt.model.layers import Params
from jaxgpt.model.schema import rows_of
from jaxgpt.tokenization.tokenizer import Tokenizer, load_tokenizer
from jaxgpt.training.checkpoint import LoadedModel, find_checkpoint, load_model, read_config
from jaxgpt.training.kept import FOLDER
from jaxgpt.training.manifest import MANIFEST
from jaxgpt.training.own_parts import OwnBlock, restored_block

_VOCABULARIES = ("merges.txt", "vocab.json", "tokenizer.json")


def load_pretrained(
    path: str | Path,
    tokenizer: str | None = None,
    dtype: Dtype | None = None,
    *,
    base: str = "",
    block: OwnBlock = None,
) -> LoadedModel:
    """The model in a Hugging Face folder, or in a run's or a checkpoint's folder.

    Adapters, or a run that trained some, are merged with their base, which is in `base` if it was
    moved; `block` is that of `load_model`. The tokenizer is the one named, or the folder's
    (`find_tokenizer`). The dtype is the file's, or of merged weights float32, unless `dtype` asks
    for another. Raises CheckpointError as `load_huggingface` and `load_model` do, DataError if
    there is no tokenizer, ConfigError if it has more ids than the model.
    """
    path = Path(path)
    adapters = lora_file.find_adapters(path)
    if adapters or is_own(path):
        model = load_adapted(adapters, base, block) if adapters else load_model(path, block=block)
        own = model.tokenizer if not tokenizer else load_tokenizer(tokenizer)
        _check_vocabulary(path, model.config, own)
        return replace(model, params=_cast(path, model.params, dtype), tokenizer=own)
    if block is not None:
        raise ConfigError(f"{path} is a model of Hugging Face, which has no block of its own")
    # And its tokenizer, before the weights, which take longer.
    _, config = read_huggingface_config(path)
    spec = tokenizer or find_tokenizer(path)
    # A folder's that is GPT-2's by the number of its ids needs no vocabulary until a text is read.
    own = load_tokenizer(spec if tokenizer or spec != "gpt2" else path)
    _check_vocabulary(path, config, own)
    config, params = load_huggingface(path, dtype)
    train = TrainConfig(model=config, data=DataConfig(tokenizer=spec))
    return LoadedModel(config, params, own, 0, train)


def load_base(path: str, tokenizer: str = "", block: OwnBlock = None) -> LoadedModel:
    """The model in a folder, to train on from it: `load_pretrained` in float32."""
    return load_pretrained(path, tokenizer or None, dtype="float32", block=block)


def load_adapted(folder: Path, base: str = "", block: OwnBlock = None) -> LoadedModel:
    """The model of which `folder` holds the adapters, merged with its base.

    `base` says where that lies now, if it is no longer where it was. Raises CheckpointError as
    `load_adapters` does, and for those of a classifier, which is no language model.
    """
    record = lora_file.read_adapters_record(folder)
    if record["task"].get("kind") == "classification":
        raise CheckpointError("these adapters are of a classifier, which writes no text")
    model = load_adapters_base(folder, record, base, block)
    return merge_adapters(folder, model, model, record["task"])


def load_adapters_base(
    folder: Path, record: Mapping[str, Any], base: str = "", block: OwnBlock = None
) -> LoadedModel:
    """The model that the adapters in `folder` were trained beside, with its tokenizer."""
    tokenizer = lora_file.find_base_tokenizer(folder, record)
    return load_base(lora_file.find_base(folder, record, base), tokenizer, block)


def merge_adapters(
    folder: Path,
    base: LoadedModel,
    origin: LoadedModel,
    task: Mapping[str, Any],
    new: Sequence[str] = (),
) -> LoadedModel:
    """`base` with the adapters in `folder` merged; `origin` and `new` as of `load_adapters`."""
    rows = rows_of(base.config)
    adapters, lora, params = lora_file.load_adapters(folder, base.params, origin.params, new, rows)
    return replace(base, params=merge(params, adapters, lora, rows), task=task)


def is_own(path: str | Path) -> bool:
    """Whether a folder is a run's or a checkpoint's of jaxgpt."""
    return os.path.isfile(Path(path) / MANIFEST) or os.path.isdir(Path(path) / FOLDER)


def begin_from(config: TrainConfig, path: str, tokenizer: str | None = None) -> TrainConfig:
    """`config` with the shape of the model in `path`, and with its tokenizer or the one named.

    Where a Hugging Face model's positions are rotary, the context is at most the default of a run.
    """
    model, spec = _read_shape(Path(path), tokenizer)
    if model.positions == "rope" and not is_own(path):
        length = min(model.context_length, ModelConfig.context_length)
        model = replace(model, context_length=length)
    return replace(config, init_from=path, model=model, data=replace(config.data, tokenizer=spec))


def check_fits(config: TrainConfig) -> None:
    """Raise ConfigError unless the model of `config` can begin with `config.init_from`.

    It must be the folder's but for dropout, which is free, and the context, which may be shorter.
    """
    model, _ = _read_shape(Path(config.init_from), config.data.tokenizer)
    length = min(model.context_length, config.model.context_length)
    wanted = replace(model, dropout=config.model.dropout, context_length=length)
    changed = differences(wanted, config.model)
    if changed:
        raise ConfigError(
            f"--init-from {config.init_from} decides the model, but for dropout and a shorter "
            f"context; leave out what changes it ({'; '.join(changed)})"
        )


def initial_params(path: str, config: ModelConfig) -> Params:
    """The parameters in `path` to train on: in float32, and of positions only those in context.

    Raises CheckpointError as `load_huggingface` and `load_model` do.
    """
    folder = Path(path)
    block: Any = config.block if isinstance(config, BlockConfig) else None
    if lora_file.find_adapters(folder):
        params = load_base(path, block=block).params
    elif is_own(folder):
        params = _cast(folder, load_model(folder, block=block).params, "float32")
    else:
        _, params = load_huggingface(folder, "float32")
    if "positions" in params["embed"]:
        positions = params["embed"]["positions"][: config.context_length]
        params["embed"] = params["embed"] | {"positions": positions}
    return params


def find_tokenizer(folder: Path) -> str:
    """What `load_tokenizer` reads for a Hugging Face folder: its own, or GPT-2's.

    `tokenizer/` in jaxgpt's format comes first. Where the folder's files give GPT-2's tokenizer, as
    it is, it is the vocabulary file, or gpt2 where there is none; else it is the folder. Raises
    DataError as `load_tokenizer` does.
    """
    if os.path.isdir(folder / "tokenizer"):
        return str(folder / "tokenizer")
    if load_tokenizer(folder).name != "gpt2":
        return str(folder)
    found = (folder / name for name in _VOCABULARIES if os.path.isfile(folder / name))
    return str(next(found, "gpt2"))


def _read_shape(path: Path, tokenizer: str | None) -> tuple[ModelConfig, str]:
    """The model's shape and its tokenizer, from small files alone."""
    if adapters := lora_file.find_adapters(path):
        base = lora_file.find_base(adapters, lora_file.read_adapters_record(adapters))
        return _read_shape(Path(base), tokenizer)
    if is_own(path):
        folder = find_checkpoint(path)
        model = restored_block(read_config(folder / "config.json"), None, folder).model
        return model, tokenizer or str(folder / "tokenizer")
    _, model = read_huggingface_config(path)
    return model, tokenizer or find_tokenizer(path)


def _check_vocabulary(path: Path, config: ModelConfig, tokenizer: Tokenizer) -> None:
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"tokenizer {tokenizer.name} has {tokenizer.vocab_size} ids, but the model in {path} "
            f"only {config.vocab_size}; name another by --tokenizer"
        )


def _cast(path: Path, params: Params, dtype: Dtype | None) -> Params:
    if typed("dtype", dtype, Dtype | None) is None:
        return params
    cast = jax.tree.map(lambda leaf: leaf.astype(dtype), params)
    if not all(bool(jnp.isfinite(leaf).all()) for leaf in jax.tree.leaves(cast)):
        raise CheckpointError(f"{path} has numbers that are not finite in {dtype}; keep its dtype")
    return cast
