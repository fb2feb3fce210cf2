"""The choices of fine-tuning, in configs that check themselves. Standard library only."""

from dataclasses import dataclass, field
from typing import Literal

from jaxgpt import fields
from jaxgpt.config import ModelConfig
from jaxgpt.model.schema import SCHEMA
from jaxgpt.run_config import OptimizerConfig, RunConfig

LORA_TARGETS = tuple(
    target
    for leaf in SCHEMA
    if leaf.present(ModelConfig(tie_head=False))
    for target in leaf.adapters
)
"""The matrices of a GPT-2 with a head of its own."""

_KNOWN_TARGETS = tuple(target for leaf in SCHEMA for target in leaf.adapters)


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters (Hu et al. 2021): how large, how strong, and of which matrices."""

    rank: int = 16
    """Columns of A and rows of B; the rank of what is added to a matrix is at most this."""
    alpha: float = 16.0
    """What is added is A B times alpha / rank."""
    targets: tuple[str, ...] = LORA_TARGETS[:-1]
    """Of attention: query, key, value, out; of the feed-forward network: up, down, and gate, which
    a run that adapts these six adds where the model has one; and head, where the model has one of
    its own. A block of the caller's own may name others, with a dot."""

    def __post_init__(self):
        fields.check_types(self)
        fields.check_range("rank", self.rank, 1, 1_000_000)
        fields.check_range("alpha", self.alpha, 1e-6, 1e6)
        known = all(name in _KNOWN_TARGETS or "." in name for name in self.targets)
        once = 0 < len(self.targets) == len(set(self.targets))
        fields.check_field(
            self, "targets", known and once, f"some of {', '.join(_KNOWN_TARGETS)}, each once"
        )

    @property
    def scale(self) -> float:
        """The factor alpha / rank, which keeps the size of the change when the rank is changed."""
        return self.alpha / self.rank


@dataclass(frozen=True)
class PreferenceConfig:
    """Direct preference optimization (Rafailov et al. 2023)."""

    beta: float = 0.1
    """How costly a distance from the reference is: a larger beta keeps the model closer to it."""
    log_probability: Literal["sum", "mean"] = "sum"
    """Of a response: the sum over its tokens, as in the paper, or their mean, by which a long
    response weighs no more than a short one."""

    def __post_init__(self):
        fields.check_types(self)
        fields.check_range("beta", self.beta, 1e-6, 1e6)


@dataclass(frozen=True, kw_only=True)
class TuningConfig(RunConfig):
    """What decides every kind of fine-tuning; the same settings and data give the same result."""

    init_from: str
    """The model to begin with: a run or a checkpoint of jaxgpt, adapters, or a Hugging Face folder.
    """
    data: tuple[str, ...]
    """Files, folders or globs of .json, .jsonl, .csv or .tsv."""
    validation: tuple[str, ...] = ()
    """What is measured on while training; none takes validation_fraction of the data."""
    validation_fraction: float = 0.1
    """Share of the data that is held out."""
    tokenizer: str = ""
    """The model's tokenizer, where a Hugging Face folder has none; gpt2, bytes, or a folder."""
    trained: Literal["all", "lora"] | int = "all"
    """All parameters; or low-rank adapters beside the frozen model; or the last N blocks, the last
    norm and the head; 0 is the head alone."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    """The adapters of --trained lora, which decay with --weight-decay-on all only."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(learning_rate=5e-5, warmup_steps=0)
    )
    """How a step changes what is trained."""
    epochs: int = 2
    """Times that each record is trained on."""
    steps: int = 0
    """Optimizer steps; 0 takes those of the epochs."""
    batch_size: int = 8
    dropout: float = 0.0
    """Probability of zeroing an activation in training."""
    too_long: Literal["refuse", "truncate"] = "refuse"
    """A record that is longer than the context: an error, or its beginning with a warning."""
    strict: bool = False
    """Stop at a record that nothing can be learnt from, such as one with an empty text or two equal
    answers; else it is left out, and how many were is said."""
    evaluate_every: int = 50
    checkpoint_every: int = 200
    keep_checkpoints: int = 1
    sample_every: int = 200

    def __post_init__(self):
        super().__post_init__()
        fields.check_field(self, "init_from", bool(self.init_from), "the folder of a model")
        fields.check_field(self, "data", bool(self.data), "one file or more")
        fields.check_fraction(self, "validation_fraction")
        fields.check_at_least(self, 0, "steps")
        fields.check_range("epochs", self.epochs, 1, 1_000_000)
        fields.check_range("batch_size", self.batch_size, 1, 1_000_000)
        fields.check_share(self, "dropout")
        known = isinstance(self.trained, str) or self.trained >= 0
        fields.check_field(self, "trained", known, "all, lora, or 0 or more")


@dataclass(frozen=True)
class ClassifierConfig(TuningConfig):
    """How a classifier is made."""

    test: tuple[str, ...] = ()
    """Files to measure on at the end; none takes test_fraction of the data."""
    test_fraction: float = 0.2
    """Share of the data that is kept for the end."""
    balance: bool = False
    """Train on as many texts of each class as the smallest has."""
    pooling: Literal["last", "first", "mean"] = "last"
    """The vector that stands for a text: of its last token, which has seen all, of its first, or
    the mean."""
    too_long: Literal["refuse", "truncate"] = "truncate"
    """A text that is longer than the context: its beginning with a warning, or an error."""

    def __post_init__(self):
        super().__post_init__()
        fields.check_fraction(self, "test_fraction")
        left = 1 - self.test_fraction - self.validation_fraction
        fields.check_field(self, "test_fraction", left > 0, "below 1 - validation_fraction")


@dataclass(frozen=True)
class InstructionConfig(TuningConfig):
    """How a model learns to follow instructions."""

    template: Literal["", "alpaca", "phi", "chat", "tokenizer"] = ""
    """The markers around what each side says; tokenizer takes the chat template that came with the
    model's tokenizer. By default that, and alpaca where there is none."""
    special_tokens: bool | Literal["auto"] = "auto"
    """Give each marker of the template an id of its own (--special-tokens), or leave it plain text
    (--no-special-tokens), which a user can write too, and so forge a turn. auto gives the markers
    of chat an id; alpaca has none that could. The vocabulary grows, the rest of the model's output
    stays as it is."""
    mask_prompt: bool = True
    """Learn the answers alone; else the prompts too."""
    packing: bool = False
    """Put several records into one row, where they do not see each other: less padding."""


@dataclass(frozen=True)
class PreferenceTuningConfig(TuningConfig):
    """How a model learns which answers are preferred."""

    preference: PreferenceConfig = field(default_factory=PreferenceConfig)
    """The loss."""
    optimizer: OptimizerConfig = field(
        default_factory=lambda: OptimizerConfig(
            learning_rate=5e-6, warmup_steps=0, weight_decay=0.0
        )
    )
    """How a step changes what is trained."""
    reference: Literal["cached", "model"] = "cached"
    """Where the reference's log-probabilities come from: measured once for all pairs before the
    first step, or by the model to begin with, beside each batch."""
    template: Literal["", "alpaca", "phi", "chat", "tokenizer"] = ""
    """The markers around what each side says; by default those that the model was tuned with, or
    its tokenizer's chat template."""
