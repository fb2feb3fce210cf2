"""A recording's `.npz`, by which models on two machines, or of two programs, are compared.

It holds `tokens` (B, T) and, each where it is known, `activations/NAME` by the names of
`activation_names`, `loss`, `gradients/PATH` and `parameters/PATH` by jaxgpt's path with the layers
stacked (`blocks.attn.qkv.weight`), and the strings `config` (a ModelConfig as JSON), `dtype` and
`name`. `tokens` and `activations/logits` must be there. Nothing in it is pickled.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxgpt.config import ModelConfig
from jaxgpt.config_file import from_dict, to_dict
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.model.gpt import parameter_shapes
from jaxgpt.parity.recordings.recording import Recording, flatten, unflatten


def save_recording(recording: Recording, path: Path) -> None:
    """Write a recording as `.npz`; raises ResourceError if it cannot be written."""
    arrays: dict[str, Any] = {"tokens": recording.tokens}
    arrays |= {f"activations/{name}": x for name, x in recording.activations.items()}
    arrays |= {f"gradients/{name}": x for name, x in (recording.gradients or {}).items()}
    arrays |= {f"parameters/{name}": x for name, x in flatten(recording.params or {})}
    if recording.loss is not None:
        arrays["loss"] = np.float32(recording.loss)
    if recording.config is not None:
        arrays["config"] = json.dumps(to_dict(recording.config))
    draft = path.with_name(f".{path.name}.tmp")
    try:
        with open(draft, "wb") as file:
            np.savez(file, dtype=recording.dtype, name=recording.name, **arrays)
        draft.replace(path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ResourceError(f"{path} could not be written: {error.strerror}") from None


def load_recording(path: Path) -> Recording:
    """Read what `save_recording`, or another program, wrote; `name` is the file's.

    Raises CheckpointError if it is none, holds pickled objects, or lacks what must be there.
    """
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return _from_arrays(arrays, path)
    except (OSError, EOFError, ValueError, TypeError, zipfile.BadZipFile, ConfigError) as error:
        reason = "pickled objects are refused" if "allow_pickle" in str(error) else str(error)
        raise CheckpointError(f"{path} is no recording: {reason}; see --save") from None


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
    config = json.loads(str(arrays["config"])) if "config" in arrays else None
    dtype = str(jnp.dtype(str(arrays.get("dtype", "float32"))))
    config = from_dict(ModelConfig(), config) if config is not None else None
    params = _under(arrays, "parameters/")
    if params and config:
        wanted = jax.tree.map(np.shape, unflatten(params))
        if wanted != jax.tree.map(lambda leaf: leaf.shape, parameter_shapes(config)):
            raise ValueError("its parameters do not fit its config")
    return Recording(
        path.name,
        tokens.astype(np.int32),
        activations,
        float(arrays["loss"]) if "loss" in arrays else None,
        _under(arrays, "gradients/") or None,
        config,
        unflatten(params, dtype) if params else None,
        dtype,
    )


def _under(arrays: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    return {
        name.removeprefix(prefix): x.astype(np.float32)
        for name, x in arrays.items()
        if name.startswith(prefix)
    }
