"""Files, folders and patterns -> the files to read."""

import glob
import os
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.errors import DataError

SUFFIXES = (".txt", ".jsonl", ".parquet")


def expand_paths(paths: Sequence[str | Path]) -> list[Path]:
    """The files behind `paths`, in the order given and sorted within each folder and pattern.

    A folder gives its .txt, .jsonl and .parquet files at any depth, hidden ones aside; a pattern
    (`*`, `?`, `[...]`, `**`) gives whatever files it matches; a file named twice is read once.

    Raises:
        DataError: nothing there, nothing usable in it, not a regular file, or an empty file.
    """
    found = {os.path.realpath(file): file for path in paths for file in _expand(str(path))}
    if not found:
        raise DataError("no data was named: give at least one file, folder or pattern")
    for file in found.values():
        _check_file(file)
    return list(found.values())


def _expand(path: str) -> list[Path]:
    if os.path.isdir(path):
        return _files_in(path)
    if os.path.lexists(path):
        return [Path(path)]
    if not glob.has_magic(path):
        raise DataError(f"{path}: no such file or folder (looked from {os.getcwd()})")
    found = [Path(file) for file in sorted(glob.glob(path, recursive=True))]
    files = [file for file in found if not file.is_dir()]
    if not files:
        raise DataError(f"{path}: no file matches this pattern (looked from {os.getcwd()})")
    return files


def _files_in(folder: str) -> list[Path]:
    files = []
    for parent, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        files += [Path(parent, name) for name in names if not name.startswith(".")]
    files = sorted(file for file in files if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(f"{folder}: the folder holds no {', '.join(SUFFIXES)} file")
    return files


def _check_file(path: Path) -> None:
    # Before anything opens it: opening a FIFO would wait for a writer for ever.
    if not path.exists():
        raise DataError(f"{path}: a symbolic link to nothing")
    if not path.is_file():
        raise DataError(f"{path}: not a regular file (a pipe, socket or device?); copy it to one")
    if not os.access(path, os.R_OK):
        raise DataError(f"{path}: no permission to read it")
    if path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty; remove it or give another")
