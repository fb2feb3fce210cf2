"""A recording's `.npz`, by which models on two machines, or of two programs, are compared.

It holds `tokens` (B, T) and, each where it is known, `activations/NAME` by the names of
`activation_names`, `loss`, `gradients/PATH` and `parameters/PATH` by jaxgpt's path with the layers
stacked (`blocks.attn.qkv.weight`), and the strings `config` (a ModelConfig as JSON), `dtype` (the
coarsest of the activations), `parameters_dtype` and `name`. `tokens` and `activations/logits` must
be there, and `config` where there are parameters. Nothing in it is pickled.
"""

import json
import math
import os
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.lib import format as formats

from jaxgpt.config import ModelConfig
from jaxgpt.config_file import from_dict, to_dict
from jaxgpt.errors import CheckpointError, ResourceError
from jaxgpt.files import draft_of, parse_json
from jaxgpt.model.parameters import parameter_shapes
from jaxgpt.parity.recordings.recording import Recording, from_leaves, to_leaves
from jaxgpt.parity.trace import check_tokens

_DTYPES = ("float32", "float16", "bfloat16")
_MOST_HEADER = 1000  # characters, an array's being some 100; a parser may take any memory for more
_MOST_RATIO = 1100  # of the packed to the whole; DEFLATE's is at most 1032


def save_recording(recording: Recording, path: Path) -> None:
    """Write a recording as `.npz`; raises ResourceError if it cannot be written."""
    arrays: dict[str, Any] = {"tokens": recording.tokens}
    arrays |= {f"activations/{name}": x for name, x in recording.activations.items()}
    arrays |= {f"gradients/{name}": x for name, x in (recording.gradients or {}).items()}
    arrays |= {f"parameters/{name}": x for name, x in to_leaves(recording.params or {}).items()}
    if recording.params is not None:
        arrays["parameters_dtype"] = str(recording.params["embed"]["tokens"].dtype)
    if recording.loss is not None:
        arrays["loss"] = np.float32(recording.loss)
    if recording.config is not None:
        arrays["config"] = json.dumps(to_dict(recording.config))
    try:
        with draft_of(path) as draft, open(draft, "wb") as file:
            np.savez(file, dtype=recording.dtype, name=recording.name, **arrays)
    except OSError as error:
        raise ResourceError(f"{path} could not be written: {error.strerror}") from None


def load_recording(path: Path) -> Recording:
    """Read what `save_recording`, or another program, wrote; `name` is the file's.

    Raises CheckpointError if it is none, holds pickled objects, or lacks what must be there.
    """
    if not os.path.isfile(path):
        raise CheckpointError(f"{path} is no recording: it is no regular file; see --save")
    try:
        # Python warns of what it finds in a header, and the file is only read.
        with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(path) as file:
            members = file.infolist()
            arrays = dict(_read(file, info) for info in members)
        if len(arrays) < len(members):
            raise ValueError("it has two arrays of one name")
        return _from_arrays(arrays, path)
    # Damage is noticed by zipfile, any of its decompressors, NumPy, Python's parser and tokenizer,
    # and JAX, each of which raises errors of its own.
    except Exception as error:
        reason = (str(error).splitlines() or [""])[0] or type(error).__name__
        raise CheckpointError(f"{path} is no recording: {reason}; see --save") from None


def _read(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[str, np.ndarray]:
    """A member's name and array; no more memory is taken than what is there fills."""
    if not info.filename.endswith(".npy"):
        raise ValueError(f"{info.filename} in it is no .npy")
    if info.file_size > _MOST_RATIO * info.compress_size:
        raise ValueError(f"{info.filename} in it would unpack to {info.file_size:,} bytes")
    with file.open(info) as member:
        version = formats.read_magic(member)
        read = formats.read_array_header_1_0 if version == (1, 0) else formats.read_array_header_2_0
        shape, turned, dtype = read(member, max_header_size=_MOST_HEADER)
        if dtype.hasobject:
            raise ValueError("pickled objects are refused")
        if dtype.fields:
            raise ValueError(f"{info.filename} is an array of records, {dtype}")
        there = info.file_size - member.tell()
        if math.prod(shape) * dtype.itemsize != there:
            raise ValueError(f"{info.filename} has {there} bytes for {dtype} of shape {shape}")
        content = member.read()
        if dtype.kind == "U":
            codes = np.ndarray(there // 4, np.dtype("u4").newbyteorder(dtype.byteorder), content)
            if (codes > sys.maxunicode).any():  # NumPy would make a string of it that ends Python
                raise ValueError(f"{info.filename} has characters that Unicode has not")
        array = np.ndarray(shape, dtype, content, order="F" if turned else "C")
    return info.filename.removesuffix(".npy"), array


def _from_arrays(arrays: dict[str, np.ndarray], path: Path) -> Recording:
    if missing := [name for name in ("tokens", "activations/logits") if name not in arrays]:
        raise ValueError(f"it lacks {' and '.join(missing)}")
    tokens = arrays["tokens"]
    if tokens.ndim != 2 or tokens.dtype.kind not in "iu":
        raise ValueError(f"tokens are {tokens.dtype} {tokens.shape}, not whole numbers (B, T)")
    activations = _under(arrays, "activations/")
    for name, x in activations.items():
        if x.ndim != 3 or x.shape[:2] != tokens.shape:
            raise ValueError(f"{name} has shape {x.shape}; it must begin with {tokens.shape}")
    tokens = tokens.astype(np.int32)
    config = None
    if "config" in arrays:
        values = parse_json(str(arrays["config"]))
        if not isinstance(values, dict):
            raise ValueError(f"its config is a {type(values).__name__}, not a mapping")
        config = from_dict(ModelConfig(), values)
        check_tokens(tokens, config, "its model")
    params = _under(arrays, "parameters/")
    if params:
        if config is None:
            raise ValueError("it has parameters, but no config")
        wanted = jax.tree.map(np.shape, from_leaves(params))
        if wanted != jax.tree.map(lambda leaf: leaf.shape, parameter_shapes(config)):
            raise ValueError("its parameters do not fit its config")
    return Recording(
        path.name,
        tokens,
        activations,
        float(arrays["loss"].item()) if "loss" in arrays else None,
        _under(arrays, "gradients/") or None,
        config,
        from_leaves(params, _dtype(arrays, "parameters_dtype")) if params else None,
        _dtype(arrays, "dtype", "float64"),
    )


def _dtype(arrays: dict[str, np.ndarray], name: str, *more: str) -> str:
    dtype = str(arrays.get(name, "float32"))
    if dtype not in (*_DTYPES, *more):
        raise ValueError(f"{name} is {dtype}; it must be one of {', '.join((*_DTYPES, *more))}")
    return dtype


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    found = {name: x for name, x in arrays.items() if name.startswith(prefix)}
    for name, x in found.items():
        if x.dtype.kind != "f" or not x.ndim:
            raise ValueError(f"{name} is {x.dtype} {x.shape}; it must be an array of floats")
    return {name.removeprefix(prefix): x.astype(np.float32) for name, x in found.items()}
