"""GPT-2's weights from and to a Hugging Face folder: a table of names, and no second copy.

Their linear maps are (in, out) as jaxgpt's are, so all that differs is that layers are kept apart
there and stacked here, and that an untied head lies there as (V, D).
"""

import json
import math
import mmap
import shutil
import warnings
from collections.abc import Sequence
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
from jaxgpt.errors import CheckpointError, ResourceError
from jaxgpt.fields import typed
from jaxgpt.huggingface.config import check_is_gpt2, read_gpt2_config, to_gpt2_config, token_ids
from jaxgpt.huggingface.files import WEIGHTS, StoredTensor, open_weights, read_headers
from jaxgpt.huggingface.names import HEAD, StoredLeaf, leaves_of
from jaxgpt.model.embedding import sinusoidal_positions
from jaxgpt.model.gpt import check_agreement
from jaxgpt.model.layers import Params
from jaxgpt.model.nested import nest
from jaxgpt.tokenization.tokenizer import Tokenizer
from jaxgpt.tokenization.tokenizer_json import write_for_transformers
from jaxgpt.training.memory import device_memory

Dtype = Literal["float32", "float16", "bfloat16"]

_DTYPES: dict[str, Dtype] = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
_NAMED = 5  # names in a message before the rest is only counted
_ROWS = 4096  # of a table that are compared at a time


def load_gpt2(folder: str | Path, dtype: Dtype | None = None) -> tuple[ModelConfig, Params]:
    """The GPT-2 in a Hugging Face folder, as jaxgpt's config and parameters.

    The folder holds `config.json`, and `model.safetensors` or its index with the shards. The dtype
    is that of the file, or float32 where it has several, unless `dtype` (float32, float16 or
    bfloat16) asks for another. All names,
    shapes and types are checked before an array is made. On a CPU the most memory taken is that of
    the parameters and of two more copies of one tensor.

    Raises CheckpointError, in one line, if the folder is not that of a GPT-2 that jaxgpt has a
    counterpart for, if a file is damaged, missing or pickled, if tensors are missing, unexpected or
    of another shape or type than they should be, or if a number is NaN or infinite; ResourceError
    if the device has less memory than the parameters take.
    """
    folder, dtype = Path(folder), typed("dtype", dtype, Dtype | None)
    config = read_gpt2_config(folder)
    tensors = read_headers(folder)
    if config.num_layers > len(tensors):  # before a name is made for each
        raise CheckpointError(
            f"{folder}: config.json has n_layer {config.num_layers}, but there are only "
            f"{len(tensors)} tensors; they do not belong together"
        )
    leaves = leaves_of(config)
    _check_shapes(folder, leaves, tensors)
    dtype = _dtype(folder, tensors, dtype)
    if config.tie_head and HEAD in tensors:
        _check_tied(folder, tensors)
    _check_room(folder, leaves, dtype)
    # The largest first, while there is most room beside it.
    leaves = sorted(leaves, key=lambda leaf: -len(leaf.names) * math.prod(leaf.shape))
    return config, nest({".".join(leaf.path): _load(leaf, tensors, dtype) for leaf in leaves})


def _check_shapes(folder: Path, leaves: list[StoredLeaf], tensors: dict[str, StoredTensor]) -> None:
    wanted = {name: leaf.shape for leaf in leaves for name in leaf.names}
    odd = [
        f"{name} {tensors[name].shape} instead of {shape}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    unknown = [name for name in tensors if name not in wanted and name != HEAD]
    problems = [
        _listed("missing", [name for name in wanted if name not in tensors]),
        _listed("unexpected", sorted(unknown)),
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


def _check_room(folder: Path, leaves: list[StoredLeaf], dtype: Dtype) -> None:
    numbers = sum(len(leaf.names) * math.prod(leaf.shape) for leaf in leaves)
    needed, available = numbers * jnp.dtype(dtype).itemsize, device_memory()
    if available is not None and needed > available:
        raise ResourceError(
            f"{folder} has {numbers:,} numbers, {needed / 1e9:,.1f} GB in {dtype}, but a device "
            f"has {available / 1e9:,.1f} GB; choose a smaller model or dtype"
        )


def _check_tied(folder: Path, tensors: dict[str, StoredTensor]) -> None:
    """Refuse a head that is said to be the token table and is not, some rows at a time."""
    head, table = tensors[HEAD], tensors["wte.weight"]
    same = (head.shape, head.dtype) == (table.shape, table.dtype)
    with open_weights(head.file) as ours, open_weights(table.file) as theirs:
        parts = ours.get_slice(head.name), theirs.get_slice(table.name)
        rows = table.shape[0] if same else 0
        for start in range(0, rows, _ROWS):
            one, other = (part[start : min(start + _ROWS, rows)].tobytes() for part in parts)
            same = same and one == other
    if not same:
        raise CheckpointError(
            f"{folder}: tie_word_embeddings is true, but {HEAD} differs from wte.weight; set it "
            "to false in config.json, or save the model again"
        )


def _load(leaf: StoredLeaf, tensors: dict[str, StoredTensor], dtype: Dtype) -> jax.Array:
    turned = leaf.path[0] == "head"
    shape = (len(leaf.names), *(leaf.shape[::-1] if turned else leaf.shape))
    # A memory map of nothing begins with a page, and JAX on CPU takes what is so aligned as it is.
    memory = mmap.mmap(-1, math.prod(shape) * jnp.dtype(dtype).itemsize)
    array = np.frombuffer(memory, jnp.dtype(dtype)).reshape(shape)
    for row, name in zip(array, leaf.names, strict=True):
        stored = tensors[name]
        # Opened for each: pages of the file that were read count as memory until it is closed.
        with open_weights(stored.file) as weights, np.errstate(over="ignore"):
            tensor = weights.get_tensor(stored.name)
            row[...] = tensor.T if turned else tensor
            if not np.isfinite(row).all():
                advice = f" in {dtype}; keep {stored.dtype}" if np.isfinite(tensor).all() else ""
                raise CheckpointError(
                    f"{stored.file}: {name} has numbers that are not finite{advice}"
                )
    return jax.device_put(array if leaf.stacked else array[0]).block_until_ready()


def save_gpt2(
    folder: str | Path,
    config: ModelConfig,
    params: Params,
    *,
    tokenizer: Tokenizer | None = None,
    overwrite: bool = False,
) -> None:
    """Write a model as a Hugging Face folder that GPT2LMHeadModel reads, whole or not at all.

    The numbers are kept bit for bit. What GPT-2 there always has is written out: zeros where there
    is no query, key and value bias, and a table where the positions are sinusoidal; read back, the
    model computes the same with these as parameters. A tokenizer goes to `tokenizer/` in jaxgpt's
    own format, and as `tokenizer.json` for transformers. On a CPU the layers are views; a head of
    its own is copied once.

    Raises CheckpointError if the parameters do not fit the config, or as `check_is_gpt2` does for
    what GPT-2 has no setting for; ConfigError if they have more
    than it says, or if the folder cannot be written or holds something and `overwrite` is false,
    ResourceError if the disk is full.
    """
    check_is_gpt2(config)
    tensors: dict[str, np.ndarray] = {}
    dtype = params["embed"]["tokens"].dtype
    for leaf in leaves_of(config):
        array = _stored(leaf, config, params, dtype)
        layers = array if leaf.stacked else array[None]
        if layers.shape != (len(leaf.names), *leaf.shape) or layers.dtype != dtype:
            raise CheckpointError(
                f"{'.'.join(leaf.path)} is {array.dtype} {array.shape}; {dtype} "
                f"{(len(leaf.names), *leaf.shape)[not leaf.stacked :]} fits the config"
            )
        tensors |= zip(leaf.names, layers, strict=True)
    check_agreement(config, params)
    # Safetensors writes what lies in memory, whatever the strides.
    named = {
        name if name == HEAD else f"transformer.{name}": np.ascontiguousarray(tensor)
        for name, tensor in tensors.items()
    }
    ids = token_ids(tokenizer)
    values = to_gpt2_config(config, str(dtype), ids)
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


def _stored(leaf: StoredLeaf, config: ModelConfig, params: Params, dtype: Any) -> np.ndarray:
    """The leaf as it is stored there, on the host."""
    if leaf.path == ("embed", "positions") and config.positions == "sinusoidal":
        table = sinusoidal_positions(config.context_length, config.embed_dim)
        return np.asarray(table.astype(dtype))
    if leaf.path[1:] == ("attn", "qkv", "bias") and not config.qkv_bias:
        return np.zeros((len(leaf.names), *leaf.shape), dtype)
    node: Any = params
    for name in leaf.path:
        if name not in node:
            raise CheckpointError(f"the parameters have no {'.'.join(leaf.path)}")
        node = node[name]
    array = np.asarray(node)
    return array.T if leaf.path[0] == "head" else array
