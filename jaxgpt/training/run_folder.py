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
from jaxgpt.data.mixture import names_of, same_sources
from jaxgpt.data.ownership import refuse_foreign
from jaxgpt.errors import CheckpointError, ConfigError
from jaxgpt.files import write_file
from jaxgpt.hosts.group import Group, this_group
from jaxgpt.run_config import FolderOptions
from jaxgpt.terminal import note
from jaxgpt.training.kept import FOLDER, checkpoints
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
    put_back,
    put_tokens_back,
    read_settings,
    recorded_settings,
    remove_replaced,
    set_aside,
    set_tokens_aside,
    undo_killed,
    was_killed,
)

_SHOWN = 60.0  # seconds in which a file system shows to one machine what another wrote
_FOLDERS = (FOLDER, TOKENS, ADAPTERS)
_FILES = (CONFIG, "README.md", "loss.png", "test.json")


@contextmanager
def claim(run: Path, config: Any, options: FolderOptions) -> Iterator[None]:
    """Make `run` this process's: a new folder, or one where a run of the same config goes on.

    Of the processes of a group, process 0 makes it ready, and what it does to the folder afterwards
    it does alone; the others wait, and see to it that they have the same folder.

    `config` is a dataclass, a TrainConfig or what another kind of run is decided by. If the body
    fails before it has made a checkpoint, the folder is left as it was, with the run that
    `options.overwrite` would have removed. What a killed process left is put in order first. Raises
    ConfigError if the folder cannot be written or belongs to something else, CheckpointError if
    another process has it or the run in it has another config.
    """
    group = this_group()
    if not group.is_first:
        _check_shared(run, group)
        yield
        return
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
        anew = options.overwrite or not began or _is_blank(run, config)
        old = None if anew else recorded_settings(run, config)
        before = set() if old is None else _identities(run)
        if old is None:
            set_aside(run)
        try:
            if old is None:
                _write_config(run, config)
            else:
                _go_on(run, old, config)
            group.from_first("claim", os.getpid())
            yield
        except BaseException:
            if _identities(run) - before:
                _keep(run, config)
            elif old is not None:
                put_tokens_back(run)
            else:
                # What another thread or program writes meanwhile stays, until the next start.
                with suppress(OSError):
                    put_back(run)
                    if not began:
                        (run / LOCK).unlink()
                    if not existed:
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


def holds_run(run: Path, config: Any, options: FolderOptions) -> bool:
    """Whether a folder that is only read holds the run that `config` decides.

    With `options.overwrite` it counts as none. Raises CheckpointError if it holds another.
    """
    if options.overwrite or not os.path.isdir(run) or not contents(run):
        return False
    _check_same_run(run, config, options)
    return True


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
    data = config.data if isinstance(config.data, tuple) else names_of(config.data.data)
    refuse_inputs(run, (name for name in (*read, *data) if name))


def _is_blank(run: Path, config: Any) -> bool:
    """Whether a process was killed before the first checkpoint, and `config` is not what it had.

    Its settings are then another's, or damaged, and nothing is lost where they are not gone on
    with. Raises ConfigError if it is no run's folder.
    """
    old = recorded_settings(run, config)
    same = old is not None and not changed_settings(old, config)
    if same or any((run / FOLDER).glob("[0-9]*")):  # also one that was set aside as damaged
        return False
    # A process that ends while another thread of it writes may leave nothing but that draft.
    if foreign_files(run) or not (is_run(run) or contents(run) == [run / FOLDER]):
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


def _check_shared(run: Path, group: Group) -> None:
    """Wait for process 0 to have the folder; raise ConfigError if it has another than this one."""
    number, end = group.from_first("claim"), time.monotonic() + _SHOWN
    while not (run / LOCK).is_file() or (run / LOCK).read_text() != str(number):
        if time.monotonic() > end:
            raise ConfigError(
                f"--out {run} is not the folder that process 0 has by that name; name one on a "
                "file system that all machines share"
            )
        time.sleep(0.1)


@contextmanager
def hold(run: Path, advice: str) -> Iterator[None]:
    """Keep other processes from training in a run's folder for a while.

    Raises CheckpointError, with `advice`, if one does; ConfigError if it cannot be written.
    """
    if not os.access(run, os.W_OK | os.X_OK):
        raise ConfigError(f"{run} cannot be written; take the permissions, or a copy")
    with open(os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o666), "r+") as lock:
        _take(lock, run, advice)
        yield


def _take(lock: TextIO, run: Path, advice: str = "wait for it, or name another --out") -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise CheckpointError(
            f"{run} is in use by process {lock.read().strip()}; {advice}"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()


def _go_on(run: Path, old: Any, config: Any) -> None:
    """Make a folder ready in which a run goes on: its settings, no tokens of other data."""
    for name in (*_FILES, *_FOLDERS):
        is_right = stat.S_ISDIR if name in _FOLDERS else stat.S_ISREG
        if os.path.exists(run / name) and not is_right((run / name).stat().st_mode):
            _rename(run / name, "is not what a run has there")
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
    same = same_sources(old.data.data, config.data.data)
    same &= replace(old.data, stride=config.data.stride, data=config.data.data) == config.data
    if not same or not is_current(config.data, run / TOKENS):
        set_tokens_aside(run)


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
