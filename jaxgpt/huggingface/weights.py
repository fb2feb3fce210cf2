"""Weights from and to a Hugging Face folder, by the names of their family: no second copy.

Layers are kept apart there and stacked here; queries, keys and values side by side here; and
linear maps lie there as (out, in), but for GPT-2's.
"""

import json
import math
import mmap
import shutil
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from jaxgpt import __version__
from jaxgpt.config import ModelConfig
from jaxgpt.data.atomic import new_folder
from jaxgpt.data.ownership import write_listing
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.families.family import Family
from jaxgpt.families.gpt2 import GPT2
from jaxgpt.families.known import family_of
from jaxgpt.fields import typed
from jaxgpt.huggingface.config import read_huggingface_config, to_config, token_ids
from jaxgpt.huggingface.files import WEIGHTS, StoredTensor, open_weights, read_headers
from jaxgpt.huggingface.parts import Part, parts_of
from jaxgpt.model.embedding import sinusoidal_positions
from jaxgpt.model.gpt import check_agreement
from jaxgpt.model.layers import Params
from jaxgpt.model.nested import flatten, nest
from jaxgpt.model.schema import Leaf, dimensions
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.tokenization.tokenizer_json import write_for_transformers
from jaxgpt.training.memory import device_memory

Dtype = Literal["float32", "float16", "bfloat16"]

_DTYPES: dict[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMED = 5  # names in a message before the rest is only counted
_ROWS = 4096  # of a table that are compared at a time


def load_huggingface(folder: str | Path, dtype: Dtype | None = None) -> tuple[ModelConfig, Params]:
    """The model in a Hugging Face folder, as jaxgpt's config and parameters.

    The folder holds `config.json`, and `model.safetensors` or its index with the shards. The dtype
    is that of the file, or float32 where it has several, unless `dtype` (float32, float16 or
    bfloat16) asks for another. All names, shapes and types are checked before an array is made. On
    a CPU the most memory taken is that of the parameters and of two more copies of one tensor.

    Raises CheckpointError, in one line, if the folder is of no family that jaxgpt has, if a file is
    damaged, missing or pickled, if tensors are missing, unexpected or of another shape or type than
    they should be, or if a number is NaN or infinite; ResourceError if the device has less memory
    than the parameters take.
    """
    folder, dtype = Path(folder), typed("dtype", dtype, Dtype | None)
    family, config = read_huggingface_config(folder)
    tensors = read_headers(folder, family)
    per_expert = any("{expert}" in str(names) for names in family.names.values())
    count = config.num_layers * (max(1, config.experts.num_experts) if per_expert else 1)
    if count > len(tensors):  # before a name is made for each
        experts = f" and {config.experts.num_experts} experts in each" if per_expert else ""
        raise CheckpointError(
            f"{folder}: config.json has {family.keys['num_layers'].name} {config.num_layers}"
            f"{experts}, but there are only {len(tensors)} tensors; they do not belong together"
        )
    parts = parts_of(family, config)
    head, table = (str(family.names[path]) for path in ("head.weight", "embed.tokens"))
    _check_shapes(folder, parts, tensors, {head} if config.tie_head else set())
    dtype = _dtype(folder, tensors, dtype)
    if config.tie_head and head in tensors:
        _check_tied(folder, tensors[head], tensors[table])
    shapes = {leaf: (config.num_layers,) * leaf.stacked + leaf.shape(config) for leaf in parts}
    _check_room(folder, sum(map(math.prod, shapes.values())), dtype)
    # The largest tensor first, while there is most room beside it.
    in_order = sorted(parts, key=lambda leaf: -max(math.prod(part.shape) for part in parts[leaf]))
    return config, nest(
        {leaf.path: _load(shapes[leaf], parts[leaf], tensors, dtype) for leaf in in_order}
    )


def _check_shapes(
    folder: Path,
    parts: dict[Leaf, list[Part]],
    tensors: dict[str, StoredTensor],
    allowed: set[Any],
) -> None:
    wanted = {part.name: part.shape for each in parts.values() for part in each}
    odd = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    problems = [
        _listed("missing", [name for name in wanted if name not in tensors]),
        _listed("unexpected", sorted(tensors.keys() - wanted.keys() - allowed)),
        _listed("of another shape", odd),
    ]
    if any(problems):
        raise CheckpointError(
            f"{folder}: the weights do not fit config.json: {'; '.join(filter(None, problems))}; "
            "bring the two that belong together"
        )


def _listed(what: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}" if names else ""


def _dtype(folder: Path, tensors: dict[str, StoredTensor], asked: Dtype | None) -> Dtype:
    """The dtype asked for, or else the one that holds the numbers of all tensors."""
    odd = [f"{name} {t.dtype}" for name, t in tensors.items() if t.dtype not in _DTYPES]
    if odd:
        raise CheckpointError(
            f"{folder}: {_listed('of a type that is none of ' + ', '.join(_DTYPES), odd)}; "
            "save the model in one of these types"
        )
    found = sorted({tensor.dtype for tensor in tensors.values()})
    if len(found) > 1 and asked is None:
        warnings.warn(
            f"{folder} has tensors of different types, {' and '.join(found)}; all become float32, "
            "in which each is exact",
            stacklevel=3,
        )
    return asked or (_DTYPES[found[0]] if len(found) == 1 else "float32")


def _check_room(folder: Path, numbers: int, dtype: Dtype) -> None:
    needed, available = numbers * jnp.dtype(dtype).itemsize, device_memory()
    if available is not None and needed > available:
        raise ResourceError(
            f"{folder} has {numbers:,} numbers, {needed / 1e9:,.1f} GB in {dtype}, but a device "
            f"has {available / 1e9:,.1f} GB; choose a smaller model or dtype"
        )


def _check_tied(folder: Path, head: StoredTensor, table: StoredTensor) -> None:
    """Refuse a head that is said to be the token table and is not, some rows at a time."""
    same = (head.shape, head.dtype) == (table.shape, table.dtype)
    with open_weights(head.file) as ours, open_weights(table.file) as theirs:
        slices = ours.get_slice(head.name), theirs.get_slice(table.name)
        rows = table.shape[0] if same else 0
        for start in range(0, rows, _ROWS):
            one, other = (part[start : min(start + _ROWS, rows)].tobytes() for part in slices)
            same = same and one == other
    if not same:
        raise CheckpointError(
            f"{folder}: tie_word_embeddings is true, but {head.name} differs from {table.name}; "
            "set it to false in config.json, or save the model again"
        )


def _load(
    shape: tuple[int, ...], parts: list[Part], tensors: dict[str, StoredTensor], dtype: Dtype
) -> jax.Array:
    # A memory map of nothing begins with a page, and JAX on CPU takes what is so aligned as it is.
    memory = mmap.mmap(-1, math.prod(shape) * jnp.dtype(dtype).itemsize)
    array = np.frombuffer(memory, jnp.dtype(dtype)).reshape(shape)
    for part in parts:
        stored, own = tensors[part.name], array[part.index]
        with np.errstate(over="ignore"):
            tensor = stored.read()[part.columns]
            own[...] = tensor.T if part.turned else tensor
            if not np.isfinite(own).all():
                advice = f" in {dtype}; keep {stored.dtype}" if np.isfinite(tensor).all() else ""
                raise CheckpointError(
                    f"{stored.file}: {part.name} has numbers that are not finite{advice}"
                )
    return jax.device_put(array).block_until_ready()


def save_huggingface(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    *,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as a Hugging Face folder that transformers reads, whole or not at all.

    It becomes one of the first family that has such a model, and its numbers are kept bit for bit.
    What GPT-2 there always has is written out: zeros where there is no query, key and value bias,
    and a table where the positions are sinusoidal; read back, the model computes the same with
    these as parameters. A tokenizer goes to `tokenizer/` in jaxgpt's own format, and as
    `tokenizer.json` for transformers. On a CPU the layers of GPT-2 are views; what lies there as
    (out, in) is copied once.

    Raises CheckpointError if the parameters do not fit the config, or if no family has such a
    model; ConfigError if they have more than it says, or if the folder cannot be written or holds
    something and `overwrite` is false, ResourceError if the disk is full.
    """
    dtype, family, given = params["embed"]["tokens"].dtype, GPT2, (config, params)
    if not GPT2.misfits(_as_gpt2(config)):
        config, params = _as_gpt2(config), _written_out(config, params)
    else:
        try:
            family = family_of(config)
        except ConfigError as error:
            raise CheckpointError(str(error)) from None
    tensors = _tensors(family, config, params, dtype)
    check_agreement(*given)
    head = family.names["head.weight"]
    named = {
        name if name == head else family.prefixes[0] + name: tensor
        for name, tensor in tensors.items()
    }
    ids = token_ids(tokenizer)
    values = to_config(family, config, str(dtype), ids)
    with new_folder(folder, overwrite=overwrite) as partial:
        (partial / "config.json").write_text(json.dumps(values, indent=2) + "\n")
        (partial / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
        try:
            save_file(named, partial / WEIGHTS, metadata={"format": "pt"})
        except SafetensorError as error:
            raise ResourceError(f"{folder} could not be written: {error}") from None
        shutil.copymode(partial / "config.json", partial / WEIGHTS)  # for others to read, too
        if tokenizer is not None:
            tokenizer.save(partial / "tokenizer")
            write_for_transformers(partial, tokenizer, config.context_length)
        write_listing(partial, f"jaxgpt {__version__}")


def _as_gpt2(config: ModelConfig) -> ModelConfig:
    """A model with the parameters that GPT-2 always has."""
    positions = "learned" if config.positions == "sinusoidal" else config.positions
    return replace(config, positions=positions, qkv_bias=True)


def _written_out(config: ModelConfig, params: Params) -> Params:
    """Its parameters, of which some are no parameters here."""
    dtype = params["embed"]["tokens"].dtype
    if config.positions == "sinusoidal":
        table = sinusoidal_positions(config.context_length, config.embed_dim).astype(dtype)
        params = params | {"embed": params["embed"] | {"positions": table}}
    if not config.qkv_bias:
        blocks, attn = params["blocks"], params["blocks"]["attn"]
        zeros = np.zeros((config.num_layers, dimensions(config)["E"]), dtype)
        attn = attn | {"qkv": attn["qkv"] | {"bias": zeros}}
        params = params | {"blocks": blocks | {"attn": attn}}
    return params


def _tensors(
    family: Family, config: ModelConfig, params: Params, dtype: Any
) -> dict[str, np.ndarray]:
    """The tensors as they are stored there, on the host, in which strides do not count."""
    tensors, arrays = dict[str, np.ndarray](), flatten(params)
    for leaf, parts in parts_of(family, config).items():
        shape = (config.num_layers,) * leaf.stacked + leaf.shape(config)
        if leaf.path not in arrays:
            raise CheckpointError(f"the parameters have no {leaf.path}")
        array = np.asarray(arrays[leaf.path])
        if (array.shape, array.dtype) != (shape, dtype):
            raise CheckpointError(
                f"{leaf.path} is {array.dtype} {array.shape}; {dtype} {shape} fits the config"
            )
        for part in parts:
            own = array[part.index].T if part.turned else array[part.index]
            if part.columns == (...,):
                tensors[part.name] = np.ascontiguousarray(own)
            else:
                whole = tensors.setdefault(part.name, np.empty(part.shape, dtype))
                whole[part.columns] = own
    return tensors


load_gpt2 = load_huggingface
"""`load_huggingface`, by the name of the first family."""

save_gpt2 = save_huggingface
"""`save_huggingface`, by the name of the first family."""
