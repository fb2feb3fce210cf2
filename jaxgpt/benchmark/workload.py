"""The work that is measured: a model's shape and a batch by name, and the same start for all.

NumPy only: a process may have one library alone.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int32

from jaxgpt.config import ModelConfig, TrainConfig
from jaxgpt.data.batches import Batch, SlidingWindows
from jaxgpt.model.nested import flatten, nest
from jaxgpt.run_config import OptimizerConfig

_BATCH = ("batch_size", "gradient_accumulation")


def _shape(batch_size: int, *sizes: int) -> TrainConfig:
    vocab_size, context_length, num_layers, num_heads, embed_dim = sizes
    model = ModelConfig(vocab_size, context_length, num_layers, num_heads, embed_dim)
    # A constant rate needs no schedule on the other side, and a low one no warm-up; what a step
    # computes is the same.
    optimizer = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup_steps=0)
    return TrainConfig(model=model, optimizer=optimizer, batch_size=batch_size)


SHAPES: dict[str, TrainConfig] = {
    "tiny": _shape(12, 65, 64, 4, 4, 128),
    "small": _shape(8, 65, 256, 6, 6, 384),
    "gpt2": _shape(2, 50257, 256, 12, 12, 768),
    "gpt2-1024": _shape(1, 50257, 1024, 12, 12, 768),
    # A step of half a million tokens; the padded vocabulary is kind to both sides.
    "gpt2-pretraining": replace(_shape(512, 50304, 1024, 12, 12, 768), gradient_accumulation=32),
}
"""From letters on a laptop to GPT-2 with 124 million parameters."""


def get_shape(name: str, **sizes: int) -> TrainConfig:
    """The shape called `name`, with the sizes that are not 0 in place of its own.

    They are those of ModelConfig, `batch_size`, `gradient_accumulation`; ConfigError if none fits.
    """
    config = SHAPES[name]
    given = {size: value for size, value in sizes.items() if value}
    batch = {size: given.pop(size) for size in _BATCH if size in given}
    return replace(config, model=replace(config.model, **given), **batch)


def with_steps(config: TrainConfig, steps: int) -> TrainConfig:
    """`config` with so many steps, of which the same share is warm-up."""
    warmup = config.optimizer.warmup_steps * steps // config.steps
    return replace(config, steps=steps, optimizer=replace(config.optimizer, warmup_steps=warmup))


def describe(model: ModelConfig) -> str:
    """A model's shape in a line."""
    return (
        f"{model.num_layers} layers, {model.num_heads} heads, width {model.embed_dim}, "
        f"T={model.context_length}, V={model.vocab_size}"
    )


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
