"""Time jaxgpt beside PyTorch on this machine.

Both do the same work by turns, and no speed is printed unless their losses or tokens agree. Close
other programs first: a run during which they used more than 3% of the CPU is marked.
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from jaxgpt.benchmark.contenders import choose
from jaxgpt.benchmark.shapes import get_shape
from jaxgpt.commands import cli
from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError
from jaxgpt.fields import check_range
from jaxgpt.files import write_file
from jaxgpt.terminal import say

if TYPE_CHECKING:
    from jaxgpt.benchmark.report import Report

_MOST = 100_000  # of anything that is counted here
_TURNS = {"train": 10, "decode": 5, "load": 3, "memory": 1}


@dataclass(frozen=True)
class Shape:
    """What is trained, or writes; a size of 0 is that of the named shape."""

    shape: Literal["tiny", "small", "gpt2", "gpt2-1024", "gpt2-pretraining"] = "small"
    """tiny (4 layers, width 128), small (6, 384), gpt2 (124 million parameters, T=256), the same
    with T=1024, or with steps of half a million tokens, for a GPU or TPU."""
    vocab_size: int = 0
    context_length: int = 0
    num_layers: int = 0
    num_heads: int = 0
    embed_dim: int = 0
    batch_size: int = 0
    """For decode, 0 is both 1 and 8."""
    gradient_accumulation: int = 0

    def __post_init__(self):
        """Refuse a shape that no model has."""
        for name, value in self.sizes().items():
            check_range(name, value, 0, 10 * _MOST)
        self.config()

    def sizes(self) -> dict[str, int]:
        """The sizes by name."""
        return {name: value for name, value in vars(self).items() if name != "shape"}

    def config(self) -> TrainConfig:
        """The run that is measured."""
        return get_shape(self.shape, **self.sizes())


@dataclass(frozen=True)
class Arguments:
    """What to measure, of whom, on what."""

    suite: cli.Positional[Literal["train", "decode", "load", "memory"]] = "train"
    """train: optimizer steps; decode: greedy text; load: from a process's start to its first step;
    memory: the peak of a process in training."""
    shape: Shape = field(default_factory=Shape)
    attention: Literal["auto", "chunked", "cudnn", "splash"] = "auto"
    """For jaxgpt, as in `jaxgpt train`."""
    remat: bool = False
    """For jaxgpt, as in `jaxgpt train`."""
    unroll: int = 0
    """For jaxgpt, as in `jaxgpt train`."""
    contenders: tuple[str, ...] = ()
    """Of jaxgpt, torch, torch-compile, jaxgpt-bf16, torch-bf16 and torch-compile-bf16; all if none
    is named. decode has two of its own, jaxgpt and transformers."""
    dtype: Literal["all", "float32", "bfloat16"] = "all"
    """Only contenders that compute in this; for decode, the parameters' dtype, float32 at all."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""
    steps: int = 0
    """Measured turns of each contender; 0 is 10 (train), 5 (decode), 3 (load) or 1 (memory)."""
    steps_per_turn: int = 1
    """For train: optimizer steps before the other's turn, at whose end the last is waited for."""
    prompt_tokens: int = 64
    """For decode: tokens that are there."""
    new_tokens: int = 128
    """For decode: tokens that are written."""
    out: str = ""
    """Where to write all figures as a .json."""
    plot: str = ""
    """Where to draw them as a .png."""

    def __post_init__(self):
        """Refuse what would fail only after all the work."""
        check_range("steps", self.steps, 0, _MOST)
        for name in ("steps_per_turn", "prompt_tokens", "new_tokens"):
            check_range(name, getattr(self, name), 1, _MOST)
        if self.suite == "decode":
            self._refuse_what_decoding_lacks()
        elif self.config().batch_size % self.config().gradient_accumulation:
            raise ConfigError(
                f"batch_size is {self.config().batch_size}; it must be a multiple of "
                f"gradient_accumulation {self.config().gradient_accumulation}"
            )
        choose(self.contenders, self.dtype)
        if self.out:
            cli.check_output("--out", self.out, ".json")
        if self.plot:
            cli.check_output("--plot", self.plot, ".png")

    def _refuse_what_decoding_lacks(self) -> None:
        if self.contenders:
            raise ConfigError("--contenders goes with train, load and memory; decode has its two")
        if self.attention != "auto" or self.remat or self.unroll:
            raise ConfigError("--attention, --remat and --unroll are of training, not of decode")

    def config(self) -> TrainConfig:
        """The run that is measured."""
        choices = {"attention": self.attention, "remat": self.remat, "unroll": self.unroll}
        return replace(self.shape.config(), **choices)


def main(argv: list[str]) -> None:
    """Measure, print the table, write and draw."""
    arguments = cli.parse(
        Arguments, "benchmark", argv, "[train|decode|load|memory]", description=__doc__
    )

    # Not at the top: --help and a mistyped argument are answered without waiting for JAX.
    from jaxgpt.benchmark.report import bars, table, to_json
    from jaxgpt.training.mesh import select_platform

    if arguments.suite in ("load", "memory"):  # leave a GPU's memory to the processes measured
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    select_platform(arguments.platform)
    report = measure(arguments)
    say(table(report))
    if arguments.out:
        write_file(arguments.out, json.dumps(to_json(report), indent=2) + "\n")
    if arguments.plot:
        from jaxgpt.training.plots import plot_bars

        plot_bars(*bars(report), Path(arguments.plot))


def measure(arguments: Arguments) -> "Report":
    """The report of the suite."""
    from jaxgpt.benchmark.children import measure_loading, measure_memory
    from jaxgpt.benchmark.decoding import measure_decoding
    from jaxgpt.benchmark.training import measure_training
    from jaxgpt.training.memory import check_memory

    config = arguments.config()
    check_memory(config.model)
    turns = arguments.steps or _TURNS[arguments.suite]
    if arguments.suite == "decode":
        batch_size = arguments.shape.batch_size
        return measure_decoding(
            config,
            dtype="bfloat16" if arguments.dtype == "bfloat16" else "float32",
            batch_sizes=(batch_size,) if batch_size else (1, 8),
            prompt_tokens=arguments.prompt_tokens,
            new_tokens=arguments.new_tokens,
            turns=turns,
        )
    names = choose(arguments.contenders, arguments.dtype)
    if arguments.suite == "train":
        return measure_training(config, names, turns=turns, steps=arguments.steps_per_turn)
    measure_alone = measure_loading if arguments.suite == "load" else measure_memory
    return measure_alone(config, names, turns=turns)
