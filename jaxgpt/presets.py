"""Named runs: a model's shape together with the recipe that trains it. Standard library only."""

from dataclasses import replace
from typing import Any

from jaxgpt.config import DataConfig, ModelConfig, TrainConfig
from jaxgpt.errors import ConfigError, nearest
from jaxgpt.families.family import Family
from jaxgpt.families.gemma3 import GEMMA3
from jaxgpt.families.known import sizes
from jaxgpt.families.llama import LLAMA
from jaxgpt.families.qwen3 import QWEN3
from jaxgpt.run_config import OptimizerConfig

_RATES = {"gpt2": 6e-4, "gpt2-large": 2.5e-4, "gpt2-xl": 2e-4}


def _published(name: str, model: ModelConfig) -> TrainConfig:
    """A published shape with GPT-3's betas and decay; 0.5 million tokens a step, 10 billion in all.

    Contexts that were reached by later training are cut to 4096 tokens.
    """
    length, rate = min(model.context_length, 4096), _RATES.get(name, 3e-4)
    return TrainConfig(
        model=replace(model, context_length=length, dropout=0.0),
        optimizer=OptimizerConfig(
            learning_rate=rate, warmup_steps=700, final_learning_rate=rate / 10
        ),
        steps=20_000,
        batch_size=2**19 // length,
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
}
"""Named runs: a model's shape together with the recipe that trains it."""


def _tiny(family: Family, **values: Any) -> TrainConfig:
    """The recipe of `tiny` with the blocks of a family, of what its `config.json` has."""
    shape = {
        "max_position_embeddings": 64,
        "num_hidden_layers": 2,
        "hidden_size": 32,
        "intermediate_size": 96,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    }
    model = family.read(shape | values)
    return replace(PRESETS["tiny"], model=replace(model, vocab_size=0))


PRESETS |= {
    "llama-tiny": _tiny(LLAMA),
    "qwen3-tiny": _tiny(QWEN3, head_dim=16, tie_word_embeddings=True),
    "gemma3-tiny": _tiny(
        GEMMA3, head_dim=16, query_pre_attn_scalar=16, sliding_window=16, sliding_window_pattern=2
    ),
    **{name: _published(name, model) for name, model in sizes().items()},
}


def get_preset(name: str) -> TrainConfig:
    """The preset called `name`; raises ConfigError with the nearest name."""
    if name not in PRESETS:
        raise ConfigError(
            f"no preset is called {name}{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]
