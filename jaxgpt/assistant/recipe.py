"""How an assistant is made of the bundled stories: its three stages. Standard library only."""

from dataclasses import dataclass, replace

from jaxgpt.config import TrainConfig
from jaxgpt.fields import check_at_least, check_fields
from jaxgpt.finetuning.settings import InstructionConfig, PreferenceConfig, PreferenceTuningConfig
from jaxgpt.presets import get_preset
from jaxgpt.run_config import OptimizerConfig

TEMPLATE = "chat"


@dataclass(frozen=True)
class Recipe:
    """How long each stage is, and how much of its data there is."""

    stories_bytes: int = 20_000_000
    """Bytes of stories to pretrain on."""
    steps: int = 2000
    """Steps of pretraining."""
    num_layers: int = 3
    """Blocks of the model."""
    num_heads: int = 4
    """Heads of attention in each block; more copy more of a story at once."""
    embed_dim: int = 128
    """Width of the model; num_heads must divide it."""
    conversations: int = 8200
    """Stories with questions and answers to tune on, each once."""
    preferences: int = 120
    """Stories of which each question has an answer that is preferred."""
    questions: int = 50
    """Stories that are asked about to measure."""
    seed: int = 0
    """Decides the parameters and the order of everything."""

    def __post_init__(self):
        """Refuse stages of nothing."""
        check_fields(self, seed=2**32 - 1, steps=10**8 - 1)
        check_at_least(self, 2, "steps", "conversations", "preferences", "questions")
        pretraining(self)  # refuses a shape that no model has


def pretraining(recipe: Recipe) -> TrainConfig:
    """A small model that has read enough stories to tell its own."""
    small = get_preset("small")
    return replace(
        small,
        # The context holds a story and ten questions about it; and with rows to spare for a
        # template's markers, no table has to grow.
        model=replace(
            small.model,
            context_length=384,
            vocab_size=2064,
            num_layers=recipe.num_layers,
            num_heads=recipe.num_heads,
            embed_dim=recipe.embed_dim,
        ),
        data=replace(small.data, stories_bytes=recipe.stories_bytes),
        optimizer=replace(small.optimizer, warmup_steps=min(50, recipe.steps - 1)),
        steps=recipe.steps,
        batch_size=8,
        seed=recipe.seed,
        evaluate_every=500,
        checkpoint_every=500,
        sample_every=recipe.steps,
    )


def instructions(recipe: Recipe, init_from: str, data: str, validation: str) -> InstructionConfig:
    """Answers in both forms, learnt from the conversations in the file `data`."""
    batch_size = 16
    steps = recipe.conversations // batch_size
    return InstructionConfig(
        init_from=init_from,
        data=(data,),
        validation=(validation,),
        template=TEMPLATE,
        special_tokens=True,
        too_long="truncate",
        optimizer=OptimizerConfig(
            learning_rate=3e-3, warmup_steps=min(30, max(0, steps - 2)), beta2=0.99
        ),
        epochs=1,
        batch_size=batch_size,
        evaluate_every=100,
        checkpoint_every=250,
        seed=recipe.seed,
    )


def preferring(
    recipe: Recipe, init_from: str, data: str, validation: str
) -> PreferenceTuningConfig:
    """The form of an answer, learnt from the pairs in the file `data`."""
    return PreferenceTuningConfig(
        init_from=init_from,
        data=(data,),
        validation=(validation,),
        preference=PreferenceConfig(beta=0.1),
        optimizer=OptimizerConfig(learning_rate=5e-5, warmup_steps=0, weight_decay=0.0),
        epochs=1,
        batch_size=16,
        evaluate_every=10,
        seed=recipe.seed,
    )
