"""A folder that appears whole or not at all."""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from jaxgpt.data.ownership import foreign_names, refuse_foreign, unfinished_foreign
from jaxgpt.errors import ConfigError, ResourceError


@contextmanager
def new_folder(
    folder: str | Path,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
    foreign: Callable[[Path], list[str]] = foreign_names,
) -> Iterator[Path]:
    """Give a hidden folder beside `folder` to write into, and rename it to `folder` on success.

    On an error, an interrupt among them, the hidden folder is removed; a killed process leaves it,
    named `.<name>.<random>.partial`, and never a `folder` that is half written. `overwrite`
    replaces a folder in which `foreign` finds nothing that others wrote, and which holds none of
    `inputs`, which are read. Raises ConfigError if the parent folder is missing or not writable, or
    `folder` is a file, the current one, not empty without `overwrite`, or holds an input or what
    others wrote; ResourceError if the disk is full.
    """
    folder = Path(os.path.realpath(folder))
    clear_leftovers(folder)
    check_new_folder(folder, overwrite=overwrite, inputs=inputs, foreign=foreign)
    hidden = f".{folder.name}.{secrets.token_hex(4)}"
    partial, old = folder.with_name(f"{hidden}.partial"), folder.with_name(f"{hidden}.old")
    try:
        partial.mkdir()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be created ({error.strerror}); choose a folder that you may write to"
        ) from None
    try:
        with _locked(partial):
            yield partial
            _sync(partial)
            if folder.exists():
                folder.rename(old)
            partial.rename(folder)
            _sync(folder.parent)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"{folder}: the disk is full; nothing was kept of it, make room and run again"
            ) from None
        raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    if old.exists() and not foreign(old):  # somebody may have written into it meanwhile
        shutil.rmtree(old, ignore_errors=True)


def check_new_folder(
    folder: str | Path,
    *,
    overwrite: bool = False,
    inputs: Iterable[str | Path] = (),
    foreign: Callable[[Path], list[str]] = foreign_names,
) -> None:
    """Make sure that `folder` can be written as a new one; the errors are those of `new_folder`."""
    folder = Path(os.path.realpath(folder))
    if not folder.parent.is_dir():
        raise ConfigError(f"{folder}: the folder {folder.parent} does not exist; create it first")
    there = os.path.exists(folder)  # pathlib's would raise on a name that is too long
    if there and not folder.is_dir():
        raise ConfigError(f"{folder}: a file has this name; choose another folder")
    if not os.access(folder.parent, os.W_OK):
        raise ConfigError(f"{folder}: no permission to write in {folder.parent}; choose another")
    if there and (os.path.ismount(folder) or Path.cwd().is_relative_to(folder)):
        what = "a mount point" if os.path.ismount(folder) else "the current folder, or holds it"
        raise ConfigError(f"{folder}: is {what}, so it cannot be replaced; name one inside it")
    if there and any(folder.iterdir()):
        if not overwrite:
            raise ConfigError(
                f"{folder}: the folder is not empty; choose another, or set --overwrite, which "
                "replaces what jaxgpt wrote there"
            )
        refuse_inputs(folder, inputs)
        refuse_foreign(folder, foreign(folder))


def refuse_inputs(folder: Path, inputs: Iterable[str | Path]) -> None:
    """Raise ConfigError if a folder to be replaced holds one of `inputs`, files or folders."""
    for name in inputs:
        if not os.path.lexists(name):  # a data set's or a tokenizer's name
            continue
        for path in (os.path.realpath(name), os.path.abspath(name)):
            if Path(path).is_relative_to(os.path.realpath(folder)):
                raise ConfigError(
                    f"{folder}: will not be overwritten, for {name}, which is read, lies in it; "
                    "name another folder"
                )


def clear_leftovers(folder: Path) -> None:
    """Undo what processes that were killed while they wrote `folder` left beside it.

    The old folder is put back where the new one had not taken its place. Of other leftovers those
    are removed which no process is writing and which hold nothing but what a folder of jaxgpt may.
    """
    pattern = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.(partial|old)")
    with suppress(OSError):
        for path in sorted(folder.parent.iterdir()):
            if not pattern.fullmatch(path.name) or path.is_symlink() or not path.is_dir():
                continue
            with _locked(path) as free:
                if free and path.suffix == ".old" and not os.path.lexists(folder):
                    path.rename(folder)
                elif free and not unfinished_foreign(path):
                    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Mark a folder as in use by this process; the result is whether no other one uses it."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        free = False
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        yield free
    finally:
        os.close(descriptor)


def _sync(folder: Path) -> None:
    """Make the folder's entries outlive a power cut."""
    descriptor = os.open(folder, os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
