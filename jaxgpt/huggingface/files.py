"""Which safetensors files a Hugging Face folder has, and what their headers say is in them.

Safetensors checks a header against its file as it opens it: lengths, shapes, types, offsets.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxgpt.errors import CheckpointError
from jaxgpt.families.family import Family
from jaxgpt.files import member, read_json
from jaxgpt.huggingface.config import PICKLES, refuse_pickle
from jaxgpt.huggingface.mxfp4 import read_mxfp4
from jaxgpt.panics import PanicError, caught_panics

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_INDEX_BYTES = 1 << 24


@dataclass(frozen=True)
class StoredTensor:
    """Where a tensor lies, and its shape and type by the file's header."""

    file: Path
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: "StoredTensor | None" = None
    """Of one that is MXFP4, whose shape and type are then those of its numbers."""

    def read(self) -> np.ndarray:
        """Its numbers; raises CheckpointError as `open_weights` does."""
        # Opened for each: pages of the file that were read count as memory until it is closed.
        with open_weights(self.file) as weights:
            tensor = weights.get_tensor(self.name)
        if self.scales is None:
            return tensor
        return read_mxfp4(tensor, self.scales.read(), jnp.bfloat16).swapaxes(-1, -2)


def read_headers(folder: Path, family: Family) -> dict[str, StoredTensor]:
    """The tensors in a folder's safetensors files, by name without the family's prefix.

    Raises CheckpointError if the weights are missing, pickled or damaged, a listed name leads out
    of the folder, or two tensors have one name.
    """
    found: dict[str, StoredTensor] = {}
    for file in _weight_files(folder):
        with open_weights(file) as weights:
            for stored in weights.keys():  # noqa: SIM118, it is no mapping
                prefixes = filter(stored.startswith, family.prefixes)
                name = stored.removeprefix(max(prefixes, key=len, default=""))
                if re.search(family.ignored, name):
                    continue
                if name in found:
                    raise CheckpointError(
                        f"{folder} has {name} twice, as {stored} in {file.name} and as "
                        f"{found[name].name} in {found[name].file.name}; save the model again"
                    )
                part = weights.get_slice(stored)
                shape, dtype = tuple(part.get_shape()), part.get_dtype()
                found[name] = StoredTensor(file, stored, shape, dtype)
    return _unpacked(found) if family.quantized else found


def _unpacked(found: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """The tensors, each pair of `_blocks` and `_scales` as the matrices, turned, that they are."""
    for name in [name for name in found if name.endswith("_blocks")]:
        whole, blocks = name.removesuffix("_blocks"), found[name]
        scales = found.get(f"{whole}_scales", blocks)
        if len(scales.shape) < 2 or whole in found:
            continue  # what remains is refused by its name
        if blocks.dtype == scales.dtype == "U8" and blocks.shape == (*scales.shape, 16):
            *outer, rows, count = scales.shape
            shape = (*outer, 32 * count, rows)
            found[whole] = StoredTensor(blocks.file, blocks.name, shape, "BF16", scales)
            del found[name], found[f"{whole}_scales"]
    return found


@contextmanager
def open_weights(file: Path) -> Iterator[Any]:
    """A safetensors file as NumPy arrays; raises CheckpointError if it is not what it should be."""
    try:
        with caught_panics(), safe_open(file, framework="numpy") as weights:
            yield weights
    except (SafetensorError, PanicError) as error:
        raise CheckpointError(
            f"{file} is damaged or no safetensors file ({error}); download or save it again"
        ) from None
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}") from None


def read_index(path: Path) -> list[str]:
    """The names of the files that an index lists, each a plain name ending in `.safetensors`."""
    index = read_json(path, limit=_INDEX_BYTES, error=CheckpointError)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    names = list(weight_map.values()) if isinstance(weight_map, dict) else []
    if not names:
        raise CheckpointError(f"{path} lists no files under weight_map; save the model again")
    for name in names:
        if member(path.parent, name, error=CheckpointError).parent != path.parent:
            raise CheckpointError(f"{path} names {name!r}, which lies in another folder")
        if not name.endswith(".safetensors"):
            raise (
                refuse_pickle(path.with_name(name))
                if name.endswith(PICKLES)
                else CheckpointError(f"{path} names {name!r}, which is no .safetensors file")
            )
    return sorted(set(names))


def _weight_files(folder: Path) -> list[Path]:
    """The regular files, or links to one.

    A link may lead out, as those of the hub's own cache do: what makes it is whoever made the
    folder, while the names that an index lists may have come with a download.
    """
    if os.path.isfile(folder / WEIGHTS):
        return [folder / WEIGHTS]
    if os.path.isfile(folder / INDEX):
        files = [folder / name for name in read_index(folder / INDEX)]
        for file in files:
            if not os.path.isfile(file):
                raise CheckpointError(f"{file} is missing, though {INDEX} names it; bring it there")
        return files
    pickled = sorted(file for file in folder.iterdir() if file.suffix in PICKLES)
    if pickled:
        raise refuse_pickle(pickled[0])
    raise CheckpointError(f"{folder} has neither {WEIGHTS} nor {INDEX}; download or save them")
