"""What is in a run's folder: whether jaxgpt wrote it, and with which settings the run goes on."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import differences, from_dict, read_mapping
from jaxgpt.data import ownership
from jaxgpt.errors import ConfigError
from jaxgpt.files import file_sha256
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.training.checkpoint import TASK
from jaxgpt.training.kept import checkpoints
from jaxgpt.training.manifest import MANIFEST

CONFIG = "config.json"
SETTINGS = "settings"
"""The key of a checkpoint's task under which fine-tuning keeps its own settings."""
LOCK = ".lock"
TOKENS, ADAPTERS = "tokens", "adapters"
ASIDE, MOVING = ".replaced", ".moving"
# What a run shows and keeps, and what another machine chooses otherwise, not what it computes.
_FREE = frozenset(
    (
        *("evaluate_every", "evaluation_stride", "evaluation_batches", "log_every"),
        *("sample_every", "sample_prompt", "sample_tokens"),
        *("checkpoint_every", "keep_checkpoints"),
        *("fsdp", "data_parallel", "attention"),
    )
)
_KEYS = {"seed", "steps", "batch_size", "optimizer", "checkpoint_every", "keep_checkpoints"}
"""Keys that the settings of every kind of run have."""

TRACE = r"trace\.json\.gz|plugins/profile/[^/]+/[^/]+\.(?:trace\.json\.gz|xplane\.pb)"
_NAMES = re.compile(
    r"\.lock|config\.json|metrics\.jsonl(?:\.damaged-[^/]+)?|README\.md|test\.json|"
    r"(?:loss|confusion|calibration)\.png|\.(?:config\.json|metrics\.jsonl)\.tmp|"
    rf"tokens/{ownership.DATASET}|adapters/{ownership.ADAPTERS}|profile/(?:{TRACE})|"
    rf"checkpoints/(?:\d{{8}}(?:\.corrupt-[^/]+)?|\.\d{{8}}\.\d+\.tmp)/{ownership.CHECKPOINT}"
)


def contents(run: Path) -> list[Path]:
    """What is in a run's folder but for its lock and what was set aside."""
    return sorted(path for path in run.iterdir() if path.name not in (LOCK, ASIDE, MOVING))


def foreign_files(run: Path) -> list[str]:
    """The files in a run's folder whose names no run gives; what a run has set aside counts in."""

    def known(name: str) -> bool:
        name = ownership.without_draft(re.sub(r"^\.(replaced|moving)/", "", name))
        return name.endswith("/") or bool(_NAMES.fullmatch(name))

    return ownership.unlisted_names(run, known)


def leftover_drafts(run: Path) -> list[Path]:
    """The drafts of a run's own files that a killed process left beside them."""
    return [
        path
        for path in contents(run)
        if path.is_file() and not path.is_symlink() and _is_draft(path.name)
    ]


def _is_draft(name: str) -> bool:
    final = ownership.without_draft(name)
    return final != name and bool(_NAMES.fullmatch(final))


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, by its settings, its lock, or a checkpoint in it."""
    if read_settings(folder) or _is_lock(folder / LOCK):
        return True
    manifests = (_read(path / MANIFEST) for path in checkpoints(folder))
    return any(str(found.get("written_by")).startswith("jaxgpt ") for found in manifests)


def recorded_settings(run: Path, like: Any) -> Any | None:
    """The settings that the run in a folder goes on with, if they can be read as those `like` is.

    They are those of the newest checkpoint in which they are whole, for config.json may be damaged,
    and is not written before there is a checkpoint; without a checkpoint they are those of
    config.json.
    """
    name = CONFIG if isinstance(like, TrainConfig) else TASK
    whole = [folder / name for folder in reversed(checkpoints(run)) if _is_whole(folder, name)]
    for file in whole:
        try:
            values = read_mapping(file)
            return from_dict(like, values[SETTINGS] if file.name == TASK else values)
        except (ConfigError, KeyError, TypeError, AttributeError):
            continue
    return read_settings(run, like)


def changed_settings(old: Any, new: Any) -> list[str]:
    """Which settings differ, each as `name: old -> new`, but for those that are free to change."""
    return [line for line in all_changes(old, new) if line.split(":")[0] not in _FREE]


def all_changes(old: Any, new: Any) -> list[str]:
    """The same with those that are free to change."""
    if isinstance(old, TrainConfig) and not (new.model.vocab_size and old.model.vocab_size):
        # A checkpoint has the tokenizer's number where the settings left it open.
        old = replace(old, model=replace(old.model, vocab_size=new.model.vocab_size))
    return differences(old, new)


def read_settings(run: Path, like: Any | None = None) -> Any | None:
    """What config.json has: as settings of `like`'s kind, or of any; None if it has none."""
    values = _read(run / CONFIG)
    try:
        from_dict(OptimizerConfig(), values["optimizer"])
        if values.keys() >= _KEYS:
            return values if like is None else from_dict(like, values)
    except (ConfigError, KeyError, TypeError, AttributeError):
        pass
    return None


def trained_on(run: Path) -> str | None:
    """The fingerprint of the data that the newest checkpoint was trained on, if it can be read."""
    manifests = (_read(folder / MANIFEST) for folder in reversed(checkpoints(run)))
    return next((found["data"] for found in manifests if "data" in found), None)


def _is_lock(path: Path) -> bool:
    if not path.is_file() or path.is_symlink() or path.stat().st_size > 20:
        return False
    return path.read_bytes().isdigit() or not path.stat().st_size


def _is_whole(folder: Path, name: str) -> bool:
    """Whether a file of a checkpoint has the sum that the manifest has for it."""
    files = _read(folder / MANIFEST).get("files")
    if not isinstance(files, dict) or not os.path.isfile(folder / name):
        return False
    return file_sha256(folder / name) == files.get(name)


def _read(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; nothing where there is none."""
    try:
        return read_mapping(path)
    except ConfigError:
        return {}
