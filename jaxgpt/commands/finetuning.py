"""What the command lines of fine-tuning share: options, and a run from the base to its end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from jaxgpt.commands import cli
from jaxgpt.run_config import FolderOptions
from jaxgpt.shell import this_command
from jaxgpt.terminal import say

COMMON = (
    *(
        "out",
        "platform",
        "init_from",
        "best",
        "data",
        "validation",
        "trained",
        "seed",
        "epochs",
        "steps",
    ),
    *("batch_size", "evaluate_every", "rank", "learning_rate", "warmup_steps"),
    *("overwrite", "allow_config_change"),
)


@dataclass(frozen=True, kw_only=True)
class RunArguments:
    """Where a run is kept, and where it runs; `config` is added by each command line."""

    config: Any
    options: FolderOptions = field(default_factory=FolderOptions)
    out: str = ""
    """The run's folder: README.md, loss.png, metrics.jsonl, checkpoints/; runs/KIND by default."""
    base: str = ""
    """With adapters to begin with: where the model that they were trained beside lies now."""
    best: bool = False
    """Begin where init_from's validation loss was lowest."""
    platform: Literal["auto", "cpu", "gpu", "tpu"] = "auto"
    """Where to run; auto takes the best there is."""


def tune(arguments: RunArguments, kind: str, function: Callable[..., Any]) -> tuple[Path, Any]:
    """Run `function`, such as `tune_instructions`, on the base; its folder, and what it returns.

    Leaves as the signal says that stopped the run before its end.
    """
    from jaxgpt.finetuning.bases import check_base  # these import jax
    from jaxgpt.finetuning.pretrained import load_pretrained
    from jaxgpt.training.mesh import select_platform

    select_platform(arguments.platform)
    config = arguments.config
    config = replace(config, init_from=cli.checkpoint_of(config.init_from, best=arguments.best))
    check_base(config.init_from, arguments.base)
    with cli.standard_folder(arguments.out, Path("runs") / kind) as out:
        found = function(
            out,
            config,
            arguments.options,
            load_pretrained(
                config.init_from, config.tokenizer or None, "float32", base=arguments.base
            ),
            command=this_command(),
        )
    result = found[0] if isinstance(found, tuple) else found
    cli.leave_if_stopped(result.signal, out, result.model.step, result.model.train_config.steps)
    return out, found


def say_measured(records: Sequence[Mapping[str, Any]]) -> None:
    """Print what was first and last measured on held-out records, a line for each."""
    measured = [
        {name: value for name, value in item.items() if name.startswith("validation_")}
        for item in records
    ]
    measured = [item for item in measured if item]
    for name in measured[-1] if measured else ():
        label = name.replace("_", " ")
        say(f"{label:<28}{measured[0][name]:.6f} -> {measured[-1][name]:.6f}")
    cli.say_best(records)
