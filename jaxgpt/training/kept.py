"""The checkpoints that a run keeps: the newest, every so many steps one, and the best.

Each that was measured says so in a file of its own, which appears with the checkpoint: whenever the
process is killed, the best is known by what is there.
"""

import math
import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxgpt.data.ownership import unfinished_foreign
from jaxgpt.errors import CheckpointError
from jaxgpt.files import read_sealed, seal
from jaxgpt.terminal import note, one_line
from jaxgpt.training.manifest import MANIFEST, DamagedError, verify

FOLDER = "checkpoints"
VALIDATION = "validation.json"
_NAME = re.compile("[0-9]{8}")
_DRAFT = re.compile(r"\.\d{8}\.\d+\.tmp")


def named_checkpoints(run: Path) -> list[Path]:
    """All that has a checkpoint's name, oldest first."""
    try:
        names = os.listdir(run / FOLDER)
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:  # else a run would begin anew over them
        raise CheckpointError(f"{run / FOLDER} cannot be read: {error.strerror}") from None
    return [run / FOLDER / name for name in sorted(names) if _NAME.fullmatch(name)]


def checkpoints(run: Path) -> list[Path]:
    """The committed checkpoints of a run, oldest first."""
    return [path for path in named_checkpoints(run) if path.is_dir()]


def all_checkpoints(path: Path) -> list[Path]:
    """`named_checkpoints` of a run, or a checkpoint's own folder; CheckpointError for none."""
    if os.path.isfile(path / MANIFEST):  # pathlib's would raise on a name that is too long
        return [path]
    if found := named_checkpoints(path) if os.path.isdir(path) else []:
        return found
    raise CheckpointError(f"{path} holds no checkpoint; name a run's folder or a checkpoint's")


def write_validation(draft: Path, loss: float, measured_on: str) -> None:
    """Write the validation loss of a checkpoint into its draft.

    `measured_on` names what it was measured on: losses on other data, or on another part of it, are
    not compared.
    """
    (draft / VALIDATION).write_bytes(seal({"loss": loss, "measured_on": measured_on}))


def by_validation(run: Path) -> list[Path]:
    """The checkpoints that were measured on what the newest of them was, the best first."""
    measured = [(folder, read_validation(folder)) for folder in reversed(checkpoints(run))]
    found = [(folder, *given) for folder, given in measured if given]
    same = [(loss, folder) for folder, loss, data in found if data == found[0][2]]
    return [folder for _, folder in sorted(same, key=lambda item: item[0])]


def read_validation(folder: Path) -> tuple[float, str] | None:
    """What `write_validation` wrote, or None where it is not as it was written."""
    try:
        values, whole = read_sealed(folder / VALIDATION, error=CheckpointError)
    except CheckpointError:
        return None
    loss, measured_on = values.get("loss"), values.get("measured_on")
    if not whole or not isinstance(loss, float) or not isinstance(measured_on, str):
        return None
    return (loss, measured_on) if math.isfinite(loss) else None


def find_best(path: str | Path) -> Path:
    """The whole checkpoint of the lowest validation loss that a run's folder has.

    A better one that is damaged is named on stderr. Raises CheckpointError if there is none,
    DamagedError if none is whole.
    """
    found = by_validation(Path(path))
    if not found:
        raise CheckpointError(
            f"{path} holds no checkpoint with a validation loss, so none is known to be the best; "
            "name a run's folder, or leave out --best"
        )
    folder, _, damaged = first_whole(found)
    if damaged is not None:
        note(f"warning: {one_line(str(damaged))}; {folder} is the best of the others")
    return folder


def first_whole(folders: Sequence[Path]) -> tuple[Path, dict[str, Any], DamagedError | None]:
    """The first of some checkpoints that is whole, its manifest, and what ails the very first.

    Raises DamagedError, of the very first, if none is whole.
    """
    damaged: DamagedError | None = None
    for folder in folders:
        try:
            return folder, verify(folder, int(folder.name)), damaged
        except DamagedError as error:
            damaged = damaged or error
    assert damaged is not None  # for there are some
    raise damaged


def prune(run: Path, keep: int, every: int = 0) -> None:
    """Remove drafts and `superseded` checkpoints; not others' files."""
    for folder in superseded(run, keep, every):
        shutil.rmtree(folder, ignore_errors=True)


def superseded(
    run: Path, keep: int, every: int = 0, found: Sequence[Path] | None = None
) -> list[Path]:
    """Drafts, and the checkpoints but the `keep` newest, those of each `every` steps, and the best.

    Of all checkpoints, or of those `found`, oldest first. What holds files of others is left out.
    """
    drafts = [path for path in (run / FOLDER).glob(".*.tmp") if _DRAFT.fullmatch(path.name)]
    found = checkpoints(run) if found is None else found
    best = [folder for folder in by_validation(run) if folder in found][:1]
    old = [
        folder
        for folder in found[:-keep]
        if folder not in best and not (every and int(folder.name) % every == 0)
    ]
    return [
        folder
        for folder in (*old, *drafts)
        if not folder.is_symlink() and not unfinished_foreign(folder)
    ]
