"""Named runs: a model's shape together with the recipe that trains it. Standard library only."""

from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, nearest
from jaxgpt.run_config import OptimizerConfig


def _gpt2(num_layers: int, num_heads: int, embed_dim: int, learning_rate: float) -> TrainConfig:
    """GPT-2's shape with GPT-3's betas and decay; 0.5 million tokens a step, 10 billion in all."""
    return TrainConfig(
        model=ModelConfig(num_layers=num_layers, num_heads=num_heads, embed_dim=embed_dim),
        optimizer=OptimizerConfig(
            learning_rate=learning_rate, warmup_steps=700, final_learning_rate=learning_rate / 10
        ),
        steps=20_000,
        batch_size=512,
        gradient_accumulation=32,
        compute_dtype="bfloat16",
        evaluation_batches=20,
        checkpoint_every=1000,
        sample_every=1000,
    )


PRESETS: dict[str, TrainConfig] = {
    "tiny": TrainConfig(
        model=ModelConfig(vocab_size=0, context_length=64, num_layers=2, num_heads=2, embed_dim=32),
        data=DataConfig(tokenizer="bytes", stories_bytes=100_000),
        optimizer=OptimizerConfig(learning_rate=3e-3, warmup_steps=10),
        steps=100,
        evaluate_every=50,
        checkpoint_every=50,
        sample_every=100,
        sample_tokens=64,
    ),
    "small": TrainConfig(
        # A tied table pulls words of one kind, such as names, together: a model this small then
        # cannot tell which name it read, and takes far longer to learn to repeat it.
        model=ModelConfig(
            vocab_size=0,
            context_length=256,
            num_layers=3,
            num_heads=2,
            embed_dim=128,
            tie_head=False,
        ),
        data=DataConfig(tokenizer="bpe:2048", validation_fraction=0.05),
        optimizer=OptimizerConfig(learning_rate=4e-3, warmup_steps=50, beta2=0.99),
        steps=1000,
        batch_size=8,
        evaluation_stride=128,
        sample_every=250,
        sample_prompt="Once upon a time",
    ),
    "small-text": TrainConfig(
        # Dropout and a low rate put off learning by heart; it is measured often, for the best.
        model=ModelConfig(
            vocab_size=0,
            context_length=128,
            num_layers=2,
            num_heads=2,
            embed_dim=128,
            dropout=0.3,
            tie_head=False,
        ),
        data=DataConfig(tokenizer="bpe:1024"),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=20, beta2=0.99),
        steps=200,
        evaluate_every=20,
        checkpoint_every=100,
        sample_every=100,
    ),
    "shakespeare": TrainConfig(
        model=ModelConfig(
            vocab_size=0, context_length=64, num_layers=4, num_heads=4, embed_dim=128
        ),
        data=DataConfig(data=("tinyshakespeare",), tokenizer="bytes", stride=1),
        optimizer=OptimizerConfig(
            learning_rate=2e-3, final_learning_rate=1e-4, warmup_steps=100, beta2=0.99
        ),
        steps=2000,
        batch_size=12,
        sample_tokens=256,
    ),
    "gpt2": _gpt2(12, 12, 768, learning_rate=6e-4),
    "gpt2-medium": _gpt2(24, 16, 1024, learning_rate=3e-4),
    "gpt2-large": _gpt2(36, 20, 1280, learning_rate=2.5e-4),
    "gpt2-xl": _gpt2(48, 25, 1600, learning_rate=2e-4),
}
"""Named runs: a model's shape together with the recipe that trains it."""


def get_preset(name: str) -> TrainConfig:
    """The preset called `name`; raises ConfigError with the nearest name."""
    if name not in PRESETS:
        raise ConfigError(
            f"no preset is called {name}{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]
