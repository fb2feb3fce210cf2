"""Files, folders and patterns -> the files to read."""

import glob
import os
import warnings
from collections.abc import Sequence
from pathlib import Path

from jaxgpt.data.remote import is_url
from jaxgpt.errors import DataError

MANIFEST = "manifest.json"
SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")

_SHOWN = 5  # names of files that were skipped


def expand_paths(paths: Sequence[str | Path], suffixes: Sequence[str] = SUFFIXES) -> list[Path]:
    """The files behind `paths`, in the order given and sorted within each folder and pattern.

    A folder gives its files with these suffixes at any depth, through links too; what else is in
    it, and what is hidden, is skipped with a warning that names it. A pattern (`*`, `?`, `[...]`,
    `**`) gives whatever files it matches; a file named twice is read once. Raises DataError for
    nothing there, nothing usable in it, a file that is not a regular one, or an empty one.
    """
    found = {
        os.path.realpath(file): file for path in paths for file in _expand(str(path), suffixes)
    }
    if not found:
        raise DataError("no data was named: give at least one file, folder or pattern")
    for file in found.values():
        _check_file(file)
    return list(found.values())


def is_dataset(data: Sequence[str | Path]) -> bool:
    """Whether what is named as data is one folder with a dataset, or a URL, which must be one."""
    if len(data) != 1 or is_url(data[0]):
        return len(data) == 1
    # os.path, for pathlib raises on a name that is too long.
    return os.path.isfile(Path(data[0], MANIFEST))


def _expand(path: str, suffixes: Sequence[str]) -> list[Path]:
    if os.path.isdir(path):
        return _files_in(path, suffixes)
    if os.path.lexists(path):
        return [Path(path)]
    if not glob.has_magic(path):
        raise DataError(f"{path}: no such file or folder (looked from {os.getcwd()})")
    found = [Path(file) for file in sorted(glob.glob(path, recursive=True))]
    files = [file for file in found if not file.is_dir()]
    if not files:
        raise DataError(f"{path}: no file matches this pattern (looked from {os.getcwd()})")
    return files


def _files_in(folder: str, suffixes: Sequence[str]) -> list[Path]:
    files, skipped, seen, root = [], [], set(), os.path.realpath(folder)
    for parent, folders, names in os.walk(folder, followlinks=True):
        hidden = [name for name in folders if name.startswith(".")]
        folders[:] = sorted(set(folders) - set(hidden))
        for name in [name for name in folders if os.path.islink(os.path.join(parent, name))]:
            # A link may lead to where the walk has been, or is, or will be.
            target = os.path.realpath(os.path.join(parent, name))
            if target in seen or os.path.commonpath((root, target)) in (root, target):
                folders.remove(name)
            seen.add(target)
        skipped += [Path(parent, name, "") for name in hidden]
        for name in names:
            path = Path(parent, name)
            wanted = not name.startswith(".") and path.suffix.lower() in suffixes
            (files if wanted else skipped).append(path)
    if not files:
        raise DataError(f"{folder}: the folder holds no {', '.join(suffixes)} file")
    if skipped:
        names = sorted(os.path.relpath(path, folder) for path in skipped)
        more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
        warnings.warn(
            f"{folder}: skipped {len(names):,} files: {', '.join(names[:_SHOWN])}{more}",
            stacklevel=2,
        )
    return sorted(files)


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
