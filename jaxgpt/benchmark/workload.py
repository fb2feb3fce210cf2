"""The same start and the same batches for all. NumPy only: a process may have one library alone."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxgpt.config import TrainConfig
from jaxgpt.data.batches import Batch, SlidingWindows
from jaxgpt.model.nested import flatten, nest


def make_tokens(config: TrainConfig, count: int) -> Int32[np.ndarray, " N"]:
    """`count` random ids, low ones more often, so that a model that learns shows it in its loss."""
    draws = np.random.default_rng(config.seed).random(count)
    return (config.model.vocab_size * draws**2).astype(np.int32)


def make_batches(config: TrainConfig, count: int) -> list[Batch]:
    """The batches of the first `count` steps, as training would draw them from such a text."""
    length = config.model.context_length
    tokens = make_tokens(config, count * config.batch_size * length + 1)
    windows = SlidingWindows(tokens, length)
    return [
        windows.batch(step * config.batch_size, config.batch_size, seed=config.seed)
        for step in range(count)
    ]


def save_start(path: Path, params: dict[str, Any]) -> None:
    """Write nested parameters as an .npz file, for another process."""
    arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in flatten(params).items()}
    np.savez(path, **arrays)


def load_start(path: Path) -> dict[str, Any]:
    """The parameters that `save_start` wrote, as NumPy arrays."""
    with np.load(path) as arrays:
        return nest(dict(arrays))
