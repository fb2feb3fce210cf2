"""The manifest of a checkpoint's folder: its step, its place in the data, its files and their sums.

Orbax commits atomically but restores a flipped bit without noticing. The manifest is written after
all other files, and has a sum of its own.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jaxgpt import __version__
from jaxgpt.errors import CheckpointError
from jaxgpt.files import file_sha256, member, read_sealed, seal
from jaxgpt.terminal import one_line

FORMAT = 3
"""Of format 2 are manifests without `sizes`; of 1, also without `rows` and without a sha256."""
MANIFEST = "manifest.json"
_MOST_BYTES = 50_000_000  # a model in very many pieces
_KINDS = {"format": int, "written_by": str, "step": int, "data": str, "dtype": str, "files": dict}
_SEALED = {"rows": int, "sha256": str}
_OF_FORMAT = {2: _SEALED, 3: _SEALED | {"sizes": dict}}
_DTYPES = ("float32", "float16", "bfloat16")
_FOLDERS = ("params", "tokenizer")


class DamagedError(CheckpointError):
    """A checkpoint that is not as it was written."""


def write_manifest(folder: Path, *, step: int, rows: int, data: str, dtype: str) -> None:
    """Write the manifest of all files that are in the folder."""
    names = sorted(_files(folder))
    manifest = {
        "format": FORMAT,
        "written_by": f"jaxgpt {__version__}",
        "step": step,
        "rows": rows,
        "data": data,
        "dtype": dtype,
        "files": {name: file_sha256(folder / name) for name in names},
        "sizes": {name: (folder / name).stat().st_size for name in names},
    }
    with open(folder / MANIFEST, "wb") as file:
        file.write(seal(manifest))
        file.flush()
        os.fsync(file.fileno())


def verify(folder: Path, step: int | None = None, *, sums: bool = True) -> dict[str, Any]:
    """The manifest of a checkpoint, which lists all files that are there, each as it was written.

    `step` is the one that it must be of, if given. Without `sums` only the sizes of the files are
    looked at, which takes no time. Raises DamagedError naming what is missing, changed or too much;
    CheckpointError if a newer version wrote it.
    """
    manifest, damages = _examined(folder, step, sums)
    for damage in damages:
        raise DamagedError(damage)
    return manifest


def damages(folder: Path, step: int | None = None, *, sums: bool = True) -> list[str]:
    """What `verify` finds wrong, a line for each file that has changed; nothing if all is whole."""
    try:
        return list(_examined(folder, step, sums)[1])
    except CheckpointError as error:
        return [str(error)]


def _examined(folder: Path, step: int | None, sums: bool) -> tuple[dict[str, Any], Iterator[str]]:
    """The manifest, and what ails its files; raises as `verify` does for all else."""
    try:
        files = _files(folder)
    except OSError as error:
        raise DamagedError(f"{folder} cannot be read: {error.strerror}") from None
    manifest = _read(folder)
    if step is not None and manifest["step"] != step:
        raise DamagedError(f"{folder} says that it is of step {manifest['step']}")
    listed = {
        str(member(folder, name, error=DamagedError).relative_to(folder)): sha256
        for name, sha256 in manifest["files"].items()
    }
    if odd := sorted(listed.keys() ^ files):
        what = "is missing" if odd[0] in listed else f"is not in {MANIFEST}"
        raise DamagedError(f"{folder / odd[0]} {what}")
    if "config.json" not in files or not all(
        any(name.startswith(f"{part}/") for name in files) for part in _FOLDERS
    ):
        raise DamagedError(f"{folder} has not all of config.json, {', '.join(_FOLDERS)}")
    sizes = manifest.get("sizes", {})
    return manifest, _changed(folder, listed, sizes, sums)


def _changed(
    folder: Path, listed: dict[str, str], sizes: dict[str, int], sums: bool
) -> Iterator[str]:
    for name, sha256 in listed.items():
        try:
            size = (folder / name).stat().st_size
            if size != sizes.get(name, size):
                what = f"{size:,} bytes, not {sizes[name]:,}"
                yield f"{folder / name} has changed since it was written ({what})"
            elif sums and file_sha256(folder / name, error=DamagedError) != sha256:
                yield f"{folder / name} has changed since it was written (sha256)"
        except DamagedError as error:
            yield str(error)
        except OSError as error:  # such as that a run has pruned it meanwhile
            yield f"{folder / name} cannot be read: {error.strerror}"


def _read(folder: Path) -> dict[str, Any]:
    """The manifest, if its format is known and it is as that says."""
    path = folder / MANIFEST
    manifest, whole = read_sealed(path, limit=_MOST_BYTES, error=DamagedError)
    version = manifest.get("format")
    if type(version) is not int or not (version == 1 or whole):
        raise DamagedError(f"{path} has changed since it was written (sha256)")
    if version > FORMAT:
        written_by = one_line(str(manifest.get("written_by")))
        raise CheckpointError(f"{folder} was written by {written_by}, which is newer; upgrade")
    kinds = _KINDS | _OF_FORMAT.get(version, {})
    if version == 1:
        manifest = {"dtype": "float32", **manifest}  # the first checkpoints did not name it
    wrong = {name for name, kind in kinds.items() if type(manifest.get(name)) is not kind}
    wrong |= manifest.keys() - kinds.keys()
    if not wrong:
        sizes = manifest.get("sizes", manifest["files"])
        as_many = sizes.keys() == manifest["files"].keys()
        right = as_many and (version < 3 or all(type(size) is int for size in sizes.values()))
        wrong |= set() if right else {"sizes"}
        wrong |= {name for name in ("step", "rows") if manifest.get(name, 0) < 0}
        wrong |= set() if manifest["dtype"] in _DTYPES else {"dtype"}
    if wrong:
        raise DamagedError(f"{path} has no right {min(wrong)}")
    return manifest


def _files(folder: Path) -> set[str]:
    """The names of all files in the folder, none of which may be a link, pipe or device."""
    found = set()
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedError(f"{folder} is no folder")
    for place, folders, names in os.walk(folder, onerror=_raise):
        for name in (*folders, *names):
            path = Path(place, name)
            if path.is_symlink() or not (path.is_dir() or path.is_file()):
                raise DamagedError(f"{path} is a link, a pipe or a device, not a file")
        found.update(str(Path(place, name).relative_to(folder)) for name in names)
    return found - {MANIFEST}


def _raise(error: OSError) -> None:
    raise error
