"""A run's folder: claimed by one process, never overwritten by accident, left clean on an error."""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from jaxgpt.config import RunOptions, TrainConfig
from jaxgpt.config_file import differences, to_dict
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.training.checkpoint import checkpoints, read_config

CONFIG = "config.json"
_LOCK = ".lock"


@contextmanager
def claim(run: Path, config: TrainConfig, options: RunOptions) -> Iterator[None]:
    """Make `run` this process's: a new folder, or one where a run of the same config goes on.

    If the body fails before anything worth keeping is in a new folder, the folder is left as it
    was. Raises ConfigError if it cannot be written or belongs to something else, CheckpointError
    if another process has it or the run in it has another config.
    """
    existed = run.exists()
    _check_place(run)
    fresh = not (run / CONFIG).exists()
    if not fresh:
        _check_run(run, config, options)
    elif options.resume == "must":
        raise CheckpointError(f"--resume must, but {run} holds no run; use --resume auto to begin")
    try:
        run.mkdir(exist_ok=True)
        lock = open(run / _LOCK, "a+")  # noqa: SIM115, held as long as the claim
    except OSError as error:
        raise ConfigError(f"--out {run} cannot be written: {error.strerror}") from None
    with lock:
        _take(lock, run)
        if options.overwrite:
            _clear(run)
        try:
            _write_config(run, config)
            yield
        except BaseException:
            if fresh and not checkpoints(run):
                _clear(run)
                (run / _LOCK).unlink()
                if not existed:
                    run.rmdir()
            raise


def _check_place(run: Path) -> None:
    if run.exists() and not run.is_dir():
        raise ConfigError(f"--out {run} is a file; name a folder")
    if not run.parent.is_dir():
        raise ConfigError(f"--out {run}: there is no folder {run.parent}; make it first")
    if not os.access(run if run.exists() else run.parent, os.W_OK | os.X_OK):
        raise ConfigError(f"--out {run} cannot be written; name a folder that you may write to")
    others = [path.name for path in run.iterdir() if path.name != _LOCK] if run.exists() else []
    if others and CONFIG not in others:
        raise ConfigError(
            f"--out {run} holds {sorted(others)[0]} but no run; name a new or an empty folder"
        )


def _check_run(run: Path, config: TrainConfig, options: RunOptions) -> None:
    if options.overwrite:
        return
    if options.resume == "never":
        raise ConfigError(f"{run} holds a run; name another --out, or remove it with --overwrite")
    changed = differences(read_config(run / CONFIG), config)
    if changed and not options.allow_config_change:
        raise CheckpointError(
            f"{run} holds a run with other settings ({'; '.join(changed)}); name another --out, "
            "or set --allow-config-change or --overwrite"
        )
    if options.resume == "must" and not checkpoints(run):
        raise CheckpointError(f"--resume must, but {run} has no checkpoint; use --resume auto")


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


def _clear(run: Path) -> None:
    for path in run.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name != _LOCK:
            path.unlink()


def _write_config(run: Path, config: TrainConfig) -> None:
    draft = run / f".{CONFIG}.tmp"
    draft.write_text(json.dumps(to_dict(config), indent=2) + "\n")
    draft.replace(run / CONFIG)
