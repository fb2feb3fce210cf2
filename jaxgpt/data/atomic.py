"""A folder that appears whole or not at all."""

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxgpt.errors import ConfigError, ResourceError


@contextmanager
def new_folder(folder: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside `folder` to write into, and rename it to `folder` on success.

    On an error, an interrupt among them, the hidden folder is removed; a killed process leaves it,
    named `.<name>.<random>.partial`, and never a `folder` that is half written.

    Raises:
        ConfigError: the parent folder is missing or not writable, or `folder` is a file, or holds
            something and `overwrite` is false.
        ResourceError: the disk is full.
    """
    folder = Path(os.path.realpath(folder))
    check_new_folder(folder, overwrite=overwrite)
    hidden = f".{folder.name}.{secrets.token_hex(4)}"
    partial, old = folder.with_name(f"{hidden}.partial"), folder.with_name(f"{hidden}.old")
    try:
        partial.mkdir()
    except OSError as error:
        raise ConfigError(
            f"{folder}: cannot be created ({error.strerror}); choose a folder that you may write to"
        ) from None
    try:
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
    shutil.rmtree(old, ignore_errors=True)


def check_new_folder(folder: str | Path, *, overwrite: bool = False) -> None:
    """Make sure that `folder` can be written as a new one; the errors are those of `new_folder`."""
    folder = Path(os.path.realpath(folder))
    if not folder.parent.is_dir():
        raise ConfigError(f"{folder}: the folder {folder.parent} does not exist; create it first")
    there = os.path.exists(folder)  # pathlib's would raise on a name that is too long
    if there and not folder.is_dir():
        raise ConfigError(f"{folder}: a file has this name; choose another folder")
    if not os.access(folder.parent, os.W_OK):
        raise ConfigError(f"{folder}: no permission to write in {folder.parent}; choose another")
    if there and any(folder.iterdir()) and not overwrite:
        raise ConfigError(f"{folder}: the folder is not empty; choose another, or empty it")


def _sync(folder: Path) -> None:
    """Make the folder's entries outlive a power cut, where the system can do that."""
    if hasattr(os, "O_DIRECTORY"):
        descriptor = os.open(folder, os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
