"""Time jaxgpt beside PyTorch, blocks beside GPT-2's, a server, or a GPU.

Both do the same work by turns, and no speed is printed unless their losses or tokens agree. Close
other programs first: a run during which they used more than 3% of the CPU is marked. device
measures a GPU or TPU in parts, each in a process of its own, and goes on where it was stopped.
"""

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from jaxgpt.benchmark.contenders import choose
from jaxgpt.benchmark.workload import get_shape, with_steps
from jaxgpt.commands import cli
from jaxgpt.commands.progress import Progress
from jaxgpt.config import TrainConfig
from jaxgpt.errors import ConfigError, JaxgptError
from jaxgpt.fields import check_range
from jaxgpt.files import write_file
from jaxgpt.generation.settings import WeightDtype
from jaxgpt.presets import get_preset
from jaxgpt.shell import this_command
from jaxgpt.terminal import note, say

if TYPE_CHECKING:
    from jaxgpt.benchmark.report import Report

_MOST = 100_000  # of anything that is counted here
_REPORTS = Literal["train", "decode", "load", "memory", "blocks", "serve", "growth"]
_SUITES = Literal[_REPORTS, "device"]
_TURNS = {"train": 10, "decode": 5, "load": 3, "memory": 1, "serve": 3, "device": 10, "growth": 10}
_CHOICES = ("attention", "remat", "unroll")
# What goes with some suites alone.
_OF = {
    "weight_dtype": "decode",
    "model": "serve",
    "streams": "serve",
    "minutes": "device",
    "anew": "device",
}


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

    suite: cli.Positional[_SUITES] = "train"
    """train: optimizer steps; decode: greedy text; load: from a process's start to its first step;
    memory: the peak of a process in training; blocks: what GPT-2's block learns with each part of
    Llama's and Qwen3's, at equal parameters, in the preset small or tiny; serve: streams of a
    server on this machine, alone and at once; device: all that a GPU or TPU is asked for; growth:
    by which power of depth, width, T and batch a step takes time and memory."""
    shape: Shape = field(default_factory=Shape)
    attention: Literal["auto", "chunked", "cudnn", "splash"] = "auto"
    """For jaxgpt, as in `jaxgpt train`."""
    remat: bool = False
    """For jaxgpt, as in `jaxgpt train`."""
    unroll: int = 0
    """For jaxgpt, as in `jaxgpt train`."""
    contenders: tuple[str, ...] = ()
    """Of jaxgpt, torch, torch-compile, jaxgpt-bf16, torch-bf16 and torch-compile-bf16; all if none
    is named. decode has two of its own, jaxgpt and transformers; blocks has its rows."""
    dtype: Literal["all", "float32", "bfloat16"] = "all"
    """Only contenders that compute in this; for decode, the parameters' dtype, float32 at all; all
    is bfloat16 for device and float32 for growth."""
    weight_dtype: WeightDtype = "stored"
    """For decode; see `jaxgpt generate`: in what jaxgpt keeps the weights."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""
    steps: int = 0
    """Measured turns; 0 is 10 (train, device, growth), 5 (decode), 3 (load, serve) or 1 (memory).
    For blocks, the steps that gpt2 is trained; 0 is the preset's."""
    steps_per_turn: int = 1
    """For train: steps before the other's turn; at the end of a turn, the last is waited for."""
    prompt_tokens: int = 64
    """Tokens that are there, for decode, serve, device."""
    new_tokens: int = 128
    """Tokens to be written, for decode, serve, device."""
    model: str = ""
    """For serve: the folder of a model; by default one of the shape, with random parameters."""
    streams: int = 16
    """For serve: streams at once."""
    seeds: str = "0"
    """For blocks: seeds, with commas between."""
    minutes: float = 8.0
    """For device: when to stop; the same command then goes on with the parts that are left."""
    anew: bool = False
    """For device: measure again what is in --out."""
    out: str = ""
    """Where to write all figures as a .json; for device, after each part."""
    plot: str = ""
    """Where to draw them as a .png."""

    def __post_init__(self):
        """Refuse what would fail only after all the work."""
        check_range("steps", self.steps, 0, _MOST)
        for name in ("steps_per_turn", "prompt_tokens", "new_tokens"):
            check_range(name, getattr(self, name), 1, _MOST)
        check_range("streams", self.streams, 2, 256)
        check_range("minutes", self.minutes, 0.1, 1000)
        for name, suite in _OF.items():
            if self.suite != suite and getattr(self, name) != getattr(Arguments, name):
                raise ConfigError(f"--{name.replace('_', '-')} goes with {suite}")
        if self.suite != "blocks" and self.seeds != Arguments.seeds:
            raise ConfigError("--seeds goes with blocks")
        if self.suite == "blocks":
            for name in ("dtype", "steps_per_turn", "prompt_tokens", "new_tokens"):
                if getattr(self, name) != getattr(Arguments, name):
                    raise ConfigError(f"--{name.replace('_', '-')} does not go with blocks")
            if self.shape.shape not in ("tiny", "small") or any(self.shape.sizes().values()):
                raise ConfigError("blocks trains --shape tiny or small as it is; drop other sizes")
            cli.numbers("--seeds", self.seeds, int)
        elif self.contenders and self.suite not in ("train", "load", "memory"):
            raise ConfigError(
                "--contenders goes with train, load and memory; decode has its two, and "
                "serve, device and growth their rows"
            )
        elif self.suite in ("decode", "serve", "device") and (
            self.attention != "auto" or self.remat or self.unroll
        ):
            raise ConfigError(
                f"--attention, --remat and --unroll are of training, not of {self.suite}"
            )
        if self.suite not in ("blocks", "decode", "serve") and (
            self.config().batch_size % self.config().gradient_accumulation
        ):
            raise ConfigError(
                f"batch_size is {self.config().batch_size}; it must be a multiple of "
                f"gradient_accumulation {self.config().gradient_accumulation}"
            )
        if self.suite != "blocks":
            choose(self.contenders, self.dtype)
        cli.check_output("--out", self.out, ".json")
        cli.check_output("--plot", self.plot, ".png")

    def config(self) -> TrainConfig:
        """The run that is measured."""
        choices: dict[str, Any] = {
            "attention": self.attention,
            "remat": self.remat,
            "unroll": self.unroll,
        }
        if self.suite == "growth" and self.dtype != "all":
            choices["compute_dtype"] = self.dtype
        if self.suite != "blocks":
            return replace(self.shape.config(), **choices)
        config = get_preset(self.shape.shape)
        return with_steps(replace(config, **choices), self.steps or config.steps)


def main(argv: list[str]) -> None:
    """Measure, print the table, write and draw."""
    usage = f"[{'|'.join(get_args(_SUITES))}]"
    arguments = cli.parse(Arguments, "benchmark", argv, usage, description=__doc__)

    from jaxgpt.benchmark.report import bars, table, to_json
    from jaxgpt.training.mesh import select_platform

    # Leave a GPU's memory to the processes that are measured.
    if arguments.suite in ("load", "memory", "serve", "device", "growth"):
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    select_platform(arguments.platform)
    if arguments.suite == "device":
        return _device(arguments)
    report = measure(arguments, arguments.suite)
    say(table(report))
    if arguments.out:
        write_file(arguments.out, json.dumps(to_json(report), indent=2) + "\n")
    if arguments.plot:
        from jaxgpt.training.plots import plot_bars

        plot_bars(*bars(report), Path(arguments.plot))


def _device(arguments: Arguments) -> None:
    """Measure the parts, each told once it is there; raises JaxgptError if some are missing."""
    from jaxgpt.benchmark.device import heading, measure_device, panels
    from jaxgpt.training.memory import check_memory

    check_memory(arguments.config().model)
    figures = measure_device(
        arguments.config(),
        dtype="float32" if arguments.dtype == "float32" else "bfloat16",
        prompt_tokens=arguments.prompt_tokens,
        new_tokens=arguments.new_tokens,
        turns=arguments.steps or _TURNS["device"],
        minutes=arguments.minutes,
        out=arguments.out,
        anew=arguments.anew,
        tell=say,
    )
    if arguments.plot and (drawn := panels(figures)):
        from jaxgpt.training.plots import plot_bar_panels

        plot_bar_panels(drawn, Path(arguments.plot), heading(figures))
    if missing := figures.missing:
        why = [f"{name} ({figures.failed.get(name, 'not begun')})" for name in missing]
        kept = f"; run the same command again for them: {this_command()}" if arguments.out else ""
        raise JaxgptError(f"{len(why)} parts have no figures: {', '.join(why)}{kept}")


def measure(arguments: Arguments, suite: _REPORTS) -> "Report":
    """The report of the suite."""
    from jaxgpt.benchmark.children import measure_processes
    from jaxgpt.benchmark.decoding import measure_decoding
    from jaxgpt.benchmark.serving import measure_serving
    from jaxgpt.benchmark.training import measure_training
    from jaxgpt.training.memory import check_memory

    config = arguments.config()
    if suite == "blocks":
        from jaxgpt.benchmark.blocks import measure_blocks

        seeds = cli.numbers("--seeds", arguments.seeds, int)
        return measure_blocks(config, arguments.contenders, seeds=seeds, progress=Progress())
    check_memory(config.model)
    turns = arguments.steps or _TURNS[suite]
    if suite == "decode":
        batch_size = arguments.shape.batch_size
        return measure_decoding(
            config,
            dtype="bfloat16" if arguments.dtype == "bfloat16" else "float32",
            weight_dtype=arguments.weight_dtype,
            batch_sizes=(batch_size,) if batch_size else (1, 8),
            prompt_tokens=arguments.prompt_tokens,
            new_tokens=arguments.new_tokens,
            turns=turns,
        )
    if suite == "growth":
        from jaxgpt.benchmark.growth import measure_growth

        return measure_growth(config, turns=turns, tell=note)
    if suite == "serve":
        return measure_serving(
            config,
            arguments.model,
            streams=arguments.streams,
            prompt_tokens=arguments.prompt_tokens,
            new_tokens=arguments.new_tokens,
            turns=turns,
        )
    names = choose(arguments.contenders, arguments.dtype)
    if suite == "train":
        return measure_training(config, names, turns=turns, steps=arguments.steps_per_turn)
    return measure_processes(suite, config, names, turns)
