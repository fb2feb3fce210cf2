"""A run's folder: claimed by one process, never overwritten by accident, left clean on an error."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from jaxgpt.config import FolderOptions, TrainConfig
from jaxgpt.config_file import differences, from_dict, read_mapping, to_dict
from jaxgpt.data.corpus import is_current
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.training.checkpoint import checkpoints

CONFIG = "config.json"
TOKENS = "tokens"
_DRAFT = f".{CONFIG}.tmp"
# What a run shows and keeps, not what it computes: free to change when it goes on.
_FREE = frozenset(
    (
        *("evaluate_every", "evaluation_stride", "evaluation_batches", "log_every"),
        *("sample_every", "sample_prompt", "sample_tokens"),
        *("checkpoint_every", "keep_checkpoints"),
        "attention",  # a kernel that another machine has, or not
    )
)
_LOCK = ".lock"
_ASIDE = ".replaced"


@contextmanager
def claim(run: Path, config: Any, options: FolderOptions) -> Iterator[None]:
    """Make `run` this process's: a new folder, or one where a run of the same config goes on.

    `config` is a dataclass, a TrainConfig or what another kind of run is decided by.
    If the body fails before it has made a checkpoint, the folder is left as it was, with the run
    that `options.overwrite` would have removed. Raises ConfigError if the folder cannot be written
    or belongs to something else, CheckpointError if another process has it or the run in it has
    another config.
    """
    existed = os.path.exists(run)
    check_folder(run, config, options)
    fresh = not os.path.exists(run / CONFIG)
    try:
        run.mkdir(exist_ok=True)
        lock = open(run / _LOCK, "a+")  # noqa: SIM115, held as long as the claim
    except OSError as error:
        raise ConfigError(f"--out {run} cannot be written: {error.strerror}") from None
    with lock:
        _take(lock, run)
        everything = fresh or options.overwrite
        _set_aside(run, config, everything=everything)
        before = checkpoints(run)
        try:
            _write_config(run, config)
            yield
        except BaseException:
            if not set(checkpoints(run)) - set(before):
                _put_back(run, everything=everything)
                if fresh:
                    (run / _LOCK).unlink()
                    if not existed:
                        run.rmdir()
            raise
        else:
            if not everything and not set(checkpoints(run)) - set(before):
                _put_back(run, everything=False)  # it was finished already
        finally:
            shutil.rmtree(run / _ASIDE, ignore_errors=True)


def check_folder(run: Path, config: Any, options: FolderOptions) -> None:
    """Raise what `claim` raises before it writes, for whoever has long work to do before that."""
    _check_place(run)
    if os.path.exists(run / CONFIG):
        _check_run(run, config, options)
    elif options.resume == "must":
        raise CheckpointError(f"--resume must, but {run} holds no run; use --resume auto to begin")


def _check_place(run: Path) -> None:
    # os.path says False to a name that is too long, where pathlib raises.
    if os.path.exists(run) and not run.is_dir():
        raise ConfigError(f"--out {run} is a file; name a folder")
    if not os.path.isdir(run.parent):
        raise ConfigError(f"--out {run}: there is no folder {run.parent}; make it first")
    if not os.access(run if os.path.exists(run) else run.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {run} cannot be written; name a folder that you may write to")
    others = set(os.listdir(run)) - {_LOCK, _DRAFT} if os.path.exists(run) else set()
    if _ASIDE in others and not os.listdir(run / _ASIDE):
        others.remove(_ASIDE)  # left by a process that was killed before it began
    if _ASIDE in others and CONFIG not in others:
        raise ConfigError(
            f"--out {run} was being replaced when its process was killed; move what {run / _ASIDE} "
            "holds back up, or name another folder"
        )
    if others and CONFIG not in others:
        raise ConfigError(
            f"--out {run} holds {min(others)} but no run; name a new or an empty folder"
        )


def _check_run(run: Path, config: Any, options: FolderOptions) -> None:
    if options.overwrite:
        return
    if options.resume == "never":
        raise ConfigError(f"{run} holds a run; name another --out, or remove it with --overwrite")
    changed = [
        line for line in differences(_read(run, config), config) if line.split(":")[0] not in _FREE
    ]
    if changed and not options.allow_config_change:
        raise CheckpointError(
            f"{run} holds a run with other settings ({'; '.join(changed)}); name another --out, "
            "or set --allow-config-change or --overwrite"
        )
    if options.resume == "must" and not checkpoints(run):
        raise CheckpointError(f"--resume must, but {run} has no checkpoint; use --resume auto")


def _read(run: Path, like: Any) -> Any:
    """The config of the run in the folder, if it is of the same kind."""
    try:
        return from_dict(like, read_mapping(run / CONFIG))
    except ConfigError as error:
        raise CheckpointError(
            f"{run} holds another kind of run, or its settings are damaged ({error}); name another "
            "--out, or set --overwrite"
        ) from None


def _take(lock: TextIO, run: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise CheckpointError(
            f"{run} is in use by process {lock.read().strip()}; wait for it, or name another --out"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _set_aside(run: Path, config: Any, *, everything: bool) -> None:
    """Keep what may be replaced: all of the old run, or its config and its tokens of other data."""
    aside = run / _ASIDE
    if aside.exists():  # left by a process that was killed
        if checkpoints(aside) and not checkpoints(run):
            if not everything:
                raise CheckpointError(
                    f"{aside} holds the run that --overwrite was replacing when it was killed; "
                    "set --overwrite again, or move it back"
                )
            _put_back(run, everything=True)
        else:
            shutil.rmtree(aside)
    aside.mkdir()
    for partial in [*run.glob(f".{TOKENS}.*.partial"), *run.glob(f".{TOKENS}.*.old")]:
        shutil.rmtree(partial)
    if everything:
        for path in _contents(run):
            path.rename(aside / path.name)
        return
    shutil.copy2(run / CONFIG, aside)  # so that the run has one at every moment
    if not isinstance(config, TrainConfig):
        return  # only pretraining keeps its tokens
    old, new, tokens = _read(run, config).data, config.data, run / TOKENS
    same = replace(old, stride=new.stride) == new and is_current(new, tokens)
    if tokens.exists() and not same:
        tokens.rename(aside / TOKENS)


def _put_back(run: Path, *, everything: bool) -> None:
    for path in _contents(run):
        if everything or (run / _ASIDE / path.name).exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for path in (run / _ASIDE).iterdir():
        path.rename(run / path.name)
    (run / _ASIDE).rmdir()


def _contents(run: Path) -> list[Path]:
    return [path for path in run.iterdir() if path.name not in (_LOCK, _ASIDE)]


def _write_config(run: Path, config: Any) -> None:
    draft = run / _DRAFT
    draft.write_text(json.dumps(to_dict(config), indent=2) + "\n")
    draft.replace(run / CONFIG)
