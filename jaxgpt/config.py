"""Every choice of a pretraining run, in frozen dataclasses that check themselves.

Standard library only, so that `--help` answers at once. A field's docstring is its help text.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

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
from jaxgpt.run_config import OptimizerConfig, RunConfig, check_warmup


@dataclass(frozen=True)
class Rope:
    """Rotary positions (Su et al. 2021), and how they are stretched to longer contexts."""

    rope_base: float = 10_000.0
    """The slowest pair of numbers turns about this many times slower than the fastest."""
    rope_local_base: float = 0.0
    """The same in layers with a window; 0 is that of the others."""
    rope_scaling: Literal["none", "linear", "llama3", "yarn"] = "none"
    """How frequencies are made lower for contexts longer than those of training."""
    rope_scale_local: bool = False
    """Whether they are in layers with a window too."""
    rope_factor: float = 1.0
    """By how much, at most."""
    rope_original_context: int = 0
    """Tokens of the contexts of training; needed by llama3 and yarn."""
    rope_low_frequency: float = 1.0
    """llama3: what turns less often in a context of training is divided."""
    rope_high_frequency: float = 4.0
    """llama3: what turns more often stays."""
    rope_beta_fast: float = 32.0
    """yarn: what turns more often in a context of training stays."""
    rope_beta_slow: float = 1.0
    """yarn: what turns less often is divided."""
    rope_attention_factor: float = 0.0
    """yarn: what queries and keys are times; 0 is 0.1 ln(factor) + 1."""
    rope_truncate: bool = True
    """yarn: whether the pairs between which it changes are whole numbers."""

    def __post_init__(self):
        """Refuse frequencies that are none."""
        check_fields(self)
        check(self.rope_base > 1, f"rope_base is {self.rope_base}; it must be above 1")
        local = self.rope_local_base
        check(not local or local > 1, f"rope_local_base is {local}; it must be above 1, or 0")
        check_at_least(self, 0, "rope_original_context", "rope_attention_factor")
        if self.rope_scaling == "none":
            return
        check_at_least(self, 1, "rope_factor")
        if self.rope_scaling != "linear":
            check_at_least(self, 1, "rope_original_context")
        low, high = self.rope_low_frequency, self.rope_high_frequency
        check(high > low, f"rope_high_frequency is {high}; it must be above the low, {low}")
        for name in ("rope_beta_fast", "rope_beta_slow"):
            check(getattr(self, name) > 0, f"{name} is {getattr(self, name)}; it must be above 0")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in place of each feed-forward network (Shazeer et al. 2017)."""

    num_experts: int = 0
    """Networks of a block, X, each F wide; 0 is one that all tokens go through."""
    experts_per_token: int = 2
    """How many of them a token goes through: those of its highest scores."""
    router_softmax: Literal["chosen", "all"] = "chosen"
    """Whether the shares of the chosen ones add up to 1, or those of all."""
    router_bias: bool = False
    """Whether the scores have a bias."""
    router_balance: float = 0.001
    """Weight of the loss, in training, that keeps experts equally busy (Fedus et al. 2022)."""

    def __post_init__(self):
        """Refuse more experts than there are."""
        check_fields(self)
        check_at_least(self, 0, "num_experts", "router_balance")
        if self.num_experts:
            check_range("experts_per_token", self.experts_per_token, 1, self.num_experts)


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
    positions: Literal["learned", "sinusoidal", "rope", "none"] = "learned"
    """Learned position vectors (GPT-2), the fixed sines of Vaswani et al. 2017, rotary ones of
    queries and keys, or none, for a block that tells positions apart by itself."""
    gelu: Literal["tanh", "erf"] = "tanh"
    """GELU's tanh approximation (GPT-2), or the exact form."""
    norm_epsilon: float = 1e-5
    """Added to the variance inside the norm's root."""
    out_bias: bool = True
    """Whether the projection of what the heads bring together has a bias."""
    mlp_bias: bool = True
    """Whether the linear maps of the feed-forward network have a bias."""
    norm: Literal["layer", "rms"] = "layer"
    """Layer norm (GPT-2), or RMS norm, without a mean and a bias (Zhang & Sennrich 2019)."""
    norm_offset: bool = False
    """Whether a norm's scale is 1 more than the parameter (Gemma)."""
    norm_place: Literal["before", "after", "both"] = "before"
    """Where a block's norms stand: before attention and feed-forward, after, or both."""
    qk_norm: Literal["none", "head", "width"] = "none"
    """A norm of queries and keys: of each head by itself, or of all heads side by side."""
    attention_scale: float = 0.0
    """What scores are times; 0 is 1 over the root of K."""
    window: int = 0
    """The most tokens that a token attends to, itself among them; 0 is all before it."""
    window_period: int = 0
    """Every so many layers, the last has no window; 0 is none."""
    sinks: bool = False
    """Whether each head can attend to nothing, by a score of its own (Xiao et al. 2024)."""
    gate: Literal["none", "silu", "gelu", "clamped"] = "none"
    """What a second linear map, times the first, goes through in the feed-forward network
    (Shazeer 2020); none is GPT-2's, with GELU; clamped is gpt-oss's, where the first is 1 more."""
    gate_limit: float = 7.0
    """clamped: the largest number of both maps; of the first, its negative is the smallest."""
    gate_alpha: float = 1.702
    """clamped: g is g sigmoid(alpha g)."""
    scale_embedding: bool = False
    """Whether token vectors are times the root of D (Gemma)."""
    rope: Rope = field(default_factory=Rope)
    experts: Experts = field(default_factory=Experts)

    def __post_init__(self):
        """Refuse shapes that no model can have."""
        check_fields(self)
        if traced(self):
            return
        check_at_least(self, 1, "context_length", "num_layers", "num_heads", "embed_dim")
        check_at_least(self, 0, "vocab_size", "num_kv_heads", "head_dim", "hidden_dim")
        check_at_least(self, 0, "attention_scale", "window", "window_period")
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
        check(
            self.positions != "rope" or self._head_dim % 2 == 0,
            f"a head is {self._head_dim} wide; rotary positions need an even number",
        )
        check(
            self.norm == "rms" or (self.qk_norm == "none" and not self.norm_offset),
            "qk_norm and norm_offset go with norm rms, as in the models that have them",
        )
        check(
            bool(self.window) or not self.window_period,
            f"window_period is {self.window_period} without a window; give both or none",
        )
        check_share(self, "dropout")
        check(self.gate_limit > 0, f"gate_limit is {self.gate_limit}; it must be above 0")
        check(self.norm_epsilon > 0, f"norm_epsilon is {self.norm_epsilon}; it must be above 0")

    @property
    def _head_dim(self) -> int:
        return self.head_dim or self.embed_dim // self.num_heads


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
    has is skipped, and named); one folder made by `jaxgpt prepare`, or a URL of one; a named source
    (tinyshakespeare, fineweb-edu, openwebtext); or stories, the bundled corpus. Several of these
    with weights, a=0.7 b=0.3, are mixed in these shares; without, they are one text."""
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
class TrainConfig(RunConfig):
    """All that decides the result of a training run, and how it is watched.

    The same config gives the same parameters.
    """

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    init_from: str = ""
    """Begin with the weights in this folder, a model of Hugging Face or a run or checkpoint of
    jaxgpt, in float32. Its shape and tokenizer are then the defaults, but for a context_length of
    at most 1,024 where positions are rotary; dropout may be another, and context_length smaller.
    In a config file, the model section must be the folder's."""
    evaluation_stride: int = 0
    """Tokens from one validation window's start to the next; fewer than the context length give
    each token more context. 0 takes the context length."""
    evaluation_batches: int = 0
    """Batches of each measurement; 0 takes the whole validation split."""
    sample_prompt: str = "\n"
    """What a sample begins with."""
    sample_tokens: int = 128
    """Length of a sample, in tokens."""

    def __post_init__(self):
        """Refuse runs that cannot be stepped."""
        super().__post_init__()
        if traced(self):
            return
        check_at_least(self, 1, "steps", "sample_tokens")
        check_at_least(self, 0, "evaluation_batches", "evaluation_stride")
        if not traced(self.optimizer):
            check_warmup(self.optimizer.warmup_steps, self.steps)
