"""Every choice of a run, in frozen dataclasses that check themselves; presets by name.

Standard library only, so that `--help` answers at once. A field's docstring is its help text.
"""

import difflib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

from jaxgpt.compute import Compute
from jaxgpt.errors import ConfigError
from jaxgpt.fields import (
    check,
    check_at_least,
    check_fields,
    check_fraction,
    check_range,
    check_share,
    traced,
)
from jaxgpt.ranges import check_float

_LEAST_RATE = 1e-9


def check_warmup(warmup: int, steps: int) -> None:
    """Raise ConfigError if the learning rate of a run of `steps` would only ascend."""
    check(
        warmup < steps,
        f"warmup_steps is {warmup}, but the run has only {steps} steps; "
        f"set --warmup-steps to less than --steps (0 for none)",
    )


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a GPT, as in GPT-2 (Radford et al. 2019)."""

    vocab_size: int = 50257
    """Rows of the token table, V. 0 takes the tokenizer's number; more than it has is padding."""
    context_length: int = 1024
    """The most tokens that the model sees at once, T."""
    num_layers: int = 12
    """Transformer blocks, L."""
    num_heads: int = 12
    """Attention heads in each block, H."""
    embed_dim: int = 768
    """Width of the residual stream, D."""
    num_kv_heads: int = 0
    """Heads of keys and values, G, each shared by H / G heads of queries (Ainslie et al. 2023); 0
    is one for each head."""
    head_dim: int = 0
    """Width of one head, K; 0 is D / H."""
    hidden_dim: int = 0
    """Hidden width of the feed-forward network, F; 0 is 4 D."""
    dropout: float = 0.0
    """Probability of zeroing an embedding, an attention weight or a block's output in training."""
    qkv_bias: bool = True
    """Whether the query, key and value projections have a bias."""
    tie_head: bool = True
    """Whether the output head is the token table (GPT-2) or a matrix of its own."""
    positions: Literal["learned", "sinusoidal", "none"] = "learned"
    """Learned position vectors (GPT-2), the fixed sines of Vaswani et al. 2017, or none, for a
    block that tells positions apart by itself."""
    gelu: Literal["tanh", "erf"] = "tanh"
    """GELU's tanh approximation (GPT-2), or the exact form."""
    norm_epsilon: float = 1e-5
    """Added to the variance inside the layer norm's root."""

    def __post_init__(self):
        """Refuse shapes that no model can have."""
        check_fields(self)
        if traced(self):
            return
        check_at_least(self, 1, "context_length", "num_layers", "num_heads", "embed_dim")
        check_at_least(self, 0, "vocab_size", "num_kv_heads", "head_dim", "hidden_dim")
        check(
            self.num_heads % (self.num_kv_heads or 1) == 0,
            f"num_kv_heads is {self.num_kv_heads}; it must divide num_heads {self.num_heads}, or "
            "be 0",
        )
        if not self.head_dim and self.embed_dim % self.num_heads:
            most = min(self.embed_dim, 10_000)  # a mistyped width must not keep anyone waiting
            divisors = [n for n in range(1, most + 1) if self.embed_dim % n == 0]
            near = sorted(sorted(divisors, key=lambda n: abs(n - self.num_heads))[:4])
            raise ConfigError(
                f"num_heads is {self.num_heads}, which does not divide embed_dim {self.embed_dim}; "
                f"nearby divisors are {', '.join(map(str, near))}; or give a head_dim"
            )
        check(
            self.positions != "sinusoidal" or self.embed_dim % 2 == 0,
            f"embed_dim is {self.embed_dim}; sinusoidal positions need an even number",
        )
        check_share(self, "dropout")
        check(self.norm_epsilon > 0, f"norm_epsilon is {self.norm_epsilon}; it must be above 0")


@dataclass(frozen=True)
class BlockConfig(ModelConfig):
    """The shape of a GPT with blocks of the caller's own, which `transformer.with_block` makes."""

    block: str | Callable[..., Any] = field(default="", metadata={"by_name": True})
    """A `transformer.Block`; or its name alone, as the settings of a run have it."""


MOST_IDS = 1_000_000
"""The most ids of a vocabulary that is trained, some four times those of the largest in use."""


@dataclass(frozen=True)
class DataConfig:
    """What is read, and how it is cut into windows."""

    data: tuple[str, ...] = ("stories",)
    """Files, folders or globs of .txt, .jsonl, .json, .csv, .tsv or .parquet (what else a folder
    has is skipped, and named); one folder made by `jaxgpt prepare`; a named source
    (tinyshakespeare, fineweb-edu, openwebtext); or stories, the bundled corpus."""
    tokenizer: str = "gpt2"
    """gpt2, bytes, another tiktoken encoding's name, a folder made by `jaxgpt tokenizer`, or
    bpe:N to train a vocabulary of N ids on the training text."""
    validation_fraction: float = 0.1
    """Share of the text that is held out."""
    validation_data: tuple[str, ...] = ()
    """Files, folders or globs to hold out instead of a share; all of data is then trained on."""
    text_field: str = "text"
    """The field, or column, of a record's text in files other than plain text."""
    stride: int = 0
    """Tokens from one training window's start to the next; 0 takes the context length."""
    stories_bytes: int = 8_000_000
    """Bytes of text that the bundled corpus writes, those held out among them."""

    def __post_init__(self):
        """Refuse what cannot be cut."""
        check_fields(self, stories_bytes=10**12)
        check(bool(self.data), "data is empty; name a file, a folder, or stories")
        check(bool(self.text_field), "text_field is empty; name a field, such as text")
        check(
            "stories" not in self.data or not self.validation_data,
            "validation_data goes with text of your own; stories hold out their own end",
        )
        check_fraction(self, "validation_fraction")
        check_at_least(self, 0, "stride")
        check_at_least(self, 10_000, "stories_bytes")
        kind, _, size = self.tokenizer.partition(":")
        check(
            kind != "bpe"
            or (size.isdecimal() and len(size) <= 12 and 257 <= int(size) <= MOST_IDS),
            f"tokenizer is {self.tokenizer[:40]}; write bpe:N with N of 257 or more, and at most "
            f"{MOST_IDS:,}",
        )


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019) or Muon (Jordan et al. 2024), and its learning rate."""

    learning_rate: float = 6e-4
    """The peak."""
    schedule: Literal["cosine", "constant", "wsd"] = "cosine"
    """After warm-up: a half cosine to final_learning_rate, the peak throughout, or the peak with a
    straight descent over the last decay_fraction of the steps (warm-up, stable, decay)."""
    warmup_steps: int = 100
    """Steps of straight ascent to the peak."""
    initial_learning_rate: float = 0.0
    """Where the ascent starts; 0 makes the first step one warm-up step's worth."""
    final_learning_rate: float = 0.0
    """Where the descent ends; constant ignores it."""
    decay_fraction: float = 0.2
    """Share of the steps in which wsd descends."""
    beta1: float = 0.9
    """Decay of the gradient's running mean."""
    beta2: float = 0.95
    """Decay of the squared gradient's running mean."""
    epsilon: float = 1e-8
    """Added to the root of the squared gradient's mean."""
    weight_decay: float = 0.1
    """Share of the learning rate by which decayed weights shrink each step."""
    weight_decay_on: Literal["matrices", "all"] = "matrices"
    """matrices spares biases and layer norms, as GPT-3's training did; all is PyTorch's default."""
    gradient_clip: float | Literal["none"] = 1.0
    """Largest global norm of the gradient; none disables clipping."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """AdamW; or Muon for the matrices of the blocks, by AdamW's learning rate and decay, with AdamW
    for embeddings, head, norms and biases."""
    momentum: float = 0.95
    """Decay of the gradient's running mean in Muon; AdamW ignores it."""

    def __post_init__(self):
        """Refuse rates and decays outside their ranges."""
        check_fields(self)
        if traced(self):
            return
        check(self.learning_rate > 0, f"learning_rate is {self.learning_rate}; it must be above 0")
        if self.learning_rate > 1:
            warnings.warn(
                f"learning_rate is {self.learning_rate}; AdamW seldom learns above 0.01",
                stacklevel=3,
            )
        if self.learning_rate < _LEAST_RATE:
            warnings.warn(
                f"learning_rate is {self.learning_rate}; float32 parameters of the usual size do "
                f"not change by so little (take {_LEAST_RATE} or more)",
                stacklevel=3,
            )
        check_at_least(self, 0, "warmup_steps", "weight_decay")
        first = self.learning_rate / (self.warmup_steps + 1)
        check_float("learning_rate / (warmup_steps + 1)", self.initial_learning_rate or first)
        for name in ("initial_learning_rate", "final_learning_rate"):
            rate = getattr(self, name)
            check(
                0 <= rate <= self.learning_rate,
                f"{name} is {rate}; it must be from 0 to learning_rate {self.learning_rate}",
            )
        check_share(self, "beta1")
        check_share(self, "beta2")
        check_share(self, "momentum")
        check(self.epsilon > 0, f"epsilon is {self.epsilon}; it must be above 0")
        check(
            0 < self.decay_fraction <= 1,
            f"decay_fraction is {self.decay_fraction}; it must be above 0 and at most 1",
        )
        check(
            self.gradient_clip == "none" or self.gradient_clip > 0,
            f"gradient_clip is {self.gradient_clip}; it must be above 0, "
            "and none disables clipping (0 would zero all updates)",
        )


@dataclass(frozen=True)
class TrainConfig:
    """All that decides the result of a training run, and how it is watched.

    The same config gives the same parameters.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    init_from: str = ""
    """Begin with the weights in this folder, a GPT-2 of Hugging Face or a run or checkpoint of
    jaxgpt, in float32. Its shape and tokenizer are then the defaults; dropout may be another, and
    context_length smaller. In a config file, the model section must be the folder's."""
    seed: int = 0
    """Decides the initial parameters, the order of the windows and every dropout mask."""
    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Windows in one step, over all devices and micro-batches."""
    gradient_accumulation: int = 1
    """Micro-batches that a step's batch is cut into, to save memory; but for other dropout masks
    the result is the same."""
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the products; parameters, norms, softmax and loss stay float32."""
    attention: Literal["auto", "chunked", "cudnn", "splash"] = "auto"
    """A GPU's or TPU's kernel for attention, or the plain function in chunks; auto takes the kernel
    where there is one for the device, the precision and the shape."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping it: less memory, more time."""
    unroll: int = 0
    """Blocks in one turn of the loop over layers: more compile longer, and may run faster. 0 takes
    1 on a CPU, and elsewhere all of up to 24."""
    data_parallel: int = 0
    """Devices that share a batch; 0 takes all that fsdp leaves."""
    fsdp: int = 1
    """Devices that share the parameters and the optimizer's state, as well as the batch."""
    evaluate_every: int = 250
    """Steps between measurements of the validation loss; the last step is always measured."""
    evaluation_stride: int = 0
    """Tokens from one validation window's start to the next; fewer than the context length give
    each token more context. 0 takes the context length."""
    evaluation_batches: int = 0
    """Batches of each measurement; 0 takes the whole validation split."""
    checkpoint_every: int = 250
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, beside that of the lowest validation loss."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 500
    """Steps between samples of the model's writing; the last step is always sampled."""
    sample_prompt: str = "\n"
    """What a sample begins with."""
    sample_tokens: int = 128
    """Length of a sample, in tokens."""

    @property
    def compute(self) -> Compute:
        """What of this a forward pass is computed by."""
        return Compute(self.compute_dtype, self.attention, self.remat, self.unroll)

    def __post_init__(self):
        """Refuse runs that cannot be stepped."""
        check_fields(self, seed=2**32 - 1, steps=10**8 - 1)
        if traced(self):
            return
        check_at_least(
            self, 1, "steps", "batch_size", "gradient_accumulation", "fsdp", "sample_tokens"
        )
        check_at_least(
            self, 1, "evaluate_every", "checkpoint_every", "keep_checkpoints", "log_every"
        )
        check_at_least(self, 1, "sample_every")
        check_at_least(
            self, 0, "data_parallel", "evaluation_batches", "evaluation_stride", "unroll"
        )
        check_at_least(self, 0, "seed")
        if not traced(self.optimizer):
            check_warmup(self.optimizer.warmup_steps, self.steps)


@dataclass(frozen=True)
class FolderOptions:
    """How to treat what is already in a run's folder; nothing here changes a run's result."""

    resume: Literal["auto", "must", "never"] = "auto"
    """auto goes on from the newest checkpoint if there is one; must fails without; never begins."""
    overwrite: bool = False
    """Remove the run that is in the folder and begin anew."""
    allow_config_change: bool = False
    """Go on although the run began with other settings."""
    allow_data_change: bool = False
    """Go on although the data is not what the checkpoint was trained on."""

    def __post_init__(self):
        """Refuse to resume and to begin anew at once."""
        check_fields(self)
        check(
            not (self.overwrite and self.resume == "must"),
            "--overwrite removes the run that --resume must would go on with; drop one of the two",
        )


@dataclass(frozen=True)
class RunOptions(FolderOptions):
    """The same for pretraining, and how closely a run is looked at."""

    verify_data: bool = False
    """Compare the sha256 sums of all token shards before training."""
    profile: int = 0
    """Trace this many steps, such as 5, after the first three, into the run's folder profile, and
    show where their time goes."""

    def __post_init__(self):
        """Refuse a trace that no one could open."""
        super().__post_init__()
        check_range("profile", self.profile, 0, 100)


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


def nearest(name: str, known: Iterable[str]) -> str:
    """A suggestion to append to a message about the unknown `name`, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def get_preset(name: str) -> TrainConfig:
    """The preset called `name`; raises ConfigError with the nearest name."""
    if name not in PRESETS:
        raise ConfigError(
            f"no preset is called {name}{nearest(name, PRESETS)}; there are {', '.join(PRESETS)}"
        )
    return PRESETS[name]
