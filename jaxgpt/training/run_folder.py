"""A run's folder: claimed by one process, never overwritten by accident, left clean on an error."""

import fcntl
import json
import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from jaxgpt.config import TrainConfig
from jaxgpt.config_file import to_dict
from jaxgpt.data.atomic import clear_leftovers, refuse_inputs
from jaxgpt.data.corpus import is_current
from jaxgpt.data.ownership import refuse_foreign
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.files import write_file
from jaxgpt.run_config import FolderOptions
from jaxgpt.terminal import note
from jaxgpt.training.kept import FOLDER, checkpoints
from jaxgpt.training.replaced import (
    put_back,
    put_tokens_back,
    remove_replaced,
    set_aside,
    set_tokens_aside,
    undo_killed,
    was_killed,
)
from jaxgpt.training.run_contents import (
    ADAPTERS,
    CONFIG,
    LOCK,
    TOKENS,
    all_changes,
    changed_settings,
    contents,
    foreign_files,
    is_run,
    leftover_drafts,
    read_settings,
    recorded_settings,
)

_FOLDERS = (FOLDER, TOKENS, ADAPTERS)
_FILES = (CONFIG, "README.md", "loss.png", "test.json")


@contextmanager
def claim(run: Path, config: Any, options: FolderOptions) -> Iterator[None]:
    """Make `run` this process's: a new folder, or one where a run of the same config goes on.

    `config` is a dataclass, a TrainConfig or what another kind of run is decided by.
    If the body fails before it has made a checkpoint, the folder is left as it was, with the run
    that `options.overwrite` would have removed. What a killed process left is put in order first.
    Raises ConfigError if the folder cannot be written or belongs to something else, CheckpointError
    if another process has it or the run in it has another config.
    """
    existed = os.path.exists(run)
    check_folder(run, config, options)
    try:
        run.mkdir(exist_ok=True)
        lock = open(run / LOCK, "a+")  # noqa: SIM115, held as long as the claim
    except OSError as error:
        raise ConfigError(f"--out {run} cannot be written: {error.strerror}") from None
    with lock:
        _take(lock, run)
        undo_killed(run)
        check_folder(run, config, options)
        began = bool(contents(run))
        old = None if options.overwrite else recorded_settings(run, config)
        before = set() if old is None else _identities(run)
        if old is None:
            set_aside(run)
        try:
            if old is None:
                _write_config(run, config)
            else:
                _go_on(run, old, config)
            yield
        except BaseException:
            if _identities(run) - before:
                _keep(run, config)
            elif old is not None:
                put_tokens_back(run)
            else:
                put_back(run)
                if not began:
                    (run / LOCK).unlink()
                if not existed:
                    with suppress(OSError):  # it holds what somebody else wrote meanwhile
                        run.rmdir()
            raise
        if old is None or _identities(run) - before:
            _keep(run, config)
        else:
            put_tokens_back(run)  # it was finished already


def check_folder(run: Path, config: Any, options: FolderOptions) -> None:
    """Raise what `claim` raises before it writes, for whoever has long work to do before that."""
    _check_place(run)
    if was_killed(run):
        return  # which is to be put in order first
    there = contents(run) if os.path.exists(run) else []
    if there and options.overwrite:
        _check_replaceable(run, config)
    elif there and not _is_blank(run, config):
        _check_same_run(run, config, options)
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
    if os.path.lexists(run / LOCK) and not stat.S_ISREG((run / LOCK).lstat().st_mode):
        raise ConfigError(f"--out {run}: {LOCK} in it is no regular file; name another folder")


def _check_replaceable(run: Path, config: Any) -> None:
    """Raise ConfigError unless the folder holds a run, and nothing else or that is read."""
    refuse_foreign(run, foreign_files(run))
    if not is_run(run):
        raise _no_run(run)
    read = [config.init_from, *getattr(config, "validation", ()), *getattr(config, "test", ())]
    data = config.data if isinstance(config.data, tuple) else config.data.data
    refuse_inputs(run, (name for name in (*read, *data) if name))


def _is_blank(run: Path, config: Any) -> bool:
    """Whether nothing has come of the run in a folder, not even settings that can be read.

    Raises ConfigError if it is no run's folder.
    """
    if checkpoints(run) or recorded_settings(run, config) is not None or read_settings(run):
        return False
    if foreign_files(run) or not is_run(run):
        raise _no_run(run)
    return True


def _no_run(run: Path) -> ConfigError:
    name = min(foreign_files(run) or [path.name for path in contents(run)])
    return ConfigError(f"--out {run} holds {name} but no run; name a new or an empty folder")


def _check_same_run(run: Path, config: Any, options: FolderOptions) -> None:
    if options.resume == "never":
        raise ConfigError(f"{run} holds a run; name another --out, or remove it with --overwrite")
    old = recorded_settings(run, config)
    if old is None:
        raise CheckpointError(
            f"{run} holds another kind of run, or its settings are damaged; name another --out, "
            "or set --overwrite"
        )
    changed = changed_settings(old, config)
    if changed and not options.allow_config_change:
        same = any(line.startswith("model.block:") for line in changed)
        raise CheckpointError(
            f"{run} holds a run with other settings ({'; '.join(changed)}); "
            + "pass the block that it was trained with as block=, " * same
            + "name another --out, or set --allow-config-change or --overwrite"
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


def _go_on(run: Path, old: Any, config: Any) -> None:
    """Make a folder ready in which a run goes on: its settings, no tokens of other data."""
    for name in (*_FILES, *_FOLDERS):
        _clear_way(run / name, stat.S_ISDIR if name in _FOLDERS else stat.S_ISREG)
    if any(name.startswith(f"{ADAPTERS}/") for name in foreign_files(run)):
        _rename(run / ADAPTERS, "holds what jaxgpt did not write")
    for name in (TOKENS, ADAPTERS):
        clear_leftovers(run / name)
    for draft in leftover_drafts(run):
        draft.unlink()
    found = read_settings(run, old)
    if found is None or all_changes(found, old):
        _write_config(run, old if changed_settings(old, config) else config)
        note(f"{run / CONFIG} was damaged; it is written again as the newest checkpoint has it")
    if not isinstance(config, TrainConfig) or not (run / TOKENS).exists():
        return  # only pretraining keeps its tokens
    same = replace(old.data, stride=config.data.stride) == config.data
    if not same or not is_current(config.data, run / TOKENS):
        set_tokens_aside(run)


def _clear_way(path: Path, is_right: Any) -> None:
    """Rename what stands where a file or a folder of the run is to be and is none."""
    if os.path.exists(path) and not is_right(path.stat().st_mode):
        _rename(path, "is not what a run has there")


def _rename(path: Path, why: str) -> None:
    aside = path.with_name(f"{path.name}.aside-{time.strftime('%Y%m%dT%H%M%S')}")
    path.rename(aside)
    note(f"warning: {path} {why}; set aside as {aside.name}")


def _identities(run: Path) -> set[tuple[str, int]]:
    return {(path.name, path.stat().st_ino) for path in checkpoints(run)}


def _keep(run: Path, config: Any) -> None:
    """Make what has come of the run final: its settings, and that the old run is gone."""
    _write_config(run, config)
    remove_replaced(run)


def _write_config(run: Path, config: Any) -> None:
    text = json.dumps(to_dict(config), indent=2) + "\n"
    if not (run / CONFIG).is_file() or (run / CONFIG).read_text(errors="replace") != text:
        write_file(run / CONFIG, text)
