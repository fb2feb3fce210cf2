"""What is in a run's folder: jaxgpt's files, the run's settings, and a run that is being replaced.

The old run in a folder where a new one begins is set aside until that has a checkpoint. It is moved
into `.moving`, which then becomes `.replaced`, and is moved back the other way round: so the names
tell what is where, whenever the process is killed.
"""

import os
import re
import secrets
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import differences, from_dict, read_mapping
from jaxgpt.data import ownership
from jaxgpt.data.mixture import Dataset, Mixture, counts_of, read_weights
from jaxgpt.data.paths import is_dataset
from jaxgpt.data.tokens import TokenDataset
from jaxgpt.errors import ConfigError, DataError
from jaxgpt.files import file_sha256
from jaxgpt.run_config import OptimizerConfig
from jaxgpt.terminal import note
from jaxgpt.training.checkpoint import TASK
from jaxgpt.training.kept import FOLDER, checkpoints
from jaxgpt.training.manifest import MANIFEST

CONFIG = "config.json"
SETTINGS = "settings"
"""The key of a checkpoint's task under which fine-tuning keeps its own settings."""
LOCK = ".lock"
TOKENS, ADAPTERS = "tokens", "adapters"
ASIDE, MOVING = ".replaced", ".moving"
# What a run shows and keeps, and what another machine chooses otherwise, not what it computes.
_FREE = {
    *("evaluate_every", "evaluation_stride", "evaluation_batches", "log_every"),
    *("sample_every", "sample_prompt", "sample_tokens"),
    *("checkpoint_every", "keep_checkpoints", "keep_every"),
    "skip_bad_steps",
    *("mesh", "fsdp", "data_parallel", "attention"),
}
_KEYS = {"seed", "steps", "batch_size", "optimizer", "checkpoint_every", "keep_checkpoints"}
"""Keys that the settings of every kind of run have."""

TRACE = r"trace\.json\.gz|plugins/profile/[^/]+/[^/]+\.(?:trace\.json\.gz|xplane\.pb)"
_NAMES = re.compile(
    r"\.lock|config\.json|metrics\.jsonl(?:\.damaged-[^/]+)?|README\.md|test\.json|"
    r"(?:loss|confusion|calibration)\.png|\.(?:config\.json|metrics\.jsonl)\.tmp|"
    rf"tokens/(?:\d+/)?{ownership.DATASET}|adapters/{ownership.ADAPTERS}|profile/(?:{TRACE})|"
    rf"checkpoints/(?:\d{{8}}(?:\.corrupt-[^/]+)?|\.\d{{8}}\.\d+\.tmp)/{ownership.CHECKPOINT}"
)


def contents(run: Path) -> list[Path]:
    """What is in a run's folder but for its lock and what was set aside."""
    return sorted(path for path in run.iterdir() if path.name not in (LOCK, ASIDE, MOVING))


def foreign_files(run: Path) -> list[str]:
    """The files in a run's folder whose names no run gives; what a run has set aside counts in."""

    def known(name: str) -> bool:
        name = ownership.without_draft(re.sub(r"^\.(replaced|moving)/", "", name))
        return not name or name.endswith("/") or bool(_NAMES.fullmatch(name))

    return ownership.unlisted_names(run, known)


def leftover_drafts(run: Path) -> list[Path]:
    """The drafts of a run's own files that a killed process left beside them."""
    files = [path for path in contents(run) if path.is_file() and not path.is_symlink()]
    final = {path: ownership.without_draft(path.name) for path in files}
    return [path for path in files if final[path] != path.name and _NAMES.fullmatch(final[path])]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run's, by its settings, its lock, or a checkpoint in it."""
    lock = folder / LOCK
    if read_settings(folder) or (lock.is_file() and not lock.is_symlink() and _is_number(lock)):
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


def _is_number(path: Path) -> bool:
    """Whether a file holds a process's number, or nothing."""
    return path.stat().st_size <= 20 and (path.read_bytes() or b"0").isdigit()


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


def set_aside(run: Path) -> None:
    """Move all that is in a run's folder into `.replaced`, or none of it."""
    (run / MOVING).mkdir()
    try:
        for path in contents(run):
            path.rename(run / MOVING / path.name)
        (run / MOVING).rename(run / ASIDE)
    except BaseException:
        _move_back(run)
        raise


def put_back(run: Path) -> None:
    """Remove what a run has written since `set_aside`, and move back what was there before."""
    strangers = {Path(name).parts[0] for name in foreign_files(run)}
    for path in contents(run):
        if path.name not in strangers:
            _remove(path)
    (run / ASIDE).rename(run / MOVING)
    _move_back(run)


def set_tokens_aside(run: Path) -> None:
    """Move the tokens alone into `.replaced`."""
    (run / ASIDE).mkdir()
    (run / TOKENS).rename(run / ASIDE / TOKENS)


def put_tokens_back(run: Path) -> None:
    """Undo `set_tokens_aside`, whatever tokens were made since; nothing if it was not done."""
    if (run / ASIDE / TOKENS).exists():
        if (run / TOKENS).exists():
            _remove(run / TOKENS)
        (run / ASIDE / TOKENS).rename(run / TOKENS)
    if (run / ASIDE).exists():
        (run / ASIDE).rmdir()


def remove_replaced(run: Path) -> None:
    """Remove what was set aside, unless somebody else has written into it since."""
    strangers = [name for name in foreign_files(run) if name.startswith(f"{ASIDE}/")]
    if strangers:
        note(f"warning: {run / ASIDE} is kept, for it holds {Path(strangers[0]).name}")
    elif (run / ASIDE).exists():
        shutil.rmtree(run / ASIDE)


def was_killed(run: Path) -> bool:
    """Whether a process was killed in a folder while it replaced a run in it, or its tokens.

    Where a new run's settings and lock are lost, it is known by the empty `.replaced`.
    """
    aside = [run / name for name in (ASIDE, MOVING) if (run / name).is_dir()]
    if not aside or any(map(is_run, (run, *aside))):
        return bool(aside)
    return not any(path for folder in aside for path in folder.iterdir()) and not foreign_files(run)


def undo_killed(run: Path) -> None:
    """Put in order what such a process left; nothing where there was none."""
    if not was_killed(run):
        return
    if (run / MOVING).is_dir():
        _move_back(run)
    elif (run / ASIDE / CONFIG).exists() or (run / ASIDE / FOLDER).exists():
        if checkpoints(run):
            remove_replaced(run)
        else:
            put_back(run)
            note(f"{run} is again as it was before a process was killed that was replacing it")
    elif _has_tokens_of_checkpoint(run):
        remove_replaced(run)
    else:
        put_tokens_back(run)


def _move_back(run: Path) -> None:
    for path in (run / MOVING).iterdir():
        place = run / path.name
        if place.exists():  # only if somebody else has written into it
            place.rename(run / f"{path.name}.{secrets.token_hex(4)}")
        path.rename(place)
    (run / MOVING).rmdir()


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _has_tokens_of_checkpoint(run: Path) -> bool:
    try:
        return trained_on(run) == _tokens_of(run).fingerprint
    except (ConfigError, DataError):
        return False


def _tokens_of(run: Path) -> Dataset:
    """The tokens in a run's folder, as what the newest checkpoint's settings name."""
    settings = recorded_settings(run, TrainConfig())
    weights = {} if settings is None else read_weights(settings.data.data)
    if len(weights) <= 1:
        return TokenDataset.open(run / TOKENS)
    datasets = {
        name: TokenDataset.open(name if is_dataset((name,)) else run / TOKENS / str(number))
        for number, name in enumerate(weights)
    }
    return Mixture(datasets, counts_of(weights))
