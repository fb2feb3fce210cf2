"""What every kind of training is decided by: its optimizer, its steps, its folder.

Standard library only, so that `--help` answers at once. A field's docstring is its help text.
"""

import warnings
from dataclasses import dataclass
from typing import Literal

from jaxgpt.axes import Axes, axes_of
from jaxgpt.compute import Compute
from jaxgpt.errors import ConfigError
from jaxgpt.fields import (
    check,
    check_at_least,
    check_fields,
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


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of every run, whatever it trains: its batches, its devices, how it is watched."""

    seed: int = 0
    """Decides all that is random. That is new parameters, the order of the data, dropout masks, and
    in fine-tuning what is held out."""
    steps: int = 1000
    """Optimizer steps."""
    batch_size: int = 16
    """Rows in one step. They are windows of text, records, or rows of packed records, over all
    devices and micro-batches."""
    gradient_accumulation: int = 1
    """Micro-batches that a step's batch is cut into, to save memory; but for other dropout masks
    the result is the same."""
    compute_dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Precision of the products; parameters, norms, softmax and loss stay float32. auto takes
    bfloat16 where the device at hand multiplies it faster, which is measured once."""
    attention: Literal["auto", "chunked", "cudnn", "splash"] = "auto"
    """A GPU's or TPU's kernel for attention, or the plain function in chunks; auto takes the kernel
    where there is one for the device, the precision and the shape."""
    remat: bool = False
    """Recompute each block in the backward pass instead of keeping it: less memory, more time."""
    unroll: int = 0
    """Blocks in one turn of the loop over layers: more compile longer, and may run faster. 0 takes
    1 in float32 on a CPU, and else all of up to 24."""
    mesh: str = ""
    """How all devices are laid out, such as data=4,fsdp=2,tensor=2. Along data they share the
    batch; along fsdp the parameters and the optimizer's state, too; along tensor the heads, the
    hidden width and the vocabulary. An axis left out is 1, and data all that the others leave."""
    data_parallel: int = 0
    """Devices along data, where mesh does not say; 0 takes all that the other axes leave."""
    fsdp: int = 1
    """Devices along fsdp, where mesh does not say."""
    evaluate_every: int = 250
    """Steps between measurements on held-out data; the last step is always measured."""
    checkpoint_every: int = 250
    """Steps between checkpoints; the last step is always saved."""
    keep_checkpoints: int = 2
    """Newest checkpoints that are kept, beside that of the lowest validation loss."""
    keep_every: int = 0
    """Steps between checkpoints that are kept for good, a multiple of checkpoint_every; 0 keeps
    none but the newest and the best."""
    skip_bad_steps: int = 0
    """Steps, in all, that may have a loss or gradient that is NaN or infinite: such a step changes
    nothing, and is recorded with its batch. The next one ends the run, as the first does by
    default."""
    log_every: int = 10
    """Steps between lines of metrics.jsonl."""
    sample_every: int = 500
    """Steps between samples of what the model writes, if it does; the last step is sampled too."""

    @property
    def compute(self) -> Compute:
        """What of this a forward pass is computed by; raises ConfigError for precision `auto`."""
        if self.compute_dtype == "auto":
            raise ConfigError(
                "compute_dtype is auto, which a run settles as it begins; name float32 or bfloat16"
            )
        return Compute(self.compute_dtype, self.attention, self.remat, self.unroll)

    @property
    def axes(self) -> Axes:
        """How many devices lie along each axis; `data` may be 0, for all that the others leave."""
        return axes_of(self)

    def __post_init__(self):
        """Refuse runs that cannot be stepped."""
        check_fields(self, seed=2**32 - 1, steps=10**8 - 1)
        if traced(self):
            return
        check_at_least(self, 1, "batch_size", "gradient_accumulation", "fsdp")
        check_at_least(self, 1, "evaluate_every", "checkpoint_every", "keep_checkpoints")
        check_at_least(self, 1, "log_every", "sample_every")
        check_at_least(self, 0, "seed", "data_parallel", "unroll", "keep_every", "skip_bad_steps")
        axes_of(self)
        check(
            self.keep_every % self.checkpoint_every == 0,
            f"keep_every is {self.keep_every}; it must be a multiple of checkpoint_every, which is "
            f"{self.checkpoint_every}, or 0",
        )


@dataclass(frozen=True)
class FolderOptions:
    """How a run treats its folder, and how closely it is looked at; its result stays the same."""

    resume: Literal["auto", "must", "never"] = "auto"
    """auto goes on from the newest checkpoint if there is one; must fails without; never begins."""
    overwrite: bool = False
    """Remove the run that is in the folder and begin anew."""
    allow_config_change: bool = False
    """Go on although the run began with other settings."""
    allow_data_change: bool = False
    """Go on although the data is not what the checkpoint was trained on."""
    profile: int = 0
    """Trace this many steps, such as 5, after the first three, into the run's folder profile, and
    show where their time goes."""

    def __post_init__(self):
        """Refuse to resume and to begin anew at once, and a trace that no one could open."""
        check_fields(self)
        check_range("profile", self.profile, 0, 100)
        check(
            not (self.overwrite and self.resume == "must"),
            "--overwrite removes the run that --resume must would go on with; drop one of the two",
        )


@dataclass(frozen=True)
class RunOptions(FolderOptions):
    """The same for pretraining."""

    verify_data: bool = False
    """Compare the sha256 sums of all token shards before training."""
