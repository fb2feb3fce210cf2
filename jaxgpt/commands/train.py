"""Train a GPT; without arguments, `small` on the bundled corpus.

PRESET is tiny, small (the default), small-text, shakespeare, llama-tiny, qwen3-tiny, gemma3-tiny, a
published shape such as gpt2 or qwen3-0.6b (a wrong name lists them), or a .json or .toml file of
settings. Every setting of the preset can be changed by its flag; with --init-from, the model and
the tokenizer are those of the folder. The same command on the same folder goes on where it was
stopped.
"""

import argparse
import os
import re
import sys
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from jaxgpt.commands import cli
from jaxgpt.commands.hosts import join_processes
from jaxgpt.commands.progress import Progress
from jaxgpt.config import TrainConfig
from jaxgpt.config_file import find_config, run_name
from jaxgpt.errors import ConfigError, NonFiniteError
from jaxgpt.fields import check_range
from jaxgpt.generation.settings import MAX_NEW_TOKENS, SamplingConfig
from jaxgpt.hosts.options import HostOptions
from jaxgpt.run_config import RunOptions
from jaxgpt.shell import command, this_command
from jaxgpt.terminal import escape, say

COMMON = (
    *("out", "platform", "init_from", "seed", "steps", "batch_size", "context_length"),
    *("num_layers", "num_heads", "embed_dim", "data", "tokenizer", "best"),
    *("learning_rate", "warmup_steps", "overwrite", "allow_config_change"),
)


@dataclass(frozen=True)
class Arguments:
    """Everything that the command line decides."""

    config: TrainConfig
    options: RunOptions = field(default_factory=RunOptions)
    out: str = ""
    """The run's folder: checkpoints, metrics.jsonl, loss.png, README.md. runs/PRESET by default."""
    hosts: HostOptions = field(default_factory=HostOptions)
    best: bool = False
    """Begin where init_from's validation loss was lowest."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""
    replay: int = 0
    """Instead of training, take the step of this number again, and show the largest number of each
    activation, parameter and gradient, and which is the first that is not finite. Nothing is
    written."""


def main(argv: list[str]) -> None:
    """Parse, train, say where things are."""
    name = argv.pop(0) if argv and not argv[0].startswith("-") else "small"
    standard_out = Path("runs") / run_name(name)
    default = begin_from(find_config(name), argv, standard_out)
    usage, default = "[PRESET] [--data PATH ...] [--out DIR]", Arguments(default)
    arguments = cli.parse(
        Arguments, "train", argv, usage, common=COMMON, default=default, description=__doc__
    )
    cli.refuse_idle(argv, arguments.config.data)
    out = Path(arguments.out or standard_out)
    if arguments.best and not arguments.config.init_from:
        raise ConfigError("--best goes with --init-from, the run to begin with")
    path = source(arguments.config.init_from, out, best=arguments.best)
    arguments = replace(arguments, config=replace(arguments.config, init_from=path))
    if path and begun(out, path) is None:
        from jaxgpt.finetuning.pretrained import check_fits

        check_fits(arguments.config)
    check_range("replay", arguments.replay, 0, arguments.config.steps)
    check_range("sample_tokens", arguments.config.sample_tokens, 1, MAX_NEW_TOKENS)
    (replay if arguments.replay else train)(arguments, out)


def begin_from(default: TrainConfig, argv: list[str], standard_out: Path) -> TrainConfig:
    """`default` with the shape and the tokenizer of the folder that `argv` begins with, if any."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--init-from", "--init_from", nargs="?")
    parser.add_argument("--tokenizer", nargs="?")
    parser.add_argument("--out", nargs="?")
    parser.add_argument("--best", action="store_true")
    flags, _ = parser.parse_known_args(argv)
    if not flags.init_from:
        return default
    out = Path(flags.out or standard_out)
    path = source(flags.init_from, out, best=flags.best)
    if run := begun(out, path):
        data = replace(default.data, tokenizer=run.data.tokenizer)
        return replace(default, init_from=run.init_from, model=run.model, data=data)
    from jaxgpt.finetuning import pretrained

    return pretrained.begin_from(default, path, flags.tokenizer)


def source(init_from: str, out: Path, *, best: bool) -> str:
    """What to begin with: `init_from`, or the best checkpoint of the run in it.

    A run in `out` that has begun goes on with what was the best then.
    """
    config = recorded(out) if best else None
    if config is not None and Path(config.init_from).parents[1:2] == (Path(init_from),):
        return config.init_from
    return cli.checkpoint_of(init_from, best=best)


def begun(out: Path, init_from: str) -> TrainConfig | None:
    """The config of a run in `out` that began with that folder, and needs it no more."""
    config = recorded(out)
    return config if config is not None and config.init_from == init_from else None


def recorded(out: Path) -> TrainConfig | None:
    """The config of the run in `out` that goes on, if it has a checkpoint."""
    from jaxgpt.training.kept import checkpoints
    from jaxgpt.training.run_contents import recorded_settings

    if "--overwrite" in sys.argv or not os.path.isdir(out) or not checkpoints(out):
        return None
    return recorded_settings(out, TrainConfig())


def train(arguments: Arguments, out: Path) -> None:
    """Run the training and report how it ended."""
    from jaxgpt.finetuning.pretrained import initial_params
    from jaxgpt.training.mesh import select_platform
    from jaxgpt.training.pretrain import pretrain

    join_processes(arguments.hosts)
    select_platform(arguments.platform)
    try:
        with cli.standard_folder(arguments.out, out) as out:
            result = pretrain(
                arguments.config,
                out,
                arguments.options,
                command=this_command(),
                sampler=write_sample,
                initial_params=partial(initial_params, arguments.config.init_from),
                progress=Progress(),
            )
    except NonFiniteError as error:
        if error.step is None:
            raise
        look = _by_one_process(cli.again("--replay", str(error.step)))
        raise NonFiniteError(f"{error}. Where it comes from: {look}", error.step) from None
    cli.leave_if_stopped(result.signal, out, int(result.state.step), result.config.steps)
    say(summary(result.records))
    cli.say_best(result.records)
    say(f"the run is in {out}: README.md, loss.png, metrics.jsonl, checkpoints/")
    prompt = arguments.config.sample_prompt
    say(f"write with it: {command('generate', '--checkpoint', out, '--prompt', prompt)}")


def _by_one_process(line: str) -> str:
    """A command line of `launch` as that of one process with the devices of all."""
    import jax

    own, between, command = line.partition(" -- ")
    own = re.sub(r" --devices[ =]\d+", "", own)
    alone = f"--processes 1 --devices {jax.device_count()}"
    return re.sub(r"--processes[ =]\d+", alone, own) + between + command


def replay(arguments: Arguments, out: Path) -> None:
    """Take one step again, and print what was seen of it."""
    if arguments.hosts.are_several() and arguments.hosts.num_processes != 1:
        raise ConfigError(
            "a step is replayed by one process; give launch --processes 1, and --devices as many "
            "as all processes had"
        )
    from jaxgpt.finetuning.pretrained import initial_params
    from jaxgpt.training.mesh import select_platform
    from jaxgpt.training.replay import replay, to_text

    select_platform(arguments.platform)
    found = replay(
        arguments.config,
        out,
        arguments.replay,
        arguments.options,
        initial_params=partial(initial_params, arguments.config.init_from),
        progress=Progress(),
    )
    say(to_text(found))


def summary(records: list[dict[str, Any]]) -> str:
    """The last validation loss in a line, beside the entropy of the text where it is known."""
    last = next((item for item in reversed(records) if "validation_loss" in item), None)
    if last is None:
        return "nothing was measured"
    loss, bits = last["validation_loss"], last["validation_bits_per_byte"]
    line = f"validation loss {loss:.4f} nats per token, {bits:.4f} bits per byte"
    if (floor := last.get("entropy_bits_per_byte")) is None:
        return line
    return f"{line}; entropy of the text {floor:.4f} bits per byte, {bits / floor - 1:+.1%}"


def write_sample(config: TrainConfig, params: Any, tokenizer: Any) -> str:
    """What the model writes after the config's sample prompt, the same at every step's turn."""
    from jaxgpt.generation.text import generate_text
    from jaxgpt.training.checkpoint import LoadedModel

    model = LoadedModel(config.model, params, tokenizer, 0, config)
    pieces = generate_text(
        model,
        config.sample_prompt,
        max_new_tokens=config.sample_tokens,
        sampling=SamplingConfig(temperature=0.8),
        seed=config.seed,
        truncate="left",
    )
    return escape(config.sample_prompt + "".join(pieces))
