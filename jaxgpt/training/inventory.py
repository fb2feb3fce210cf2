"""The checkpoints that a folder holds: listed, checked, pruned, and handed out by themselves."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from pathlib import Path

from jaxgpt.data.atomic import new_folder
from jaxgpt.errors import CheckpointError, ConfigError, ResourceError
from jaxgpt.training.checkpoint import newest_whole, read_config
from jaxgpt.training.kept import (
    FOLDER,
    VALIDATION,
    all_checkpoints,
    by_validation,
    checkpoints,
    find_best,
    read_validation,
    superseded,
)
from jaxgpt.training.manifest import MANIFEST, damages, verify, write_manifest
from jaxgpt.training.run_contents import ADAPTERS
from jaxgpt.training.run_folder import hold

NEWEST, BEST = "newest", "best"
_ALONE = {MANIFEST, VALIDATION, "optimizer"}  # what a model alone does without


@dataclass(frozen=True)
class Entry:
    """A checkpoint as it lies on the disk."""

    folder: Path
    step: int
    written: float
    """When, in seconds since 1970."""
    size: int
    """Bytes of all its files."""
    validation_loss: float | None
    """Of its parameters, in nats, where it was measured."""
    damages: tuple[str, ...]
    """What ails it, a line for each file; nothing where it is whole."""
    newest: bool = False
    """Whether it is the newest whole one, from which a run goes on."""
    best: bool = False
    """Whether it is the whole one of the lowest validation loss, which `--best` takes."""


def inventory(path: Path, *, sums: bool = False, step: int | None = None) -> list[Entry]:
    """The checkpoints of a run, oldest first, or the one that a folder is; nothing is set aside.

    Only with `sums` is each file read; otherwise manifests and sizes are. With `step`, it is that
    one alone. Raises CheckpointError if there is none.
    """
    folders = all_checkpoints(path) if step is None else [_of_step(path, str(step))]
    found = list(_entries(folders, sums))
    whole = [entry.folder for entry in found if not entry.damages]
    best = [folder for folder in by_validation(path) if folder in whole]
    return [
        replace(entry, newest=entry.folder in whole[-1:], best=entry.folder in best[:1])
        for entry in found
    ]


def set_aside(run: Path) -> list[Path]:
    """The damaged checkpoints that a run has renamed, none of which is ever removed."""
    return sorted((run / FOLDER).glob("*.corrupt-*"))


def choose(path: Path, which: str) -> Path:
    """The whole checkpoint of a run that `which` names: a step, `newest` or `best`.

    A damaged one that is named by its step is a DamagedError; for the others the next is taken, as
    a line on stderr says. Raises CheckpointError where there is none.
    """
    if which == NEWEST:
        return newest_whole(path)[0]
    if which == BEST:
        return find_best(path)
    folder = _of_step(path, which)
    verify(folder, int(which))
    return folder


def _of_step(path: Path, step: str) -> Path:
    if not step.isdecimal() or len(step) > 8:
        raise ConfigError(f"{step} is no checkpoint of {path}; name a step, {NEWEST} or {BEST}")
    folder, found = path / FOLDER / f"{int(step):08d}", all_checkpoints(path)
    if folder not in found:
        steps = ", ".join(str(int(other.name)) for other in found if other.name.isdecimal())
        has = f"it has {steps}" if steps else "it is one checkpoint's folder"
        raise CheckpointError(f"{path} has no checkpoint of step {step}; {has}")
    return folder


def prune_run(
    run: Path, keep: int | None = None, every: int | None = None, *, dry_run: bool = False
) -> tuple[dict[Path, int], list[str]]:
    """Remove what a run would: all but the `keep` newest whole ones, each `every` steps, the best.

    Gives what went, or would with `dry_run`, with the bytes of each; and what ails the damaged
    ones, which stay and do not count. By default both numbers are those of the run. Raises
    CheckpointError if none is whole, or another process has the run; ResourceError if something
    cannot be removed.
    """
    if run not in (folder.parent.parent for folder in all_checkpoints(run)):
        raise CheckpointError(f"{run} is one checkpoint; name the folder of its run")
    with nullcontext() if dry_run else hold(run, "which prunes by itself; wait, or stop it first"):
        gone, damaged = _superseded(run, keep, every)
        for folder in () if dry_run else gone:
            try:
                shutil.rmtree(folder)
            except OSError as error:
                raise ResourceError(f"{folder} cannot be removed: {error.strerror}") from None
    return gone, damaged


def _superseded(
    run: Path, keep: int | None, every: int | None
) -> tuple[dict[Path, int], list[str]]:
    damaged: dict[Path, str] = {}

    @cache
    def is_whole(folder: Path) -> bool:
        found = damages(folder, int(folder.name))
        damaged.update(dict.fromkeys([folder], found[0]) if found else {})
        return not found

    newest = filter(is_whole, reversed(checkpoints(run)))
    first = next(newest, None)
    if first is None:
        raise CheckpointError(f"no checkpoint of {run} is whole; nothing was removed")
    config = read_config(first / "config.json")
    keep = config.keep_checkpoints if keep is None else keep
    every = config.keep_every if every is None else every
    list(islice(newest, keep - 1))
    next(filter(is_whole, by_validation(run)), None)
    found = [folder for folder in checkpoints(run) if folder not in damaged]
    gone = superseded(run, keep, every, found)
    return {folder: size_of(folder) for folder in gone}, list(damaged.values())


def export(folder: Path, out: str | Path, *, overwrite: bool = False) -> None:
    """Write the model of a whole checkpoint alone as the new folder `out`, byte for byte.

    That is what `save_model` writes, of any kind of model; of adapters, their folder. Errors are
    those of `new_folder` and `verify`.
    """
    manifest = verify(folder)

    def left_out(place: str, names: list[str]) -> set[str]:
        return _ALONE.intersection(names) if Path(place) == folder else set()

    with new_folder(out, overwrite=overwrite, inputs=[folder]) as draft:
        if (folder / ADAPTERS).is_dir():
            shutil.copytree(folder / ADAPTERS, draft, dirs_exist_ok=True)
            return
        shutil.copytree(folder, draft, dirs_exist_ok=True, ignore=left_out)
        of = {"step": manifest["step"], "dtype": manifest["dtype"]}
        write_manifest(draft, rows=0, data="", **of)


def _entries(folders: Sequence[Path], sums: bool) -> Iterator[Entry]:
    for folder in folders:
        try:
            yield _entry(folder, sums)
        except FileNotFoundError:
            if folder.is_dir():
                raise
            # Otherwise a run that is being trained has pruned it meanwhile.


def _entry(folder: Path, sums: bool) -> Entry:
    named = folder.parent.name == FOLDER and folder.name.isdecimal()
    step = int(folder.name) if named else None
    found, measured = damages(folder, step, sums=sums), read_validation(folder)
    if step is None:
        step = -1 if found else verify(folder, sums=False)["step"]
    manifest = folder / MANIFEST
    written = (manifest if os.path.lexists(manifest) else folder).lstat().st_mtime
    loss = None if measured is None else measured[0]
    return Entry(folder, step, written, size_of(folder), loss, tuple(found))


def size_of(folder: Path) -> int:
    """Bytes of all files in a folder, or of the file that it is."""
    if folder.is_symlink() or not folder.is_dir():
        return folder.lstat().st_size
    return sum(
        Path(place, name).lstat().st_size for place, _, names in os.walk(folder) for name in names
    )
