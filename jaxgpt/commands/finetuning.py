"""What the command lines of fine-tuning share: options, and a run from the base to its end."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from jaxgpt.commands import cli
from jaxgpt.commands.hosts import join_processes
from jaxgpt.hosts.options import HostOptions
from jaxgpt.run_config import FolderOptions
from jaxgpt.shell import command, this_command
from jaxgpt.terminal import say

_COMMON = (
    *("out", "platform", "init_from", "best", "data", "validation", "trained", "seed", "epochs"),
    *("steps", "batch_size", "evaluate_every", "rank", "learning_rate", "warmup_steps"),
    *("overwrite", "allow_config_change"),
)
Arguments = TypeVar("Arguments", bound="RunArguments")


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Where a run is kept, and where it runs; `config` is added by each command line."""

    config: Any
    options: FolderOptions = field(default_factory=FolderOptions)
    out: str = ""
    """The run's folder: README.md, loss.png, metrics.jsonl, checkpoints/; runs/KIND by default."""
    hosts: HostOptions = field(default_factory=HostOptions)
    base: str = ""
    """With adapters to begin with: where the model that they were trained beside lies now."""
    best: bool = False
    """Begin where init_from's validation loss was lowest."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""


def parse(
    kind: type[Arguments], name: str, argv: list[str], description: str | None, *common: str
) -> Arguments:
    """The arguments of `jaxgpt finetune NAME`; `common` are options of its own that most need."""
    usage = "--init-from RUN --data FILE [--out DIR]"
    common = (*_COMMON, *common)
    return cli.parse(kind, f"finetune {name}", argv, usage, common=common, description=description)


def tune(arguments: RunArguments, kind: str, function: Callable[..., Any]) -> tuple[Path, Any]:
    """Run `function`, such as `tune_instructions`, on the base; its folder, and what it returns.

    Leaves as the signal says that stopped the run before its end.
    """
    from jaxgpt.finetuning.lora_file import check_base
    from jaxgpt.finetuning.pretrained import load_pretrained
    from jaxgpt.training.mesh import select_platform

    join_processes(arguments.hosts)
    select_platform(arguments.platform)
    config = arguments.config
    config = replace(config, init_from=cli.checkpoint_of(config.init_from, best=arguments.best))
    check_base(config.init_from, arguments.base)
    with cli.standard_folder(arguments.out, Path("runs") / kind) as out:
        named = config.tokenizer or None
        model = load_pretrained(config.init_from, named, "float32", base=arguments.base)
        found = function(out, config, arguments.options, model, command=this_command())
    result = found[0] if isinstance(found, tuple) else found
    cli.leave_if_stopped(result.signal, out, result.model.step, result.model.train_config.steps)
    return out, found


def tune_to_answer(arguments: RunArguments, kind: str, function: Callable[..., Any]) -> None:
    """`tune`, and print what was first and last measured on held-out records, and what is where."""
    out, result = tune(arguments, kind, function)
    measured = [item for item in result.records if "validation_loss" in item]
    for name in measured[-1] if measured else ():
        if name.startswith("validation_"):
            label = name.replace("_", " ")
            say(f"{label:<28}{measured[0][name]:.6f} -> {measured[-1][name]:.6f}")
    cli.say_best(result.records)
    say(f"the run is in {out}: loss.png, README.md, metrics.jsonl, checkpoints/")
    say(f"talk to it: {command('chat', '--checkpoint', out)}")
