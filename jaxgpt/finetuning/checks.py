"""What no fine-tuning can be begun with: a folder, idle settings, texts that measure nothing."""

import os
import warnings
from collections.abc import Hashable, Iterable, Sequence
from operator import attrgetter
from pathlib import Path

from jaxgpt.errors import ConfigError, DataError
from jaxgpt.finetuning.settings import TuningConfig
from jaxgpt.run_config import FolderOptions
from jaxgpt.training.run_folder import check_folder


def check_run(run: str | Path, config: TuningConfig, options: FolderOptions) -> None:
    """Raise before anything is read what `tune` would raise of the folder.

    Raises ConfigError for a folder that cannot be written, belongs to something else, or holds the
    model to begin with, and for a setting that changes nothing; CheckpointError for a folder that
    holds a run with other settings.
    """
    refuse_idle_settings(config)
    run, base = Path(run), os.path.realpath(config.init_from)
    if os.path.commonpath([os.path.realpath(run), base]) == os.path.realpath(run):
        raise ConfigError(
            f"--out {run} holds the model to begin with, {config.init_from}; name another --out"
        )
    check_folder(run, config, options)


def refuse_idle_settings(config: TuningConfig) -> None:
    """Raise ConfigError for a setting, other than by default, that changes nothing in this run."""
    standard = type(config)(init_from=config.init_from, data=config.data)
    for name, reason in _idle(config):
        get = attrgetter(name)
        if hasattr(config, name.split(".")[0]) and get(config) != get(standard):
            flag = "--" + name.split(".")[-1].replace("_", "-")
            raise ConfigError(f"{flag} changes nothing {reason}, or leave {flag} out")


def _idle(config: TuningConfig) -> Iterable[tuple[str, str]]:
    """The settings that this config does not read, and when it would."""
    optimizer = config.optimizer
    if config.trained != "lora":
        for name in ("rank", "alpha", "targets"):
            yield f"lora.{name}", "without adapters; set --trained lora"
    elif optimizer.weight_decay and optimizer.weight_decay_on == "matrices":
        yield (
            "optimizer.weight_decay",
            "with --trained lora, as adapters do not decay; set --weight-decay-on all",
        )
    if not optimizer.weight_decay:
        yield "optimizer.weight_decay_on", "where nothing decays; set --weight-decay"
    if optimizer.schedule != "wsd":
        yield "optimizer.decay_fraction", "without --schedule wsd; set it"
    if optimizer.schedule == "constant":
        yield "optimizer.final_learning_rate", "with --schedule constant; choose another"
    if not optimizer.warmup_steps:
        yield "optimizer.initial_learning_rate", "without a warm-up; set --warmup-steps"
    if config.trained in ("lora", 0):
        why = f"with --trained {config.trained}, where AdamW trains all; set --trained all"
        yield "optimizer.optimizer", why
    if optimizer.optimizer != "muon":
        yield "optimizer.momentum", "without --optimizer muon; set it"
    if config.steps:
        yield "epochs", "where --steps says how long to train; leave that out"
    for part in ("validation", "test"):
        if getattr(config, part, ()):
            yield f"{part}_fraction", f"where --{part} names the texts; leave that out"


def check_held_out(
    flag: str, held_out: Sequence[Hashable], training: Iterable[Hashable], what: str = "records"
) -> None:
    """Warn where some of what is measured on is also in the data to train on.

    Raises DataError if all of it is, as where both are one file.
    """
    known = set(training)
    shared = sum(item in known for item in held_out)
    if shared == len(held_out):
        raise DataError(
            f"all {shared:,} {what} of {flag} are also in --data; name others, that are kept apart"
        )
    if shared:
        warnings.warn(
            f"{shared:,} of {len(held_out):,} {what} of {flag} are also in --data, so what is "
            "measured on them is better than it should be",
            stacklevel=3,
        )
