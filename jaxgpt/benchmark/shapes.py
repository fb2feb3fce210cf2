"""The work that is measured: a model's shape and a batch, by name. Standard library only."""

from dataclasses import replace

from jaxgpt.config import ModelConfig, TrainConfig
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

    Sizes are those of ModelConfig, `batch_size` and `gradient_accumulation`. Raises ConfigError for
    a shape no model has.
    """
    config = SHAPES[name]
    given = {size: value for size, value in sizes.items() if value}
    batch = {size: given.pop(size) for size in _BATCH if size in given}
    return replace(config, model=replace(config.model, **given), **batch)


def describe(model: ModelConfig) -> str:
    """A model's shape in a line."""
    return (
        f"{model.num_layers} layers, {model.num_heads} heads, width {model.embed_dim}, "
        f"T={model.context_length}, V={model.vocab_size}"
    )
